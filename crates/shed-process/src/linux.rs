//! Processes on Linux: /proc and pidfds (Linux 5.3 and later).

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::ProcessId;

/// What the process table says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    start_time: u64,
}

/// Reads state (field 3) and start time (field 22) of a /proc/pid/stat (man 5 proc_pid_stat). The second field is
/// the program's name in parentheses and may itself hold parentheses and spaces, so counting begins behind the last.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = str::from_utf8(&text[end_of_name + 1..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_time = fields.nth(22 - 3 - 1)?.parse().ok()?;
    Some(Stat { state, start_time })
}

fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let Some(text) = read_of_process(pid, "stat")? else { return Ok(None) };
    match parse_stat(&text) {
        Some(stat) => Ok(Some(stat)),
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has an unknown form")))
        }
    }
}

/// Reads a file of a process; nothing when the process is gone, before or while it is read, or is not ours.
fn read_of_process(pid: u32, file: &str) -> io::Result<Option<Vec<u8>>> {
    of_ours(fs::read(format!("/proc/{pid}/{file}")))
}

/// Tells what says that there is no process of ours from what says that /proc cannot be read.
fn of_ours(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match read {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // With hidepid=1 (EPERM), or in another security domain (EACCES): a process we may not look at is not ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Start time of a living process.
pub(super) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    // Z is a zombie, X and x are dead (man 5 proc_pid_stat).
    Ok(stat(pid)?.filter(|stat| !matches!(stat.state, b'Z' | b'X' | b'x')).map(|stat| stat.start_time))
}

/// Start time of a process that may be a zombie.
pub(super) fn start_time_of_any(pid: u32) -> io::Result<Option<u64>> {
    Ok(stat(pid)?.map(|stat| stat.start_time))
}

pub(super) fn command_line(pid: u32) -> io::Result<Option<Vec<Vec<u8>>>> {
    Ok(read_of_process(pid, "cmdline")?.map(|content| {
        let words = content.strip_suffix(b"\0").unwrap_or(&content);
        if words.is_empty() {
            Vec::new()
        } else {
            words.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
        }
    }))
}

pub(super) fn all_command_lines() -> io::Result<Vec<(u32, Vec<Vec<u8>>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(words) = command_line(pid)? {
            all.push((pid, words));
        }
    }
    Ok(all)
}

/// A pidfd: readable once the process and all its threads have ended.
#[derive(Debug)]
pub(super) struct Handle(AsyncFd<OwnedFd>);

impl Handle {
    pub(super) fn open(pid: Pid) -> io::Result<Option<Self>> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => {
                // SAFETY: an OwnedFd always gives the same descriptor and keeps it open until it is dropped, and here
                // it is dropped with its registration.
                let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
                Ok(Some(Self(pidfd)))
            }
            // INVAL: the pid is that of a thread, which cannot be what we started.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&at_once)), Ok(ready) if ready > 0)
    }

    pub(super) async fn dead(&self) -> io::Result<()> {
        while !self.is_dead() {
            let mut ready = self.0.readable().await?;
            if self.is_dead() {
                // The readiness is left as it is: other waiters need it, too.
                break;
            }
            ready.clear_ready();
        }
        Ok(())
    }

    pub(super) fn signal(&self, _id: ProcessId, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.0.as_fd(), signal)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "4711 (NAME) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1 2 3";

    #[test]
    fn a_program_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        for name in ["sh", "a) S 1 (b", ") ) )", "", "x y\nz"] {
            let stat = parse_stat(LINE.replace("NAME", name).as_bytes());
            assert_eq!(stat, Some(Stat { state: b'S', start_time: 123_456 }), "{name:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_short_is_no_stat() {
        for cut in 0..LINE.find("123456").unwrap() {
            assert_eq!(parse_stat(&LINE.as_bytes()[..cut]), None);
        }
    }

    #[test]
    fn a_process_that_may_not_be_looked_at_is_none_and_other_failures_are_told() {
        use rustix::io::Errno;
        for errno in [Errno::PERM, Errno::ACCESS, Errno::NOENT, Errno::SRCH] {
            assert_eq!(of_ours(Err(errno.into())).unwrap(), None, "{errno}");
        }
        assert!(of_ours(Err(Errno::MFILE.into())).is_err());
        assert_eq!(of_ours(Ok(b"x".to_vec())).unwrap().unwrap(), b"x");
    }

    #[test]
    fn the_own_process_has_a_start_time_and_a_command_line() {
        let pid = std::process::id();
        assert!(start_time(pid).unwrap().unwrap() > 0);
        assert!(!command_line(pid).unwrap().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_program_name_confuses_the_parser(name in prop::collection::vec(any::<u8>(), 0..16)) {
            let (before, after) = LINE.split_once("NAME").unwrap();
            let line = [before.as_bytes(), &name, after.as_bytes()].concat();
            prop_assert_eq!(parse_stat(&line), Some(Stat { state: b'S', start_time: 123_456 }));
        }
    }
}
