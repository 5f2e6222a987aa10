//! The fake agent's file service: keeps what is put there instead of unpacking it, or fails as a test wants.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use shed_protocol::{FilesErrorKind, FilesReply, FilesRequest, Frame, FrameError, FrameKind};
use tokio_util::bytes::BytesMut;

use super::{Machine, agent::Frames};

/// What a fake guest does with files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FakeFiles {
    /// It takes them.
    #[default]
    Taken,
    /// It takes them, and says that it has left some out.
    TakenWith(Vec<String>),
    /// It takes so many bytes, and then says why it takes no more.
    Refused(usize, FilesErrorKind, String),
    /// It takes so many bytes and reads no more; nothing is said.
    Stuck(usize),
    /// It hangs up.
    HangsUp,
    /// It answers with these bytes.
    Says(Vec<u8>),
}

/// What was put into a fake guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakePut {
    /// The path that was asked for.
    pub target: String,
    /// The archive, as far as it came.
    pub archive: Vec<u8>,
    /// Whether its end came.
    pub complete: bool,
}

/// Serves one stream.
pub(super) async fn serve(mut frames: Frames, machine: Arc<Machine>) -> Result<(), FrameError> {
    let Some(first) = frames.next().await else { return Ok(()) };
    let target = match first?.parse::<FilesRequest>()? {
        FilesRequest::Put { target } => target.to_string(),
        FilesRequest::Get { .. } => return Ok(()),
    };
    let shed = machine.spec.shed.clone();
    let behaviour = machine.world.host().files.get(&shed).cloned().unwrap_or_default();
    let limit = match &behaviour {
        FakeFiles::Taken | FakeFiles::TakenWith(_) | FakeFiles::HangsUp | FakeFiles::Says(_) => usize::MAX,
        FakeFiles::Refused(limit, ..) | FakeFiles::Stuck(limit) => *limit,
    };
    let mut archive = BytesMut::new();
    let mut complete = false;
    while archive.len() < limit && !complete {
        match frames.next().await {
            Some(Ok(frame)) if frame.kind == FrameKind::Data => archive.extend_from_slice(&frame.payload),
            Some(Ok(frame)) => complete = frame.kind == FrameKind::StdinEof,
            Some(Err(_)) | None => break,
        }
    }
    let bytes = archive.len() as u64;
    let put = FakePut { target, archive: archive.to_vec(), complete };
    machine.world.host().puts.entry(shed).or_default().push(put);
    let taken = |warnings| FilesReply { files: 1, bytes, warnings, ..FilesReply::default() };
    let reply = match behaviour {
        _ if !complete && limit == usize::MAX => return Ok(()),
        FakeFiles::Taken => taken(Vec::new()),
        FakeFiles::TakenWith(warnings) => taken(warnings),
        FakeFiles::Refused(_, kind, message) => FilesReply::failed(kind, message),
        FakeFiles::Stuck(_) => return std::future::pending().await,
        FakeFiles::HangsUp => return Ok(()),
        FakeFiles::Says(bytes) => {
            return frames.send(Frame::new(FrameKind::FilesReply, bytes.into())).await;
        }
    };
    frames.send(Frame::json(FrameKind::FilesReply, &reply)).await
}
