//! The file service (port 1029): unpacks what the host sends, as root, for user `shed`, and packs what it asks for.
//!
//! One stream, one transfer. The work blocks and has a thread of its own; a short queue of frames leads there, so a slow
//! disk slows the host down and nothing piles up. A host that goes away in the middle ends the transfer: what was
//! half-written is removed, and what was whole stays.

mod get;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use shed_files::{Failure, Owner, UnpackError, Unpacked, unpack, unpack_below};
use shed_protocol::{FilesErrorKind, FilesReply, FilesRequest, Frame, FrameCodec, FrameError, FrameKind};
use shed_types::error_chain;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::codec::{Encoder, FramedRead};

use crate::{
    exec::users::{self, User},
    image::WORKSPACE,
    log,
    serve::ByteStream,
    state::State,
};

use get::Wanted;

/// Frames on their way to the disk. Each has at most 1 MiB.
const QUEUE: usize = 4;

/// Most characters of a message or warning that goes to the host.
const MAX_TEXT: usize = 1000;

/// Serves one stream.
pub(crate) async fn serve(stream: impl ByteStream, state: &State) {
    let (reader, writer) = tokio::io::split(stream);
    let mut frames = FramedRead::new(reader, FrameCodec);
    let request = match frames.next().await {
        Some(Ok(frame)) if frame.kind == FrameKind::FilesRequest => frame.parse::<FilesRequest>(),
        Some(_) => return refuse(writer, "the first frame is no request for files").await,
        None => return,
    };
    match request {
        Ok(FilesRequest::Put { target }) => {
            let user = owner(state);
            // An agent that is not root (in its own tests) gives nothing away.
            let root = rustix::process::geteuid().is_root();
            let owner = root.then_some(Owner { uid: user.uid, gid: user.gid });
            let place = Place::of(target.below_home(&user.home), &user.home);
            if let Some(reply) = put(frames, place, owner).await {
                finish(writer, &reply).await;
            }
        }
        Ok(FilesRequest::Get { source, excludes, only, max_file, max_total }) => {
            let home = owner(state).home;
            let source = Place::of(source.below_home(&home), &home);
            let serving = get::get(writer, Wanted { source, excludes, only, max_file, max_total });
            tokio::select! {
                () = serving => {}
                () = gone(frames) => {}
            }
        }
        Err(_) => refuse(writer, "the request for files cannot be read").await,
    }
}

/// Whose the files are: the same as who runs commands that name nobody.
pub(crate) fn owner(state: &State) -> User {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    users::default(&passwd, &group, &state.image().user)
}

/// A place that the host names, and the directory of the user's that it is in. Everything is done as root, and a link that
/// the user has made there must not lead root out of what is the user's.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Nothing for places that are none of the user's, like /etc.
    anchor: Option<PathBuf>,
}

impl Place {
    fn of(path: String, home: &str) -> Self {
        let path = PathBuf::from(path);
        let anchors =
            [home, WORKSPACE].into_iter().filter(|anchor| anchor.starts_with('/') && *anchor != "/");
        let anchor = anchors.map(PathBuf::from).find(|anchor| path.starts_with(anchor));
        Self { path, anchor }
    }

    /// The user's directory, and the path in it.
    fn below(&self) -> Option<(&Path, &Path)> {
        let anchor = self.anchor.as_deref()?;
        Some((anchor, self.path.strip_prefix(anchor).ok()?))
    }
}

/// Waits until the host has hung up; what it says meanwhile means nothing.
async fn gone(mut frames: impl Stream<Item = Result<Frame, FrameError>> + Unpin) {
    while let Some(Ok(_frame)) = frames.next().await {}
}

/// Unpacks what comes; nothing when the host has gone meanwhile.
async fn put(
    frames: impl Stream<Item = Result<Frame, FrameError>> + Unpin,
    target: Place,
    owner: Option<Owner>,
) -> Option<FilesReply> {
    let (queue, pieces) = mpsc::channel(QUEUE);
    let path = target.path.clone();
    let mut unpacking = tokio::task::spawn_blocking(move || {
        let pieces = Pieces { queue: pieces, piece: Bytes::new() };
        match target.below() {
            Some((anchor, below)) => unpack_below(pieces, anchor, below, owner),
            None => unpack(pieces, &target.path, owner),
        }
    });
    let feeding = feed(frames, queue);
    // Feeding ends with the stream, and when the unpacking has failed; either way the unpacking ends soon then.
    let result = tokio::select! {
        biased;
        result = &mut unpacking => result,
        () = feeding => unpacking.await,
    };
    let result = match result {
        Ok(result) => result,
        Err(_panic) => {
            return Some(FilesReply::failed(FilesErrorKind::Failed, "the agent has a bug; see its log"));
        }
    };
    match result {
        Ok(unpacked) => Some(done(unpacked)),
        Err(error) => {
            let kind = match error.failure() {
                Failure::Source => {
                    log::info(&format!("a transfer to {} was given up by the host", path.display()));
                    return None;
                }
                Failure::Archive => FilesErrorKind::BadArchive,
                Failure::Target => FilesErrorKind::BadPath,
                Failure::NoSpace => FilesErrorKind::NoSpace,
            };
            Some(FilesReply::failed(kind, explain(&error)))
        }
    }
}

fn done(unpacked: Unpacked) -> FilesReply {
    let Unpacked { files, directories, links, bytes, warnings } = unpacked;
    let warnings = warnings.into_texts().iter().map(|text| cut(text)).collect();
    FilesReply { files, directories, links, bytes, warnings, error: None }
}

fn explain(error: &UnpackError) -> String {
    cut(&error_chain(error))
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Passes the archive on until its end. A stream that ends before is passed on as an error.
async fn feed(
    mut frames: impl Stream<Item = Result<Frame, FrameError>> + Unpin,
    queue: mpsc::Sender<Result<Bytes, io::Error>>,
) {
    loop {
        let piece = match frames.next().await {
            Some(Ok(frame)) => match frame.kind {
                FrameKind::Data if frame.payload.is_empty() => continue,
                FrameKind::Data => Ok(frame.payload),
                FrameKind::StdinEof => return,
                // Of a newer protocol, or not for a guest.
                FrameKind::ExecRequest
                | FrameKind::Resize
                | FrameKind::Signal
                | FrameKind::ExitStatus
                | FrameKind::Stderr
                | FrameKind::HealthRequest
                | FrameKind::HealthResponse
                | FrameKind::Message
                | FrameKind::FilesRequest
                | FrameKind::FilesReply
                | FrameKind::SetupRequest
                | FrameKind::SetupEvent
                | FrameKind::SetupReply => continue,
            },
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let last = piece.is_err();
        // Nobody takes more when the unpacking has ended.
        if queue.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The archive as the unpacking thread reads it.
struct Pieces {
    queue: mpsc::Receiver<Result<Bytes, io::Error>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

async fn refuse(writer: impl AsyncWrite + Unpin, reason: &str) {
    finish(writer, &FilesReply::failed(FilesErrorKind::Failed, reason)).await;
}

/// Sends the last frame and closes the agent's direction.
async fn finish(mut host: impl AsyncWrite + Unpin, reply: &FilesReply) {
    let mut bytes = BytesMut::new();
    let frame = Frame::json(FrameKind::FilesReply, reply);
    FrameCodec.encode(frame, &mut bytes).expect("a bounded reply is smaller than a frame may be");
    if host.write_all(&bytes).await.is_ok() {
        // When this fails the host has gone with the reply in its hands or without: nothing is left to do.
        let _gone = host.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
