//! What an extension says instead of an answer.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Why there is no answer (spec J.2): the whole payload of such a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For a person: what was tried and what to do. Never a secret.
    pub error: String,
    /// For a program.
    pub code: Code,
}

impl Failure {
    /// Makes a failure.
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        Self { error: error.into(), code }
    }
}

/// The codes of all extensions of Shed itself (spec J.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// SSH: no such key was listed.
    KeyNotFound,
    /// SSH: the key could not sign, or nobody approved that it does.
    SignFailed,
    /// AWS: no role is configured for the shed.
    RoleNotFound,
    /// AWS: the role could not be assumed.
    AssumeRoleFailed,
    /// Docker: the host has no credentials for the registry.
    CredentialsNotFound,
    /// Docker: the registry is not on the allowlist.
    RegistryNotAllowed,
    /// Docker: nothing can be stored or erased.
    ReadOnly,
    /// Docker: the host's own credential helper failed.
    HelperFailed,
    /// The rest: an unknown operation among it.
    #[serde(other)]
    InternalError,
}

/// The payload of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<T> {
    /// The answer.
    Answer(T),
    /// None, and why.
    Failure(Failure),
}

impl<T: DeserializeOwned> Reply<T> {
    /// Reads a payload. One with an `error` is a failure whatever else it has.
    ///
    /// # Errors
    /// When it is neither.
    pub fn read(payload: Value) -> Result<Self, serde_json::Error> {
        if payload.get("error").is_some() {
            return serde_json::from_value(payload).map(Self::Failure);
        }
        serde_json::from_value(payload).map(Self::Answer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Pong;

    #[test]
    fn a_payload_is_an_answer_or_a_failure() {
        assert_eq!(Reply::<Pong>::read(json!({"status": "ok"})).unwrap(), Reply::Answer(Pong::ok()));
        let failure = Reply::<Pong>::read(json!({"error": "no", "code": "SIGN_FAILED", "status": "ok"}));
        assert_eq!(failure.unwrap(), Reply::Failure(Failure::new(Code::SignFailed, "no")));
        let newer = Reply::<Pong>::read(json!({"error": "no", "code": "NEWER"}));
        assert_eq!(newer.unwrap(), Reply::Failure(Failure::new(Code::InternalError, "no")));
        assert!(Reply::<Pong>::read(json!({})).is_err());
        assert!(Reply::<Pong>::read(json!({"error": 7})).is_err());
    }
}
