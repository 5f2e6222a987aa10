//! What happens in a guest that somebody outside may want to act on (seed roadmap, process event notifications).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::setup::{Occasion, Step, StepEnd};

/// Payload of an event of [`SYSTEM_EVENT`](crate::SYSTEM_EVENT). Those of newer agents that are not known here are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GuestEvent {
    /// A step of a setup has ended.
    StepEnded {
        /// Of which setup.
        occasion: Occasion,
        /// The step.
        step: Step,
        /// How it ended.
        end: StepEnd,
        /// When, by the guest's clock.
        at: Timestamp,
    },
    /// A unit of systemd has failed.
    UnitFailed {
        /// The unit's name, at most 256 bytes.
        unit: String,
        /// systemd's word for how: `exit-code`, `signal`, `timeout`, `oom-kill`, …
        result: String,
        /// When, by the guest's clock.
        at: Timestamp,
    },
    /// The kernel has killed a process for want of memory.
    OutOfMemory {
        /// What it says of the process.
        process: String,
        /// When, by the guest's clock.
        at: Timestamp,
    },
}
