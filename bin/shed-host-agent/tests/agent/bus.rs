//! A server that has nothing but a plugin bus: it speaks just as much HTTP as the agent needs, and does what a test says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// Longest wait for anything the agent should do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// What the one who listens has to do.
enum Say {
    Bytes(String),
    HangUp,
}

type Listener = Option<mpsc::UnboundedSender<Say>>;

/// The server.
pub(crate) struct Bus {
    port: u16,
    listener: Arc<watch::Sender<Listener>>,
    /// Whether a listener gets 409; counts how many did.
    held: Arc<watch::Sender<(bool, usize)>>,
    answers: mpsc::UnboundedReceiver<Value>,
    /// Answers that came before they were asked for.
    early: HashMap<String, Value>,
    sent: usize,
    _task: AbortOnDropHandle<()>,
}

impl Bus {
    pub(crate) async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let listener = Arc::new(watch::Sender::new(None));
        let held = Arc::new(watch::Sender::new((false, 0)));
        let (answered, answers) = mpsc::unbounded_channel();
        let shared = (listener.clone(), held.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let ((listener, held), answered) = (shared.clone(), answered.clone());
                drop(tokio::spawn(async move { serve(stream, &listener, &held, &answered).await }));
            }
        });
        Self {
            port,
            listener,
            held,
            answers,
            early: HashMap::new(),
            sent: 0,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until the agent listens.
    pub(crate) async fn listened(&self) {
        let mut listener = self.listener.subscribe();
        let waiting = listener.wait_for(|listener| listener.as_ref().is_some_and(|to| !to.is_closed()));
        timeout(PATIENCE, waiting).await.expect("the agent does not listen").unwrap();
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn left(&self) {
        let listener = self.listener.borrow().clone().unwrap();
        timeout(PATIENCE, listener.closed()).await.expect("the agent still listens");
    }

    /// Writes to whoever listens.
    pub(crate) fn write(&self, text: &str) {
        self.listener.borrow().as_ref().unwrap().send(Say::Bytes(text.to_owned())).ok().unwrap();
    }

    /// Ends the stream of whoever listens.
    pub(crate) fn hang_up(&self) {
        if let Some(listener) = self.listener.send_replace(None) {
            let _gone = listener.send(Say::HangUp);
        }
    }

    /// Says to who comes from now on that somebody else listens, or not any more.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_modify(|state| state.0 = held);
    }

    /// Waits until so many were told that somebody else listens.
    pub(crate) async fn refused(&self, times: usize) {
        let mut held = self.held.subscribe();
        timeout(PATIENCE, held.wait_for(|state| state.1 >= times)).await.expect("nobody came").unwrap();
    }

    /// Sends a request of a shed and returns its id.
    pub(crate) fn send(&mut self, shed: &str, payload: &Value) -> String {
        self.sent += 1;
        let id = format!("id-{}", self.sent);
        let message = json!({
            "id": id, "namespace": "ssh-agent", "type": "request", "timestamp": "2026-01-20T10:30:00Z",
            "payload": payload, "shed": {"name": shed, "backend": "qemu", "server": "test"},
        });
        self.write(&format!("event: message\ndata: {message}\n\n"));
        id
    }

    /// Waits for the answer to a request.
    pub(crate) async fn answer(&mut self, id: &str) -> Value {
        loop {
            if let Some(answer) = self.early.remove(id) {
                return answer;
            }
            let answer = timeout(PATIENCE, self.answers.recv()).await.expect("no answer").unwrap();
            assert_eq!(answer.get("final"), None, "{answer}");
            let id = answer["in_reply_to"].as_str().unwrap().to_owned();
            assert!(answer["shed"]["name"].is_string(), "{answer}");
            assert!(self.early.insert(id, answer["payload"].clone()).is_none(), "two answers: {answer}");
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(&mut self, shed: &str, payload: &Value) -> Value {
        let id = self.send(shed, payload);
        self.answer(&id).await
    }
}

async fn serve(
    stream: TcpStream,
    listener: &watch::Sender<Listener>,
    held: &watch::Sender<(bool, usize)>,
    answered: &mpsc::UnboundedSender<Value>,
) {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if first.is_empty() {
            first = line;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    if first.starts_with("post /api/plugins/listeners/ssh-agent/respond ") {
        let _gone = answered.send(serde_json::from_slice(&body).unwrap());
        stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
        return;
    }
    assert!(first.starts_with("get /api/plugins/listeners/ssh-agent/messages "), "{first}");
    let (said, mut says) = mpsc::unbounded_channel();
    if held.borrow().0 {
        let body = r#"{"error":{"code":"PLUGIN_LISTENER_EXISTS","message":"another listener"}}"#;
        let head = "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\nconnection: close";
        stream
            .write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
            .await
            .unwrap();
        held.send_modify(|state| state.1 += 1);
        return;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hello\n\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    listener.send_replace(Some(said));
    loop {
        let mut nothing = [0];
        tokio::select! {
            say = says.recv() => match say {
                Some(Say::Bytes(text)) if stream.write_all(text.as_bytes()).await.is_ok() => {}
                Some(Say::Bytes(_) | Say::HangUp) | None => return,
            },
            _gone = stream.read(&mut nothing) => return,
        }
    }
}
