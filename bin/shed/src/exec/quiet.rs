//! A command that runs on its own: without input, its output kept instead of shown.

use bytes::{Bytes, BytesMut};
use shed_protocol::{ExitStatus, Frame, FrameKind};
use shed_ssh::{
    Refusal,
    client::{ExecReader, ExecWriter},
};

use super::SessionError;

/// Most that is kept of what a command says, in bytes.
const KEPT: usize = 4 << 10;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It has ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// The beginning of its stderr.
        stderr: Bytes,
    },
    /// The server says why there is no command.
    Refused(Refusal),
}

/// Waits for the end of the command that was asked for.
///
/// # Errors
/// When the connection breaks before.
pub(crate) async fn run_quietly(
    (mut reader, mut writer): (ExecReader, ExecWriter),
) -> Result<Heard, SessionError> {
    // A peer that takes no more may still have something to say.
    let _later = writer.send(Frame::empty(FrameKind::StdinEof)).await;
    let mut stderr = BytesMut::new();
    let mut runs = false;
    while let Some(frame) = reader.next().await {
        let frame = frame.map_err(SessionError::Broken)?;
        match frame.kind {
            FrameKind::Stderr => {
                let fits = frame.payload.len().min(KEPT - stderr.len());
                stderr.extend_from_slice(&frame.payload[..fits]);
            }
            FrameKind::ExitStatus => {
                if let Some(refusal) = Refusal::from_frame(&frame) {
                    return Ok(Heard::Refused(refusal));
                }
                let status = frame.parse().map_err(SessionError::Status)?;
                return Ok(Heard::Exited { status, stderr: stderr.freeze() });
            }
            // What came before was the server's, and about the start of the shed.
            FrameKind::Data if frame.payload.is_empty() && !runs => {
                runs = true;
                stderr.clear();
            }
            // Its output.
            FrameKind::Data => runs = true,
            // Not for a client, or of a newer protocol.
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
            | FrameKind::SetupReply => {}
        }
    }
    Err(SessionError::HungUp { source: None })
}
