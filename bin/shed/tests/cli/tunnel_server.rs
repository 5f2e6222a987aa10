//! A server with one shed, whose every port has a service that sends back what it gets; and the user's end of tunnels.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    peer::read_head,
    user::{User, json},
};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the server says of its sheds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They run.
    Running,
    /// They are stopped; a start starts them.
    Stopped,
    /// There are none.
    Deleted,
    /// They run, and their services break off in the middle.
    BreakingOff,
}

/// A server. Every name is one of its sheds.
pub(crate) struct TunnelServer {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    mode: Mode,
    asked: Vec<String>,
}

impl TunnelServer {
    pub(crate) fn start(mode: Mode) -> Self {
        Self::start_at(0, mode)
    }

    /// Starts it at a port where one was before.
    pub(crate) fn start_at(port: u16, mode: Mode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { mode, asked: Vec::new() }));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&over));
        let thread = thread::spawn(move || {
            loop {
                let (stream, _) = listener.accept().unwrap();
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A client that goes away is no failure of the server.
                drop(thread::spawn(move || drop(answer(stream, &shared))));
            }
        });
        Self { port, state, over, thread: Some(thread) }
    }

    pub(crate) fn become_(&self, mode: Mode) {
        self.state.lock().unwrap().mode = mode;
    }

    /// Returns the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

impl Drop for TunnelServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn shed(name: &str, status: &str) -> String {
    format!(r#"{{"name":"{name}","status":"{status}","created_at":"2026-01-20T10:30:00Z"}}"#)
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let head = read_head(&mut stream);
    let line = head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let mode = {
        let mut state = state.lock().unwrap();
        state.asked.push(line.clone());
        if line.starts_with("POST") && line.ends_with("/start") && state.mode == Mode::Stopped {
            state.mode = Mode::Running;
        }
        if line.ends_with("/stop") {
            state.mode = Mode::Stopped;
        }
        state.mode
    };
    let words: Vec<&str> = line.split(['/', ' ']).collect();
    let name = words.get(4).copied().unwrap_or("");
    let refuse = |status: &str, code: &str| {
        let body = serde_json::json!({"error": {"code": code, "message": format!("no, {name}")}}).to_string();
        reply(status, "application/json", &body)
    };
    let runs = matches!(mode, Mode::Running | Mode::BreakingOff);
    let text = match words.get(5).copied() {
        _ if mode == Mode::Deleted => refuse("404 Not Found", "SHED_NOT_FOUND"),
        Some("connect") if runs => return carry(stream, mode),
        Some("connect") => refuse("503 Service Unavailable", "SHED_NOT_RUNNING"),
        Some("start") => {
            let body = format!("event: complete\ndata: {}\n\n", shed(name, "running"));
            reply("200 OK", "text/event-stream", &body)
        }
        None if words[0] == "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        _ => reply("200 OK", "application/json", &shed(name, if runs { "running" } else { "stopped" })),
    };
    stream.write_all(text.as_bytes())
}

fn reply(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Greets together with the head of the reply, and sends back what comes, until its end.
fn carry(mut stream: TcpStream, mode: Mode) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shed-tcp\r\n\r\nhello\n",
    )?;
    if mode == Mode::BreakingOff {
        let socket = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        stream.read_exact(&mut [0])?;
        return Ok(socket?);
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Returns ports of 127.0.0.1 on which nothing listened a moment ago. They are none that the system gives to whoever asks
/// for any (32768 and up on Linux, 49152 on macOS), so only other tests' could come in between, and each process begins
/// elsewhere.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    let mut ports = Vec::new();
    while ports.len() < N {
        let number = start.wrapping_add(TRIED.fetch_add(1, Ordering::SeqCst)) % 20_000;
        let port = u16::try_from(number).unwrap() + 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports.try_into().unwrap()
}

/// Connects to a tunnel and reads the service's greeting.
pub(crate) fn through(port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting)?;
    assert_eq!(&greeting, b"hello\n");
    Ok(stream)
}

/// Sends these bytes and their end, and returns all that comes back.
pub(crate) fn echo(port: u16, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = through(port)?;
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            writer.write_all(bytes)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        sending.join().unwrap()?;
        Ok(back)
    })
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the wait for a condition that the lint asks for")]
fn pause() {
    thread::sleep(Duration::from_millis(10));
}

/// Waits for a child's end.
#[track_caller]
pub(crate) fn exit_code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    eventually("the end of a process", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// `shed tunnels start` in the foreground.
pub(crate) struct Foreground {
    pub(crate) child: Child,
}

impl Foreground {
    /// Starts it, and returns when it listens.
    pub(crate) fn start(user: &User, arguments: &[&str]) -> Self {
        let words: Vec<&str> = ["tunnels", "start"].into_iter().chain(arguments.iter().copied()).collect();
        let mut child = user
            .command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if !line.contains("tunnels start") && !line.starts_with("Started tunnels") {
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            panic!("no tunnels: {line:?} {text}");
        }
        Self { child }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, and returns the exit code and what it wrote to stderr.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = exit_code(&mut self.child);
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (code, text)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A user whose tunnels in the background end with the test.
pub(crate) struct Detached(pub(crate) User);

impl Detached {
    pub(crate) fn list(&self) -> Vec<Value> {
        let list = json(&self.0.shed(&["tunnels", "list", "--json"]).exits(0).stdout);
        list["tunnels"].as_array().unwrap().clone()
    }

    /// Starts tunnels in the background and returns their process.
    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> u32 {
        let words: Vec<&str> =
            ["--json", "tunnels", "start", "-d"].into_iter().chain(arguments.iter().copied()).collect();
        let ran = self.0.shed(&words).exits(0);
        u32::try_from(json(&ran.stdout)["details"]["pid"].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _result = self.0.command(&["tunnels", "stop", "--all"]).output();
    }
}

/// Returns whether a process is there, and no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    shed_process::ProcessId::of(pid).unwrap().is_some()
}
