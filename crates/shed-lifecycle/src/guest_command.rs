//! Runs one command in a running shed and returns how it ended and what it printed: for what the server itself wants
//! to know of a guest.
//!
//! `sessions` asks tmux through it. It refuses what only users' commands need: a terminal, input, and output without
//! a limit; those commands take their stream from [`Sheds::connect_guest`] and it is passed on unread. The guest is
//! not trusted: time and bytes are bounded, and what it says reaches an error only as short printable text.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameError, FrameKind};
use shed_types::{GuestPort, ShedName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::consume_budget,
    time::timeout,
};
use tokio_util::codec::Framed;

use crate::{ReachGuestError, Sheds, console::printable_lines};

/// Longest stdout, and longest stderr, that is taken from a command, in bytes.
pub(crate) const OUTPUT_LIMIT: usize = 1 << 20;

/// Longest text of a guest that goes into an error, in characters.
const QUOTE_CHARS: usize = 300;

/// A command for a guest. It runs as user `shed`, without a terminal, and its stdin is at its end from the start.
#[derive(Debug, Clone)]
pub(crate) struct GuestCommand {
    /// Program, looked up in the guest's PATH, and its arguments.
    pub cmd: Vec<String>,
    /// Additional environment, each `NAME=value`.
    pub env: Vec<String>,
    /// From the first attempt to reach the agent to the end of the command.
    pub deadline: Duration,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestOutput {
    /// How it ended, as the agent says.
    pub status: ExitStatus,
    /// At most [`OUTPUT_LIMIT`] bytes.
    pub stdout: Vec<u8>,
    /// At most [`OUTPUT_LIMIT`] bytes.
    pub stderr: Vec<u8>,
}

/// Why it is not known how a command in a guest ended.
#[derive(Debug, thiserror::Error)]
pub enum GuestCommandError {
    #[error(transparent)]
    Reach(#[from] ReachGuestError),
    #[error("`{program}` in shed `{shed}` did not end within {} s; it was told to hang up", .waited.as_secs_f64())]
    NoEnd { shed: ShedName, program: String, waited: Duration },
    #[error("the agent of shed `{shed}` hung up before it said how `{program}` ended")]
    HungUp { shed: ShedName, program: String },
    #[error("the connection to `{program}` in shed `{shed}` broke")]
    Broken {
        shed: ShedName,
        program: String,
        #[source]
        source: FrameError,
    },
    #[error("the agent of shed `{shed}` did not say readably how `{program}` ended: {said:?}")]
    Unreadable { shed: ShedName, program: String, said: String },
    #[error("`{program}` in shed `{shed}` wrote more than {limit} bytes to {output}; it was told to hang up")]
    TooMuchOutput { shed: ShedName, program: String, output: &'static str, limit: usize },
}

impl Sheds {
    /// Runs a command in a running shed.
    ///
    /// A command that fails is no error here; its status says so.
    ///
    /// # Errors
    /// When the shed does not run, its agent does not answer, or the command breaks a limit.
    ///
    /// # Cancel safety
    /// Dropping the future hangs up, which ends the command.
    pub(crate) async fn run_in_guest(
        &self,
        shed: &ShedName,
        command: GuestCommand,
    ) -> Result<GuestOutput, GuestCommandError> {
        let GuestCommand { cmd, env, deadline } = command;
        let whose = Whose { shed, program: cmd.first().cloned().unwrap_or_default() };
        // The root directory is always there; /workspace may be a host's share that hangs.
        let request = ExecRequest { cmd, env, working_dir: "/".to_owned(), ..ExecRequest::default() };
        let work = async {
            let stream = self.connect_guest(shed, GuestPort::Exec).await?;
            exchange(stream, &request, &whose).await
        };
        timeout(deadline, work).await.unwrap_or_else(|_| Err(whose.no_end(deadline)))
    }
}

/// Whose command it is, for errors.
struct Whose<'a> {
    shed: &'a ShedName,
    program: String,
}

impl Whose<'_> {
    fn parts(&self) -> (ShedName, String) {
        (self.shed.clone(), self.program.clone())
    }

