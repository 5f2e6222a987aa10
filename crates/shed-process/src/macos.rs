//! Processes on macOS: `ps` for the process table, kqueue for deaths.
//!
//! macOS has no handle that pins a process as a pidfd does. A signal is therefore sent only after pid and start
//! time were compared once more, which leaves a gap of microseconds in which the pid would have to be reused.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue},
    process::{Pid, Signal, kill_process},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::ProcessId;

/// How `ps` writes a start time with `LC_ALL=C`: `Mon Jan  5 10:02:03 2026`.
const LSTART: &str = "%a %b %e %H:%M:%S %Y";

fn ps(pid: u32, column: &str) -> io::Result<Option<String>> {
    let output = Command::new("/bin/ps")
        .args(["-ww", "-o", &format!("{column}="), "-p", &pid.to_string()])
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((!text.is_empty()).then_some(text))
}

/// Start time of a living process.
pub(super) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    match ps(pid, "stat")? {
        Some(state) if !state.starts_with('Z') => start_time_of_any(pid),
        Some(_) | None => Ok(None),
    }
}

/// Start time of a process that may be a zombie.
pub(super) fn start_time_of_any(pid: u32) -> io::Result<Option<u64>> {
    let Some(text) = ps(pid, "lstart")? else { return Ok(None) };
    let seconds = jiff::civil::DateTime::strptime(LSTART, &text)
        .ok()
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .and_then(|time| u64::try_from(time.timestamp().as_second()).ok());
    match seconds {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("ps gave the start time {text:?}"))),
    }
}

/// The words are cut at spaces, for `ps` does not tell where one ends; ours are found all the same, because the
/// words that are looked for hold no spaces.
pub(super) fn command_line(pid: u32) -> io::Result<Option<Vec<Vec<u8>>>> {
    let text = ps(pid, "command")?;
    Ok(text.map(|text| text.split_ascii_whitespace().map(|word| word.as_bytes().to_vec()).collect()))
}

pub(super) fn all_command_lines() -> io::Result<Vec<(u32, Vec<Vec<u8>>)>> {
    let output =
        Command::new("/bin/ps").args(["-axww", "-o", "pid=,command="]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let pid = words.next()?.parse().ok()?;
        Some((pid, words.map(|word| word.as_bytes().to_vec()).collect()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// A kqueue that reports one process's exit.
#[derive(Debug)]
pub(super) struct Handle {
    queue: AsyncFd<OwnedFd>,
    dead: AtomicBool,
}

impl Handle {
    pub(super) fn open(pid: Pid) -> io::Result<Option<Self>> {
        let queue = kqueue()?;
        let exit = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
        let change = [Event::new(exit, EventFlags::ADD, std::ptr::null_mut())];
        let mut none: [Event; 0] = [];
        // SAFETY: the change names a process and no file descriptor.
        match unsafe { kevent(queue.as_fd(), &change, &mut none, Some(Duration::ZERO)) } {
            Ok(_) => {
                // SAFETY: an OwnedFd always gives the same descriptor and keeps it open until it is dropped, and here
                // it is dropped with its registration.
                let queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
                Ok(Some(Self { queue, dead: AtomicBool::new(false) }))
            }
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        if self.dead.load(Ordering::Acquire) {
            return true;
        }
        let mut events = Vec::with_capacity(1);
        // SAFETY: the only event registered names a process and no file descriptor.
        let told = unsafe {
            kevent(self.queue.as_fd(), &[], rustix::buffer::spare_capacity(&mut events), Some(Duration::ZERO))
        };
        if matches!(told, Ok(count) if count > 0) {
            // Reading the event takes it off the queue, so it is kept here.
            self.dead.store(true, Ordering::Release);
        }
        self.dead.load(Ordering::Acquire)
    }

    pub(super) async fn dead(&self) -> io::Result<()> {
        while !self.is_dead() {
            let mut ready = self.queue.readable().await?;
            if self.is_dead() {
                // The readiness is left as it is: other waiters need it, too.
                break;
            }
            ready.clear_ready();
        }
        Ok(())
    }

    pub(super) fn signal(&self, id: ProcessId, signal: Signal) -> io::Result<()> {
        if start_time(id.pid)? != Some(id.start_time) {
            return Ok(());
        }
        match i32::try_from(id.pid).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(kill_process(pid, signal)?),
            None => Ok(()),
        }
    }
}
