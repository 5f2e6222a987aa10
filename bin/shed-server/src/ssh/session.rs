//! A session: one program in a shed, between its channel and the agent's exec service.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use shed_api::ErrorCode;
use shed_backend::GuestStream;
use shed_link::relay::Moved;
use shed_protocol::{ExitStatus, Frame, FrameCodec, FrameKind};
use shed_types::{GuestPort, ShedName};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, ReadHalf, split},
    time::timeout,
};
use tokio_util::codec::{Encoder, FramedRead};

use super::{
    LAST_WORDS, Shared,
    arrive::{Arrival, Refusal, arrive},
    channels::Inlet,
    output::{Gone, Output},
    program::{BadCommand, Program},
};
use crate::streams::OpenStream;

/// Exit code of what could not be done (spec F).
const FAILED: i32 = 1;

/// A terminal that a client has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terminal {
    /// What the client calls it.
    pub(super) term: String,
    /// Lines; 0 when it does not know.
    pub(super) rows: u16,
    /// Characters a line; 0 when it does not know.
    pub(super) cols: u16,
}

/// A session that has been asked to run something.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) user: String,
    /// What runs, or why that cannot run.
    pub(super) program: Result<Program, BadCommand>,
    pub(super) terminal: Option<Terminal>,
    pub(super) inlet: Inlet,
    pub(super) output: Output,
}

/// How the work on a session went.
enum End {
    /// The client has been told how the program ended.
    Told,
    /// There is nobody to tell.
    ClientGone,
    /// The server ends.
    ServerEnds,
}

impl Session {
    /// Runs the program and tells the client everything about it, except that the channel is closed.
    pub(super) async fn run(self, shared: &Shared) {
        let end = tokio::select! {
            // Who is gone gets no more work done for him.
            biased;
            () = self.inlet.gone.cancelled() => End::ClientGone,
            () = shared.hang_up.cancelled() => End::ServerEnds,
            told = self.work(shared) => if told.is_ok() { End::Told } else { End::ClientGone },
        };
        match end {
            End::Told => {}
            End::ClientGone => tracing::debug!(user = self.user, "a client left its session"),
            End::ServerEnds => {
                // No exit status: how the program ends is not known.
                let words = "shed-server is shutting down; the shed keeps running, connect again in a moment";
                // A client that takes nothing cannot be told.
                let _untold = timeout(LAST_WORDS, self.say(words)).await;
            }
        }
    }

    async fn work(&self, shared: &Shared) -> Result<(), Gone> {
        let begun = match &self.program {
            Ok(program) => self.begin(shared, program).await.map(|begun| (program, begun)),
            Err(error) => Err(Refusal::new(ErrorCode::InvalidRequest, error.to_string())),
        };
        match begun {
            Ok((program, (shed, guest, stream, _place))) => {
                let (status, moved) = self.carry(&shed, program, guest).await?;
                stream.exited(moved, status.as_ref());
                let status = status.unwrap_or_else(|| ExitStatus::exited(FAILED));
                self.output.exited(&status).await?;
            }
            Err(Refusal { words: reason, .. }) => {
                tracing::info!(user = self.user, reason, "an SSH session was refused");
                self.say(&format!("Error: {reason}")).await?;
                self.output.exited(&ExitStatus::exited(FAILED)).await?;
            }
        }
        self.output.eof().await
    }

    async fn begin(
        &self,
        shared: &Shared,
        program: &Program,
    ) -> Result<(ShedName, GuestStream, OpenStream, impl Sized + Send), Refusal> {
        let note = |line: String| async move {
            // Who is gone is noticed elsewhere.
            let _gone = self.say(&line).await;
        };
        let Arrival { shed, place } = arrive(shared, &self.user, note).await?;
        let mut guest = shared.sheds.connect_guest(&shed, GuestPort::Exec).await?;
        let stream = OpenStream::new(&shared.metrics, program.kind(), shed.clone());
        let request = program.request(self.terminal.as_ref(), &shared.terms);
        let request = Frame::json(FrameKind::ExecRequest, &request);
        send(&mut guest, request).await.map_err(|error| {
            let words = format!("the agent of shed '{shed}' took no request: {error}");
            Refusal::new(ErrorCode::ConnectFailed, words)
        })?;
        Ok((shed, guest, stream, place))
    }