    fn no_end(&self, waited: Duration) -> GuestCommandError {
        let (shed, program) = self.parts();
        GuestCommandError::NoEnd { shed, program, waited }
    }

    fn hung_up(&self) -> GuestCommandError {
        let (shed, program) = self.parts();
        GuestCommandError::HungUp { shed, program }
    }

    fn broken(&self, source: FrameError) -> GuestCommandError {
        let (shed, program) = self.parts();
        GuestCommandError::Broken { shed, program, source }
    }

    /// The reader's own error would quote the guest without a limit.
    fn unreadable(&self, frame: &Frame) -> GuestCommandError {
        let (shed, program) = self.parts();
        GuestCommandError::Unreadable { shed, program, said: quote(&frame.payload) }
    }

    fn too_much(&self, output: &'static str) -> GuestCommandError {
        let (shed, program) = self.parts();
        GuestCommandError::TooMuchOutput { shed, program, output, limit: OUTPUT_LIMIT }
    }
}

/// Speaks with the exec service until it says how the command ended. Dropping the stream hangs up.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &ExecRequest,
    whose: &Whose<'_>,
) -> Result<GuestOutput, GuestCommandError> {
    let mut frames = Framed::new(stream, FrameCodec);
    let begin = async {
        frames.feed(Frame::json(FrameKind::ExecRequest, request)).await?;
        // Not by closing this direction: the agent takes that for a host that is gone.
        frames.send(Frame::empty(FrameKind::StdinEof)).await
    };
    begin.await.map_err(|source| whose.broken(source))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(frame) = frames.next().await {
        // A guest that sends without a pause must not keep the deadline from being looked at.
        consume_budget().await;
        let frame = frame.map_err(|source| whose.broken(source))?;
        let (output, name) = match frame.kind {
            FrameKind::Data => (&mut stdout, "stdout"),
            FrameKind::Stderr => (&mut stderr, "stderr"),
            FrameKind::ExitStatus => {
                let status = frame.parse().map_err(|_| whose.unreadable(&frame))?;
                return Ok(GuestOutput { status, stdout, stderr });
            }
            // Not for a host, or of a newer protocol.
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
        };
        if output.len() + frame.payload.len() > OUTPUT_LIMIT {
            return Err(whose.too_much(name));
        }
        output.extend_from_slice(&frame.payload);
    }
    Err(whose.hung_up())
}

