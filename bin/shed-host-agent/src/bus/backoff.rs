//! How long to wait before the next attempt to connect. Pure.

use std::time::Duration;

/// The first wait, and the longest (spec J.4).
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// A connection that lived so long was well; the next wait is the first one again.
const STABLE: Duration = Duration::from_secs(60);

/// The waits between attempts.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) const fn new() -> Self {
        Self(FIRST)
    }

    /// Returns how long to wait after a connection that lived so long; one that never was lived for no time.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        let wait = if lived >= STABLE { FIRST } else { self.0 };
        self.0 = (wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_a_good_connection() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..7).map(|_| backoff.after(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.after(STABLE - Duration::from_millis(1)), LONGEST);
        assert_eq!(backoff.after(STABLE), FIRST);
        assert_eq!(backoff.after(Duration::ZERO), 2 * FIRST);
    }
}
