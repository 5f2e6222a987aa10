//! The control socket: how `status` and `approvals` reach the agent that runs.
//!
//! It is in a directory that is the user's alone ([`place`]), which also holds the lock of the one agent. A connection
//! is one [`Order`], a line of JSON, and its [`Report`]s, a line each. Who connects must be the same user.

pub mod client;
pub mod place;
pub mod server;

use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_extensions::ssh;

use crate::{approval::Waiting, bus::Link};

/// Longest line in bytes; the longest is a list of 128 questions.
const MAX_LINE: usize = 1 << 20;

/// What the agent is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Say how it is: one [`Report::Status`].
    Status,
    /// Say what waits for approval: one [`Report::Waiting`].
    List,
    /// The same, and again after each change.
    Watch,
    /// Let a request go on: one [`Report::Done`].
    Approve {
        /// Which one.
        id: String,
    },
    /// Refuse a request: one [`Report::Done`].
    Deny {
        /// Which one.
        id: String,
    },
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// How it is.
    Status(Box<AgentStatus>),
    /// What waits for approval, the oldest first.
    Waiting {
        /// The questions.
        waiting: Vec<Waiting>,
    },
    /// It was done.
    Done {
        /// What, for a person.
        what: String,
    },
    /// It could not be done.
    Failed {
        /// Why, for a person.
        error: String,
    },
}

/// How the agent is: the output of `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Its configuration; absent when everything is at its default.
    pub config: Option<Utf8PathBuf>,
    /// The audit log; absent when it is turned off.
    pub audit: Option<Utf8PathBuf>,
    /// What a yes is good for; absent when nobody is asked.
    pub approval: Option<String>,
    /// How many requests wait for approval.
    pub waiting: usize,
    /// The keys.
    pub ssh: ssh::Status,
    /// The connections to servers.
    pub connections: Vec<Link>,
    /// Extensions that are not offered.
    pub not_offered: Vec<NotOffered>,
}

/// An extension that is not offered to sheds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotOffered {
    /// Its namespace.
    pub namespace: String,
    /// Why, and what to do.
    pub reason: String,
}
