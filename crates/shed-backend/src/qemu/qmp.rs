//! A client of QEMU's monitor protocol: JSON lines on a Unix socket (QEMU, docs/interop/qmp-spec).
//!
//! The [monitor](super::monitor) keeps one connection a machine with it. It bounds what it reads and how long it
//! waits, ignores events it does not know, and never reconnects.

use std::{collections::HashMap, io, time::Duration};

use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

/// Longest line in bytes. The longest answers that are asked for have a few hundred.
const LINE_MAX: usize = 1 << 20;

/// Longest wait for the greeting. A monitor that another client holds does not greet.
const GREETING: Duration = Duration::from_secs(10);

/// Commands that wait for the connection to take them.
const COMMANDS_WAITING: usize = 16;

/// Events that wait to be handled; a peer that is further ahead is not QEMU.
const EVENTS_WAITING: usize = 1024;

/// Says why the monitor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("the monitor did not greet as QEMU does")]
    Greeting(#[source] io::Error),
    #[error("the connection to the monitor is gone")]
    Closed,
    #[error("the monitor did not answer `{command}` within {waited:?}")]
    Timeout { command: String, waited: Duration },
    #[error("the monitor refused `{command}`: {class}: {text}")]
    Refused { command: String, class: String, text: String },
}

impl From<QmpError> for io::Error {
    fn from(error: QmpError) -> Self {
        let kind = match &error {
            QmpError::Timeout { .. } => io::ErrorKind::TimedOut,
            QmpError::Closed => io::ErrorKind::BrokenPipe,
            QmpError::Greeting(source) => source.kind(),
            QmpError::Refused { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// An event that Shed knows (QEMU, qapi/run-state.json and qapi/char.json).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The guest has reset itself: `reboot`, or a panic with `panic=` on its command line.
    GuestReset,
    /// The guest's CPUs stand still.
    Stopped,
    /// They run again.
    Resumed,
    /// The guest's driver has opened or closed a virtio-serial port.
    Port { device: String, open: bool },
    /// A disk of the machine gave an error; why, in QEMU's words.
    BlockError { reason: String },
}

/// A connection to a monitor. It ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct QmpClient {
    commands: mpsc::Sender<Command>,
}

/// What the monitor tells without being asked. Ends when the connection does.
pub(super) type Events = mpsc::Receiver<Event>;

type Answer = Result<Value, Refusal>;

struct Command {
    name: String,
    arguments: Value,
    answer: oneshot::Sender<Answer>,
}

/// What is on a line from the monitor.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

type Lines = Framed<UnixStream, LinesCodec>;

impl QmpClient {
    /// Greets the monitor and gets ready for commands.
    ///
    /// # Errors
    /// When the other end is no monitor, or does not greet.
    pub(super) async fn handshake(stream: UnixStream) -> Result<(Self, Events), QmpError> {
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(LINE_MAX));
        let early = timeout(GREETING, greet(&mut lines))
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no greeting in {GREETING:?}")))
            })
            .map_err(QmpError::Greeting)?;
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING);
        let (events, event_receiver) = mpsc::channel(EVENTS_WAITING);
        for event in early {
            if events.try_send(event).is_err() {
                return Err(QmpError::Greeting(invalid("too many events before the greeting was answered")));
            }
        }
        let connection =
            Connection { lines, commands: receiver, events, waiting: HashMap::new(), next_id: 1 };
        tokio::spawn(connection.run());
        Ok((Self { commands }, event_receiver))
    }

    /// Has the monitor run a command, and returns its answer.
    ///
    /// # Errors
    /// When the monitor refuses, does not answer within `patience`, or is gone.
    pub(super) async fn execute(
        &self,
        name: &str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let (answer, receiver) = oneshot::channel();
        let command = Command { name: name.to_owned(), arguments, answer };
        let reply = timeout(patience, async {
            self.commands.send(command).await.map_err(|_| QmpError::Closed)?;
            receiver.await.map_err(|_| QmpError::Closed)
        });
        match reply.await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(Refusal { class, desc }))) => {
                Err(QmpError::Refused { command: name.to_owned(), class, text: desc })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(QmpError::Timeout { command: name.to_owned(), waited: patience }),
        }
    }

    /// Resolves when the connection has ended.
    #[cfg(test)]
    async fn closed(&self) {
        self.commands.closed().await;
    }
}

/// Waits for the greeting and leaves negotiation mode. Returns events that came in between.
async fn greet(lines: &mut Lines) -> io::Result<Vec<Event>> {
    if next_line(lines).await?.greeting.is_none() {
        return Err(invalid("its first line is no greeting"));
    }
    let hello = json!({ "execute": "qmp_capabilities", "id": 0 });
    lines.send(hello.to_string()).await.map_err(to_io)?;
    let mut early = Vec::new();
    loop {
        let line = next_line(lines).await?;
        match line {
            Line { answer: Some(_), id: Some(0), .. } => return Ok(early),
            Line { error: Some(Refusal { class, desc }), .. } => {
                return Err(invalid(&format!("{class}: {desc}")));
            }
            Line { event: Some(name), data, .. } if early.len() < EVENTS_WAITING => {
                early.extend(parse_event(&name, &data));
            }
            Line { .. } => return Err(invalid("its answer to the greeting is none")),
        }
    }
}

