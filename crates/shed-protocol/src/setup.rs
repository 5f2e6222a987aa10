//! Payloads of the setup service (port 1027): clone and hooks over one stream (spec D; seed roadmap, provisioning pipeline).
//!
//! One stream, one setup. The host sends a [`SetupRequest`]. The guest sends [`SetupEvent`]s, between them the output of
//! what runs in data frames, and a [`SetupReply`] at the end. A setup goes on when its host goes away; how it stands is in
//! each [`HealthReport`](crate::HealthReport), and its output in the logs of the guest. One setup runs at a time: a second
//! one is refused, but for that of a stop, which ends the one that runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Asks for a setup; the first frame of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupRequest {
    /// What it is for; says which steps there are.
    pub occasion: Occasion,
    /// What is cloned into /workspace, at a create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<CloneRequest>,
    /// Whether the hooks of /workspace/.shed/provision.yaml run.
    pub hooks: bool,
    /// Environment of the server's `env_file` for clone and hooks, each `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Milliseconds that all of it may take; absent leaves it to the file's own timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
}

/// What a setup is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// A new shed: clone, install, startup.
    Create,
    /// A start: startup.
    Start,
    /// A stop: shutdown.
    Stop,
}

/// A repository to clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneRequest {
    /// What git takes: a URL, or `user@host:path`. It may hold a password, which no message or log may show.
    pub url: String,
    /// Lines for ~/.ssh/known_hosts; those that are there already are not written again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_hosts: Vec<String>,
}

/// A step of a setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The repository is cloned.
    Clone,
    /// provision.yaml is read.
    Provision,
    /// The install hook runs, once in a shed's life.
    Install,
    /// The startup hook runs, at each start.
    Startup,
    /// The shutdown hook runs, before each stop.
    Shutdown,
}

impl Step {
    /// Returns its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Provision => "provision",
            Self::Install => "install",
            Self::Startup => "startup",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A step begins or ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum SetupEvent {
    /// It begins; what follows in data frames is its output.
    Began {
        /// The step.
        step: Step,
    },
    /// Something is odd that fails nothing: an unknown key of provision.yaml, an unwritable known_hosts.
    Warning {
        /// The step.
        step: Step,
        /// For people, at most 1000 characters.
        message: String,
    },
    /// It has ended.
    Ended {
        /// The step.
        step: Step,
        /// How.
        end: StepEnd,
    },
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "lowercase")]
pub enum StepEnd {
    /// Well.
    Done,
    /// There was nothing to do: no hook, or an install that ran before.
    Skipped,
    /// It failed, which ends the setup.
    Failed(Failure),
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In a sentence, at most 1000 characters; without passwords.
    pub message: String,
    /// The exit code of what ran, if it ran to an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Whether it was ended because it took too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Its last lines, at most 5 of at most 400 characters (spec D).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// Where the rest of its output is in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// How a setup stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupReport {
    /// What it is or was for.
    pub occasion: Occasion,
    /// The step in progress; absent when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Step>,
    /// The steps that have ended, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepReport>,
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step.
    pub step: Step,
    /// How it ended.
    pub end: StepEnd,
    /// When it began, by the guest's clock.
    pub began_at: Timestamp,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// How a setup ended; the last frame of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetupReply {
    /// Why it was not begun or broke off, if so; a step that failed is not that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
