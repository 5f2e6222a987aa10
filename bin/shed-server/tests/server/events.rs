//! Creates and starts as server-sent events.

use std::time::Duration;

use serde_json::json;
use shed_api::{CreateEvent, CreateShedRequest};
use shed_backend::fake::{BootFault, FakeStep, Faults, StartFault};
use shed_protocol::{Failure, Occasion, Step, StepEnd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, redact},
    common::{PATIENCE, parse, send_with},
};

const EVENTS: &str = "accept: application/json, Text/Event-Stream;q=0.9\r\n";

/// Creates and returns the events as name and data.
async fn create(api: &Api, body: serde_json::Value) -> Vec<(String, serde_json::Value)> {
    let reply = send_with(api.port, "POST", "/api/sheds", EVENTS, body.to_string()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert_eq!(reply.headers["cache-control"], "no-cache");
    assert_eq!(reply.headers["x-accel-buffering"], "no");
    events(&reply.body)
}

fn events(text: &str) -> Vec<(String, serde_json::Value)> {
    let blocks = text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    blocks
        .map(|block| {
            let (name, data) = block.split_once('\n').unwrap();
            let data = data.strip_prefix("data: ").unwrap();
            (name.strip_prefix("event: ").unwrap().to_owned(), serde_json::from_str(data).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_create_tells_its_phases_in_order_and_ends_with_the_shed() {
    let api = Api::new().await;
    let events = create(&api, json!({"name": "api", "repo": "a/b"})).await;
    let value = json!(
        events.into_iter().map(|(name, data)| json!({"event": name, "data": data})).collect::<Vec<_>>()
    );
    insta::assert_json_snapshot!(redact(value));
    api.client.delete(&"api".parse().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_start_tells_its_phases_too() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    let mut stream = api.client.start_streaming(&name).await.unwrap();
    let mut phases = Vec::new();
    let shed = loop {
        match stream.next().await.unwrap().unwrap() {
            CreateEvent::Progress(progress) => phases.push(progress.phase.unwrap()),
            CreateEvent::Complete(shed) => break shed,
            CreateEvent::Error(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(phases, ["record", "vm", "boot", "identify", "commit", "provision"]);
    assert_eq!(phases, shed.timeline.iter().map(|time| time.phase.clone()).collect::<Vec<_>>());

    let error = api.client.start_streaming(&name).await.unwrap().next().await.unwrap().unwrap();
    assert!(matches!(error, CreateEvent::Error(error) if error.code == "SHED_ALREADY_RUNNING"));
}

#[tokio::test]
async fn what_a_clone_and_hooks_write_is_told_as_it_comes_and_what_fails_twice() {
    let api = Api::new().await;
    let name = "api".parse().unwrap();
    let go_on = CancellationToken::new();
    let failure = Failure {
        message: "the install hook took longer than 1s".into(),
        code: None,
        timed_out: true,
        last_lines: Vec::new(),
        log: Some("/var/log/shed/install.log".into()),
    };
    let steps = vec![
        FakeStep::began(Step::Clone),
        FakeStep::Writes(b"Receiving objects: 100%\r\n\x1b[2J".to_vec()),
        FakeStep::Waits(go_on.clone()),
        FakeStep::began(Step::Install),
        FakeStep::ended(Step::Install, StepEnd::Failed(failure)),
        FakeStep::done(),
    ];
    api.world.set_setup(&name, Occasion::Create, steps);
    let request = CreateShedRequest {
        name: "api".into(),
        repo: Some("https://host/x".into()),
        ..CreateShedRequest::default()
    };
    let mut stream = api.client.create_streaming(&request).await.unwrap();
    let mut next = async || match stream.next().await.unwrap().unwrap() {
        CreateEvent::Progress(progress) => Ok(progress),
        CreateEvent::Complete(shed) => Err(shed),
        CreateEvent::Error(error) => panic!("{error:?}"),
    };
    // The setup waits for this.
    let output = loop {
        let event = next().await.unwrap();
        if event.output.is_some() {
            break event;
        }
    };
    assert_eq!(
        (output.phase.as_deref(), output.output.as_deref()),
        (Some("repo"), Some("Receiving objects: 100%\r\n"))
    );
    go_on.cancel();
    let mut warnings = Vec::new();
    let shed = loop {
        match next().await {
            Ok(event) if event.warning => warnings.push(event.message),
            Ok(_) => {}
            Err(shed) => break shed,
        }
    };
    let expected = "the install hook took longer than 1s\n\
                    all of its output: shed exec api -- cat /var/log/shed/install.log";
    assert_eq!((&warnings[..], &shed.warnings[..]), (&[expected.to_owned()][..], &[expected.to_owned()][..]));
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_a_plain_error() {
    let api = Api::new().await;
    for (body, code) in [
        (r#"{"name":"#, "INVALID_SHED_NAME"),
        (r#"{"name":"A"}"#, "INVALID_SHED_NAME"),
        (r#"{"name":"api","local_dir":"x"}"#, "INVALID_LOCAL_DIR"),
        (r#"{"name":"api","repo":"x"}"#, "INVALID_REPO_URL"),
        (r#"{"name":"api","cpus":-1}"#, "INVALID_REQUEST"),
    ] {
        let reply = send_with(api.port, "POST", "/api/sheds", EVENTS, body).await;
        assert_eq!(reply.error(), (400, code.into()), "{body}");
    }
}

#[tokio::test]
async fn what_goes_wrong_later_is_an_error_event_with_code_and_message() {
    let api = Api::with(|settings| settings.start_timeout = Duration::from_millis(100)).await;
    api.create("taken").await;
    let name = "dies".parse().unwrap();
    api.set_boot(&name, BootFault::Never);
    for (body, code) in [
        (json!({"name": "taken"}), "SHED_ALREADY_EXISTS"),
        (json!({"name": "api", "image": "none"}), "UNKNOWN_IMAGE"),
        (json!({"name": "api", "image": "../x"}), "UNKNOWN_IMAGE"),
        (json!({"name": "api", "backend": "vz"}), "BACKEND_NOT_ENABLED"),
        (json!({"name": "dies"}), "BACKEND_ERROR"),
    ] {
        let events = create(&api, body).await;
        let (name, data) = events.last().unwrap();
        assert_eq!((name.as_str(), data["code"].as_str()), ("error", Some(code)), "{events:?}");
        assert_eq!(data.as_object().unwrap().len(), 2, "{data}");
    }
    assert_eq!(api.client.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_reader_that_does_not_read_delays_nothing_and_misses_nothing() {
    let api = Api::new().await;
    // Takes as few bytes at a time as the system allows.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], api.port).into()).await.unwrap();
    let body = r#"{"name":"api"}"#;
    let head = format!("POST /api/sheds HTTP/1.1\r\nhost: x\r\n{EVENTS}connection: close\r\n");
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    api.wait_for_status(&"api".parse().unwrap(), "running").await;
    let mut bytes = Vec::new();
    // One byte at a time, as the slowest reader would.
    while let Ok(byte) = stream.read_u8().await {
        bytes.push(byte);
    }
    let events = events(&parse(&bytes).body);
    assert_eq!(events.len(), 8, "{events:?}");
    assert_eq!(events.last().unwrap().0, "complete");
}

#[tokio::test]
async fn events_come_when_they_happen() {
    let api = Api::new().await;
    let name = "api".parse().unwrap();
    api.set_boot(&name, BootFault::Never);
    let request = CreateShedRequest { name: "api".into(), ..CreateShedRequest::default() };
    let mut stream = api.client.create_streaming(&request).await.unwrap();
    let mut phases = Vec::new();
    // The boot never ends, so this event has not waited for anything behind it.
    while phases.last().map(String::as_str) != Some("boot") {
        let Some(Ok(CreateEvent::Progress(progress))) = stream.next().await else { panic!("{phases:?}") };
        phases.push(progress.phase.unwrap());
    }
    assert_eq!(phases, ["record", "disk", "vm", "boot"]);
    drop(stream);
    api.wait_until_clean().await;
}

/// The client leaves as soon as it is told of a phase; what is undone then differs from phase to phase.
#[tokio::test]
async fn a_client_that_goes_away_in_any_phase_leaves_nothing() {
    let api = Api::new().await;
    for (phase, faults) in [
        ("record", Faults { boot: BootFault::Never, ..Faults::default() }),
        ("disk", Faults { boot: BootFault::Never, ..Faults::default() }),
        ("vm", Faults { start: StartFault::Slow(PATIENCE), ..Faults::default() }),
        ("boot", Faults { boot: BootFault::Never, ..Faults::default() }),
        ("identify", Faults { boot: BootFault::NeverIdentified, ..Faults::default() }),
    ] {
        let name = phase.parse().unwrap();
        api.world.set_faults(&name, faults);
        let request = CreateShedRequest { name: phase.into(), ..CreateShedRequest::default() };
        let mut stream = api.client.create_streaming(&request).await.unwrap();
        loop {
            let event = stream.next().await;
            let Some(Ok(CreateEvent::Progress(progress))) = event else { panic!("{phase}: {event:?}") };
            if progress.phase.as_deref() == Some(phase) {
                break;
            }
        }
        drop(stream);
        api.wait_until_clean().await;
        shed_testkit::wait_for("the name to be free", PATIENCE, || async {
            api.client.list().await.unwrap().is_empty()
        })
        .await
        .unwrap();
        api.world.set_faults(&name, Faults::default());
        api.client.delete(&api.create(phase).await).await.unwrap();
    }
    let text = api.send("GET", "/metrics", "").await.body;
    for sample in [r#"{operation="create",result="cancelled"} 5"#, r#"{operation="create",result="ok"} 5"#] {
        assert!(text.contains(sample), "{sample}: {text}");
    }
}
