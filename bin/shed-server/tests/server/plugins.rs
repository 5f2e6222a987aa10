//! The plugin bus: what sheds say reaches the one who listens, and only what was asked for comes back.

use serde_json::{Value, json};
use shed_protocol::{Envelope, EnvelopeKind};
use shed_testkit::wait_for;
use shed_types::ShedName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    api::Api,
    common::{PATIENCE, connect},
};

/// One who listens, byte by byte.
struct Listener {
    stream: TcpStream,
    read: String,
}

impl Listener {
    async fn new(api: &Api, namespace: &str) -> Self {
        let mut stream = connect(api.port).await;
        let request = format!("GET /api/plugins/listeners/{namespace}/messages HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut listener = Self { stream, read: String::new() };
        let head = listener.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        listener
    }

    async fn until(&mut self, end: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = self.read.find(end) {
                    let rest = self.read.split_off(at + end.len());
                    return std::mem::replace(&mut self.read, rest);
                }
                let mut bytes = [0; 4096];
                let length = self.stream.read(&mut bytes).await.expect("the stream goes on");
                assert!(length > 0, "the stream ended after {:?}", self.read);
                self.read.push_str(std::str::from_utf8(&bytes[..length]).expect("ASCII in these tests"));
            }
        };
        timeout(PATIENCE, read).await.expect("a message in time")
    }

    /// Returns the next message.
    async fn next(&mut self) -> Value {
        loop {
            let text = self.until("data: ").await;
            let data = self.until("\n").await;
            if text.contains("event: message") {
                return serde_json::from_str(data.trim()).expect("JSON on one line");
            }
        }
    }
}

fn request(namespace: &str, payload: &Value) -> Envelope {
    Envelope::request(namespace, payload)
}

async fn respond(api: &Api, namespace: &str, body: &Value) -> (u16, String) {
    let path = format!("/api/plugins/listeners/{namespace}/respond");
    let reply = api.send("POST", &path, body.to_string()).await;
    if reply.status == 204 { (204, String::new()) } else { reply.error() }
}

fn answer(shed: &ShedName, to: &Value, payload: &Value) -> Value {
    json!({ "shed": { "name": shed.as_str() }, "in_reply_to": to, "payload": payload })
}

async fn answered(api: &Api, shed: &ShedName, count: usize) -> Vec<Envelope> {
    wait_for("responses", PATIENCE, || std::future::ready(api.world.responses(shed).len() >= count))
        .await
        .unwrap_or_else(|error| panic!("{error}: {:?}", api.world.responses(shed)));
    api.world.responses(shed)
}

#[tokio::test]
async fn a_request_of_a_shed_is_answered_by_who_listens() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let mut listener = Listener::new(&api, "ssh-agent").await;
    let list = api.send("GET", "/api/plugins/listeners", "").await.json();
    assert_eq!(list["listeners"][0]["namespace"], "ssh-agent");
    let sheds = api.send("GET", "/api/plugins/sheds", "").await.json();
    assert_eq!(sheds, json!({"sheds": [{"name": "api", "backend": "qemu", "server": "test"}]}));

    let mut asked = request("ssh-agent", &json!({"operation": "list"}));
    // What a guest says of itself is not believed.
    asked.shed =
        Some(shed_protocol::Origin { name: "other".into(), backend: "vz".into(), server: "x".into() });
    api.world.say(&shed, asked.clone());
    let message = listener.next().await;
    assert_eq!(message["shed"]["name"], "api", "{message}");
    assert_eq!(message["payload"], json!({"operation": "list"}));
    assert_eq!(message["type"], "request");

    let said = respond(&api, "ssh-agent", &answer(&shed, &message["id"], &json!({"keys": []}))).await;
    assert_eq!(said, (204, String::new()));
    let responses = answered(&api, &shed, 1).await;
    assert_eq!((responses[0].in_reply_to, responses[0].kind), (Some(asked.id), EnvelopeKind::Response));
    assert_eq!(responses[0].payload, json!({"keys": []}));

    let event = Envelope::event("ssh-agent", &json!("told"));
    api.world.say(&shed, event);
    assert_eq!(listener.next().await["type"], "event");
}

#[tokio::test]
async fn only_what_was_asked_for_comes_back_and_once() {
    let api = Api::new().await;
    let (shed, other) = (api.create("api").await, api.create("other").await);
    let mut listener = Listener::new(&api, "ssh-agent").await;
    let _another = Listener::new(&api, "aws-credentials").await;
    api.world.say(&shed, request("ssh-agent", &json!(1)));
    let id = listener.next().await["id"].clone();
    let not_pending = (404, "REQUEST_NOT_PENDING".to_owned());
    let nothing = json!({});
    let made_up = json!("0192f3c4-5a6b-7c8d-9e0f-a1b2c3d4e5f6");
    assert_eq!(respond(&api, "ssh-agent", &answer(&other, &id, &nothing)).await, not_pending);
    assert_eq!(respond(&api, "aws-credentials", &answer(&shed, &id, &nothing)).await, not_pending);
    assert_eq!(respond(&api, "ssh-agent", &answer(&shed, &made_up, &nothing)).await, not_pending);
    assert_eq!(respond(&api, "ssh-agent", &answer(&shed, &json!("no id"), &nothing)).await, not_pending);
    assert_eq!(respond(&api, "ssh-agent", &answer(&shed, &id, &json!("right"))).await.0, 204);
    assert_eq!(respond(&api, "ssh-agent", &answer(&shed, &id, &json!("again"))).await, not_pending);
    let gone: ShedName = "nobody".parse().unwrap();
    let not_connected = (404, "SHED_NOT_CONNECTED".to_owned());
    assert_eq!(respond(&api, "ssh-agent", &answer(&gone, &id, &nothing)).await, not_connected);
    let responses = answered(&api, &shed, 1).await;
    assert_eq!(responses.len(), 1, "{responses:?}");
    assert_eq!(responses[0].payload, json!("right"));
    assert!(api.world.responses(&other).is_empty());
    let metrics = api.send("GET", "/metrics", "").await.body;
    assert!(metrics.contains("shed_plugin_messages_total{outcome=\"not_pending\"} 5"), "{metrics}");
}

