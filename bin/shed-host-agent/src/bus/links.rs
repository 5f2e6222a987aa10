//! How each connection to a server is, for `shed-host-agent status`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// URL of the server.
    pub server: String,
    /// What it listens to.
    pub namespace: String,
    /// How it is.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not listening; absent when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// It is being made.
    Connecting,
    /// Requests of sheds are answered.
    Listening,
    /// Somebody else listens to the namespace.
    Held,
    /// It could not be made, or broke.
    Broken,
}

/// All connections. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Mutex<BTreeMap<(String, String), Link>>>);

impl Links {
    /// Notes how a connection is.
    pub fn set(&self, server: &str, namespace: &str, state: LinkState, reason: Option<String>) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, namespace) = (server.to_owned(), namespace.to_owned());
        let key = (server.clone(), namespace.clone());
        let since = match links.get(&key) {
            Some(link) if link.state == state => link.since,
            Some(_) | None => Timestamp::now(),
        };
        let _before = links.insert(key, Link { server, namespace, state, since, reason });
    }

    /// Returns them, by server and namespace.
    #[must_use]
    pub fn list(&self) -> Vec<Link> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
