//! A peer that plays one scene: it takes one request and then does what the test wants.
//!
//! For what a real server and agent never or only by chance do: hang up half-way, refuse to read, send rubbish.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameKind};

pub(crate) struct Peer {
    pub(crate) port: u16,
    thread: JoinHandle<()>,
}

/// The upgraded connection and what was asked for.
pub(crate) struct Stage {
    pub(crate) stream: TcpStream,
    pub(crate) request: ExecRequest,
}

impl Peer {
    /// Takes one connection and plays `scene` on it.
    pub(crate) fn play(scene: impl FnOnce(&mut Stage) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = read_head(&mut stream);
            assert!(head.starts_with("GET /api/sheds/web/exec HTTP/1.1\r\n"), "{head}");
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: shed-exec\r\n\r\n",
                )
                .unwrap();
            let mut stage = Stage { stream, request: ExecRequest::default() };
            let first = stage.next().expect("an exec request comes first");
            assert_eq!(first.kind, FrameKind::ExecRequest);
            stage.request = first.parse().unwrap();
            scene(&mut stage);
            // A close with input unread would be a reset, and the client might lose what came before it (RFC 2525
            // §2.17); so the end is told, and the client hangs up first.
            let _gone = stage.stream.shutdown(Shutdown::Write);
            let _reset = std::io::copy(&mut stage.stream, &mut std::io::sink());
        });
        Self { port, thread }
    }

    /// Answers one request.
    pub(crate) fn answer(status: &str, body: &str) -> Self {
        let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_head(&mut stream);
            stream.write_all(reply.as_bytes()).unwrap();
        });
        Self { port, thread }
    }

    /// Takes one request that is answered with events, and plays `scene` with the request and the connection.
    pub(crate) fn events(scene: impl FnOnce(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = read_head(&mut stream);
            let length = request
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body).unwrap();
            request.push_str(&String::from_utf8(body).unwrap());
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                .unwrap();
            scene(&request, &mut stream);
        });
        Self { port, thread }
    }

    /// Waits for the end of the scene and passes on its failure.
    #[track_caller]
    pub(crate) fn end(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Stage {
    /// Returns the next frame; none at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        let kind = FrameKind::from_byte(header[0]).expect("the client sends known frames");
        Some(Frame::new(kind, payload.into()))
    }

    /// Returns the next frame that is not about stdin.
    pub(crate) fn next_control(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if !matches!(frame.kind, FrameKind::Data | FrameKind::StdinEof) {
                return Some(frame);
            }
        }
    }

    pub(crate) fn send(&mut self, kind: FrameKind, payload: &[u8]) {
        let mut bytes = vec![kind.byte()];
        bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn exit(&mut self, status: &ExitStatus) {
        self.send(FrameKind::ExitStatus, &serde_json::to_vec(status).unwrap());
    }
}

pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
