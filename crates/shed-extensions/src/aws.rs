//! The namespace [`NAMESPACE`]: credentials of a role that end soon, made from the user's own, which never leave.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Secret;

/// Whom a message is for.
pub const NAMESPACE: &str = "aws-credentials";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// Credentials of the shed's role; answered by [`Credentials`].
    GetCredentials,
    /// Whether anybody is there; answered by [`Pong`](crate::Pong).
    Ping,
    /// How the other side works; answered by [`Status`].
    Status,
}

/// Credentials of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Names them.
    pub access_key_id: String,
    /// Signs with them.
    pub secret_access_key: Secret,
    /// Goes with each request.
    pub session_token: Secret,
    /// When they end.
    pub expiration: Timestamp,
}

/// How the other side works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it has credentials of its own to start from.
    pub connected: bool,
    /// The role of the shed that asks; empty when it has none.
    pub role: String,
    /// Until when those of the shed that asks are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_until: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_shapes_are_those_of_the_specification() {
        let asked = serde_json::to_value(Request::GetCredentials).unwrap();
        assert_eq!(asked, json!({"operation": "get_credentials"}));
        let golden = json!({
            "access_key_id": "ASIA", "secret_access_key": "s", "session_token": "t", "expiration": "2026-01-20T10:30:00Z"
        });
        let credentials: Credentials = serde_json::from_value(golden.clone()).unwrap();
        assert_eq!(serde_json::to_value(&credentials).unwrap(), golden);
        assert!(!format!("{credentials:?}").contains("\"s\""));
    }
}
