//! When to try again, and when to stop: pauses that grow, with chance in them, and what the registry asks for.
//!
//! Getting further begins the count anew, so that a large image comes through a bad line; a registry that gives almost
//! nothing at a time gets no further.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::{Patience, error::RequestError};

/// How many bytes more count as getting further.
const PROGRESS: u64 = 64 << 10;

/// Counts the tries of one thing.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    patience: &'a Patience,
    failed: u32,
    reached: u64,
    step: u64,
}

impl<'a> Tries<'a> {
    pub(crate) const fn new(patience: &'a Patience) -> Self {
        Self::in_steps_of(patience, PROGRESS)
    }

    /// Counts the tries of something that gets further in no smaller steps than these.
    pub(crate) const fn in_steps_of(patience: &'a Patience, step: u64) -> Self {
        Self { patience, failed: 0, reached: 0, step }
    }

    /// Hears how many bytes are done; the count begins anew when they are well more than at any time before.
    pub(crate) fn reach(&mut self, bytes: u64) {
        if bytes >= self.reached + self.step {
            self.reached = bytes;
            self.failed = 0;
        }
    }

    /// Waits until the next try.
    ///
    /// # Errors
    /// With this error, when there is no sense in another try or there were enough.
    pub(crate) async fn failed(&mut self, error: RequestError) -> Result<(), RequestError> {
        self.failed += 1;
        if !error.is_transient() || self.failed >= self.patience.tries {
            return Err(error);
        }
        let pause = error.asked_pause().unwrap_or_else(|| self.pause());
        tracing::debug!(%error, failed = self.failed, ?pause, "a registry is asked again");
        sleep(pause).await;
        Ok(())
    }

    /// Returns a time between half and all of the current pause.
    fn pause(&self) -> Duration {
        let doubled = self.patience.pause.saturating_mul(1 << (self.failed - 1).min(16));
        doubled.min(self.patience.longest_pause).mul_f64(rand::random_range(0.5..1.0))
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_asks_for_seconds_or_until_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(" 0 "), Some(Duration::ZERO));
        assert_eq!(retry_after(&"9".repeat(40)), Some(Duration::MAX));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1000));
        let read = retry_after(&soon).unwrap();
        assert!(read > Duration::from_secs(900) && read <= Duration::from_secs(1000), "{read:?}");
        for text in ["", "-1", "1.5", "soon", "+3"] {
            assert_eq!(retry_after(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn getting_further_begins_the_count_anew_and_standing_still_ends_it() {
        let patience = Patience { pause: Duration::ZERO, tries: 3, ..Patience::default() };
        let error = || RequestError::Short { host: "r".to_owned(), got: 1, size: 2 };
        let mut tries = Tries::new(&patience);
        for bytes in 1..100 {
            tries.reach(bytes * PROGRESS);
            tries.failed(error()).await.unwrap();
        }
        tries.failed(error()).await.unwrap();
        tries.reach(99 * PROGRESS + 100);
        assert!(tries.failed(error()).await.is_err());
        let mut tries = Tries::new(&patience);
        assert!(tries.failed(RequestError::BadHost { host: "r".to_owned() }).await.is_err());
    }
}
