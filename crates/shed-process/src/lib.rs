//! Identity and death of processes that outlive whoever started them.
//!
//! Backends use it to recognise a VMM after a server restart, to learn of its death from an event, and to signal
//! it; the client uses it for the tunnels it has left running. A pid alone proves nothing, because pids are reused: a
//! process is named by pid and start time, and once a [`WatchedProcess`] is open, signals go to that process and to no
//! other. Programs that handle secrets keep them out of core files ([`leave_no_core`]), and programs that carry
//! connections raise their limit of [`open_files`]. It never signals by name or by a pid that was not verified, and it never polls.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod no_core;
pub mod open_files;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

use std::io;

use rustix::process::Pid;
pub use rustix::process::Signal;

pub use crate::no_core::leave_no_core;

/// Names one process until the host restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// When it started, in the unit of the system's process table: clock ticks since boot on Linux, seconds since
    /// 1970 on macOS.
    pub start_time: u64,
}

impl ProcessId {
    /// Looks up when the process that has this pid now was started; nothing when there is none, or only a zombie.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        Ok(system::start_time(pid)?.map(|start_time| Self { pid, start_time }))
    }

    /// As [`ProcessId::of`], but names a zombie, too.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub fn of_any(pid: u32) -> io::Result<Option<Self>> {
        Ok(system::start_time_of_any(pid)?.map(|start_time| Self { pid, start_time }))
    }
}

/// Returns the words of a process's command line; nothing when it has ended, and no words for a kernel thread.
///
/// # Errors
/// When the process table cannot be read.
pub fn command_line(pid: u32) -> io::Result<Option<Vec<Vec<u8>>>> {
    system::command_line(pid)
}

/// Finds a process whose command line satisfies `is_ours`. Dead and vanishing processes are passed over.
///
/// # Errors
/// When the process table cannot be read.
pub fn find(is_ours: impl Fn(&[Vec<u8>]) -> bool) -> io::Result<Option<ProcessId>> {
    for (pid, words) in system::all_command_lines()? {
        if let Some(process) = confirm(pid, &words, &is_ours)? {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// As [`find`], but returns every such process.
///
/// # Errors
/// When the process table cannot be read.
pub fn find_all(is_ours: impl Fn(&[Vec<u8>]) -> bool) -> io::Result<Vec<ProcessId>> {
    let all = system::all_command_lines()?.into_iter();
    all.filter_map(|(pid, words)| confirm(pid, &words, &is_ours).transpose()).collect()
}

fn confirm(
    pid: u32,
    words: &[Vec<u8>],
    is_ours: &impl Fn(&[Vec<u8>]) -> bool,
) -> io::Result<Option<ProcessId>> {
    if !is_ours(words) {
        return Ok(None);
    }
    // Read again between two looks at the start time, or the words might be those of a process that had the
    // pid before.
    let Some(process) = ProcessId::of(pid)? else { return Ok(None) };
    let still_ours = command_line(pid)?.is_some_and(|words| is_ours(&words));
    Ok((still_ours && ProcessId::of(pid)? == Some(process)).then_some(process))
}

/// A process under watch. It is held by a handle of the system, so that a reused pid cannot be mistaken for it.
///
/// It needs a tokio runtime. Dropping it ends the watch and leaves the process alone.
#[derive(Debug)]
pub struct WatchedProcess {
    id: ProcessId,
    handle: system::Handle,
}

impl WatchedProcess {
    /// Watches `id`; nothing when that process has ended and is reaped.
    ///
    /// # Errors
    /// When the system refuses the handle.
    pub fn open(id: ProcessId) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let Some(handle) = system::Handle::open(pid)? else { return Ok(None) };
        // Only now: what the pid means is fixed by the handle.
        if system::start_time_of_any(id.pid)? == Some(id.start_time) {
            Ok(Some(Self { id, handle }))
        } else {
            Ok(None)
        }
    }

    /// Returns what names the process.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns whether it has ended, zombies included.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.handle.is_dead()
    }

    /// Resolves when it has ended, at once if it has.
    ///
    /// # Errors
    /// When the event cannot be waited for.
    pub async fn dead(&self) -> io::Result<()> {
        self.handle.dead().await
    }

    /// Sends a signal to this process, and to no other; a dead one is passed over.
    ///
    /// # Errors
    /// When it may not be signalled.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.is_dead() {
            return Ok(());
        }
        match self.handle.signal(self.id, signal) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use super::*;

    /// Starts a process that lives until it is killed, and returns when its program runs.
    ///
    /// `spawn` returns already when the kernel has let go of the old program, which is a moment before the new
    /// command line can be read (fs/exec.c: `begin_new_exec` comes before `create_elf_tables`); so a line is waited
    /// for that only the new program can write.
    fn sleeper(tag: &str) -> Child {
        // The tag is `$0` of the script: on the command line, and of no effect.
        let mut child = Command::new("sh")
            .args(["-c", "echo ready; read line", tag])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    fn id_of(child: &Child) -> ProcessId {
        ProcessId::of(child.id()).unwrap().expect("it runs")
    }

    async fn soon(future: impl Future<Output = io::Result<()>>) {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("within 10 s").unwrap();
    }

    #[tokio::test]
    async fn death_of_an_own_child_is_an_event_and_a_zombie_counts_as_dead() {
        let mut child = sleeper("zombie");
        let watched = WatchedProcess::open(id_of(&child)).unwrap().unwrap();
        assert!(!watched.is_dead());
        watched.signal(Signal::KILL).unwrap();
        soon(watched.dead()).await;
        assert!(watched.is_dead());
        // Not reaped yet: it is still in the process table, and dead all the same.
        assert_eq!(ProcessId::of(child.id()).unwrap(), None);
        watched.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        soon(watched.dead()).await;
        assert!(WatchedProcess::open(watched.id()).unwrap().is_none());
    }

    #[tokio::test]
    async fn several_waiters_all_learn_of_a_death() {
        let mut child = sleeper("waiters");
        let watched = WatchedProcess::open(id_of(&child)).unwrap().unwrap();
        let waiters = futures::future::join_all((0..5).map(|_| watched.dead()));
        let kill = async { child.kill() };
        let (results, killed) =
            tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(waiters, kill) })
                .await
                .expect("within 10 s");
        killed.unwrap();
        assert!(results.into_iter().all(|result| result.is_ok()));
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_wrong_start_time_names_no_process() {
        let mut child = sleeper("wrong");
        let id = id_of(&child);
        let other = ProcessId { start_time: id.start_time + 1, ..id };
        assert!(WatchedProcess::open(other).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_found_by_its_command_line_alone() {
        let tag = format!("shed-find-test-{}", std::process::id());
        let is_ours = |words: &[Vec<u8>]| words.iter().any(|word| word == tag.as_bytes());
        assert_eq!(find(is_ours).unwrap(), None);
        let mut child = sleeper(&tag);
        assert_eq!(find(is_ours).unwrap(), Some(id_of(&child)));
        assert_eq!(find_all(is_ours).unwrap(), [id_of(&child)]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(find(is_ours).unwrap(), None);
    }

    #[test]
    fn pids_that_cannot_be_are_no_process() {
        assert_eq!(ProcessId::of(u32::MAX).unwrap(), None);
        assert_eq!(command_line(u32::MAX).unwrap(), None);
    }
}
