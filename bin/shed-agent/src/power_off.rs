//! Powers the machine off, by whatever is PID 1.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::log;

/// Asks systemd for poweroff.target, as `systemctl poweroff` does, without running a program (systemd(1), SIGRTMIN+4).
/// glibc keeps the first two real-time signals, so SIGRTMIN is 34 in its numbers and in systemd's.
const SYSTEMD_POWER_OFF: i32 = 34 + 4;

/// Begins to power off and returns at once. Data is written out at the same time: should PID 1 take too long and the
/// host lose patience, as little as possible is lost.
pub(crate) fn begin() {
    let flushing = std::thread::Builder::new().name("sync".to_owned()).spawn(rustix::fs::sync);
    if flushing.is_err() {
        rustix::fs::sync();
    }
    log::info("powering off");
    let pid1 = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let asked = match pid1.trim_end() {
        "systemd" => signal_init(SYSTEMD_POWER_OFF),
        // Ourselves, and what some other inits make of it as well.
        "shed-agent" => kill_process(Pid::INIT, Signal::POWER).map_err(Into::into),
        _ => std::process::Command::new("poweroff").spawn().map(drop),
    };
    if let Err(error) = asked {
        log::error(&format!("cannot ask {} to power off: {error}", pid1.trim_end()));
    }
}

fn signal_init(signal: i32) -> std::io::Result<()> {
    // SAFETY: kill(2) takes two integers and touches no memory of this process.
    if unsafe { libc::kill(1, signal) } == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
