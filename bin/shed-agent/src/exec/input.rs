//! From the host to the command: stdin through a bounded queue, signals and sizes past it.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use shed_protocol::{Frame, FrameError, FrameKind, Resize, Signal};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{pty::Master, spawn::Group};

/// Bytes of stdin that wait for the command at most. Beyond that no frame is read, so that a signal behind them waits,
/// too; up to that a command that does not read can still be interrupted.
const QUEUE: usize = 4 << 20;

/// A piece of stdin and its share of the queue.
type Piece = (Bytes, OwnedSemaphorePermit);

/// The reading end of the stdin queue.
#[derive(Debug)]
pub(crate) struct StdinQueue(mpsc::UnboundedReceiver<Piece>);

/// What frames act on.
#[derive(Debug)]
pub(crate) struct Input {
    stdin: Option<mpsc::UnboundedSender<Piece>>,
    room: Arc<Semaphore>,
    group: Group,
    terminal: Option<Master>,
}

impl Input {
    /// Makes the two ends: frames go in here, the queue feeds the command.
    pub(crate) fn new(group: Group, terminal: Option<Master>) -> (Self, StdinQueue) {
        // Bounded by the semaphore, in bytes.
        let (sender, receiver) = mpsc::unbounded_channel();
        let input = Self { stdin: Some(sender), room: Arc::new(Semaphore::new(QUEUE)), group, terminal };
        (input, StdinQueue(receiver))
    }

    /// Acts on frames until the host is gone: the stream has ended, broken, or makes no sense any more.
    pub(crate) async fn run(mut self, mut frames: impl Stream<Item = Result<Frame, FrameError>> + Unpin) {
        while let Some(Ok(frame)) = frames.next().await {
            match frame.kind {
                FrameKind::Data => self.data(frame.payload).await,
                // A terminal has no end of input; the user's Ctrl-D is a byte (spec B.3).
                FrameKind::StdinEof if self.terminal.is_none() => self.stdin = None,
                FrameKind::Signal => {
                    if let Ok(Signal { signal }) = frame.parse() {
                        self.group.signal(signal);
                    }
                }
                FrameKind::Resize => {
                    if let (Some(terminal), Ok(size)) = (&self.terminal, frame.parse::<Resize>()) {
                        terminal.resize(size);
                    }
                }
                FrameKind::StdinEof
                | FrameKind::ExecRequest
                | FrameKind::ExitStatus
                | FrameKind::Stderr
                | FrameKind::HealthRequest
                | FrameKind::HealthResponse
                | FrameKind::Message
                | FrameKind::FilesRequest
                | FrameKind::FilesReply
                | FrameKind::SetupRequest
                | FrameKind::SetupEvent
                | FrameKind::SetupReply => {}
            }
        }
    }

    async fn data(&mut self, bytes: Bytes) {
        let (Some(stdin), Ok(length)) = (&self.stdin, u32::try_from(bytes.len())) else { return };
        if length == 0 {
            return;
        }
        // A frame is smaller than the queue, so there is room for it some time; the semaphore is never closed.
        if let Ok(share) = Arc::clone(&self.room).acquire_many_owned(length).await {
            // Nobody reads the queue any more when the command has closed its stdin.
            let _closed = stdin.send((bytes, share));
        }
    }
}

impl StdinQueue {
    /// Writes everything to the command. Returns when the host has ended stdin; the caller drops the command's end
    /// with `stdin`. A command that has closed its stdin loses the rest, as with any pipe.
    pub(crate) async fn feed(mut self, mut stdin: impl AsyncWrite + Unpin) {
        while let Some((bytes, _share)) = self.0.recv().await {
            if stdin.write_all(&bytes).await.is_err() {
                drop(stdin);
                while self.0.recv().await.is_some() {}
                return;
            }
        }
    }
}

const _: () = assert!(shed_protocol::MAX_PAYLOAD <= QUEUE);
