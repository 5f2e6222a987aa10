//! What an extension is to the agent: one who answers the requests of sheds for a namespace.
//!
//! The bus side ([`crate::bus`]) finds out who asks, keeps the bounds and writes the audit log. An extension reads the
//! payload, which is hostile, and answers. It never sends anything itself.

use serde::de::DeserializeOwned;
use shed_extensions::{Answer, Code, Failure};

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
    told.operation = shed_extensions::operation(&asked.payload);
    shed_extensions::read_request(&asked.payload)
}

/// Passes on what a room of its own has answered.
pub(crate) fn pass_on(answer: Answer, told: &mut Told) -> Result<serde_json::Value, Failure> {
    let Answer { result, operation, detail } = answer;
    (told.operation, told.detail) = (operation, detail);
    result
}

/// Makes the payload of an answer.
///
/// # Errors
/// `INTERNAL_ERROR` when it is no JSON, which no answer of Shed's own is.
pub fn payload(answer: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(answer)
        .map_err(|error| Failure::new(Code::InternalError, format!("the answer cannot be written: {error}")))
}
