//! What an extension is to the agent: one who answers the requests of sheds for a namespace.
//!
//! The bus side ([`crate::bus`]) finds out who asks, keeps the bounds and writes the audit log. An extension reads the
//! payload, which is hostile, and answers. It never sends anything itself.

use serde::de::DeserializeOwned;
use shed_extensions::{Code, Failure};

use crate::clean::clean;

/// Longest name of an operation that is logged, in characters; the longest real one has 15.
const OPERATION: usize = 40;

/// What a failure says when a person has not approved, or nobody could be asked (spec J.4).
pub const APPROVAL_DENIED: &str = "approval denied";

/// A request of one shed, as all extensions get it.
pub struct Asked {
    /// Whose shed it is: the URL of the server.
    pub server: String,
    /// Who asks, as the server says.
    pub shed: shed_api::PluginShed,
    /// What the guest says; not to be trusted.
    pub payload: serde_json::Value,
}

impl std::fmt::Debug for Asked {
    /// Leaves out the payload: what is to be signed is not for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked")
            .field("server", &self.server)
            .field("shed", &self.shed)
            .finish_non_exhaustive()
    }
}

/// What is written to the audit log beside the result; never a secret.
#[derive(Debug, Default)]
pub struct Told {
    /// What was asked, cleaned; empty until it is known.
    pub operation: String,
    /// What it was about: a key, a role, a registry.
    pub detail: Option<String>,
    /// How it was approved; absent where nobody was asked.
    pub approval: Option<&'static str>,
}

/// One who answers for a namespace.
#[async_trait::async_trait]
pub trait Extension: Send + Sync {
    /// Whose requests it answers.
    fn namespace(&self) -> &'static str;

    /// Answers; the payload of the response, or a failure that is sent instead.
    async fn answer(&self, asked: &Asked, told: &mut Told) -> Result<serde_json::Value, Failure>;
}

/// Reads what is asked, and tells which operation it is.
///
/// # Errors
/// `INTERNAL_ERROR` for operations that are not known, and payloads that are not as they should be.
pub fn read_request<T: DeserializeOwned>(asked: &Asked, told: &mut Told) -> Result<T, Failure> {
    told.operation = operation(asked);
    T::deserialize(&asked.payload).map_err(|error| {
        let what = if told.operation.is_empty() { "a request without an operation" } else { &told.operation };
        // The error may repeat what the guest has sent, of whatever length.
        let why = clean(&error.to_string(), 200);
        Failure::new(Code::InternalError, format!("the host agent cannot read {what}: {why}"))
    })
}

/// Returns what is asked, cleaned; empty when the payload does not say.
#[must_use]
pub fn operation(asked: &Asked) -> String {
    let operation = asked.payload.get("operation").and_then(serde_json::Value::as_str);
    clean(operation.unwrap_or_default(), OPERATION)
}

/// Makes the payload of an answer.
///
/// # Errors
/// `INTERNAL_ERROR` when it is no JSON, which no answer of Shed's own is.
pub fn payload(answer: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(answer)
        .map_err(|error| Failure::new(Code::InternalError, format!("the answer cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shed_extensions::ssh::Request;

    use super::*;

    fn read(payload: serde_json::Value) -> (Result<Request, Failure>, Told) {
        let shed = shed_api::PluginShed { name: "a".into(), backend: "qemu".into(), server: "s".into() };
        let asked = Asked { server: "http://s:8080".into(), shed, payload };
        let mut told = Told::default();
        (read_request(&asked, &mut told), told)
    }

    #[test]
    fn what_is_no_request_is_an_internal_error_of_bounded_length() {
        let long = "x".repeat(1 << 20);
        for payload in [
            json!(null),
            json!([1]),
            json!({}),
            json!({"operation": 7}),
            json!({"operation": "add"}),
            json!({"operation": "sign"}),
            json!({"operation": long}),
            json!({"operation": "sign", "public_key": long, "data": "", "flags": -1}),
            json!({"operation": "\u{1b}[2J\n"}),
        ] {
            let (result, told) = read(payload);
            let failure = result.unwrap_err();
            assert_eq!(failure.code, Code::InternalError);
            assert!(failure.error.len() < 600 && !failure.error.contains(char::is_control), "{failure:?}");
            assert!(told.operation.len() < 200 && !told.operation.contains(char::is_control), "{told:?}");
        }
        assert_eq!(read(json!({"operation": "list"})).0, Ok(Request::List));
    }
}
