//! What can go wrong with a request. Display never includes the source; the caller prints the chain.

use std::{io, time::Duration};

use shed_api::{ErrorCode, ErrorDetail};

use crate::ServerAddress;

/// Status of an error event whose code is not known here; it stands for "the server failed" (spec A.2).
const STATUS_UNKNOWN: u16 = 500;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection to the server; it may not run, or the address is wrong.
    #[error("cannot reach the server at {server}")]
    Unreachable {
        /// Where it was looked for.
        server: ServerAddress,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server refused the request, or failed. The message is written for people.
    #[error("{message}")]
    Api {
        /// HTTP status.
        status: u16,
        /// The code as the server wrote it; see [`ClientError::code`].
        code: String,
        /// What the server says.
        message: String,
    },
    /// The connection ended in the middle of a reply.
    #[error("the connection to {server} broke before {request} was answered")]
    Broken {
        /// The server.
        server: ServerAddress,
        /// Method and path.
        request: String,
        /// What broke it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answers there does not speak this API.
    #[error("what {server} answered to {request} is not understood: {reason}")]
    Protocol {
        /// The server.
        server: ServerAddress,
        /// Method and path.
        request: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The server took too long.
    #[error("{server} did not answer {request} within {waited:?}")]
    TimedOut {
        /// The server.
        server: ServerAddress,
        /// Method and path, or `a connection`.
        request: String,
        /// How long it was given.
        waited: Duration,
    },
}

impl ClientError {
    /// Makes the error that an `error` event stands for.
    #[must_use]
    pub fn of_event(detail: ErrorDetail) -> Self {
        let ErrorDetail { code, message } = detail;
        let status = ErrorCode::from_wire(&code).map_or(STATUS_UNKNOWN, ErrorCode::status);
        Self::Api { status, code, message }
    }

    /// Returns the server's error code, when this is a refusal with a code that is known here.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api { code, .. } => ErrorCode::from_wire(code),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Protocol { .. }
            | Self::TimedOut { .. } => None,
        }
    }
}