async fn next_line(lines: &mut Lines) -> io::Result<Line> {
    match lines.next().await {
        Some(line) => Ok(serde_json::from_str(&line.map_err(to_io)?)?),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn parse_event(name: &str, data: &Value) -> Option<Event> {
    let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
    match name {
        // `guest` tells a reset from inside from one by the monitor.
        "RESET" if data.get("guest").and_then(Value::as_bool) == Some(true) => Some(Event::GuestReset),
        "STOP" => Some(Event::Stopped),
        "RESUME" => Some(Event::Resumed),
        "VSERPORT_CHANGE" => {
            Some(Event::Port { device: text("id")?, open: data.get("open").and_then(Value::as_bool)? })
        }
        "BLOCK_IO_ERROR" => {
            Some(Event::BlockError { reason: text("reason").unwrap_or_else(|| "unknown reason".to_owned()) })
        }
        _ => None,
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

fn to_io(error: LinesCodecError) -> io::Error {
    match error {
        LinesCodecError::Io(error) => error,
        LinesCodecError::MaxLineLengthExceeded => invalid("a line is too long"),
    }
}

/// Owns the socket.
struct Connection {
    lines: Lines,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    next_id: u64,
}

impl Connection {
    async fn run(mut self) {
        let reason = loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => if let Err(error) = self.send(command).await {
                        break error;
                    },
                    // Nobody uses the monitor any more.
                    None => return,
                },
                line = next_line(&mut self.lines) => match line {
                    Ok(line) => if let Err(error) = self.take(line) {
                        break error;
                    },
                    Err(error) => break error,
                },
            }
        };
        tracing::debug!(error = %reason, "a monitor connection has ended");
    }

    async fn send(&mut self, command: Command) -> io::Result<()> {
        // Those whose callers have given up; so the map stays as small as the number of callers.
        self.waiting.retain(|_, answer| !answer.is_closed());
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "execute": command.name, "id": id });
        if !command.arguments.is_null() {
            line["arguments"] = command.arguments;
        }
        self.waiting.insert(id, command.answer);
        self.lines.send(line.to_string()).await.map_err(to_io)
    }

    fn take(&mut self, line: Line) -> io::Result<()> {
        if let Some(name) = line.event {
            if let Some(event) = parse_event(&name, &line.data) {
                match self.events.try_send(event) {
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        return Err(invalid("events come faster than allowed"));
                    }
                }
            }
            return Ok(());
        }
        let answer = match (line.answer, line.error) {
            (Some(value), None) => Ok(value),
            (None, Some(refusal)) => Err(refusal),
            (Some(_), Some(_)) | (None, None) => return Err(invalid("a line is neither answer nor event")),
        };
        if let Some(waiting) = line.id.and_then(|id| self.waiting.remove(&id)) {
            // The caller may have given up at this very moment.
            let _given_up = waiting.send(answer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    const GREETING_LINE: &str =
        r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10}},"capabilities":[]}}"#;
    const SOON: Duration = Duration::from_secs(10);

    /// The monitor's end of a socket.
    struct Peer(BufReader<UnixStream>);

    impl Peer {
        async fn say(&mut self, line: &str) {
            self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        }

        async fn hear(&mut self) -> Value {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            serde_json::from_str(&line).unwrap()
        }

        async fn greet(&mut self) {
            self.say(GREETING_LINE).await;
            assert_eq!(self.hear().await, json!({"execute": "qmp_capabilities", "id": 0}));
            self.say(r#"{"return": {}, "id": 0}"#).await;
        }
    }

    fn pair() -> (UnixStream, Peer) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Peer(BufReader::new(theirs)))
    }

    async fn connected() -> (QmpClient, Events, Peer) {
        let (stream, mut peer) = pair();
        let (client, ()) = tokio::join!(QmpClient::handshake(stream), peer.greet());
        let (client, events) = client.unwrap();
        (client, events, peer)
    }

    #[tokio::test]
    async fn answers_find_their_commands_even_out_of_order() {
        let (client, _events, mut peer) = connected().await;
        let one = client.execute("query-status", Value::Null, SOON);
        let other = client.execute("human-monitor-command", json!({"command-line": "info"}), SOON);
        let script = async {
            let first = peer.hear().await;
            let second = peer.hear().await;
            assert_eq!(first.get("arguments"), None);
            assert_eq!(second["arguments"]["command-line"], "info");
            peer.say(&json!({"return": "for the second", "id": second["id"]}).to_string()).await;
            peer.say(&json!({"return": {"status": "running"}, "id": first["id"]}).to_string()).await;
        };
        let (one, other, ()) = tokio::join!(one, other, script);
        assert_eq!(one.unwrap()["status"], "running");
        assert_eq!(other.unwrap(), "for the second");
    }

    #[tokio::test]
    async fn a_refusal_carries_class_and_text() {
        let (client, _events, mut peer) = connected().await;
        let script = async {
            let id = peer.hear().await["id"].clone();
            let error = json!({"class": "CommandNotFound", "desc": "no such thing"});
            peer.say(&json!({"error": error, "id": id}).to_string()).await;
        };
        let (result, ()) = tokio::join!(client.execute("nonsense", Value::Null, SOON), script);
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "the monitor refused `nonsense`: CommandNotFound: no such thing");
    }

    #[tokio::test]
    async fn known_events_come_through_and_unknown_ones_are_ignored() {
        let (client, mut events, mut peer) = connected().await;
        let stamp = json!({"seconds": 1, "microseconds": 2});
        let port = |open: bool| json!({"id": "agent0", "open": open});
        for (name, data) in [
            ("SOMETHING_NEW", json!({"a": [1, 2]})),
            ("RESET", json!({"guest": false, "reason": "host-qmp-system-reset"})),
            ("RESET", json!({"guest": true, "reason": "guest-reset"})),
            ("VSERPORT_CHANGE", port(true)),
            ("VSERPORT_CHANGE", json!({"open": "odd"})),
            ("STOP", Value::Null),
            ("BLOCK_IO_ERROR", json!({"reason": "No space left on device", "nospace": true})),
            ("RESUME", Value::Null),
            ("VSERPORT_CHANGE", port(false)),
        ] {
            peer.say(&json!({"event": name, "data": data, "timestamp": stamp}).to_string()).await;
        }
        let device = "agent0".to_owned();
        for expected in [
            Event::GuestReset,
            Event::Port { device: device.clone(), open: true },
            Event::Stopped,
            Event::BlockError { reason: "No space left on device".into() },
            Event::Resumed,
            Event::Port { device, open: false },
        ] {
            assert_eq!(timeout(SOON, events.recv()).await.unwrap(), Some(expected));
        }
        drop(client);
        assert_eq!(timeout(SOON, events.recv()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_event_before_the_greeting_is_answered_is_not_lost() {
        let (stream, mut peer) = pair();
        let script = async {
            peer.say(GREETING_LINE).await;
            peer.hear().await;
            peer.say(r#"{"event": "STOP", "timestamp": {}}"#).await;
            peer.say(r#"{"return": {}, "id": 0}"#).await;
        };
        let (client, ()) = tokio::join!(QmpClient::handshake(stream), script);
        let (_client, mut events) = client.unwrap();
        assert_eq!(events.recv().await, Some(Event::Stopped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_monitor_is_given_up() {
        let (stream, _peer) = pair();
        let error = QmpClient::handshake(stream).await.unwrap_err();
        assert!(matches!(error, QmpError::Greeting(_)), "{error}");
    }

    #[tokio::test]
    async fn a_command_without_an_answer_times_out_and_the_next_one_works() {
        let (client, _events, mut peer) = connected().await;
        let error = client.execute("slow", Value::Null, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
        let script = async {
            let slow = peer.hear().await["id"].clone();
            let quick = peer.hear().await["id"].clone();
            peer.say(&json!({"return": "late", "id": slow}).to_string()).await;
            peer.say(&json!({"return": "in time", "id": quick}).to_string()).await;
        };
        let (answer, ()) = tokio::join!(client.execute("quick", Value::Null, SOON), script);
        assert_eq!(answer.unwrap(), "in time");
    }

    #[tokio::test]
    async fn a_broken_connection_fails_commands_at_once() {
        let (client, mut events, peer) = connected().await;
        drop(peer);
        timeout(SOON, client.closed()).await.unwrap();
        let error = client.execute("quit", Value::Null, SOON).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed), "{error}");
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_connection() {
        let (client, _events, mut peer) = connected().await;
        let flood = async {
            let chunk = vec![b'x'; 64 * 1024];
            // Ends with an error when the client has hung up.
            while peer.0.get_mut().write_all(&chunk).await.is_ok() {}
        };
        let ((), ()) = timeout(SOON, async { tokio::join!(client.closed(), flood) }).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_json_ends_the_connection() {
        for line in ["hello", "[]", "{}", r#"{"return": 1, "error": {"class": "a", "desc": "b"}}"#] {
            let (client, _events, mut peer) = connected().await;
            peer.say(line).await;
            timeout(SOON, client.closed()).await.unwrap_or_else(|_| panic!("{line} was taken"));
        }
    }
}
