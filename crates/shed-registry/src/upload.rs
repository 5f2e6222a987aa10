//! One blob from the store to a registry (OCI distribution specification, "Pushing a blob in chunks").
//!
//! All of it goes in one chunk, as other tools do it: some registries take no small ones, others no many. After an
//! interruption the registry is asked how much it has, and only the rest is sent; one that has forgotten gets all again.

use std::{
    io::SeekFrom,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use camino::Utf8PathBuf;
use futures::TryStreamExt as _;
use reqwest::{Body, Method, RequestBuilder, StatusCode, Url, header};
use shed_image::BlobId;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    time::{MissedTickBehavior, interval},
};
use tokio_util::io::ReaderStream;

use crate::{
    error::RequestError,
    http::{Answer, location},
    progress::Share,
    retry::Tries,
    session::{Ordinary, Session},
};

/// How much is read from the disk at once, in bytes.
const PIECE: usize = 128 << 10;

/// How often the progress hears how much was sent.
const BEAT: Duration = Duration::from_millis(100);

/// A blob on its way to a registry.
pub(crate) struct Upload<'a> {
    pub(crate) session: &'a Session,
    pub(crate) id: &'a BlobId,
    /// Where it is on the disk.
    pub(crate) path: Utf8PathBuf,
    pub(crate) share: Share,
}

