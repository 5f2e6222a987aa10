//! macOS.

use rustix::time::ClockId;

/// Counts from the start of the machine, also while it sleeps (clock_gettime(3): `CLOCK_MONOTONIC`).
pub(crate) const CLOCK_WITH_SLEEP: ClockId = ClockId::Monotonic;
