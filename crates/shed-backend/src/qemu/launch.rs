//! Starts a QEMU process that outlives the server.
//!
//! The process gets a session of its own, no terminal, no environment and no descriptors but its standard streams and
//! the two listening sockets and the connections to those who serve directories. It is found again by its command line, so nothing is recorded here.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    process::{ExitStatus, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tokio::{
    process::{Child, Command},
    sync::watch,
};

use super::sockets::Listeners;
use crate::process::{ProcessId, WatchedProcess};

/// How much of what QEMU printed goes into an error, in bytes.
const OUTPUT_MAX: u64 = 4096;

/// The program search path of the process, which looks for none.
const PATH: &str = "/usr/bin:/bin";

/// A process that was started, and where its output begins.
#[derive(Debug)]
pub(super) struct Launched {
    pub process: WatchedProcess,
    /// Becomes known when the process has ended.
    pub exit: watch::Receiver<Option<ExitStatus>>,
    pub output: Output,
}

/// What a process prints, at the end of a log with older output.
#[derive(Debug)]
pub(super) struct Output {
    log: Utf8PathBuf,
    begin: u64,
}

/// Starts QEMU with `args`, which name the descriptors of `listeners` and `shares`.
///
/// # Errors
/// When the program cannot be started. Then nothing runs.
pub(super) fn launch(
    binary: &Utf8Path,
    args: &[String],
    listeners: Listeners,
    shares: Vec<UnixStream>,
    vmm_log: &Utf8Path,
) -> io::Result<Launched> {
    let log = open_log(vmm_log)?;
    let output = Output { log: vmm_log.to_owned(), begin: log.metadata()?.len() };
    keep_inherited_descriptors_here();
    let mut command = Command::new(binary);
    command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(false);
    let mut inherited: Vec<RawFd> = vec![listeners.qmp.as_raw_fd(), listeners.link.as_raw_fd()];
    inherited.extend(shares.iter().map(AsRawFd::as_raw_fd));
    // SAFETY: the closure runs between fork and exec. It makes three system calls and touches no memory besides its
    // own copy of some numbers; the descriptors are open, because their owners live until the process is started.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            for &fd in &inherited {
                fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    // Only the process listens from here on, so that a connection fails when it is gone.
    drop((listeners, shares));
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
pub(super) fn open_log(path: &Utf8Path) -> io::Result<fs::File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Output {
    /// Begins where the log ends now.
    #[cfg(target_os = "linux")]
    pub(super) fn begins_now(log: &fs::File, path: &Utf8Path) -> io::Result<Self> {
        Ok(Self { log: path.to_owned(), begin: log.metadata()?.len() })
    }

    /// Returns the end of what the process has printed, fit for an error message.
    pub(super) fn tail(&self) -> String {
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
                tracing::debug!(%status, "a VMM has ended");
                let _before = sender.send_replace(Some(status));
            }
            Err(error) => tracing::warn!(%error, "a VMM could not be reaped"),
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

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Duration};

    use super::{super::sockets::SocketPaths, *};
    use crate::process::Signal;

    struct Setup {
        dir: tempfile::TempDir,
        paths: SocketPaths,
    }

    fn setup() -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let paths = SocketPaths::new(path, &"api".parse().unwrap());
        Setup { dir, paths }
    }

    fn run(setup: &Setup, script: &str) -> Launched {
        let listeners = setup.paths.bind().unwrap();
        let fds = format!("{} {}", listeners.qmp.as_raw_fd(), listeners.link.as_raw_fd());
        let args = ["-c".to_owned(), format!("set -- {fds}; {script}")];
        let log = Utf8Path::from_path(setup.dir.path()).unwrap().join("vmm.log");
        launch(Utf8Path::new("/bin/sh"), &args, listeners, Vec::new(), &log).unwrap()
    }

    async fn dead(process: &WatchedProcess) {
        tokio::time::timeout(Duration::from_secs(20), process.dead()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn output_of_this_process_alone_is_its_tail() {
        let setup = setup();
        dead(&run(&setup, "echo first").process).await;
        let second = run(&setup, "echo second; printf 'third\\033[1m' >&2");
        dead(&second.process).await;
        assert_eq!(second.output.tail(), "second\nthird[1m");
        let silent = run(&setup, ":");
        dead(&silent.process).await;
        assert_eq!(silent.output.tail(), "it printed nothing");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_process_is_detached_and_inherits_nothing_but_the_sockets() {
        let setup = setup();
        let other = UnixStream::pair().unwrap();
        fcntl_setfd(&other.0, FdFlags::empty()).unwrap();
        let script = "cd /proc/self/fd; echo $(ls -l /proc/$$/fd | grep -c socket) $(pwd -P >/dev/null; env | \
                      grep -c '^[A-Z]*=') ; ps -o sid= -p $$ | tr -d ' '; echo $$";
        let launched = run(&setup, script);
        dead(&launched.process).await;
        let tail = launched.output.tail();
        let mut lines = tail.lines();
        let first: Vec<&str> = lines.next().unwrap().split(' ').collect();
        assert_eq!(first[0], "2", "two sockets and no more: {tail}");
        // PATH, and PWD and OLDPWD, which the shell itself sets.
        assert!(first[1].parse::<u32>().unwrap() <= 3, "{tail}");
        assert_eq!(lines.next(), lines.next(), "it leads its own session: {tail}");
    }

    #[tokio::test]
    async fn the_sockets_can_be_connected_to_while_the_process_runs_and_not_after() {
        let setup = setup();
        let launched = run(&setup, "exec sleep 600");
        UnixStream::connect(&setup.paths.qmp).unwrap();
        UnixStream::connect(&setup.paths.link).unwrap();
        launched.process.signal(Signal::KILL).unwrap();
        dead(&launched.process).await;
        assert_eq!(
            UnixStream::connect(&setup.paths.qmp).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let setup = setup();
        let listeners = setup.paths.bind().unwrap();
        let log = Utf8Path::from_path(setup.dir.path()).unwrap().join("vmm.log");
        let error = launch(Utf8Path::new("/no/such/qemu"), &[], listeners, Vec::new(), &log).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
