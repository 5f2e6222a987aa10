//! What happened in a running guest of late: bounded, each thing once, however often a guest tells it. Pure.
//!
//! An agent tells each new channel everything that it still knows, so most of what comes after a channel broke is known.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use shed_protocol::GuestEvent;

use crate::clean;

/// How many events are kept: as many as an agent keeps, so that what it tells again is recognised.
const KEPT: usize = 256;

/// How many events a guest may tell at once; room for what an agent keeps, and then some.
const BURST: u32 = 512;

/// How long it takes until it may tell one more.
const REFILL: Duration = Duration::from_millis(100);

/// The events of one guest.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    events: VecDeque<GuestEvent>,
    used: u32,
    refilled: Option<Instant>,
}

impl Recent {
    /// Takes an event in. Returns it, fit to be shown, unless it is known or there are too many.
    pub(crate) fn take(&mut self, event: GuestEvent, now: Instant) -> Option<GuestEvent> {
        if !self.may_tell(now) {
            return None;
        }
        let event = clean::event(event);
        if self.events.contains(&event) {
            return None;
        }
        if self.events.len() == KEPT {
            let _oldest = self.events.pop_front();
        }
        self.events.push_back(event.clone());
        Some(event)
    }

    /// Returns the events, the oldest first.
    pub(crate) fn list(&self) -> Vec<GuestEvent> {
        self.events.iter().cloned().collect()
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        let since = *self.refilled.get_or_insert(now);
        let steps = now.duration_since(since).as_millis() / REFILL.as_millis();
        if let Ok(steps) = u32::try_from(steps)
            && steps < BURST
        {
            self.used = self.used.saturating_sub(steps);
            self.refilled = Some(since + REFILL * steps);
        } else {
            self.used = 0;
            self.refilled = Some(now);
        }
        let may = self.used < BURST;
        self.used += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn event(number: usize) -> GuestEvent {
        GuestEvent::OutOfMemory { process: number.to_string(), at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn what_is_told_again_is_no_news() {
        let now = Instant::now();
        let mut recent = Recent::default();
        for number in 0..300 {
            assert!(recent.take(event(number), now).is_some());
        }
        assert_eq!(recent.list().len(), KEPT);
        assert_eq!(recent.list().first(), Some(&event(300 - KEPT)));
        for number in 300 - KEPT..300 {
            assert_eq!(recent.take(event(number), now + REFILL * 300), None);
        }
    }

    #[test]
    fn a_flood_is_thinned_out() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let told = (0..100_000usize).filter(|number| {
            let now = start + Duration::from_micros(100) * u32::try_from(*number).unwrap();
            recent.take(event(*number), now).is_some()
        });
        // Ten seconds long.
        let told = told.count();
        assert!((BURST as usize..=BURST as usize + 100).contains(&told), "{told}");
        assert!(recent.take(event(0), start + Duration::from_secs(1_000_000)).is_some());
    }
}
