//! The processes of a step: all of the session that its first process leads. What makes a session of its own (setsid(1),
//! a daemon done by the book) has left the step and is left alone.

use std::{fs, io, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{io::Interest, time::timeout};

use crate::{log, watched_fd::watch};

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long killed processes may take to be gone; one that the kernel holds is left to it.
const GONE: Duration = Duration::from_secs(5);

/// Ends the session: asks, waits a little, kills. Its leader must be waited for meanwhile.
pub(super) async fn end(leader: Pid) {
    // One that is stopped sees no other signal.
    signal_all(leader, &[Signal::TERM, Signal::CONT]);
    if timeout(GRACE, gone(leader, None)).await.is_err() {
        let _held = timeout(GONE, gone(leader, Some(Signal::KILL))).await;
    }
}

/// Waits until no process of the session is left, and signals all of them again before each wait.
async fn gone(leader: Pid, signal: Option<Signal>) {
    loop {
        if let Some(signal) = signal {
            signal_all(leader, &[signal]);
        }
        let Some(&first) = members(leader).first() else { return };
        // It fails when the process has gone meanwhile.
        let Ok(pidfd) = pidfd_open(first, PidfdFlags::NONBLOCK) else { continue };
        let ended = async { watch(pidfd, Interest::READABLE)?.readable().await.map(drop) };
        if let Err(error) = ended.await {
            log::info(&format!("cannot wait for a process of a setup: {error}"));
            return;
        }
    }
}

fn signal_all(leader: Pid, signals: &[Signal]) {
    for pid in members(leader) {
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The pid may have become another's between the look and the open.
        if session_of(pid) != Some(leader) {
            continue;
        }
        for signal in signals {
            let _gone = pidfd_send_signal(&pidfd, *signal);
        }
    }
}

/// The processes of the session that still run.
fn members(leader: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|&pid| session_of(pid) == Some(leader)).collect()
}

/// The session of a process; nothing when it has ended.
fn session_of(pid: Pid) -> Option<Pid> {
    let stat = read_stat(pid).ok()?;
    // The name of the program may hold anything, even `)`; what follows the last one is state, parent, group, session.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    Pid::from_raw(fields.nth(2)?.parse().ok()?)
}

fn read_stat(pid: Pid) -> io::Result<String> {
    fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}
