//! Ends everything and powers the machine off, losing as little as possible.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{WaitOptions, wait},
    system::{RebootCommand, reboot},
};

use super::{
    mounts,
    signals::{Event, Signals},
};

/// How long processes have to end by themselves after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// How long they have to be gone after SIGKILL; one in an uninterruptible wait may never be.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Powers off in order: processes, data, mounts. Does not return.
pub(super) fn power_off(signals: &Signals) -> ExitCode {
    end_all(libc::SIGTERM, TERM_GRACE, signals);
    end_all(libc::SIGKILL, KILL_GRACE, signals);
    rustix::fs::sync();
    mounts::settle();
    power_off_now()
}

/// Powers off at once.
pub(super) fn power_off_now() -> ! {
    rustix::fs::sync();
    loop {
        // Returns only when it fails, and PID 1 must not end.
        let _refused = reboot(RebootCommand::PowerOff);
        let _interrupted = rustix::event::poll(&mut [], None);
    }
}

/// Signals every process but this one and waits until none is left, at most `grace`.
fn end_all(signal: libc::c_int, grace: Duration, signals: &Signals) {
    // SAFETY: kill(2) takes two integers; -1 is every process except PID 1 itself. None left is no error that matters.
    let _none_left = unsafe { libc::kill(-1, signal) };
    let deadline = Instant::now() + grace;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => continue,
            // Orphans become children of PID 1, so without a child there is no process.
            Err(Errno::CHILD) => return,
            Ok(None) | Err(_) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        match signals.wait(Some(left)) {
            Event::Child | Event::PowerOff | Event::Nothing => {}
        }
    }
}
