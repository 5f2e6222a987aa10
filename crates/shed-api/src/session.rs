//! tmux sessions on the wire (spec A.5).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A tmux session in a shed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// Unique in its shed.
    pub name: String,
    /// The shed it is in.
    pub shed_name: String,
    /// The server of that shed. Servers leave it out; a client that merges several fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// When tmux made it, in whole seconds.
    pub created_at: Timestamp,
    /// Whether a terminal shows it now.
    pub attached: bool,
    /// Windows in it, at least one.
    pub window_count: u32,
}

/// Body of `GET /api/sheds/{name}/sessions` and `GET /api/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionList {
    /// Sorted by shed and name; empty, never null.
    pub sessions: Vec<Session>,
    /// Only in `GET /api/sessions`: the running sheds whose sessions are missing, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_example_reads_and_writes_back() {
        crate::golden::check::<SessionList>(include_str!("../fixtures/sessions.json"));
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(serde_json::to_string(&SessionList::default()).unwrap(), r#"{"sessions":[]}"#);
    }
}
