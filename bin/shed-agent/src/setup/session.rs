//! The processes of a step: all of the session that its first process leads. What makes a session of its own (setsid(1),
//! a daemon done by the book) has left the step and is left alone.

use std::{fs, io, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::Interest,
    time::{sleep, timeout},
};

use crate::{log, watched_fd::watch};

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long killed processes may take to be gone; one that the kernel holds is left to it.
const GONE: Duration = Duration::from_secs(5);

/// Pause before a process that cannot be waited for is looked at again.
const RETRY: Duration = Duration::from_millis(10);

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
        let Ok(pidfd) = pidfd_open(first, PidfdFlags::NONBLOCK) else {
            // The process has gone meanwhile, or there is no descriptor left: nothing tells when that has passed.
            sleep(RETRY).await;
            continue;
        };
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
    running_in(&read_stat(pid).ok()?)
}

/// The session in the text of /proc/PID/stat; nothing when the process has ended.
fn running_in(stat: &str) -> Option<Pid> {
    // The name of the program may hold anything, even `)`. What follows the last one begins with the third field, the
    // state; the sixth is the session, the twentieth the number of threads (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    // Where the first thread has ended and others have not, the process looks like a zombie and runs.
    let ended = match *fields.first()? {
        "Z" => threads <= 1,
        state => state == "X",
    };
    (!ended).then_some(())?;
    Pid::from_raw(fields.get(3)?.parse().ok()?)
}

fn read_stat(pid: Pid) -> io::Result<String> {
    fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_with_its_last_thread() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) b) {state} 1 7 42 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 {threads} 0 100 0 0")
        };
        for (state, threads, runs) in
            [("S", 1, true), ("R", 3, true), ("Z", 1, false), ("Z", 2, true), ("X", 1, false)]
        {
            let session = running_in(&stat(state, threads)).map(|pid| pid.as_raw_nonzero().get());
            assert_eq!(session, runs.then_some(42), "{state} {threads}");
        }
        assert_eq!(running_in("7 (a"), None);
    }
}
