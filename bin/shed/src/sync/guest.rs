//! Runs one command in the shed, with the output in the hands of the caller.
//!
//! The only place of this room that knows how commands reach a shed.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use shed_client::{Client, ClientError};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameError, FrameKind, MAX_PAYLOAD};
use shed_types::ShedName;
use tokio::time::timeout;

/// Why it is not known how a command ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the connection to the command broke")]
    Broken(#[source] FrameError),
    #[error("the connection ended before the command did")]
    HungUp,
    #[error("the connection to the command went silent: nothing came for {} s", .waited.as_secs())]
    Silent { waited: Duration },
    #[error("the connection to the command went silent: nothing was taken for {} s", .waited.as_secs())]
    Stuck { waited: Duration },
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
    let waited = client.timeouts().silence;
    let mut stream = client.exec(shed).await?;
    let request = ExecRequest { cmd, user, ..ExecRequest::default() };
    sent(waited, stream.send(Frame::json(FrameKind::ExecRequest, &request))).await?;
    while !input.is_empty() {
        let piece = input.split_to(input.len().min(MAX_PAYLOAD));
        sent(waited, stream.send(Frame::new(FrameKind::Data, piece))).await?;
    }
    sent(waited, stream.send(Frame::empty(FrameKind::StdinEof))).await?;
    // However quiet the command is, the agent sends an empty frame of data every `EXEC_PROBE`.
    while let Some(frame) = timeout(waited, stream.next()).await.map_err(|_| GuestError::Silent { waited })? {
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
            | FrameKind::FilesReply
            | FrameKind::SetupRequest
            | FrameKind::SetupEvent
            | FrameKind::SetupReply => {}
        }
    }
    Err(GuestError::HungUp)
}

/// Waits until a frame is on its way.
async fn sent(
    waited: Duration,
    sending: impl Future<Output = Result<(), FrameError>>,
) -> Result<(), GuestError> {
    timeout(waited, sending).await.map_err(|_| GuestError::Stuck { waited })?.map_err(GuestError::Broken)
}

#[cfg(test)]
mod tests {
    use shed_client::Timeouts;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Runs a command on a server that upgrades the connection, says hello, and neither reads nor writes any more.
    async fn on_a_silent_server(input: Bytes) -> (Result<ExitStatus, GuestError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let reply =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shed-exec\r\n\r\n";
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.write_all(b"\x05\0\0\0\x02hi").await.unwrap();
            stream
        });
        let timeouts = Timeouts { silence: Duration::from_secs(1), ..Timeouts::default() };
        let client = Client::new(address.to_string().parse().unwrap(), timeouts);
        let mut said = Vec::new();
        let job = Job::Root { script: "cat", input };
        let result = run(&client, &"web".parse().unwrap(), job, |bytes| said.extend_from_slice(bytes)).await;
        let _open = server.await.unwrap();
        (result, said)
    }

    #[tokio::test]
    async fn a_command_that_nothing_is_heard_of_is_given_up() {
        let (result, said) = on_a_silent_server(Bytes::new()).await;
        let error = result.unwrap_err();
        assert!(matches!(error, GuestError::Silent { .. }), "{error}");
        assert_eq!(error.to_string(), "the connection to the command went silent: nothing came for 1 s");
        assert_eq!(said, b"hi");
    }

    #[tokio::test]
    async fn a_command_that_takes_no_input_is_given_up() {
        // More than any system keeps for a connection whose other end reads nothing.
        let (result, _) = on_a_silent_server(vec![b'x'; 64 << 20].into()).await;
        let error = result.unwrap_err();
        assert!(matches!(error, GuestError::Stuck { .. }), "{error}");
    }
}
