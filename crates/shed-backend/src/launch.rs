//! Starts a process that outlives the server: a VMM, or what serves a directory beside it. Every backend calls this.
//!
//! The process gets a session of its own, no terminal, no environment and no descriptors but its standard streams and those
//! that it is meant to have. It is found again by its command line, so nothing is recorded here.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    process::{ExitStatus, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tokio::{
    process::{Child, Command},
    sync::watch,
};

use crate::process::{ProcessId, WatchedProcess};

/// How much of what QEMU printed goes into an error, in bytes.
const OUTPUT_MAX: u64 = 4096;

/// The program search path of the process, which looks for none.
const PATH: &str = "/usr/bin:/bin";

/// A process that was started, and where its output begins.
#[derive(Debug)]
pub(crate) struct Launched {
    pub process: WatchedProcess,
    /// Becomes known when the process has ended.
    pub exit: watch::Receiver<Option<ExitStatus>>,
    pub output: Output,
}

/// What a process prints, at the end of a log with older output.
#[derive(Debug)]
pub(crate) struct Output {
    log: Utf8PathBuf,
    begin: u64,
}

/// A program to be started.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub binary: &'a Utf8Path,
    /// Its name in the process table; without one, its path.
    pub name: Option<&'a str>,
    /// May name the numbers of `inherited`.
    pub args: &'a [String],
    /// What it reads; without one, nothing.
    pub stdin: Option<OwnedFd>,
    /// What the process has open besides its standard streams.
    pub inherited: Vec<OwnedFd>,
    /// Gets what it prints; without one the log gets that, too.
    pub stdout: Option<&'a Utf8Path>,
    /// Gets its errors.
    pub log: &'a Utf8Path,
}

impl<'a> Program<'a> {
    /// A program without arguments, which prints into a log.
    pub(crate) const fn new(binary: &'a Utf8Path, log: &'a Utf8Path) -> Self {
        Self { binary, name: None, args: &[], stdin: None, inherited: Vec::new(), stdout: None, log }
    }
}

/// Starts a program.
///
/// # Errors
/// When it cannot be started. Then nothing runs.
pub(crate) fn launch(program: Program<'_>) -> io::Result<Launched> {
    let Program { binary, name, args, stdin, inherited, stdout, log: vmm_log } = program;
    let log = open_log(vmm_log)?;
    let stdout = match stdout {
        Some(path) => open_log(path)?,
        None => log.try_clone()?,
    };
    let output = Output::begins_now(&log, vmm_log)?;
    keep_inherited_descriptors_here();
    let mut command = Command::new(binary);
    command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(stdout)
        .stderr(log)
        .kill_on_drop(false);
    if let Some(name) = name {
        command.arg0(name);
    }
    let numbers: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the closure runs between fork and exec. It makes three system calls and touches no memory besides its
    // own copy of some numbers; the descriptors are open, because their owners live until the process is started.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            for &fd in &numbers {
                fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    // It has a descriptor of what the process reads.
    drop(command);
    // Only the process has them from here on, so that a connection fails when it is gone.
    drop(inherited);
    match watch_child(&child) {
        Ok(process) => Ok(Launched { process, exit: reap(child), output }),
        Err(error) => {
            // Not reaped yet, so the pid is still its own.
            let _ended_already = child.start_kill();
            drop(reap(child));
            Err(error)
        }
    }
}

/// Creates a log that only its owner may read, or opens it for appending.
pub(crate) fn open_log(path: &Utf8Path) -> io::Result<fs::File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Output {
    /// Begins where the log ends now.
    ///
    /// # Errors
    /// When its length cannot be read.
    pub(crate) fn begins_now(log: &fs::File, path: &Utf8Path) -> io::Result<Self> {
        Ok(Self { log: path.to_owned(), begin: log.metadata()?.len() })
    }

    /// Returns the end of what the process has printed, fit for an error message.
    pub(crate) fn tail(&self) -> String {
        match self.read() {
            Ok(text) if text.is_empty() => "it printed nothing".to_owned(),
            Ok(text) => text,
            Err(error) => format!("what it printed cannot be read from {}: {error}", self.log),
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut log = fs::File::open(&self.log)?;
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(self.begin.max(end.saturating_sub(OUTPUT_MAX))))?;
        let mut bytes = Vec::new();
        log.take(OUTPUT_MAX).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>().trim().to_owned())
    }
}

/// Watches a child that nobody has reaped yet, so that its pid cannot be another's.
fn watch_child(child: &Child) -> io::Result<WatchedProcess> {
    let gone = || io::Error::other("the process has vanished");
    let pid = child.id().ok_or_else(gone)?;
    let id = ProcessId::of_any(pid)?.ok_or_else(gone)?;
    WatchedProcess::open(id)?.ok_or_else(gone)
}

/// Takes the exit status of a child when it ends, whoever else watches it.
fn reap(mut child: Child) -> watch::Receiver<Option<ExitStatus>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) => {
                tracing::debug!(%status, "a process has ended");
                let _before = sender.send_replace(Some(status));
            }
            Err(error) => tracing::warn!(%error, "a process could not be reaped"),
        }
    });
    receiver
}

/// Marks descriptors that this process was started with as not for its children. Rust opens all others that way.
fn keep_inherited_descriptors_here() {
    let Ok(entries) = fs::read_dir("/dev/fd") else { return };
    for fd in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok()) {
        if fd <= 2 {
            continue;
        }
        // SAFETY: the number may have been closed since, or have a new owner; either way only a flag is set, which
        // all owners in this process want.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        if let Ok(flags) = fcntl_getfd(borrowed)
            && !flags.contains(FdFlags::CLOEXEC)
        {
            // Closed since: nothing to keep.
            let _closed = fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC);
        }
    }
}

/// Whether a process ended by a fault of its own: an assertion that failed, or an access that must not be. SIGKILL is
/// somebody's wish.
pub(crate) fn is_crash(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;

    use rustix::process::Signal;
    let faults = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE];
    status.signal().is_some_and(|signal| faults.iter().any(|fault| fault.as_raw() == signal))
}

#[cfg(test)]
mod tests;
