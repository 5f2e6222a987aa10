//! Waits for work on a server to its end: shows the events of a create or start, and gives up at a timeout or a signal.

use std::{future::Future, time::Duration};

use serde::Serialize;
use shed_api::{CreateEvent, ErrorCode, Shed};
use shed_client::{ClientError, EventStream, Timeouts};
use shed_types::ShedName;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    progress::{Progress, Task},
    servers::{Server, Servers},
    values::Timeout,
};

/// Exit codes after these are 128 + the number.
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// Phases of creates and starts in which the shed runs already.
const AFTER_BOOT: [&str; 3] = ["credentials", "repo", "provision"];

/// Why the work did not come to its own end.
#[derive(Debug)]
pub(crate) enum GivenUp {
    /// It took longer than the user allowed.
    TimedOut,
    /// The user or the system ended the client.
    Signal(u8),
}

/// What a create or start returns in JSON: the API's object and what only the client knows.
#[derive(Debug, Serialize)]
pub(crate) struct Details<'a> {
    #[serde(flatten)]
    shed: &'a Shed,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ms: Option<u128>,
}

impl<'a> Details<'a> {
    /// Makes the details of a result; `total` is the time of the whole command, for `--trace`.
    pub(crate) fn new(shed: &'a Shed, warnings: &'a [String], total: Option<Duration>) -> Self {
        Self { shed, warnings, client_ms: total.map(|time| time.as_millis()) }
    }
}

/// Returns the limits of a request that may take `timeout`; the limit itself is kept by [`unless_given_up`].
pub(crate) fn timeouts(timeout: Timeout) -> Timeouts {
    let defaults = Timeouts::default();
    Timeouts { work: timeout.get(), reply: defaults.reply.min(timeout.get()), ..defaults }
}

/// Reads events until the shed is there and its project set up. What went wrong is then with the task, and no longer in
/// the shed, so that it is told of once.
///
/// # Errors
/// What the server reports, or that the stream broke.
pub(crate) async fn follow(events: EventStream, task: &Task<'_>) -> Result<Shed, ClientError> {
    follow_noting(events, task, || {}).await
}

/// Like [`follow`]; `runs` is called when the shed runs, which is before its project is set up.
///
/// # Errors
/// What the server reports, or that the stream broke.
pub(crate) async fn follow_noting(
    mut events: EventStream,
    task: &Task<'_>,
    runs: impl Fn(),
) -> Result<Shed, ClientError> {
    loop {
        match events.next().await {
            Some(Ok(CreateEvent::Progress(event))) => {
                if event.phase.as_deref().is_some_and(|phase| AFTER_BOOT.contains(&phase)) {
                    runs();
                }
                task.event(&event);
            }
            Some(Ok(CreateEvent::Complete(mut shed))) => {
                for warning in std::mem::take(&mut shed.warnings) {
                    task.warn(&warning);
                }
                return Ok(*shed);
            }
            Some(Ok(CreateEvent::Error(detail))) => {
                return Err(ClientError::of_event(detail));
            }
            Some(Err(error)) => return Err(error),
            None => unreachable!("a stream of events ends with a result or an error"),
        }
    }
}

/// Starts a shed that a command finds stopped and needs running; one that somebody else has started meanwhile is fine.
///
/// # Errors
/// What the server refuses it with.
pub(crate) async fn start(
    context: &Context,
    servers: &Servers,
    name: &ShedName,
    server: &Server,
) -> Result<(), CommandError> {
    let progress = Progress::new(&context.ui);
    let task = progress.task(name, "starting");
    let started = async {
        let events = server.client(timeouts(Timeout::DEFAULT)).start_streaming(name).await?;
        follow(events, &task).await
    };
    let started = started.await;
    let _told = task.finish();
    match started {
        Ok(shed) => servers.remember(&context.ui, name, server, Some(shed.status)),
        // Somebody else was quicker.
        Err(error) if error.code() == Some(ErrorCode::ShedAlreadyRunning) => {}
        Err(error) => return Err(CommandError::from_client(error, server, Some(name))),
    }
    Ok(())
}

/// Waits for `work`, for at most `timeout`, and until a signal asks the client to end.
///
/// Dropping the work closes its connection.
pub(crate) async fn unless_given_up<T>(
    timeout: Timeout,
    work: impl Future<Output = Result<T, CommandError>>,
    explain: impl FnOnce(GivenUp) -> CommandError,
) -> Result<T, CommandError> {
    let mut signals = EndSignals::listen()?;
    let given_up = tokio::select! {
        // A result that is there is never thrown away.
        biased;
        result = work => return result,
        signal = signals.next() => GivenUp::Signal(signal),
        () = tokio::time::sleep(timeout.get()) => GivenUp::TimedOut,
    };
    Err(explain(given_up))
}

/// Waits for `work`, until a signal asks the client to end; `what` it does may then go on on the server.
pub(crate) async fn unless_interrupted<T>(
    what: &str,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let mut signals = EndSignals::listen()?;
    tokio::select! {
        biased;
        result = work => result,
        signal = signals.next() => Err(CommandError::new(
            Kind::Interrupted { signal },
            format!("the wait for {what} was interrupted; what the server has begun may go on"),
        )),
    }
}

/// The signals that ask the client to end.
#[derive(Debug)]
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    /// Takes them from here on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> Result<Self, CommandError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CommandError::new(Kind::Failed, "could not watch for signals").caused_by(error)
            })
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one and returns its number.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => SIGINT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }
}
