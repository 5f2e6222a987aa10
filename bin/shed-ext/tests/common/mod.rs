//! A bus for tests: an HTTP server in a thread that answers publishes by what a test says, and the real program.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longest wait for anything here.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What the bus says to a publish.
pub(crate) enum Answer {
    /// A response with this payload.
    Payload(Value),
    /// These bytes as they are, as a whole HTTP response.
    Raw(Vec<u8>),
    /// An error of the publish API.
    Error(u16, &'static str),
    /// Nothing, until the client has gone.
    Silence,
}

/// The bus.
pub(crate) struct Bus {
    pub(crate) url: String,
    /// Every publish that came.
    pub(crate) asked: Arc<Mutex<Vec<Value>>>,
}

impl Bus {
    /// Serves on a port of its own until the test ends.
    pub(crate) fn serve(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let seen = Arc::clone(&asked);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || one(stream, &*answer, &seen));
            }
        });
        Self { url, asked }
    }
}

fn one(mut stream: TcpStream, answer: &dyn Fn(&str, &Value) -> Answer, seen: &Mutex<Vec<Value>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("post /v1/publish http/1.1\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let publish: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(publish["type"], "request");
    seen.lock().unwrap().push(publish.clone());
    let (status, body) = match answer(publish["namespace"].as_str().unwrap(), &publish["payload"]) {
        Answer::Payload(payload) => {
            let id = "0192f3c4-5a6b-7c8d-9e0f-a1b2c3d4e5f6";
            let envelope = json!({"id": id, "namespace": publish["namespace"], "type": "response",
                "in_reply_to": id, "timestamp": "2026-01-20T10:30:00Z", "payload": payload});
            (200, envelope.to_string())
        }
        Answer::Error(status, code) => (status, json!({"error": {"code": code, "message": "m"}}).to_string()),
        Answer::Raw(bytes) => return drop(stream.write_all(&bytes)),
        Answer::Silence => return drop(stream.read(&mut [0])),
    };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _gone = stream.write_all(head.as_bytes());
}

/// The program under one of its names.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shed-ext"));
    if name != "shed-ext" {
        command.arg(name);
    }
    command
}

/// Runs a command with this input to its end.
pub(crate) fn output(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that does not read its input has its reasons.
    let _closed = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// What a command printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A service that is ended with the test.
pub(crate) struct Service {
    child: Child,
    lines: Receiver<String>,
}

impl Service {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)).map_while(Result::ok) {
                let _test_is_over = tell.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line with this text and returns what follows it.
    pub(crate) fn wait_for(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {what:?}"));
            if let Some((_, rest)) = line.split_once(what) {
                return rest.to_owned();
            }
        }
    }

    /// Tells it to end and waits for that.
    pub(crate) fn end(mut self) -> std::process::ExitStatus {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Waits until a file is there and returns its content.
pub(crate) fn wait_for_file(path: &Path) -> String {
    let begun = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text;
        }
        assert!(begun.elapsed() < DEADLINE, "{} does not come", path.display());
        std::thread::yield_now();
    }
}
