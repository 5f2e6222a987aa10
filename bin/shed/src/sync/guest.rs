//! Runs one command in the shed, with the output in the hands of the caller.
//!
//! The only place of this room that knows how commands reach a shed.

use bytes::Bytes;
use shed_client::{Client, ClientError};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameError, FrameKind, MAX_PAYLOAD};
use shed_types::ShedName;

/// Why it is not known how a command ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the connection to the command broke")]
    Broken(#[source] FrameError),
    #[error("the connection ended before the command did")]
    HungUp,
}

/// A command: a line for a login shell of user `shed`, or a program that root runs.
#[derive(Debug)]
pub(crate) enum Job<'a> {
    /// Run by bash as a login shell, or by sh where there is no bash.
    Line(&'a str),
    /// Run as root, with this input.
    Root { script: &'a str, input: Bytes },
}

/// Runs it; `output` gets what it prints, as it comes. Dropping the future hangs up, which ends the command.
pub(crate) async fn run(
    client: &Client,
    shed: &ShedName,
    job: Job<'_>,
    mut output: impl FnMut(&[u8]),
) -> Result<ExitStatus, GuestError> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let (cmd, user, mut input) = match job {
        Job::Line(line) => {
            let find = "exec \"$(command -v bash || echo sh)\" -lc \"$1\"";
            (words(&["sh", "-c", find, "sh", line]), String::new(), Bytes::new())
        }
        Job::Root { script, input } => (words(&["sh", "-c", script]), "root".to_owned(), input),
    };
    let mut stream = client.exec(shed).await?;
    let request = ExecRequest { cmd, user, ..ExecRequest::default() };
    stream.send(Frame::json(FrameKind::ExecRequest, &request)).await.map_err(GuestError::Broken)?;
    while !input.is_empty() {
        let piece = input.split_to(input.len().min(MAX_PAYLOAD));
        stream.send(Frame::new(FrameKind::Data, piece)).await.map_err(GuestError::Broken)?;
    }
    stream.send(Frame::empty(FrameKind::StdinEof)).await.map_err(GuestError::Broken)?;
    while let Some(frame) = stream.next().await {
        let frame = frame.map_err(GuestError::Broken)?;
        match frame.kind {
            FrameKind::Data | FrameKind::Stderr => output(&frame.payload),
            FrameKind::ExitStatus => return frame.parse().map_err(GuestError::Broken),
            // Not for a client, or of a newer protocol.
            FrameKind::ExecRequest
            | FrameKind::Resize
            | FrameKind::Signal
            | FrameKind::StdinEof
            | FrameKind::HealthRequest
            | FrameKind::HealthResponse
            | FrameKind::Message
            | FrameKind::FilesRequest
            | FrameKind::FilesReply => {}
        }
    }
    Err(GuestError::HungUp)
}
