//! The plugin bus on the wire: who listens for messages of guests, the messages, and the responses (spec A.9).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One who listens to a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginListener {
    /// What it listens to.
    pub namespace: String,
    /// Since when.
    pub created_at: Timestamp,
}

/// Body of `GET /api/plugins/listeners`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginListenerList {
    /// Sorted by namespace; empty, never null.
    pub listeners: Vec<PluginListener>,
}

/// A shed, as listeners know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginShed {
    /// Unique on its server.
    pub name: String,
    /// Which backend runs it.
    pub backend: String,
    /// Name of the server.
    pub server: String,
}

/// Body of `GET /api/plugins/sheds`: those whose message channel is open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginShedList {
    /// Sorted by name; empty, never null.
    pub sheds: Vec<PluginShed>,
}

/// A message of a guest, as its listener gets it: the data of an event `message` of
/// `GET /api/plugins/listeners/{namespace}/messages`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginMessage {
    /// A UUID; the response names it in `in_reply_to`.
    pub id: String,
    /// That of the listener.
    pub namespace: String,
    /// Whether it wants a response.
    #[serde(rename = "type")]
    pub kind: PluginMessageKind,
    /// When the guest made it, by its own clock.
    pub timestamp: Timestamp,
    /// Whatever the namespace defines.
    #[serde(default)]
    pub payload: Value,
    /// Where it comes from: said by the server, never by the guest.
    pub shed: PluginShed,
}

impl fmt::Debug for PluginMessage {
    /// Leaves out the payload, which may hold what is not to be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, namespace, kind, timestamp: _, payload: _, shed } = self;
        f.debug_struct("PluginMessage")
            .field("id", id)
            .field("namespace", namespace)
            .field("kind", kind)
            .field("shed", shed)
            .finish_non_exhaustive()
    }
}

/// What a guest sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PluginMessageKind {
    /// Wants a response.
    Request,
    /// Wants nothing.
    Event,
}

/// Body of `POST /api/plugins/listeners/{namespace}/respond`. Whole envelopes are taken; what is not here is not read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginResponse {
    /// That of the path when it is absent, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The message that this answers, by its `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<String>,
    /// False when more responses to the same message follow.
    #[serde(rename = "final", default = "yes", skip_serializing_if = "Clone::clone")]
    pub is_final: bool,
    /// Whatever the namespace defines.
    #[serde(default)]
    pub payload: Value,
    /// The shed that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shed: Option<PluginTarget>,
}

impl fmt::Debug for PluginResponse {
    /// Leaves out the payload, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, in_reply_to, is_final, payload: _, shed } = self;
        f.debug_struct("PluginResponse")
            .field("namespace", namespace)
            .field("in_reply_to", in_reply_to)
            .field("is_final", is_final)
            .field("shed", shed)
            .finish_non_exhaustive()
    }
}

/// The shed that a response goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginTarget {
    /// Its name on this server.
    pub name: String,
}

const fn yes() -> bool {
    true
}

/// How an extension that the server's configuration enables is in one shed (spec A.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExtensionState {
    /// Its programs in the guest.
    pub guest: ExtensionInGuest,
    /// What answers on the host's side.
    pub host: ExtensionOnHost,
}

/// How the programs of an extension in the guest are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ExtensionInGuest {
    /// They run, or need not.
    Running,
    /// They do not run, or the image has none.
    Stopped,
    /// They failed.
    Failed,
}

impl ExtensionInGuest {
    /// Returns it as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// Whether the host's side of an extension answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ExtensionOnHost {
    /// It answered.
    Connected,
    /// It did not answer in time.
    Unreachable,
    /// It has not been asked yet.
    Unknown,
}

impl ExtensionOnHost {
    /// Returns it as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_the_bus_read_and_write_back() {
        crate::golden::check::<PluginListenerList>(include_str!("../fixtures/plugin-listeners.json"));
        crate::golden::check::<PluginShedList>(include_str!("../fixtures/plugin-sheds.json"));
        crate::golden::check::<PluginMessage>(include_str!("../fixtures/plugin-message.json"));
        crate::golden::check::<PluginResponse>(include_str!("../fixtures/plugin-response.json"));
    }

    #[test]
    fn payloads_stay_out_of_debug_texts() {
        let response: PluginResponse =
            serde_json::from_str(include_str!("../fixtures/plugin-response.json")).unwrap();
        assert!(!format!("{response:?}").contains("blob"), "{response:?}");
    }
}
