//! The host's end of a setup: clone and hooks, over one stream to the agent (spec D; design of the stream in
//! `shed_protocol::setup`).
//!
//! [`settle`](crate::settle) runs one after a create or start, [`shutdown`](crate::shutdown) one before a stop. Whatever
//! goes wrong is a warning: a setup fails nothing. The guest is not trusted: what it says is bounded in number and
//! length, cleaned, and without the secret of the repository.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use shed_backend::{ConnectGuestError, GuestStream, Vm};
use shed_protocol::{
    Failure, Frame, FrameCodec, FrameError, FrameKind, SetupEvent, SetupReply, SetupRequest, Step, StepEnd,
};
use shed_types::{GuestPort, ShedName, error_chain};
use tokio::{task::consume_budget, time::timeout};
use tokio_util::codec::Framed;

use crate::{Phase, Progress, guest_text::Cleaner};

/// How long the agent may take to open the stream and take the request. A guest under software emulation may stall.
const REACH: Duration = Duration::from_secs(30);

/// Most events of one setup that are taken. Each of five steps begins and ends.
const MAX_EVENTS: usize = 200;

/// Most warnings of one setup that are passed on.
const MAX_WARNINGS: usize = 20;

/// Longest message of a guest that is passed on, and longest line of output, in characters (`shed_protocol::setup`).
const MAX_MESSAGE: usize = 1000;
const MAX_LINE: usize = 400;

/// Most last lines of a step's output (spec D).
const LAST_LINES: usize = 5;

/// Longest path of a log that is passed on, in characters.
const MAX_PATH: usize = 200;

