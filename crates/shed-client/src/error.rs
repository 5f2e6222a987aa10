//! What can go wrong with a request. Display never includes the source; the caller prints the chain.

use std::{io, time::Duration};

use shed_api::ErrorCode;

use crate::ServerAddress;

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
