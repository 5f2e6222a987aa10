//! One blob from a registry into the store, through broken lines and past registries that lie.
//!
//! What is there already is continued with `Range`; a registry that cannot do that sends all of it again. Not more than the
//! blob's length is ever taken, and the store puts nothing in place whose digest is another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Method, StatusCode, header};
use shed_image::{BlobError, BlobId, BlobStore, BlobUse};
use shed_types::Digest;
use tokio::time::timeout;

use crate::{
    error::RequestError,
    http::Answer,
    manifest::Descriptor,
    progress::Share,
    repository::host_of,
    retry::Tries,
    session::{Ordinary, Session},
    sink::Sink,
};

/// Fewer bytes than this within the time for silence count as silence.
const LEAST: u64 = 1024;

/// Why a blob did not come.
pub(crate) enum Flaw {
    Request(RequestError),
    Store(BlobError),
    /// It came twice, and was something else both times.
    Lie {
        found: Digest,
    },
}

impl From<RequestError> for Flaw {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<BlobError> for Flaw {
    fn from(error: BlobError) -> Self {
        Self::Store(error)
    }
}

/// Brings a blob into the store, unless it is there.
pub(crate) async fn download(
    session: &Session,
    blobs: &BlobStore,
    hold: &Arc<BlobUse>,
    blob: &Descriptor,
    mut share: Share,
) -> Result<(), Flaw> {
    let id = BlobId { digest: blob.digest.clone(), size: blob.size };
    let mut had_other = false;
    loop {
        let Some(mut sink) = Sink::begin(blobs, hold, id.clone()).await? else {
            share.set(id.size);
            return Ok(());
        };
        fill(session, &id, &mut sink, &mut share).await?;
        match sink.commit().await {
            Ok(()) => return Ok(()),
            // What an earlier pull left may have been damaged on the disk: once more, from the beginning.
            Err(BlobError::OtherContent { found, .. }) if !had_other => {
                tracing::debug!(digest = %id.digest, %found, "a blob has other content and is fetched anew");
                had_other = true;
            }
            Err(BlobError::OtherContent { found, .. }) => return Err(Flaw::Lie { found }),
            Err(error) => return Err(Flaw::Store(error)),
        }
    }
}

/// Receives all of a blob that is missing.
async fn fill(session: &Session, id: &BlobId, sink: &mut Sink, share: &mut Share) -> Result<(), Flaw> {
    let mut tries = Tries::new(session.patience());
    let mut continues = true;
    loop {
        share.set(sink.received());
        tries.reach(sink.received());
        if sink.received() == id.size {
            return Ok(());
        }
        let from = if continues { sink.received() } else { 0 };
        let error = match stream(session, id, from, sink, share).await {
            Ok(()) => continue,
            Err(Flaw::Request(error)) => error,
            Err(other) => return Err(other),
        };
        // A registry that continues wrongly is not asked to continue again.
        continues &= !matches!(error, RequestError::OtherRange { .. });
        tries.reach(sink.received());
        tries.failed(error).await?;
    }
}

/// Asks once for a blob from a byte on, and receives what comes.
async fn stream(
    session: &Session,
    id: &BlobId,
    from: u64,
    sink: &mut Sink,
    share: &mut Share,
) -> Result<(), Flaw> {
    let build = |request: reqwest::RequestBuilder| match from {
        0 => request,
        from => request.header(header::RANGE, format!("bytes={from}-")),
    };
    let url = session.repository.blob(&id.digest);
    let mut answer = session.ask(Ordinary { method: Method::GET, url, build: &build }).await?;
    match answer.response.status() {
        StatusCode::PARTIAL_CONTENT if from > 0 && continues_at(&answer, from, id.size) => {}
        StatusCode::OK => {
            if sink.received() > 0 {
                sink.restart().await?;
            }
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
            return Err(RequestError::OtherRange { host: answer.host() }.into());
        }
        _ => return Err(session.refusal(answer).await.into()),
    }
    while sink.received() < id.size {
        let mut silence = Silence::new(session.patience().quiet);
        let mut few = 0;
        while few < LEAST && sink.received() < id.size {
            let piece = silence.next(&mut answer).await?;
            let Some(mut piece) = piece else {
                let (host, got) = (host_of(&answer.url), sink.received());
                return Err(RequestError::Short { host, got, size: id.size }.into());
            };
            // More than the blob has is not taken; if the blob is longer than its manifest says, its digest tells.
            let missing = usize::try_from(id.size - sink.received()).unwrap_or(usize::MAX);
            piece.truncate(missing);
            few += piece.len() as u64;
            sink.write(piece).await?;
            share.set(sink.received());
        }
    }
    Ok(())
}

/// Tells whether an answer continues a blob exactly where it was asked to (RFC 9110 §14.4).
fn continues_at(answer: &Answer, from: u64, size: u64) -> bool {
    answer.header(header::CONTENT_RANGE).is_some_and(|value| is_rest(value, from, size))
}

fn is_rest(value: &str, from: u64, size: u64) -> bool {
    let parse = || {
        let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(first == from && last >= first && last < size && (whole == "*" || whole.parse() == Ok(size)))
    };
    parse().unwrap_or(false)
}

/// How long the network may still give nothing. The time that our own disk takes does not count.
struct Silence {
    left: Duration,
    quiet: Duration,
}

impl Silence {
    const fn new(quiet: Duration) -> Self {
        Self { left: quiet, quiet }
    }

    async fn next(&mut self, answer: &mut Answer) -> Result<Option<Bytes>, RequestError> {
        let began = Instant::now();
        let piece = timeout(self.left, answer.response.chunk()).await;
        self.left = self.left.saturating_sub(began.elapsed());
        match piece {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(RequestError::Broken { host: answer.host(), source: error.without_url() }),
            Err(_) => Err(RequestError::Stalled { host: answer.host(), quiet: self.quiet }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exactly_the_rest_continues_a_blob() {
        for (value, expected) in [
            ("bytes 10-99/100", true),
            ("bytes 10-49/100", true),
            ("bytes 10-99/*", true),
            ("bytes 0-99/100", false),
            ("bytes 11-99/100", false),
            ("bytes 10-100/101", false),
            ("bytes 10-9/100", false),
            ("bytes 10-99/200", false),
            ("bytes */100", false),
            ("10-99/100", false),
            ("bytes 10-18446744073709551616/100", false),
            ("", false),
        ] {
            assert_eq!(is_rest(value, 10, 100), expected, "{value}");
        }
    }
}
