//! A server that answers as the test says, request after request, and remembers what it was asked.
//!
//! For endpoints whose replies a real server only gives when it has machines, images and leftovers, and for replies that
//! no real server gives.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::peer::read_head;

/// Status line and body of a reply.
pub(crate) type Answer = (&'static str, String);

pub(crate) struct Stub {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A reply with this body.
pub(crate) fn ok(body: impl Into<String>) -> Answer {
    ("200 OK", body.into())
}

/// The reply of a server that has done what was asked and has nothing to say.
pub(crate) fn done() -> Answer {
    ("204 No Content", String::new())
}

/// A refusal.
pub(crate) fn refused(status: &'static str, code: &str, message: &str) -> Answer {
    (status, serde_json::json!({"error": {"code": code, "message": message}}).to_string())
}

/// What a server says that does not know the path: one of an older version.
pub(crate) fn unknown_path() -> Answer {
    refused("404 Not Found", "NOT_FOUND", "there is nothing at /api/x")
}

impl Stub {
    /// Answers each request, given as `GET /api/info`, with what `answer` returns for it.
    pub(crate) fn serve(answer: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, end) = (Arc::clone(&asked), Arc::clone(&over));
        let thread = thread::spawn(move || {
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let head = read_head(&mut stream);
                let line = head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap().to_owned();
                let (status, body) = answer(&line);
                log.lock().unwrap().push(line);
                // Clients ask no type of anything else.
                let kind =
                    if body.starts_with("event:") { "Content-Type: text/event-stream\r\n" } else { "" };
                let head = format!("HTTP/1.1 {status}\r\n{kind}Content-Length: {}\r\n\r\n", body.len());
                // A client that has gone, or waits for no body after a 204, is no failure of the stub.
                let _gone =
                    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            }
        });
        Self { port, asked, over, thread: Some(thread) }
    }

    /// Returns the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread, if it has not failed already.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the stub server failed");
    }
}
