//! Runs programs with a deadline and keeps all they print.

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use rustix::process::{Pid, Signal};

use crate::wait_for;

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; 128 + n when signal n ended it, as shells count.
    pub code: i32,
    /// What it wrote there.
    pub stdout: Vec<u8>,
    /// What it wrote there.
    pub stderr: Vec<u8>,
    /// From its start to its end.
    pub took: Duration,
}

impl Finished {
    /// Returns stdout as text without white space around it.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Returns stderr as text without white space around it.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// Checks that it succeeded.
    ///
    /// # Panics
    /// When its exit code is not 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Checks its exit code.
    ///
    /// # Panics
    /// When it has another one; the message shows the end of both outputs.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code; stdout: {} stderr: {}", end(&self.out()), end(&self.err()));
        self
    }

    /// Reads stdout as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("stdout is not JSON ({error}): {}", end(&self.out())),
        }
    }
}

fn end(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(2000);
    format!("{:?}", text.chars().skip(skipped).collect::<String>())
}

/// A program that runs, with its outputs gathered as they come.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Gatherer,
    stderr: Gatherer,
    begun: Instant,
    what: String,
}

#[derive(Debug)]
struct Gatherer {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Gatherer {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                sink.lock().expect("nobody panics with it").extend_from_slice(&buffer[..length]);
            }
        });
        Self { bytes, thread: Some(thread) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("nobody panics with it")).into_owned()
    }

    fn all(&mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the gatherer does not panic");
        }
        std::mem::take(&mut *self.bytes.lock().expect("nobody panics with it"))
    }
}

impl Running {
    /// Starts the program with pipes on all three streams.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot run {what}: {error}"),
        };
        let stdout = Gatherer::of(child.stdout.take().expect("it is piped"));
        let stderr = Gatherer::of(child.stderr.take().expect("it is piped"));
        Self { stdin: child.stdin.take(), stdout, stderr, child, begun: Instant::now(), what }
    }

    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it has written to stdout until now.
    #[must_use]
    pub fn stdout_so_far(&self) -> String {
        self.stdout.so_far()
    }

    /// Returns what it has written to stderr until now.
    #[must_use]
    pub fn stderr_so_far(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until stdout holds `text`.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str, deadline: Duration) {
        let begun = Instant::now();
        let found = || self.stdout.so_far().contains(text).then_some(true);
        let seen = wait_for(&format!("{text:?} from {}", self.what), deadline * 2, || {
            found().or_else(|| (begun.elapsed() > deadline).then_some(false))
        });
        assert!(
            seen,
            "no {text:?} within {deadline:?} from {}; stdout: {} stderr: {}",
            self.what,
            end(&self.stdout.so_far()),
            end(&self.stderr.so_far())
        );
    }

    /// Writes to its stdin.
    ///
    /// # Panics
    /// When it does not take it.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin has not been closed");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the program reads its stdin");
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal);
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When the system does not say.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// Waits until it ends, leaving stdin as it is.
    ///
    /// # Panics
    /// When it does not end within `deadline`; it is killed then.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Finished {
        let status = self.wait_status(deadline);
        let took = self.begun.elapsed();
        self.stdin = None;
        let (stdout, stderr) = (self.stdout.all(), self.stderr.all());
        Finished { code: code_of(status), stdout, stderr, took }
    }

    /// Waits until it ends, as [`Self::wait`] does; returns its exit code.
    ///
    /// # Panics
    /// When it does not end within `deadline`.
    #[track_caller]
    pub fn wait_code(&mut self, deadline: Duration) -> i32 {
        code_of(self.wait_status(deadline))
    }

    #[track_caller]
    fn wait_status(&mut self, deadline: Duration) -> ExitStatus {
        let begun = Instant::now();
        let ended = wait_for(&self.what, deadline * 2, || match self.child.try_wait() {
            Ok(Some(status)) => Some(Some(status)),
            Ok(None) => (begun.elapsed() > deadline).then_some(None),
            Err(error) => panic!("cannot wait for {}: {error}", self.what),
        });
        ended.unwrap_or_else(|| {
            let (stdout, stderr) = (end(&self.stdout.so_far()), end(&self.stderr.so_far()));
            panic!("{} did not end within {deadline:?}; stdout: {stdout} stderr: {stderr}", self.what)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
    }
}

/// Runs a program with `input` as its stdin until it ends.
///
/// # Panics
/// When it cannot be started or does not end within `deadline`.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8], deadline: Duration) -> Finished {
    let mut running = Running::spawn(command);
    let mut stdin = running.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A program may answer while it is fed, and may end before it has read all.
    let feeder = std::thread::spawn(move || {
        let _unread = stdin.write_all(&input);
    });
    let finished = running.wait(deadline);
    feeder.join().expect("the feeder does not panic");
    finished
}

/// Finds a program in `PATH`, or where cargo puts what it installs.
#[must_use]
pub fn find_program(name: &str) -> Option<Utf8PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let cargo = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let cargo = cargo.map(|cargo| cargo + "/bin").unwrap_or_default();
    let mut dirs = path.split(':').chain([cargo.as_str()]).filter(|dir| dir.starts_with('/'));
    dirs.find_map(|dir| Some(Utf8PathBuf::from(dir).join(name)).filter(|program| program.is_file()))
}

pub(crate) fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Sends a signal to one process; one that is gone needs none.
pub fn kill_process(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}
