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
        /// When, by the guest's clock; the last time if it failed more than once.
        at: Timestamp,
        /// How often it has failed since it was told of before: one that fails in a loop is told of once a minute.
        #[serde(default = "once", skip_serializing_if = "is_once")]
        times: u32,
    },
    /// The kernel has killed a process for want of memory.
    OutOfMemory {
        /// What it says of the process.
        process: String,
        /// When, by the guest's clock.
        at: Timestamp,
    },
}

const fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_once(times: &u32) -> bool {
    *times == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_is_told_of_at_once_is_what_it_was_without_a_count() {
        let golden =
            r#"{"event":"unit_failed","unit":"a.service","result":"exit-code","at":"2026-01-20T10:30:00Z"}"#;
        let event: GuestEvent = serde_json::from_str(golden).unwrap();
        assert!(matches!(event, GuestEvent::UnitFailed { times: 1, .. }));
        assert_eq!(serde_json::to_string(&event).unwrap(), golden);
        let often = golden.replace("00Z\"}", "00Z\",\"times\":7}");
        let event: GuestEvent = serde_json::from_str(&often).unwrap();
        assert!(matches!(event, GuestEvent::UnitFailed { times: 7, .. }));
        assert_eq!(serde_json::to_string(&event).unwrap(), often);
    }
}