#[tokio::test]
async fn what_is_no_response_is_refused_by_name() {
    let api = Api::new().await;
    let secret = "hunter2";
    for (body, code) in [
        (json!([]), "INVALID_BODY"),
        (json!({"shed": secret}), "INVALID_BODY"),
        (json!({"namespace": "other", "shed": {"name": "a"}}), "INVALID_BODY"),
        (json!({}), "MISSING_SHED"),
        (json!({"shed": {"name": ""}}), "MISSING_SHED"),
        (json!({"shed": {"name": "../../x"}}), "SHED_NOT_CONNECTED"),
    ] {
        let reply = api.send("POST", "/api/plugins/listeners/a/respond", body.to_string()).await;
        assert_eq!(reply.error().1, code, "{body}");
        assert!(!reply.body.contains(secret), "{reply:?}");
    }
    for (namespace, status, code) in [
        ("system:health", 403, "NAMESPACE_RESERVED"),
        ("a%20b", 400, "INVALID_NAMESPACE"),
        ("a%00", 400, "INVALID_NAMESPACE"),
        (&"x".repeat(129), 400, "INVALID_NAMESPACE"),
    ] {
        for (method, end) in [("GET", "messages"), ("POST", "respond")] {
            let path = format!("/api/plugins/listeners/{namespace}/{end}");
            assert_eq!(api.send(method, &path, "{}").await.error(), (status, code.to_owned()), "{path}");
        }
    }
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(2 << 20));
    let reply = api.send("POST", "/api/plugins/listeners/a/respond", long).await;
    assert_eq!(reply.error(), (413, "BODY_TOO_LARGE".to_owned()));
}

#[tokio::test]
async fn a_namespace_has_one_listener_and_is_free_when_that_has_gone() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let first = Listener::new(&api, "acme").await;
    let refused = api.send("GET", "/api/plugins/listeners/acme/messages", "").await;
    assert_eq!(refused.error(), (409, "NAMESPACE_ALREADY_REGISTERED".to_owned()));
    drop(first);
    wait_for("the namespace to be free", PATIENCE, || async {
        api.send("GET", "/api/plugins/listeners", "").await.json() == json!({"listeners": []})
    })
    .await
    .unwrap();
    let mut second = Listener::new(&api, "acme").await;
    api.world.say(&shed, request("acme", &json!("hello")));
    assert_eq!(second.next().await["payload"], "hello");
}

#[tokio::test]
async fn a_shed_that_floods_delays_no_other_and_the_listener_reads_when_it_likes() {
    let api = Api::new().await;
    let (flood, quiet) = (api.create("flood").await, api.create("quiet").await);
    let mut listener = Listener::new(&api, "acme").await;
    for number in 0..2000 {
        api.world.say(&flood, request("acme", &json!(number)));
    }
    api.world.say(&quiet, request("acme", &json!("quiet")));
    // Whatever waits of the flood, the other one's turn comes soon.
    let mut before = 0;
    while listener.next().await["shed"]["name"] != "quiet" {
        before += 1;
        assert!(before <= 100, "the quiet one waits behind {before}");
    }
    let metrics = api.send("GET", "/metrics", "").await.body;
    let dropped = metrics.lines().any(|line| {
        (line.starts_with("shed_plugin_messages_total{outcome=\"too_many\"}")
            || line.starts_with("shed_plugin_messages_total{outcome=\"queue_full\"}"))
            && !line.ends_with(" 0")
    });
    assert!(dropped, "{metrics}");
}

#[tokio::test]
async fn a_bus_that_is_off_says_so() {
    let api = Api::with(|settings| settings.bus.on = false).await;
    let shed = api.create("api").await;
    api.world.say(&shed, request("acme", &json!(1)));
    let off = (503, "PLUGINS_DISABLED".to_owned());
    for (method, path) in [
        ("GET", "/api/plugins/listeners"),
        ("GET", "/api/plugins/sheds"),
        ("GET", "/api/plugins/listeners/acme/messages"),
    ] {
        assert_eq!(api.send(method, path, "").await.error(), off, "{path}");
    }
    assert_eq!(respond(&api, "acme", &answer(&shed, &json!("x"), &json!(1))).await, off);
}

#[tokio::test]
async fn a_shed_shows_the_extensions_that_the_server_enables_and_no_others() {
    let api = Api::with(|settings| settings.bus.enabled = ["ssh-agent".parse().unwrap()].into()).await;
    let name: ShedName = "api".parse().unwrap();
    let state = json!({"guest": "running", "host": "connected"});
    let health = json!({
        "status": "ok", "started_at": "2026-01-20T10:30:00Z", "extensions": {"ssh-agent": state, "made-up": state}
    });
    api.world.set_health(&name, health);
    api.create("api").await;
    wait_for("its extensions", PATIENCE, || async {
        api.send("GET", "/api/sheds/api", "").await.json()["extensions"] == json!({"ssh-agent": state})
    })
    .await
    .unwrap();
    api.send("POST", "/api/sheds/api/stop", "").await;
    assert!(api.send("GET", "/api/sheds/api", "").await.json().get("extensions").is_none());
}
