//! From a user name to a running shed, or to words that say what to do.
//!
//! Every kind of channel begins here. A stopped shed is started, one that is being created or started is awaited.

use shed_api::ErrorCode;
use shed_lifecycle::{DialGuestError, ReachGuestError, ShedStatus, StartShedError};
use shed_types::{ShedName, error_chain};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shared;
use crate::{
    http::ApiError,
    metrics::{Operation, Outcome},
    shown::Shown,
};

/// The user name that is kept for the API itself (spec F).
const RESERVED: &str = "_api";

/// Most characters of a user name that an answer repeats.
const MAX_SHOWN: usize = 80;

/// Why somebody gets no shed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the API would answer with.
    pub(super) code: ErrorCode,
    /// Words for the client, without `Error: ` and line end.
    pub(super) words: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, words: impl Into<String>) -> Self {
        Self { code, words: words.into() }
    }
}

/// A shed that runs, and a place among the streams into guests.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) shed: ShedName,
    pub(super) place: OwnedSemaphorePermit,
}

/// Returns the shed that a user name stands for, running. `note` is given a line for the client when that takes a while.
pub(super) async fn arrive<F: Future<Output = ()>>(
    shared: &Shared,
    user: &str,
    note: impl FnOnce(String) -> F,
) -> Result<Arrival, Refusal> {
    let shed = parse(user)?;
    let place = take_place(shared)?;
    let (found, waits) = oneshot::channel();
    let up = shared.sheds.bring_up(&shed, |status| {
        // Who is told is here until the start has ended.
        let _told = found.send(status);
    });
    let noted = async {
        let words = match waits.await {
            Ok(ShedStatus::Stopped) => "is stopped; starting it...",
            Ok(ShedStatus::Starting) => "is starting; waiting for it...",
            Ok(ShedStatus::Stopping) => "is stopping; waiting, to start it again...",
            Ok(ShedStatus::Running | ShedStatus::Broken) | Err(_) => return,
        };
        note(format!("Shed '{shed}' {words}")).await;
    };
    let (started, ()) = tokio::join!(up, noted);
    match started {
        Ok(None) => {}
        Ok(Some(started)) => {
            shared.metrics.operation(Operation::Start, Outcome::Ok);
            shared.metrics.phases(Operation::Start, &started.timeline);
        }
        Err(error) => {
            let outcome = match &error {
                StartShedError::NotFound { .. } => None,
                StartShedError::Boot(_) | StartShedError::ShuttingDown => Some(Outcome::Failed),
                StartShedError::AlreadyRunning { .. }
                | StartShedError::Busy { .. }
                | StartShedError::Broken { .. } => Some(Outcome::Refused),
            };
            if let Some(outcome) = outcome {
                shared.metrics.operation(Operation::Start, outcome);
            }
            return Err(not_started(user, error));
        }
    }
    Ok(Arrival { shed, place })
}

/// Returns the shed that a user name stands for if it runs, and starts nothing.
pub(super) fn find_running(shared: &Shared, user: &str) -> Result<Arrival, Refusal> {
    let shed = parse(user)?;
    let place = take_place(shared)?;
    shared.sheds.check_running(&shed)?;
    Ok(Arrival { shed, place })
}

fn take_place(shared: &Shared) -> Result<OwnedSemaphorePermit, Refusal> {
    shared.streams.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(
            ErrorCode::InternalError,
            "this server carries as many streams as its limit of open files allows; close some, or raise the limit \
             (LimitNOFILE of its systemd unit, or `ulimit -n`)",
        )
    })
}

/// Returns whether there is a shed that a user name stands for.
pub(super) fn known(shared: &Shared, user: &str) -> Result<(), Refusal> {
    let shed = parse(user)?;
    match shared.sheds.get(&shed) {
        Some(_) => Ok(()),
        None => Err(not_started(user, StartShedError::NotFound { shed })),
    }
}

fn parse(user: &str) -> Result<ShedName, Refusal> {
    let shown = Shown(user, MAX_SHOWN);
    if user == RESERVED {
        return Err(Refusal::new(
            ErrorCode::InvalidShedName,
            format!("the user name '{RESERVED}' is reserved; log in with the name of a shed (`shed list`)"),
        ));
    }
    user.parse().map_err(|error| {
        Refusal::new(
            ErrorCode::InvalidShedName,
            format!("shed '{shown}' not found: {error}; log in with the name of a shed (`shed list`)"),
        )
    })
}

fn not_started(user: &str, error: StartShedError) -> Refusal {
    let words = match &error {
        StartShedError::NotFound { shed } => format!(
            "shed '{shed}' not found; `shed list` shows those of this server, `shed create {shed}` makes it"
        ),
        StartShedError::AlreadyRunning { .. }
        | StartShedError::Busy { .. }
        | StartShedError::Broken { .. }
        | StartShedError::Boot(_)
        | StartShedError::ShuttingDown => {
            format!("shed '{user}' could not be started: {}", error_chain(&error))
        }
    };
    Refusal { code: ApiError::from(error).code, words }
}

impl From<ReachGuestError> for Refusal {
    fn from(error: ReachGuestError) -> Self {
        let words = error_chain(&error);
        Self { code: ApiError::from(error).code, words }
    }
}

impl From<DialGuestError> for Refusal {
    fn from(error: DialGuestError) -> Self {
        Self::new(ErrorCode::ConnectFailed, error_chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_not_found() {
        let words = |user: &str| parse(user).unwrap_err().words;
        assert!(words("_api").contains("reserved"));
        for user in ["", "Root", "a_b", "../x", "-x", "a\u{1b}[31m", &"x".repeat(10_000)] {
            let words = words(user);
            assert!(words.starts_with("shed '") && words.contains("' not found"), "{words}");
            assert!(words.contains("shed list"), "{words}");
            assert!(!words.chars().any(char::is_control), "{words:?}");
            assert!(words.len() < 600, "{words}");
        }
        assert_eq!(parse("api").unwrap().as_str(), "api");
    }
}
