//! Percentiles of a few durations.

use std::time::Duration;

/// Durations of one thing measured several times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Returns the smallest of them that `percent` of all are not longer than (nearest rank), in milliseconds.
    pub(crate) fn percentile_ms(&self, percent: u32) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let count = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
        let rank = (u64::from(count) * u64::from(percent)).div_ceil(100).max(1);
        let index = usize::try_from(rank - 1).unwrap_or(usize::MAX);
        sorted.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }

    /// Returns the median in milliseconds.
    pub(crate) fn p50(&self) -> f64 {
        self.percentile_ms(50)
    }

    /// Returns the 95th percentile in milliseconds.
    pub(crate) fn p95(&self) -> f64 {
        self.percentile_ms(95)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let mut times = Times::default();
        for ms in [40, 10, 20, 30] {
            times.push(Duration::from_millis(ms));
        }
        assert_eq!((times.p50(), times.p95()), (20.0, 40.0));
        assert!(Times::default().p50().is_nan());
    }
}
