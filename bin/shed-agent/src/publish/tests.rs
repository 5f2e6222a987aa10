//! The publish API over real sockets, with the message channel's real ends behind it.

use std::{collections::BTreeMap, sync::Arc};

use futures::{SinkExt, StreamExt, future::join_all};
use serde_json::Value;
use shed_protocol::{
    Frame, FrameCodec, FrameKind, GENERATION, HelloRequest, MAX_PAYLOAD, SYSTEM_HEALTH, SYSTEM_HELLO,
    publish::{MAX_BODY, MAX_IN_FLIGHT},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::codec::Framed;

use super::*;
use crate::{messages, state::State};

const DEADLINE: Duration = Duration::from_secs(60);

/// An agent with the API on a port of the system's choice.
struct Agent {
    state: Arc<State>,
    port: u16,
    publishing: Publishing,
}

impl Agent {
    async fn new(limits: Limits) -> Self {
        let state = Arc::new(State::new());
        let listener = bind("127.0.0.1:0".parse().unwrap()).await;
        let port = listener.local_addr().unwrap().port();
        let publishing = Publishing {
            desk: Arc::clone(&state.desk),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (desk, tasks) = (Arc::clone(&state.desk), publishing.tasks.clone());
        drop(tokio::spawn(async move { match accept(&listener, &desk, &tasks, limits).await {} }));
        Self { state, port, publishing }
    }

    /// Opens the message channel and says hello.
    async fn host(&self) -> Host {
        let (ours, theirs) = duplex(1 << 16);
        let state = Arc::clone(&self.state);
        drop(tokio::spawn(async move { messages::serve(theirs, &state).await }));
        let mut host = Host(Framed::new(ours, FrameCodec));
        let hello =
            HelloRequest { generation: GENERATION, version: "test".into(), features: Default::default() };
        let hello = Envelope::request(SYSTEM_HELLO, &hello);
        host.send(&hello).await;
        assert_eq!(host.receive().await.in_reply_to, Some(hello.id));
        host
    }

    async fn publish(&self, body: impl AsRef<[u8]>) -> Reply {
        exchange(self.port, &post(body)).await
    }

    fn publish_soon(&self, body: &str) -> tokio::task::JoinHandle<Reply> {
        let (port, request) = (self.port, post(body));
        tokio::spawn(async move { exchange(port, &request).await })
    }

    fn waiting(&self) -> (usize, usize) {
        self.state.desk.waiting()
    }

    async fn wait_for_waiting(&self, count: usize) {
        shed_testkit::wait_for("the desk", DEADLINE, || std::future::ready(self.waiting().0 == count))
            .await
            .unwrap();
    }
}

/// The host's end of the message channel.
struct Host(Framed<DuplexStream, FrameCodec>);

impl Host {
    async fn send(&mut self, envelope: &Envelope) {
        self.0.send(Frame::json(FrameKind::Message, envelope)).await.unwrap();
    }

    async fn receive(&mut self) -> Envelope {
        let frame = timeout(DEADLINE, self.0.next()).await.expect("something comes").unwrap().unwrap();
        frame.parse().unwrap()
    }

    /// Receives what a program has published.
    async fn published(&mut self) -> Envelope {
        loop {
            let envelope = self.receive().await;
            if !envelope.namespace.starts_with("system:") {
                return envelope;
            }
        }
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    fn error(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["error"]["message"].is_string(), "{self:?}");
        (self.status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn post(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST /v1/publish HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn exchange(port: u16, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request).await.unwrap();
    reply_of(&mut stream).await
}

async fn reply_of(stream: &mut TcpStream) -> Reply {
    let mut text = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("the connection ends").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_lowercase(), value.to_owned()))
        .collect();
    Reply { status, headers, body: body.to_owned() }
}

fn failed(code: PublishErrorCode) -> (u16, String) {
    (code.status(), json!(code).as_str().unwrap().to_owned())
}

const ASK: &str = r#"{"namespace":"a","payload":{"operation":"ping"}}"#;
const TELL: &str = r#"{"namespace":"a","type":"event","payload":7}"#;

#[tokio::test]
async fn a_request_gets_the_whole_response_and_an_event_nothing() {
    let agent = Agent::new(Limits::default()).await;
    let mut host = agent.host().await;
    let reply = agent.publish_soon(ASK);
    let asked = host.published().await;
    assert_eq!((asked.namespace.as_str(), asked.kind), ("a", EnvelopeKind::Request));
    assert_eq!((asked.payload["operation"].as_str(), &asked.shed), (Some("ping"), &None));
    // None of these is the answer.
    host.send(&Envelope { is_final: false, ..asked.reply(&1) }).await;
    host.send(&Envelope { in_reply_to: None, ..asked.reply(&2) }).await;
    host.send(&Envelope { namespace: "b".into(), ..asked.reply(&3) }).await;
    host.send(&Envelope { kind: EnvelopeKind::Event, ..asked.reply(&4) }).await;
    host.send(&asked.reply(&5)).await;
    let reply = reply.await.unwrap();
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "application/json"));
    let envelope: Envelope = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((envelope.payload, envelope.in_reply_to), (json!(5), Some(asked.id)));
    let reply = agent.publish(TELL).await;
    assert_eq!((reply.status, reply.body.as_str()), (202, ""));
    let told = host.published().await;
    assert_eq!((told.kind, told.payload), (EnvelopeKind::Event, json!(7)));
    assert_eq!(agent.waiting(), (0, 0));
}

#[tokio::test]
async fn responses_come_in_any_order() {
    let agent = Agent::new(Limits::default()).await;
    let mut host = agent.host().await;
    let bodies = (0..20).map(|number| format!(r#"{{"namespace":"a","payload":{number}}}"#));
    let replies: Vec<_> = bodies.map(|body| agent.publish_soon(&body)).collect();
    let mut asked = Vec::new();
    for _ in 0..replies.len() {
        asked.push(host.published().await);
    }
    for request in asked.iter().rev() {
        host.send(&request.reply(&request.payload)).await;
    }
    for (number, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply.await.unwrap().json()["payload"], json!(number));
    }
}

#[tokio::test]
async fn every_refusal_has_its_code() {
    let agent = Agent::new(Limits { wait: Duration::from_millis(50), ..Limits::default() }).await;
    for body in [ASK, TELL] {
        assert_eq!(agent.publish(body).await.error(), failed(PublishErrorCode::NoConnection));
    }
    let mut host = agent.host().await;
    for (body, code) in [
        ("x", PublishErrorCode::InvalidBody),
        ("{}", PublishErrorCode::MissingNamespace),
        (r#"{"namespace":"system:power-off"}"#, PublishErrorCode::MissingNamespace),
        (r#"{"namespace":"a","type":"response"}"#, PublishErrorCode::InvalidType),
        (ASK, PublishErrorCode::Timeout),
    ] {
        assert_eq!(agent.publish(body).await.error(), failed(code), "{body}");
    }
    // An answer that is late is nobody's.
    let asked = host.published().await;
    host.send(&asked.reply(&1)).await;
    for (request, status, code) in [
        ("GET /v1/publish HTTP/1.1\r\nhost: x\r\n\r\n", 405, "METHOD_NOT_ALLOWED"),
        ("POST /v1/other HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", 404, "NOT_FOUND"),
        (
            "POST /v1/publish HTTP/1.1\r\nhost: x\r\norigin: http://evil\r\ncontent-length: 0\r\n\r\n",
            403,
            "FORBIDDEN",
        ),
    ] {
        let reply = exchange(agent.port, request.as_bytes()).await;
        assert_eq!(reply.error(), (status, code.to_owned()));
        assert_eq!(reply.headers.contains_key("allow"), status == 405);
    }
    assert_eq!(agent.waiting(), (0, 0));
}

#[tokio::test]
async fn bodies_of_a_mebibyte_are_taken_and_longer_ones_refused_with_the_number() {
    let agent = Agent::new(Limits::default()).await;
    let mut host = agent.host().await;
    let frame = r#"{"namespace":"a","payload":""}"#.len();
    let body = |length: usize| format!(r#"{{"namespace":"a","payload":"{}"}}"#, "x".repeat(length - frame));
    // With what goes around it this one is too long for a frame, though not as a body.
    let reply = agent.publish(body(MAX_BODY)).await;
    assert_eq!(reply.error(), failed(PublishErrorCode::InvalidBody));
    assert!(reply.body.contains(&MAX_PAYLOAD.to_string()), "{}", reply.body);
    let reply = agent.publish_soon(&body(MAX_BODY - 1000));
    let asked = host.published().await;
    host.send(&asked.reply(&"y".repeat(MAX_PAYLOAD - 1000))).await;
    assert!(reply.await.unwrap().body.len() > MAX_PAYLOAD - 1000);
    for length in [MAX_BODY + 1, 20 * MAX_BODY] {
        let reply = agent.publish(body(length)).await;
        assert_eq!(reply.error(), failed(PublishErrorCode::InvalidBody));
        assert!(reply.body.contains(&MAX_BODY.to_string()), "{}", reply.body);
    }
    let waits = format!(
        "POST /v1/publish HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        10 * MAX_BODY
    );
    assert_eq!(exchange(agent.port, waits.as_bytes()).await.error(), failed(PublishErrorCode::InvalidBody));
}

#[tokio::test]
async fn when_the_channel_goes_whoever_waits_is_told_and_the_next_channel_serves() {
    let agent = Agent::new(Limits::default()).await;
    let mut host = agent.host().await;
    let first = agent.publish_soon(ASK);
    let _asked = host.published().await;
    // The channel's end, then a newer channel in its place.
    drop(host);
    assert_eq!(first.await.unwrap().error(), failed(PublishErrorCode::ConnectionLost));
    let mut host = agent.host().await;
    let second = agent.publish_soon(ASK);
    let _asked = host.published().await;
    let mut newest = agent.host().await;
    assert_eq!(second.await.unwrap().error(), failed(PublishErrorCode::ConnectionLost));
    let third = agent.publish_soon(ASK);
    let asked = newest.published().await;
    newest.send(&asked.reply(&1)).await;
    assert_eq!(third.await.unwrap().status, 200);
    drop((host, newest));
    shed_testkit::wait_for("the end of the channel", DEADLINE, || async {
        agent.publish(TELL).await.error() == failed(PublishErrorCode::NoConnection)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let agent = Agent::new(Limits::default()).await;
    let _host = agent.host().await;
    let mut clients = Vec::new();
    for _ in 0..MAX_IN_FLIGHT {
        let mut client = TcpStream::connect(("127.0.0.1", agent.port)).await.unwrap();
        client.write_all(&post(ASK)).await.unwrap();
        clients.push(client);
    }
    agent.wait_for_waiting(MAX_IN_FLIGHT).await;
    assert_eq!(agent.publish(ASK).await.error(), failed(PublishErrorCode::TooManyRequests));
    assert_eq!(agent.publish(TELL).await.status, 202, "an event waits for no response");
    drop(clients);
    agent.wait_for_waiting(0).await;
}

#[tokio::test]
async fn ten_thousand_at_once_are_all_answered_and_health_flows() {
    let agent = Agent::new(Limits { wait: Duration::from_millis(300), ..Limits::default() }).await;
    let mut host = agent.host().await;
    let (port, mut told, mut health) = (agent.port, 0_usize, false);
    let client = |_| async move {
        // The system's queue of connections is short; a client tries again.
        loop {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            if stream.write_all(&post(ASK)).await.is_ok() {
                return reply_of(&mut stream).await.error();
            }
        }
    };
    let clients = async {
        let mut outcomes = BTreeMap::new();
        // As many as there are descriptors for, again and again.
        for _ in 0..20 {
            for outcome in join_all((0..500).map(client)).await {
                *outcomes.entry(outcome.1).or_insert(0_usize) += 1;
            }
        }
        outcomes
    };
    let asks_health = Envelope::request(SYSTEM_HEALTH, &json!({}));
    host.send(&asks_health).await;
    let outcomes = tokio::select! {
        outcomes = clients => outcomes,
        () = async {
            loop {
                let envelope = host.receive().await;
                health |= envelope.in_reply_to == Some(asks_health.id);
                told += usize::from(envelope.namespace == "a");
            }
        } => unreachable!("the loop has no end"),
    };
    assert!(health && told >= MAX_IN_FLIGHT, "{told}");
    assert_eq!(outcomes.values().sum::<usize>(), 10_000, "{outcomes:?}");
    assert_eq!(outcomes.keys().map(String::as_str).collect::<Vec<_>>(), ["TIMEOUT", "TOO_MANY_REQUESTS"]);
    assert_eq!(agent.waiting(), (0, 0));
}

#[tokio::test]
async fn clients_that_send_slowly_are_cut_off_and_keep_nobody_out() {
    let soon = Duration::from_millis(300);
    let agent =
        Agent::new(Limits { connections: 8, bodies: 4, head: soon, body: soon, ..Limits::default() }).await;
    let _host = agent.host().await;
    let mut slow = Vec::new();
    for begin in
        ["POST /v1/pub", "POST /v1/publish HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"].repeat(20)
    {
        let mut client = TcpStream::connect(("127.0.0.1", agent.port)).await.unwrap();
        client.write_all(begin.as_bytes()).await.unwrap();
        slow.push(client);
    }
    assert_eq!(agent.publish(TELL).await.status, 202);
    for (number, client) in slow.iter_mut().enumerate() {
        if number % 2 == 0 {
            let mut rest = Vec::new();
            let _reset = timeout(DEADLINE, client.read_to_end(&mut rest)).await.expect("it is cut off");
        } else {
            assert_eq!(reply_of(client).await.error(), failed(PublishErrorCode::InvalidBody));
        }
    }
}

#[tokio::test]
async fn what_a_slow_host_has_not_taken_is_bounded() {
    let agent = Agent::new(Limits { wait: Duration::from_secs(2), ..Limits::default() }).await;
    let _host = agent.host().await;
    let body = format!(r#"{{"namespace":"a","type":"event","payload":"{}"}}"#, "x".repeat(1 << 19));
    let replies: Vec<_> = (0..60).map(|_| agent.publish_soon(&body)).collect();
    let mut codes = BTreeMap::new();
    for reply in replies {
        *codes.entry(reply.await.unwrap().error().1).or_insert(0_usize) += 1;
    }
    assert_eq!(codes.values().sum::<usize>(), 60);
    // The first is being written, and there is room for fifteen more.
    assert!(codes["TOO_MANY_REQUESTS"] >= 40, "{codes:?}");
    assert_eq!(agent.waiting(), (0, 0));
}

#[tokio::test]
async fn at_the_end_everybody_is_told() {
    let agent = Agent::new(Limits::default()).await;
    let mut host = agent.host().await;
    let waiting = agent.publish_soon(ASK);
    let _asked = host.published().await;
    timeout(DEADLINE, agent.publishing.end()).await.expect("whoever waits has read it");
    assert_eq!(waiting.await.unwrap().error(), failed(PublishErrorCode::ShuttingDown));
    assert_eq!(agent.publish(ASK).await.error(), failed(PublishErrorCode::ShuttingDown));
}

#[tokio::test]
async fn a_port_that_is_taken_is_waited_for() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    tokio::time::pause();
    let waiting = tokio::spawn(bind(address));
    tokio::time::sleep(BIND_PAUSE * 3).await;
    assert!(!waiting.is_finished());
    drop(taken);
    tokio::time::sleep(BIND_PAUSE * 2).await;
    assert_eq!(waiting.await.unwrap().local_addr().unwrap(), address);
}
