//! Ends everything and then the machine, losing as little as possible.

use std::{
    fs,
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
    signals::{End, Event, Signals},
};
use crate::reboot::tell;

/// How long processes have to end by themselves after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// How long they have to be gone after SIGKILL; one in an uninterruptible wait may never be.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Ends in order: processes, data, mounts, the machine. Does not return.
pub(super) fn shut_down(signals: &Signals, end: End) -> ExitCode {
    end_all(libc::SIGTERM, TERM_GRACE, signals);
    end_all(libc::SIGKILL, KILL_GRACE, signals);
    rustix::fs::sync();
    mounts::settle();
    match end {
        End::PowerOff => power_off_now(),
        End::Reboot => {
            // As late as can be, for the machine must end after it.
            let _logged = tell();
            end_with(RebootCommand::Restart)
        }
    }
}

/// Powers off at once.
pub(super) fn power_off_now() -> ! {
    rustix::fs::sync();
    end_with(last_command(&fs::read_to_string("/proc/cmdline").unwrap_or_default()))
}

fn end_with(command: RebootCommand) -> ! {
    loop {
        // Returns only when it fails, and PID 1 must not end.
        let _refused = reboot(command);
        let _interrupted = rustix::event::poll(&mut [], None);
    }
}

/// Reads in the kernel command line how this machine ends: where the VMM has no power to switch off, a guest that powers off
/// only halts, but one that restarts ends the VMM. shed-init reads the same word.
fn last_command(cmdline: &str) -> RebootCommand {
    if cmdline.split_ascii_whitespace().any(|word| word == "shed.power-off=restart") {
        RebootCommand::Restart
    } else {
        RebootCommand::PowerOff
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
            Event::Child | Event::End(_) | Event::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_how_the_machine_ends() {
        let restarts = |cmdline| matches!(last_command(cmdline), RebootCommand::Restart);
        assert!(restarts("quiet shed.power-off=restart panic=1\n"));
        assert!(!restarts("quiet shed.power-off=restarts\n") && !restarts(""));
    }
}
