//! Which failures of units are told when: the first of a unit at once, those that follow within a minute together. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use shed_protocol::GuestEvent;

/// How long failures of a unit are gathered after one was told of.
const GATHER: Duration = Duration::from_secs(60);

/// Most units that are watched for more failures at a time; of those beyond it nothing is told.
const UNITS: usize = 64;

/// A unit that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) unit: String,
    pub(super) result: String,
    pub(super) at: Timestamp,
}

/// Units that have failed lately.
#[derive(Debug, Default)]
pub(super) struct Coalesce {
    units: HashMap<String, Gathered>,
}

#[derive(Debug)]
struct Gathered {
    until: Instant,
    untold: Option<(Failure, u32)>,
}

impl Coalesce {
    /// Takes a failure in, and returns it if it is to be told now.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) -> Option<GuestEvent> {
        if let Some(gathered) = self.units.get_mut(&failure.unit) {
            let times = gathered.untold.as_ref().map_or(0, |(_, times)| *times);
            gathered.untold = Some((failure, times.saturating_add(1)));
            return None;
        }
        if self.units.len() >= UNITS {
            return None;
        }
        let _new = self.units.insert(failure.unit.clone(), Gathered { until: now + GATHER, untold: None });
        Some(told(failure, 1))
    }

    /// Returns what is to be told of units whose minute is over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<GuestEvent> {
        let mut events = Vec::new();
        self.units.retain(|_, gathered| {
            if gathered.until > now {
                return true;
            }
            gathered.until = now + GATHER;
            match gathered.untold.take() {
                Some((failure, times)) => events.push(told(failure, times)),
                None => return false,
            }
            true
        });
        events
    }

    /// Returns when [`Self::due`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.units.values().map(|gathered| gathered.until).min()
    }
}

fn told(Failure { unit, result, at }: Failure, times: u32) -> GuestEvent {
    GuestEvent::UnitFailed { unit, result, at, times }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(unit: &str, second: i64) -> Failure {
        let at = Timestamp::from_second(second).unwrap();
        Failure { unit: unit.into(), result: "exit-code".into(), at }
    }

    #[test]
    fn the_first_is_told_at_once_and_those_after_it_once_a_minute() {
        let start = Instant::now();
        let mut units = Coalesce::default();
        assert_eq!(units.failed(failure("a", 0), start), Some(told(failure("a", 0), 1)));
        for second in 1..100 {
            let now = start + Duration::from_millis(u64::try_from(second).unwrap());
            assert_eq!(units.failed(failure("a", second), now), None);
        }
        assert_eq!(units.failed(failure("b", 7), start), Some(told(failure("b", 7), 1)));
        assert_eq!(units.next_due(), Some(start + GATHER));
        assert!(units.due(start + GATHER / 2).is_empty());
        assert_eq!(units.due(start + GATHER), [told(failure("a", 99), 99)]);
        assert!(units.due(start + GATHER * 2).is_empty());
        assert_eq!(units.next_due(), None);
        // A minute of peace, and it is news again.
        assert!(units.failed(failure("a", 200), start + GATHER * 3).is_some());
    }

    #[test]
    fn names_without_end_cost_no_memory() {
        let mut units = Coalesce::default();
        let told = (0..1000).filter_map(|n| units.failed(failure(&n.to_string(), 0), Instant::now())).count();
        assert_eq!((told, units.units.len()), (UNITS, UNITS));
    }
}
