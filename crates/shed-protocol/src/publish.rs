//! The publish API of a guest: how a program in it sends a message over the plugin bus (spec B.7).
//!
//! The agent serves it by HTTP on [`PORT`] of the guest's loopback; what extensions have in the guest calls it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::EnvelopeKind;

/// Port on 127.0.0.1 of the guest (spec B.1).
pub const PORT: u16 = 498;

/// Path that takes a [`PublishRequest`] by POST.
pub const PATH: &str = "/v1/publish";

/// Longest body in bytes (spec B.7).
pub const MAX_BODY: usize = 1 << 20;

/// How long the agent waits for the response to a request (spec B.7).
pub const WAIT: Duration = Duration::from_secs(30);

/// Body of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// Whom it is for; the agent checks it.
    #[serde(default)]
    pub namespace: String,
    /// A request is answered with the whole response envelope and status 200, an event with 202 and nothing.
    #[serde(rename = "type", default = "request")]
    pub kind: EnvelopeKind,
    /// Whatever the namespace defines.
    #[serde(default)]
    pub payload: Value,
}

const fn request() -> EnvelopeKind {
    EnvelopeKind::Request
}

/// Most requests of one guest that wait for their responses at a time. The agent refuses more; the server, which does not
/// trust it, drops them.
pub const MAX_IN_FLIGHT: usize = 64;

/// Why a publish failed: the `code` of the error body `{"error": {"code", "message"}}` (spec A.1, B.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PublishErrorCode {
    /// The body is too long or no JSON object of this shape. Status 400.
    InvalidBody,
    /// The namespace is missing, malformed or reserved. Status 400.
    MissingNamespace,
    /// The type is neither `request` nor `event`. Status 400.
    InvalidType,
    /// No server has the message channel open. Status 503.
    NoConnection,
    /// The message channel broke before the response came. Status 503.
    ConnectionLost,
    /// The agent is shutting down. Status 503.
    ShuttingDown,
    /// Too many requests of this guest wait for their responses already. Status 503.
    TooManyRequests,
    /// The message could not be sent. Status 500.
    SendFailed,
    /// No response came in [`WAIT`]. Status 504.
    Timeout,
}

impl PublishErrorCode {
    /// Returns the HTTP status that goes with the code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidBody | Self::MissingNamespace | Self::InvalidType => 400,
            Self::SendFailed => 500,
            Self::NoConnection | Self::ConnectionLost | Self::ShuttingDown | Self::TooManyRequests => 503,
            Self::Timeout => 504,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_a_request_unless_it_says_otherwise() {
        let publish: PublishRequest = serde_json::from_str(r#"{"namespace":"a"}"#).unwrap();
        assert_eq!((publish.kind, publish.payload), (EnvelopeKind::Request, Value::Null));
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        let text = serde_json::to_string(&PublishErrorCode::ConnectionLost).unwrap();
        assert_eq!(text, r#""CONNECTION_LOST""#);
    }
}
