//! What the parts of the host agent give back that answer for a namespace, and the reading that they share.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Code, Failure, clean};

/// Longest name of an operation that is logged, in characters; the longest real one has 15.
const OPERATION: usize = 40;

/// Longest word on what is wrong with a request, in characters.
const WHY: usize = 200;

/// What became of a request.
pub struct Answer {
    /// The payload of the response, or a failure that is sent instead.
    pub result: Result<Value, Failure>,
    /// What was asked, cleaned; empty when the request does not say.
    pub operation: String,
    /// For the audit log: what it was about, or the text of an error. Never a secret.
    pub detail: Option<String>,
}

impl std::fmt::Debug for Answer {
    /// Leaves out the payload, which may hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let result = self.result.as_ref().map(|_payload| "…");
        f.debug_struct("Answer")
            .field("result", &result)
            .field("operation", &self.operation)
            .field("detail", &self.detail)
            .finish()
    }
}

impl Answer {
    /// An answer to `operation`; what cannot be written becomes `INTERNAL_ERROR`.
    pub fn of(operation: String, answer: &impl Serialize, detail: Option<String>) -> Self {
        match serde_json::to_value(answer) {
            Ok(payload) => Self { result: Ok(payload), operation, detail },
            Err(error) => {
                let error = format!("the answer cannot be written: {error}");
                Self::failed(operation, Failure::new(Code::InternalError, error))
            }
        }
    }

    /// A failure, which is also the detail.
    #[must_use]
    pub fn failed(operation: String, failure: Failure) -> Self {
        let detail = Some(failure.error.clone());
        Self { result: Err(failure), operation, detail }
    }
}

/// Returns which operation a request names, cleaned; empty when it does not say.
#[must_use]
pub fn operation(payload: &Value) -> String {
    clean(payload.get("operation").and_then(Value::as_str).unwrap_or_default(), OPERATION)
}

/// Reads a request.
///
/// # Errors
/// `INTERNAL_ERROR` for operations that are not known, and payloads that are not as they should be.
pub fn read_request<T: DeserializeOwned>(payload: &Value) -> Result<T, Failure> {
    T::deserialize(payload).map_err(|error| {
        let operation = operation(payload);
        let what = if operation.is_empty() { "a request without an operation" } else { &operation };
        // The error may repeat what the guest has sent, of whatever length.
        let why = clean(&error.to_string(), WHY);
        Failure::new(Code::InternalError, format!("the host agent cannot read {what}: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Secret, aws, docker};

    #[test]
    fn what_is_no_request_is_an_internal_error_of_bounded_length() {
        let long = "x".repeat(1 << 20);
        for payload in [
            json!(null),
            json!([1]),
            json!({}),
            json!({"operation": 7}),
            json!({"operation": "sign"}),
            json!({"operation": long}),
            json!({"operation": "get", "server_url": [long]}),
            json!({"operation": "\u{1b}[2J\n"}),
        ] {
            let failure = read_request::<docker::Request>(&payload).unwrap_err();
            assert_eq!(failure.code, Code::InternalError);
            assert!(failure.error.len() < 600 && !failure.error.contains(char::is_control), "{failure:?}");
            let operation = operation(&payload);
            assert!(operation.len() < 200 && !operation.contains(char::is_control), "{operation:?}");
        }
        let ping = read_request(&json!({"operation": "ping", "more": 1}));
        assert_eq!(ping, Ok(aws::Request::Ping));
    }

    #[test]
    fn a_debug_text_shows_no_payload() {
        let answer = Answer::of("get".into(), &Secret::new("hunter2"), None);
        assert_eq!(answer.result, Ok(json!("hunter2")));
        assert!(!format!("{answer:?}").contains("hunter2"));
    }
}