    /// Moves bytes until the agent says how the program ended, or hangs up.
    async fn carry(
        &self,
        shed: &ShedName,
        program: &Program,
        guest: GuestStream,
    ) -> Result<(Option<ExitStatus>, Moved), Gone> {
        let (reader, writer) = split(guest);
        let (to_guest, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
        let feed = self.feed(writer, &to_guest);
        let deliver = self.deliver(FramedRead::new(reader, FrameCodec), &to_client);
        let status = tokio::select! {
            status = deliver => status?,
            never = feed => match never {},
        };
        let words = match &status {
            Some(status) => program.failure(shed.as_str(), status),
            None => Some(format!(
                "shed '{shed}' ended the connection before it said how the command ended; was it stopped?"
            )),
        };
        if let Some(words) = words {
            self.say(&format!("Error: {words}")).await?;
        }
        Ok((status, Moved { out: to_guest.into_inner(), back: to_client.into_inner() }))
    }

    /// Sends the agent what the client says. Never returns: whether the program ends is the agent's to tell.
    async fn feed(&self, mut guest: impl AsyncWrite + Unpin, moved: &AtomicU64) -> std::convert::Infallible {
        let Inlet { intake, controls, .. } = &self.inlet;
        let mut ended = false;
        loop {
            let frame = tokio::select! {
                frame = controls.next() => frame,
                piece = intake.next(), if !ended => match piece {
                    Some(piece) => Frame::new(FrameKind::Data, piece),
                    None => {
                        ended = true;
                        Frame::empty(FrameKind::StdinEof)
                    }
                },
            };
            let length = if frame.kind == FrameKind::Data { frame.payload.len() } else { 0 };
            if send(&mut guest, frame).await.is_err() {
                // What the program has said is still on its way.
                return std::future::pending().await;
            }
            let _before = moved.fetch_add(length as u64, Relaxed);
        }
    }

    /// Sends the client what the program says.
    async fn deliver(
        &self,
        mut frames: FramedRead<ReadHalf<GuestStream>, FrameCodec>,
        moved: &AtomicU64,
    ) -> Result<Option<ExitStatus>, Gone> {
        while let Some(frame) = frames.next().await {
            let Ok(Frame { kind, payload }) = frame else { return Ok(None) };
            let length = payload.len() as u64;
            match kind {
                // Also the agent's probes, which are empty.
                FrameKind::Data => self.output.data(payload).await?,
                FrameKind::Stderr => self.output.stderr(payload).await?,
                FrameKind::ExitStatus => return Ok(serde_json::from_slice(&payload).ok()),
                FrameKind::ExecRequest
                | FrameKind::Resize
                | FrameKind::Signal
                | FrameKind::StdinEof
                | FrameKind::HealthRequest
                | FrameKind::HealthResponse
                | FrameKind::Message
                | FrameKind::FilesRequest
                | FrameKind::FilesReply
                | FrameKind::SetupRequest
                | FrameKind::SetupEvent
                | FrameKind::SetupReply => continue,
            }
            let _before = moved.fetch_add(length, Relaxed);
        }
        Ok(None)
    }

    /// Says a line on stderr.
    async fn say(&self, line: &str) -> Result<(), Gone> {
        // A terminal in raw mode begins no line by itself.
        let end = if self.terminal.is_some() { "\r\n" } else { "\n" };
        self.output.stderr(Bytes::from(format!("{}{end}", line.replace('\n', end)))).await
    }
}

/// Sends the agent a frame.
async fn send(guest: &mut (impl AsyncWrite + Unpin), frame: Frame) -> std::io::Result<()> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(frame, &mut bytes).map_err(std::io::Error::other)?;
    guest.write_all(&bytes).await?;
    guest.flush().await
}