/// Why a setup was not begun, or its end is not known.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("the agent could not be reached")]
    Reach(#[source] ConnectGuestError),
    #[error("the agent did not take the request within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("the request could not be sent")]
    Send(#[source] FrameError),
    #[error("the agent refused it: {0}")]
    Refused(String),
    #[error("the stream broke")]
    Broken(#[source] FrameError),
    #[error("the agent hung up")]
    HungUp,
    #[error("the agent tells more than a setup has to tell")]
    Flood,
    #[error("it did not end within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
}

impl SetupError {
    /// Whether the guest may be at it all the same.
    fn may_go_on(&self) -> bool {
        match self {
            Self::Broken(_) | Self::HungUp | Self::Flood | Self::TimedOut(_) => true,
            Self::Reach(_) | Self::NoAnswer(_) | Self::Send(_) | Self::Refused(_) => false,
        }
    }
}

/// Has the guest do a setup, and tells of it as it goes. What fails is a warning in `progress`.
///
/// It takes as long as the guest takes; `secret`, if any, is shown to nobody.
///
/// # Cancel safety
/// Dropping the future hangs up; the guest goes on.
pub(crate) async fn run(
    shed: &ShedName,
    vm: &dyn Vm,
    request: &SetupRequest,
    secret: Option<&str>,
    progress: &Progress,
) {
    let begun = if request.clone.is_some() { Phase::Repo } else { Phase::Provision };
    progress.enter(begun);
    let mut host = Host { shed, progress, secret, reach: REACH, phase: begun, events: 0, warnings: 0 };
    if let Err(error) = host.talk(vm, request).await {
        host.give_up(&error);
    }
}

/// Like [`run`], for at most `budget`, of which the agent has `reach` to take the request.
pub(crate) async fn run_within(
    budget: Duration,
    reach: Duration,
    shed: &ShedName,
    vm: &dyn Vm,
    request: &SetupRequest,
    progress: &Progress,
) {
    let mut host =
        Host { shed, progress, secret: None, reach, phase: Phase::Provision, events: 0, warnings: 0 };
    let talked = timeout(budget, host.talk(vm, request)).await;
    if let Err(error) = talked.unwrap_or(Err(SetupError::TimedOut(budget))) {
        host.give_up(&error);
    }
}

/// One setup as the host sees it.
struct Host<'a> {
    shed: &'a ShedName,
    progress: &'a Progress,
    secret: Option<&'a str>,
    reach: Duration,
    /// Of the step in progress.
    phase: Phase,
    events: usize,
    warnings: usize,
}

impl Host<'_> {
    async fn talk(&mut self, vm: &dyn Vm, request: &SetupRequest) -> Result<(), SetupError> {
        let mut frames =
            timeout(self.reach, begin(vm, request)).await.map_err(|_| SetupError::NoAnswer(self.reach))??;
        while let Some(frame) = frames.next().await {
            // A guest that sends without a pause must not keep the machine's end from being looked at.
            consume_budget().await;
            let frame = frame.map_err(SetupError::Broken)?;
            match frame.kind {
                FrameKind::Data => self.progress.output(self.phase, &frame.payload),
                FrameKind::SetupEvent => self.take(&frame)?,
                FrameKind::SetupReply => {
                    let reply: SetupReply = frame.parse().map_err(SetupError::Broken)?;
                    return match reply.error {
                        None => Ok(()),
                        Some(reason) => Err(SetupError::Refused(self.line(&reason, MAX_MESSAGE))),
                    };
                }
                // Not for a host, or of a newer protocol.
                FrameKind::ExecRequest
                | FrameKind::Resize
                | FrameKind::Signal
                | FrameKind::ExitStatus
                | FrameKind::StdinEof
                | FrameKind::Stderr
                | FrameKind::HealthRequest
                | FrameKind::HealthResponse
                | FrameKind::Message
                | FrameKind::FilesRequest
                | FrameKind::FilesReply
                | FrameKind::SetupRequest => {}
            }
        }
        Err(SetupError::HungUp)
    }

    fn take(&mut self, frame: &Frame) -> Result<(), SetupError> {
        self.events += 1;
        if self.events > MAX_EVENTS {
            return Err(SetupError::Flood);
        }
        // One that cannot be read is of a newer agent.
        let Ok(event) = frame.parse::<SetupEvent>() else { return Ok(()) };
        match event {
            SetupEvent::Began { step } => {
                self.phase = phase(step);
                self.progress.enter(self.phase);
                if let Some(doing) = doing(step) {
                    self.progress.tell(self.phase, doing.to_owned());
                }
            }
            SetupEvent::Warning { step, message } => {
                let message = self.line(&message, MAX_MESSAGE);
                self.warn(phase(step), format!("{}: {message}", name(step)));
            }
            SetupEvent::Ended { step, end } => match end {
                StepEnd::Done | StepEnd::Skipped => {}
                StepEnd::Failed(failure) => self.warn(phase(step), self.describe(step, &failure)),
            },
        }
        Ok(())
    }

    fn warn(&mut self, phase: Phase, message: String) {
        self.warnings += 1;
        if self.warnings <= MAX_WARNINGS {
            self.progress.warn(phase, message);
        }
    }

    fn give_up(&self, error: &SetupError) {
        let (shed, reason) = (self.shed, error_chain(error));
        let what = match self.phase {
            Phase::Repo => "the clone of the repository",
            _ => "the setup of the project",
        };
        let message = if error.may_go_on() {
            format!(
                "{what} is no longer followed: {reason}; it may go on in the shed, and `shed status {shed}` tells how it stands"
            )
        } else {
            format!("{what} did not begin: {reason}")
        };
        self.progress.warn(self.phase, message);
    }

    /// Says why a step failed, in the words of the guest, with its last lines and where the rest is.
    fn describe(&self, step: Step, failure: &Failure) -> String {
        let mut text = self.line(&failure.message, MAX_MESSAGE);
        if text.is_empty() {
            text = match (failure.timed_out, failure.code) {
                (true, _) => format!("{} took too long and was ended", name(step)),
                (false, Some(code)) => format!("{} ended with exit code {code}", name(step)),
                (false, None) => format!("{} failed, and the shed does not say why", name(step)),
            };
        }
        let last: Vec<String> =
            failure.last_lines.iter().take(LAST_LINES).map(|line| self.line(line, MAX_LINE)).collect();
        if last.iter().any(|line| !line.is_empty()) {
            text.push_str("\nits last lines:");
            for line in &last {
                text.push_str(&format!("\n  {line}"));
            }
        }
        if let Some(log) = &failure.log {
            let log = self.line(log, MAX_PATH);
            text.push_str(&format!("\nall of its output: shed exec {} -- cat {log}", self.shed));
        }
        text
    }

    /// Returns a text of the guest as one line of at most `max` characters that is fit for a terminal, without the secret.
    fn line(&self, text: &str, max: usize) -> String {
        let begin: String = text.chars().take(4 * max).collect();
        let clean = Cleaner::default().clean(begin.as_bytes());
        let hidden = match self.secret {
            Some(secret) => clean.replace(secret, "***"),
            None => clean,
        };
        hidden.replace(['\n', '\r', '\t'], " ").trim().chars().take(max).collect()
    }
}

async fn begin(vm: &dyn Vm, request: &SetupRequest) -> Result<Framed<GuestStream, FrameCodec>, SetupError> {
    let stream = vm.connect_guest(GuestPort::Setup).await.map_err(SetupError::Reach)?;
    let mut frames = Framed::new(stream, FrameCodec);
    frames.send(Frame::json(FrameKind::SetupRequest, request)).await.map_err(SetupError::Send)?;
    Ok(frames)
}

/// The phase that a step belongs to.
const fn phase(step: Step) -> Phase {
    match step {
        Step::Clone => Phase::Repo,
        Step::Provision | Step::Install | Step::Startup | Step::Shutdown => Phase::Provision,
    }
}

/// What a step is called where it fails.
const fn name(step: Step) -> &'static str {
    match step {
        Step::Clone => "the clone of the repository",
        Step::Provision => "reading .shed/provision.yaml",
        Step::Install => "the install hook",
        Step::Startup => "the startup hook",
        Step::Shutdown => "the shutdown hook",
    }
}

/// What is said as a step begins, if its phase does not say it.
const fn doing(step: Step) -> Option<&'static str> {
    match step {
        Step::Clone | Step::Provision => None,
        Step::Install => Some("Running the install hook"),
        Step::Startup => Some("Running the startup hook"),
        Step::Shutdown => Some("Running the shutdown hook"),
    }
}
