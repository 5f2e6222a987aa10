//! The loop of a session: frames out, frames in, signals, and the end.

use std::{future::Future, io, pin::pin};

use bytes::Bytes;
use rustix::io::Errno;
use shed_protocol::{ExitStatus, Frame, FrameError, FrameKind, Resize, Signal};
use shed_ssh::{
    Refusal,
    client::{ExecReader, ExecWriter},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    input::{self, Keys},
    output::{self, Target},
    signals::{Event, HANG_UP, Signals},
    terminal::{Input, Terminal, window_size},
};

/// Signals and sizes waiting to be sent; more only come when the server reads nothing, and are dropped.
const CONTROL_QUEUE: usize = 16;

/// What Ctrl-D sends: the end of input, to a terminal (VEOF, termios(3)).
const END_OF_INPUT: u8 = 4;

/// How a session ends without an error.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The agent says how the command ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// The last piece of its output, which may say why.
        last_words: Bytes,
    },
    /// The server says why there is no command.
    Refused(Refusal),
    /// The user typed the escape.
    Left,
    /// A signal asked this process to end.
    Signalled(u8),
    /// Nobody reads our stdout or stderr any more.
    OutputClosed,
}

/// Why a session ends before the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the connection ended before the command did")]
    HungUp {
        /// What sending ran into, if it did.
        #[source]
        source: Option<FrameError>,
    },
    #[error("the connection broke before the command ended")]
    Broken(#[source] FrameError),
    #[error("the exit status cannot be read")]
    Status(#[source] FrameError),
    #[error("could not write the command's output")]
    Output(#[source] Errno),
    #[error("could not change the terminal's settings")]
    Terminal(#[source] Errno),
    #[error("could not set up input, output and signals")]
    Setup(#[source] io::Error),
}

impl SessionError {
    /// Returns the error with its causes as one text.
    pub(crate) fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(&format!(": {error}"));
            next = error.source();
        }
        text
    }
}

/// Joins the command that was asked for to this process, and returns how it ended, with all its output written.
///
/// Dropping the stream, which every return but `Exited` does early, ends the command in the shed.
pub(crate) async fn run(
    (reader, mut writer): (ExecReader, ExecWriter),
    mut signals: Signals,
    terminal: Option<Terminal>,
    keys: Keys,
) -> Result<Ending, SessionError> {
    let (output, written) = output::spawn().map_err(SessionError::Setup)?;
    let (input, left) = input::spawn(keys).map_err(SessionError::Setup)?;
    let (control, controls) = mpsc::channel(CONTROL_QUEUE);
    let eof = match terminal.as_ref().map(Terminal::input) {
        // A terminal has no end of input but this key.
        Some(Input::Pipe) => Some(Frame::new(FrameKind::Data, Bytes::from_static(&[END_OF_INPUT]))),
        Some(Input::Terminal) | None => None,
    };
    let sending = send_all(&mut writer, input, controls, eof);
    let receiving = receive_all(reader, output, terminal.as_ref());
    let leaving = async {
        if left.await.is_err() {
            // The input has ended without it.
            std::future::pending::<()>().await;
        }
    };
    let ending = join(
        sending,
        receiving,
        written,
        leaving,
        |event, ended_before| match (event, &terminal) {
            (Event::HangUp, _) => Some(HANG_UP),
            // With a terminal Ctrl-C is a key; a signal comes from outside and means this process.
            (Event::End { signal }, Some(_)) => Some(signal),
            (Event::End { signal }, None) if ended_before => Some(signal),
            (Event::End { signal }, None) => {
                let frame = Frame::json(FrameKind::Signal, &Signal { signal: signal.into() });
                let _full = control.try_send(frame);
                None
            }
            (Event::Resize, Some(_)) => {
                let _full = control.try_send(resize());
                None
            }
            (Event::Continued, Some(terminal)) => {
                let _gone = terminal.make_raw();
                let _full = control.try_send(resize());
                None
            }
            (Event::Resize | Event::Continued, None) => None,
        },
        &mut signals,
    )
    .await;
    if let (Ok(Ending::Exited { .. } | Ending::Refused(_)), Some(terminal)) = (&ending, &terminal) {
        terminal.command_ended();
    }
    ending
}

/// What the last frame says.
#[derive(Debug)]
enum Last {
    Exited { status: ExitStatus, last_words: Bytes },
    Refused(Refusal),
}

/// Runs the directions side by side. `decide` is asked about each signal, with whether an earlier one had asked to
/// end, and returns the signal that ends the session.
async fn join(
    sending: impl Future<Output = Result<(), FrameError>>,
    receiving: impl Future<Output = Result<Option<Last>, SessionError>>,
    mut written: oneshot::Receiver<Result<(), Errno>>,
    leaving: impl Future<Output = ()>,
    decide: impl Fn(Event, bool) -> Option<u8>,
    signals: &mut Signals,
) -> Result<Ending, SessionError> {
    let (mut sending, mut receiving, mut leaving) = (pin!(sending), pin!(receiving), pin!(leaving));
    let (mut sent, mut received) = (None, None);
    let mut ended_before = false;
    loop {
        tokio::select! {
            // The end of the output comes first: when it is there nothing else matters.
            biased;
            result = &mut written => return match (result, received) {
                (Ok(Err(Errno::PIPE)), _) => Ok(Ending::OutputClosed),
                (Ok(Err(error)), _) => Err(SessionError::Output(error)),
                // The queue of the writer is closed by the receiving side only, when it is done.
                (Ok(Ok(())), Some(Ok(Some(Last::Exited { status, last_words })))) => {
                    Ok(Ending::Exited { status, last_words })
                }
                (Ok(Ok(())), Some(Ok(Some(Last::Refused(refusal))))) => Ok(Ending::Refused(refusal)),
                (Ok(Ok(())), Some(Err(error))) => Err(error),
                (Ok(Ok(())), Some(Ok(None)) | None) => Err(SessionError::HungUp { source: sent.and_then(Result::err) }),
                (Err(_), _) => Err(SessionError::Setup(io::Error::other("the thread that writes output died"))),
            },
            event = signals.next() => {
                if let Some(signal) = decide(event, ended_before) {
                    return Ok(Ending::Signalled(signal));
                }
                ended_before |= matches!(event, Event::End { .. });
            }
            () = &mut leaving => return Ok(Ending::Left),
            result = &mut receiving, if received.is_none() => received = Some(result),
            // A peer that takes no more input may still have output and a status to send.
            result = &mut sending, if sent.is_none() => sent = Some(result),
        }
    }
}

/// Sends input and what comes on `control`, until neither comes any more.
async fn send_all(
    writer: &mut ExecWriter,
    mut input: mpsc::Receiver<Bytes>,
    mut control: mpsc::Receiver<Frame>,
    mut eof: Option<Frame>,
) -> Result<(), FrameError> {
    let mut open = true;
    loop {
        let frame = tokio::select! {
            // A signal goes before input that has not been given to the connection yet.
            biased;
            Some(frame) = control.recv() => frame,
            chunk = input.recv(), if open => match (chunk, eof.take()) {
                (Some(bytes), unused) => {
                    eof = unused;
                    Frame::new(FrameKind::Data, bytes)
                }
                (None, last) => {
                    open = false;
                    if let Some(frame) = last {
                        writer.send(frame).await?;
                    }
                    Frame::empty(FrameKind::StdinEof)
                }
            },
            else => return Ok(()),
        };
        writer.send(frame).await?;
    }
}

/// Passes output on until the last frame comes; none when the other side hangs up before.
async fn receive_all(
    mut reader: ExecReader,
    output: output::Sender,
    terminal: Option<&Terminal>,
) -> Result<Option<Last>, SessionError> {
    let mut last_words = Bytes::new();
    while let Some(frame) = reader.next().await {
        let frame = frame.map_err(SessionError::Broken)?;
        let (target, payload) = match frame.kind {
            FrameKind::Data => (Target::Stdout, frame.payload),
            FrameKind::Stderr => (Target::Stderr, frame.payload),
            FrameKind::ExitStatus => {
                if let Some(refusal) = Refusal::from_frame(&frame) {
                    return Ok(Some(Last::Refused(refusal)));
                }
                let status = frame.parse().map_err(SessionError::Status)?;
                return Ok(Some(Last::Exited { status, last_words }));
            }
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
            | FrameKind::SetupReply => continue,
        };
        if let Some(terminal) = terminal {
            // Lines of the server come while the shed starts, the command's output when it runs.
            terminal.wait_for_command(target == Target::Stderr).map_err(SessionError::Terminal)?;
        }
        // Empty frames are the guest's probes (spec B.3).
        if payload.is_empty() {
            continue;
        }
        let payload = match (terminal, target) {
            (None, _) => payload,
            (Some(terminal), Target::Stdout) => {
                terminal.see(&payload);
                payload
            }
            // A command with a terminal has no stderr, so this is the server, which writes lines.
            (Some(terminal), Target::Stderr) => {
                let lines = terminal.lines(payload);
                terminal.see(&lines);
                lines
            }
        };
        last_words = payload.clone();
        if output.send((target, payload)).await.is_err() {
            // The writer has ended with an error, and its report ends the session.
            return std::future::pending().await;
        }
    }
    Ok(None)
}

fn resize() -> Frame {
    let (rows, cols) = window_size();
    Frame::json(FrameKind::Resize, &Resize { rows, cols })
}
