//! The machine's clock, set by the host's: at every identity, and whenever the host finds it wrong, as after the host slept.
//!
//! An image may run a client of NTP beside it. Many have none, and a machine may have no network.

use std::io;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::log;

/// The clock is left alone when it is off by no more than this: the host's word is under way for a while.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// Steps the clock to the host's, forwards or backwards, when it is off by more than a second. Clocks that only count, by
/// which programs wait, are not touched.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn step(host: Timestamp) -> io::Result<()> {
    if Timestamp::now().duration_since(host).abs() <= TOLERANCE {
        return Ok(());
    }
    let time = Timespec { tv_sec: host.as_second(), tv_nsec: host.subsec_nanosecond().into() };
    clock_settime(ClockId::Realtime, time)?;
    log::info(&format!("clock stepped to {host}"));
    Ok(())
}
