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
    let output = Output { log: vmm_log.to_owned(), begin: log.metadata()?.len() };
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
    #[cfg(target_os = "linux")]
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
mod tests {
    use std::{
        os::unix::net::{UnixListener, UnixStream},
        time::Duration,
    };

    use super::*;
    use crate::process::Signal;

    struct Setup {
        dir: tempfile::TempDir,
    }

    impl Setup {
        fn path(&self, name: &str) -> Utf8PathBuf {
            Utf8Path::from_path(self.dir.path()).unwrap().join(name)
        }
    }

    fn setup() -> Setup {
        Setup { dir: tempfile::tempdir().unwrap() }
    }

    /// Runs a script that inherits two listening sockets.
    fn run(setup: &Setup, script: &str) -> Launched {
        let listen = |name: &str| {
            let path = setup.path(name);
            // Of an earlier process.
            let _none = fs::remove_file(&path);
            OwnedFd::from(UnixListener::bind(path).unwrap())
        };
        let args = ["-c".to_owned(), script.to_owned()];
        let (inherited, log) = (vec![listen("one"), listen("two")], setup.path("vmm.log"));
        launch(Program { args: &args, inherited, ..Program::new(Utf8Path::new("/bin/sh"), &log) }).unwrap()
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
        UnixStream::connect(setup.path("one")).unwrap();
        UnixStream::connect(setup.path("two")).unwrap();
        launched.process.signal(Signal::KILL).unwrap();
        dead(&launched.process).await;
        assert_eq!(
            UnixStream::connect(setup.path("one")).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let setup = setup();
        let (binary, log) = (Utf8Path::new("/no/such/vmm"), setup.path("vmm.log"));
        let program = Program::new(binary, &log);
        assert_eq!(launch(program).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_a_machine_prints_may_have_a_file_of_its_own() {
        let setup = setup();
        let args = ["-c".to_owned(), "echo console; echo error >&2".to_owned()];
        let (console, log) = (setup.path("console.log"), setup.path("vmm.log"));
        let (binary, stdout) = (Utf8Path::new("/bin/sh"), Some(&*console));
        let launched = launch(Program { args: &args, stdout, ..Program::new(binary, &log) }).unwrap();
        dead(&launched.process).await;
        assert_eq!(launched.output.tail(), "error");
        assert_eq!(fs::read_to_string(console).unwrap(), "console\n");
    }

    #[tokio::test]
    async fn a_lock_that_is_standard_input_ends_with_the_process() {
        let setup = setup();
        let disk = setup.path("disk");
        let open = || OpenOptions::new().create(true).append(true).open(&disk).unwrap();
        let locked = open();
        locked.lock().unwrap();
        // Its other descriptors it closes, as a jailer does; what it reads is not the disk.
        let script = "read line || echo nothing >&2; exec 3>&- sleep 600";
        let (args, log) = (["-c".to_owned(), script.to_owned()], setup.path("vmm.log"));
        let (binary, stdin) = (Utf8Path::new("/bin/sh"), Some(locked.into()));
        let launched = launch(Program { args: &args, stdin, ..Program::new(binary, &log) }).unwrap();
        assert!(open().try_lock().is_err());
        launched.process.signal(Signal::KILL).unwrap();
        dead(&launched.process).await;
        open().try_lock().unwrap();
    }

    #[test]
    fn only_faults_of_the_process_itself_are_crashes() {
        let (abort, segv, kill, term) = (6, 11, 9, 15);
        for signal in [abort, segv] {
            assert!(
                is_crash(<ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(signal)),
                "{signal}"
            );
        }
        for status in [0, 1 << 8, kill, term] {
            assert!(
                !is_crash(<ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(status)),
                "{status}"
            );
        }
    }
}
