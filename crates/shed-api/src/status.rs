//! How a shed and its guest are, on the wire: `GET /api/sheds/{name}/status` and `…/events`.
//!
//! What a guest says of itself is for display only. Words that name what happened are texts, not enums: a client passes
//! over those that a newer server has.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ErrorDetail, Shed, ShedStatus};

/// How a shed is. What concerns its guest is there only while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusReport {
    /// The shed.
    pub name: String,
    /// How it is.
    pub status: ShedStatus,
    /// Whether its agent can be reached at this moment; while it is lost, the rest is what was known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelState>,
    /// When its guest last said how it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_healthy: Option<Timestamp>,
    /// When its agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it is, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthState>,
    /// What it uses of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<GuestMetrics>,
    /// The clone and the hooks of this boot: those in progress, or else the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<SetupStatus>,
    /// What happened in it of late, the oldest first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<GuestEvent>,
    /// What is not as it should be, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why the shed cannot be used, or why its last start failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether the server reaches the agent of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChannelState {
    /// It does.
    Open,
    /// It does not, and tries again.
    Lost,
}

/// How a guest is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Well.
    Ok,
    /// Its root file system cannot be written.
    Degraded,
}

/// What a guest uses of its machine, as it says itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestMetrics {
    /// Processor time in use, of all processors together: 0 to 100. Absent in the first report of a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 100))]
    pub cpu_percent: Option<f64>,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_total: u64,
    /// Memory in use, in bytes: what is not available for new programs.
    pub memory_used: u64,
    /// Size of the shed's own disk in bytes, as its file system sees it.
    pub disk_total: u64,
    /// What is used of it, in bytes.
    pub disk_used: u64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Seconds since the guest's kernel started.
    pub uptime_s: u64,
    /// Processes and threads.
    pub tasks: u64,
}

/// How the clone and the hooks stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetupStatus {
    /// What they run for: `create`, `start` or `stop`.
    pub occasion: String,
    /// The step in progress: `clone`, `provision`, `install`, `startup` or `shutdown`. Absent when all have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// The steps that have ended, in order.
    pub steps: Vec<SetupStep>,
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetupStep {
    /// The step.
    pub step: String,
    /// How it ended: `done`, `skipped` or `failed`.
    pub result: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
    /// When it began, by the guest's clock.
    pub began_at: Timestamp,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StepFailure {
    /// In a sentence.
    pub message: String,
    /// The exit code of what ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Whether it was ended because it took too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Its last lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// Where the rest of its output is in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// Something that has happened in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestEvent {
    /// What: `unit_failed`, `out_of_memory` or `step_ended`.
    pub kind: String,
    /// When, by the guest's clock.
    pub at: Timestamp,
    /// The same for people, in a line.
    pub message: String,
    /// The unit of systemd that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// systemd's word for how it failed, or how a step ended: `done`, `skipped` or `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// How often the unit has failed since it was told of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// The process that was killed for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// What the step ran for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occasion: Option<String>,
    /// The step that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
}

/// An event of `GET /api/sheds/{name}/events`.
#[derive(Debug, Clone, PartialEq)]
pub enum ShedEvent {
    /// How the shed and its guest are now: the first event, and whenever the guest has told.
    Status(Box<StatusReport>),
    /// The shed itself has changed.
    State(Box<Shed>),
    /// Something has happened in the guest.
    Event(Box<GuestEvent>),
    /// The last event: why there are no more.
    Error(ErrorDetail),
}

impl ShedEvent {
    /// Returns the event's name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::State(_) => "state",
            Self::Event(_) => "event",
            Self::Error(_) => "error",
        }
    }

    /// Returns the event's data on the wire: JSON on one line.
    ///
    /// # Panics
    /// Never: these types are plain JSON.
    #[must_use]
    pub fn data(&self) -> String {
        match self {
            Self::Status(report) => serde_json::to_string(report),
            Self::State(shed) => serde_json::to_string(shed),
            Self::Event(event) => serde_json::to_string(event),
            Self::Error(detail) => serde_json::to_string(detail),
        }
        .expect("wire types serialise without error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_examples_read_and_write_back() {
        crate::golden::check::<StatusReport>(include_str!("../fixtures/status.json"));
        crate::golden::check::<StatusReport>(include_str!("../fixtures/status-stopped.json"));
    }
}
