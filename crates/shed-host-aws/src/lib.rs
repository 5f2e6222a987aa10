//! Answers sheds that ask for AWS credentials (spec J.2, J.4): it assumes the role of the shed from the user's own profile and
//! hands out what ends soon. The user's own credentials are in no answer.
//!
//! `shed-host-agent` calls it, with what the bus says of who asks. It believes nothing that a guest says: the role is the
//! user's choice alone, by the name of the shed that the server knows. It never writes to AWS's files, and searches no
//! network for credentials that the user did not name.

mod assume;
mod flights;
mod lease;
mod options;
mod source;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use shed_extensions::{
    Answer, Code, Failure, Pong,
    aws::{Request, Status},
    clean, operation, read_request,
};
use tokio::{sync::Semaphore, time::timeout};

pub use crate::options::{Options, ProfileFiles};
use crate::{
    assume::{AssumeError, assume, name},
    flights::{Flights, Kept, NoFlight, soon},
    lease::Lease,
    source::Source,
};

/// Most sheds whose credentials are kept; a server has some hundreds.
const ENTRIES: usize = 1024;

/// Most roles that are assumed at a time.
const AT_ONCE: usize = 16;

/// How long one AssumeRole may take, with the waiting for its turn, the source's own login, and the SDK's retries.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a failure is told again before AWS is asked anew, in seconds.
const FAILURE_KEPT: i64 = 3;

/// The server and the shed that asks.
type Key = (String, String);

/// Why the namespace is not offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

/// Answers for the namespace [`NAMESPACE`](shed_extensions::aws::NAMESPACE).
pub struct Aws {
    shared: Arc<Shared>,
    flights: Flights<Key, Arc<Lease>, Arc<AssumeError>>,
}

/// What a flight needs, which may outlive who asked.
struct Shared {
    options: Options,
    source: Source,
    turns: Semaphore,
    limit: Duration,
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Aws {
    /// Makes one; nothing is read yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with_limits(options, LIMIT, ENTRIES)
    }

    fn with_limits(options: Options, limit: Duration, entries: usize) -> Self {
        let turns = Semaphore::new(AT_ONCE);
        let shared = Arc::new(Shared { options, source: Source::new(), turns, limit });
        Self { shared, flights: Flights::new(entries) }
    }

    /// Says whether there is a role for any shed, and a profile to assume it from. AWS is not asked.
    ///
    /// # Errors
    /// When there is not; the text says what to do.
    pub async fn available(&self) -> Result<(), Unavailable> {
        let options = &self.shared.options;
        if options.default_role.is_none() && options.roles.is_empty() {
            let text = "no AWS role is configured; set aws.default_role, or aws.sheds.<name>.role";
            return Err(Unavailable(text.to_owned()));
        }
        source::check(options).await.map_err(|error| Unavailable(shed_types::error_chain(&error)))
    }

    /// Answers one request of a shed. `server` is where it runs, `shed` its name as the server knows it.
    pub async fn answer(&self, server: &str, shed: &str, payload: &serde_json::Value) -> Answer {
        let operation = operation(payload);
        match read_request(payload) {
            Err(failure) => Answer::failed(operation, failure),
            Ok(Request::Ping) => Answer::of(operation, &Pong::ok(), None),
            Ok(Request::Status) => {
                let status = self.status(server, shed).await;
                Answer::of(operation, &status, None)
            }
            Ok(Request::GetCredentials) => self.credentials(operation, server, shed).await,
        }
    }

    async fn status(&self, server: &str, shed: &str) -> Status {
        let role = self.shared.options.role(shed).unwrap_or_default().to_owned();
        let connected = source::check(&self.shared.options).await.is_ok();
        Status { connected, role, cached_until: self.flights.kept_until(&key(server, shed)) }
    }

    async fn credentials(&self, operation: String, server: &str, shed: &str) -> Answer {
        let Some(role) = self.shared.options.role(shed).map(str::to_owned) else {
            let shed = clean(shed, 64);
            let error = format!(
                "no AWS role is configured for shed `{shed}`; set aws.sheds.{shed}.role or aws.default_role in extensions.yaml of the host"
            );
            return Answer::failed(operation, Failure::new(Code::RoleNotFound, error));
        };
        let flight = || {
            let (shared, role, shed) = (Arc::clone(&self.shared), role.clone(), shed.to_owned());
            async move { shared.fly(&role, &shed).await }
        };
        let error = match self.flights.get(key(server, shed), flight).await {
            Ok(Ok(lease)) => return Answer::of(operation, &lease.credentials, Some(lease.detail())),
            Ok(Err(error)) => error,
            Err(NoFlight::Full) => Arc::new(AssumeError::Busy),
            Err(NoFlight::Lost) => Arc::new(AssumeError::Lost { role: name(&role) }),
        };
        let failure = Failure::new(Code::AssumeRoleFailed, error.to_string());
        Answer { result: Err(failure), operation, detail: Some(error.detail()) }
    }
}

impl Shared {
    async fn fly(&self, role: &str, shed: &str) -> Kept<Arc<Lease>, Arc<AssumeError>> {
        let asked = timeout(self.limit, self.ask(role, shed)).await;
        let result =
            asked.unwrap_or_else(|_elapsed| Err(AssumeError::Slow { role: name(role), limit: self.limit }));
        match result {
            Ok(lease) => {
                let until = lease.kept_until(self.options.refresh_before);
                Kept { result: Ok(Arc::new(lease)), until }
            }
            Err(error) => {
                tracing::warn!(shed = clean(shed, 64), "{}", error.detail());
                if error.may_be_the_source() {
                    self.source.forget().await;
                }
                Kept { result: Err(Arc::new(error)), until: soon(FAILURE_KEPT) }
            }
        }
    }

    async fn ask(&self, role: &str, shed: &str) -> Result<Lease, AssumeError> {
        let _turn = self.turns.acquire().await.map_err(|_closed| AssumeError::Busy)?;
        let config = self.source.config(&self.options).await;
        let config = config.map_err(|error| AssumeError::no_source(role, &error))?;
        assume(&config, &self.options, role, shed).await
    }
}

fn key(server: &str, shed: &str) -> Key {
    (server.to_owned(), shed.to_owned())
}