/// Returns what a guest wrote as one short line of printable text, for an error or the log.
pub(crate) fn quote(bytes: &[u8]) -> String {
    printable_lines(bytes).join("; ").chars().take(QUOTE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;
    use tokio_util::bytes::Bytes;

    use super::*;

    type Guest = Framed<DuplexStream, FrameCodec>;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(20);

    /// Runs `tmux -V` in a guest that `serve` plays after it has read the request and the end of stdin.
    async fn run<F: Future<Output = ()>>(
        deadline: Duration,
        serve: impl FnOnce(Guest, ExecRequest) -> F,
    ) -> Result<GuestOutput, GuestCommandError> {
        let (host, guest) = tokio::io::duplex(64 << 10);
        let guest = async {
            let mut guest = Framed::new(guest, FrameCodec);
            let request = guest.next().await.unwrap().unwrap().parse().unwrap();
            assert_eq!(guest.next().await.unwrap().unwrap(), Frame::empty(FrameKind::StdinEof));
            serve(guest, request).await;
        };
        let shed: ShedName = "api".parse().unwrap();
        let whose = Whose { shed: &shed, program: "tmux".into() };
        let request = ExecRequest { cmd: vec!["tmux".into(), "-V".into()], ..ExecRequest::default() };
        let host = timeout(deadline, exchange(host, &request, &whose));
        let (result, ()) = tokio::join!(host, guest);
        result.unwrap_or_else(|_| Err(whose.no_end(deadline)))
    }

    fn data(kind: FrameKind, bytes: impl Into<Bytes>) -> Frame {
        Frame::new(kind, bytes.into())
    }

    fn status(code: i32) -> Frame {
        Frame::json(FrameKind::ExitStatus, &ExitStatus::exited(code))
    }

    #[tokio::test]
    async fn output_is_kept_apart_and_frames_that_mean_nothing_are_passed_over() {
        let output = run(LONG, |mut guest, request| async move {
            assert_eq!((request.cmd.join(" ").as_str(), request.tty), ("tmux -V", false));
            for frame in [
                data(FrameKind::Data, "a"),
                Frame::empty(FrameKind::Data),
                data(FrameKind::Stderr, "x"),
                data(FrameKind::Message, "{"),
                data(FrameKind::Data, "b"),
                status(3),
                data(FrameKind::Data, "too late"),
            ] {
                guest.send(frame).await.unwrap();
            }
        });
        let expected =
            GuestOutput { status: ExitStatus::exited(3), stdout: b"ab".into(), stderr: b"x".into() };
        assert_eq!(output.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn the_limit_of_output_is_reached_but_not_passed() {
        for (kind, name) in [(FrameKind::Data, "stdout"), (FrameKind::Stderr, "stderr")] {
            for (more, fits) in [(0, true), (1, false)] {
                let result = run(LONG, |mut guest, _| async move {
                    let whole = Bytes::from(vec![b'x'; OUTPUT_LIMIT]);
                    // The host may hang up in the middle.
                    let _sent = guest.send(data(kind, whole)).await;
                    let _sent = guest.send(data(kind, vec![b'x'; more])).await;
                    let _sent = guest.send(status(0)).await;
                });
                match result.await {
                    Ok(output) => assert!(fits && output.stdout.len() + output.stderr.len() == OUTPUT_LIMIT),
                    Err(GuestCommandError::TooMuchOutput { output, .. }) => assert!(!fits && output == name),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn an_end_without_a_status_is_an_error() {
        let result = run(LONG, |mut guest, _| async move {
            guest.send(data(FrameKind::Data, "default:1:0:1\n")).await.unwrap();
        });
        let error = result.await.unwrap_err();
        assert!(matches!(error, GuestCommandError::HungUp { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_status_that_cannot_be_read_is_quoted_shortly_and_printably() {
        let hostile = format!("{{\"code\":\"\u{1b}[2J{}\"}}", "x".repeat(500_000));
        let result = run(LONG, |mut guest, _| async move {
            guest.send(data(FrameKind::ExitStatus, hostile)).await.unwrap();
        });
        let text = shed_types::error_chain(&result.await.unwrap_err());
        assert!(text.contains("shed `api`") && text.contains("xxx"), "{text}");
        assert!(text.len() < 500 && !text.contains('\u{1b}'), "{text:?}");
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_breaks_the_connection() {
        use tokio::io::AsyncWriteExt;
        let result = run(LONG, |guest, _| async move {
            guest.into_inner().write_all(&[0x05, 0xff, 0xff, 0xff, 0xff, 0]).await.unwrap();
        });
        let error = result.await.unwrap_err();
        assert!(
            matches!(error, GuestCommandError::Broken { source: FrameError::TooLong { .. }, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_deadline_ends_a_silent_guest_and_one_that_never_pauses() {
        let short = Duration::from_millis(50);
        let silent = run(short, |mut guest, _| async move {
            assert!(guest.next().await.is_none(), "the host hangs up");
        });
        let error = silent.await.unwrap_err();
        assert!(matches!(error, GuestCommandError::NoEnd { .. }), "{error}");
        let probing = run(short, |mut guest, _| async move {
            while guest.send(Frame::empty(FrameKind::Data)).await.is_ok() {}
        });
        let error = probing.await.unwrap_err();
        assert!(matches!(error, GuestCommandError::NoEnd { .. }), "{error}");
    }
}
