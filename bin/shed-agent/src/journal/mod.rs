//! What the guest's journal holds: log entries for the host ([`readers`]), and units that failed ([`failures`]).
//!
//! It is read with the image's own `journalctl`, which knows every format that its systemd ever wrote. An image without
//! one has no journal, and everything here does nothing or says so. What a journal holds was written by anybody in the
//! shed: fields are cut where they are read, and nothing waits for a journalctl that does not end.

mod coalesce;
mod entries;
mod export;
pub(crate) mod failures;
pub(crate) mod readers;

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Signal, set_parent_process_death_signal},
};
use tokio::process::{Child, Command};

use crate::inheritance::{self, Ignored};

/// Finds a program of systemd's.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin"].iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Starts a program whose output is read here. It is killed when its handle is dropped, and when this process dies:
/// what the agent's unit runs outlives the agent otherwise.
pub(crate) fn spawn(program: &Path, arguments: &[String]) -> io::Result<Child> {
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ignored = Ignored::look();
    let child_side = move || {
        inheritance::forget(ignored);
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The agent is spared when memory runs out; its readers can be started again.
        if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
            let _kept = rustix::io::write(&file, b"0");
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child, where only async-signal-safe work is allowed: everything in it is a
    // plain system call on values that were made before the fork, and nothing allocates or locks.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, child_side) };
    Command::from(command).kill_on_drop(true).spawn()
}

/// Arguments that every journalctl here has: the export format gives each value with its length or on one line, so that
/// one of a gigabyte is passed over without being held, and one that is no text is read like any other.
fn journal_arguments() -> Vec<String> {
    let fields = export::WANTED.join(",");
    ["--quiet", "--no-pager", "--output=export", &format!("--output-fields={fields}")]
        .map(str::to_owned)
        .to_vec()
}
