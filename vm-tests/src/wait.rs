//! Waiting for a condition with a deadline; the only place that sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Long enough for anything that does not involve booting, on a busy machine without hardware virtualisation.
pub const SHORT: Duration = Duration::from_secs(30);

/// Long enough for a guest to boot, or to shut down, on such a machine.
pub const BOOT: Duration = Duration::from_secs(240);

/// Pause between two looks; short against everything that is waited for here.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `probe` returns something, and returns it.
///
/// # Panics
/// When `deadline` passes first; the message names `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the wait for a condition that the lint asks for")]
fn pause() {
    thread::sleep(PAUSE);
}