impl Upload<'_> {
    /// Sends the blob, unless the registry has it.
    ///
    /// # Errors
    /// When the registry refuses, or does not take more of it however often it is tried.
    pub(crate) async fn run(mut self) -> Result<(), RequestError> {
        let patience = self.session.patience();
        // A registry that forgets what it has takes the same bytes again and again: only large steps count.
        let mut tries = Tries::in_steps_of(patience, (self.id.size / 16).max(64 << 10));
        let mut place = None;
        loop {
            let error = match self.attempt(&mut place).await {
                Ok(()) => {
                    self.share.set(self.id.size);
                    return Ok(());
                }
                Err(error) => error,
            };
            tries.reach(self.share.counted());
            if matches!(error, RequestError::UploadLost { .. }) {
                place = None;
            }
            tries.failed(error).await?;
        }
    }

    /// Tries once, from where the last try got to. `place` is where the registry wants the rest.
    async fn attempt(&mut self, place: &mut Option<Url>) -> Result<(), RequestError> {
        // Before every try: of the last one, only the answer may have been lost.
        if self.is_there().await? {
            return Ok(());
        }
        let (url, offset) = match place.take() {
            None => (self.begin().await?, 0),
            Some(url) => match self.ask_offset(url).await {
                // Docker's registry 2 gives an upload up when its last chunk was cut off.
                Err(RequestError::UploadLost { .. }) => (self.begin().await?, 0),
                found => found?,
            },
        };
        *place = Some(url.clone());
        self.share.set(offset);
        let url = if offset < self.id.size { self.send(url, offset).await? } else { url };
        *place = Some(url.clone());
        self.finish(url).await
    }

    /// Asks whether the registry has the blob.
    async fn is_there(&self) -> Result<bool, RequestError> {
        let url = self.session.repository.blob(&self.id.digest);
        let answer =
            self.session.ask(Ordinary { method: Method::HEAD, url, build: &|request| request }).await?;
        match answer.response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.session.refusal(answer).await),
        }
    }

    /// Begins an upload and returns where its bytes are to go.
    async fn begin(&self) -> Result<Url, RequestError> {
        let url = self.session.repository.uploads();
        let build = |request: RequestBuilder| request.header(header::CONTENT_LENGTH, 0);
        let answer = self.session.ask(Ordinary { method: Method::POST, url, build: &build }).await?;
        if answer.response.status() != StatusCode::ACCEPTED {
            return Err(self.session.refusal(answer).await);
        }
        self.next_place(&answer)?
            .ok_or_else(|| RequestError::nonsense(&answer.url, "it does not say where an upload is to go"))
    }

    /// Asks how many bytes of an interrupted upload the registry has; returns where the rest is to go, too.
    async fn ask_offset(&self, url: Url) -> Result<(Url, u64), RequestError> {
        let answer = self
            .session
            .ask(Ordinary { method: Method::GET, url: url.clone(), build: &|request| request })
            .await?;
        match answer.response.status() {
            StatusCode::NO_CONTENT | StatusCode::ACCEPTED => {}
            StatusCode::NOT_FOUND => return Err(RequestError::UploadLost { host: answer.host() }),
            _ => return Err(self.session.refusal(answer).await),
        }
        let has = answer.header(header::RANGE).and_then(received);
        // A registry that does not say, or says what cannot be, begins again.
        let offset = has.filter(|&offset| offset <= self.id.size);
        let offset = offset.ok_or_else(|| RequestError::UploadLost { host: answer.host() })?;
        Ok((self.next_place(&answer)?.unwrap_or(url), offset))
    }

    /// Sends everything from `offset` on, and returns where the end of the upload is to be told.
    async fn send(&mut self, url: Url, offset: u64) -> Result<Url, RequestError> {
        let moved = Arc::new(AtomicU64::new(0));
        let rest = self.id.size - offset;
        let build = |request: RequestBuilder| {
            moved.store(0, Ordering::Relaxed);
            let request = request
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_LENGTH, rest)
                .body(body(self.path.clone(), offset, rest, Arc::clone(&moved)));
            // Only where it continues: some registries know a range only in what continues.
            if offset == 0 {
                request
            } else {
                request.header(header::CONTENT_RANGE, format!("{offset}-{}", self.id.size - 1))
            }
        };
        let ordinary = Ordinary { method: Method::PATCH, url: url.clone(), build: &build };
        let mut sending =
            std::pin::pin!(self.session.ask_long(ordinary, self.session.patience().quiet, Some(&moved)));
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answer = loop {
            tokio::select! {
                answer = &mut sending => break answer?,
                _ = beat.tick() => self.share.set(offset + moved.load(Ordering::Relaxed)),
            }
        };
        match answer.response.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {}
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(RequestError::UploadLost { host: answer.host() });
            }
            _ => return Err(self.session.refusal(answer).await),
        }
        Ok(self.next_place(&answer)?.unwrap_or(url))
    }

    /// Ends the upload: the registry compares the digest.
    async fn finish(&self, mut url: Url) -> Result<(), RequestError> {
        url.query_pairs_mut().append_pair("digest", self.id.digest.as_str());
        let build = |request: RequestBuilder| request.header(header::CONTENT_LENGTH, 0);
        let ordinary = Ordinary { method: Method::PUT, url, build: &build };
        let answer = self.session.ask_long(ordinary, self.session.patience().settle, None).await?;
        match answer.response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(RequestError::UploadLost { host: answer.host() })
            }
            _ => Err(self.session.refusal(answer).await),
        }
    }

    /// Reads where an upload goes on; it may be another host, which then gets the blob but no login.
    fn next_place(&self, answer: &Answer) -> Result<Option<Url>, RequestError> {
        let place = location(&answer.response, &answer.url)?;
        if let Some(url) = &place {
            self.session.repository.check_named(url)?;
        }
        Ok(place)
    }
}

/// Reads how many bytes a registry has: `0-` and the last of them. Of `0-0` nobody knows whether it means none or one.
fn received(range: &str) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes=");
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first == 0).then_some(if last == 0 { 0 } else { last.saturating_add(1) })
}

/// Reads a part of a file as it is sent, and counts it.
fn body(path: Utf8PathBuf, offset: u64, length: u64, moved: Arc<AtomicU64>) -> Body {
    let open = async move {
        let mut file = File::open(path).await?;
        let _offset = file.seek(SeekFrom::Start(offset)).await?;
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(file.take(length), PIECE))
    };
    let count = move |piece: &bytes::Bytes| {
        let _before = moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
    };
    Body::wrap_stream(futures::stream::once(open).try_flatten().inspect_ok(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_says_how_much_it_has() {
        for (range, expected) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0-0", Some(0)),
            ("5-99", None),
            ("0-", None),
            ("0--1", None),
            ("", None),
            ("0-18446744073709551615", Some(u64::MAX)),
        ] {
            assert_eq!(received(range), expected, "{range}");
        }
    }
}
