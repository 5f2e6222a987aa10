//! How sheds are and what they write, over the API: shapes, refusals, streams and their ends.

use std::time::{Duration, Instant};

use serde_json::json;
use shed_api::{ErrorDetail, LogEvent, LogLine, ShedEvent, StatusReport};
use shed_backend::fake::FakeLogs;
use shed_client::{LogsQuery, ShedEvents};
use shed_protocol::{LogsRefusal, SYSTEM_EVENT};
use shed_testkit::wait_for;
use shed_types::ShedName;
use tokio::time::timeout;

use crate::{
    api::{Api, redact},
    common::PATIENCE,
};

/// What a guest says that has something of everything.
fn health() -> serde_json::Value {
    json!({
        "status": "degraded", "started_at": "2026-01-20T10:00:00Z",
        "metrics": { "cpu_percent": 12.3456, "cpus": 2, "memory_total": 2_000_000, "memory_used": 500_000,
            "disk_total": 900, "disk_used": 90, "load": [0.5, 0.25, 0.0], "uptime_s": 61, "tasks": 97 },
        "setup": { "occasion": "create", "running": "startup", "steps": [
            { "step": "clone", "end": { "end": "done" }, "began_at": "2026-01-20T10:00:01Z", "took_ms": 5 },
            { "step": "install", "began_at": "2026-01-20T10:00:02Z", "took_ms": 7,
              "end": { "end": "failed", "message": "exit code 2", "code": 2, "last_lines": ["no\u{1b}[2J"], "log": "/l" } }
        ] }
    })
}

async fn next(events: &mut ShedEvents) -> ShedEvent {
    timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap()
}

async fn next_status(events: &mut ShedEvents) -> StatusReport {
    loop {
        if let ShedEvent::Status(report) = next(events).await {
            return *report;
        }
    }
}

async fn error_at_the_end(events: &mut ShedEvents) -> ErrorDetail {
    loop {
        if let ShedEvent::Error(detail) = next(events).await {
            assert!(events.next().await.is_none());
            return detail;
        }
    }
}

async fn lines(api: &Api, shed: &ShedName, query: &LogsQuery) -> (Vec<LogLine>, LogEvent) {
    let mut events = api.client.logs(shed, query).await.unwrap();
    let mut lines = Vec::new();
    loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap() {
            LogEvent::Line(line) => lines.push(*line),
            last @ (LogEvent::End | LogEvent::Error(_)) => return (lines, last),
        }
    }
}

#[tokio::test]
async fn a_status_has_all_that_is_known() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    api.world.set_health(&shed, health());
    let step_ended = json!({ "event": "step_ended", "occasion": "create", "step": "clone", "at": "2026-01-20T10:00:01Z",
        "end": { "end": "skipped" } });
    let oom = json!({ "event": "out_of_memory", "process": "7 (x)", "at": "2026-01-20T10:00:03Z" });
    let failed = json!({ "event": "unit_failed", "unit": "a.service", "result": "signal", "at": "2026-01-20T10:00:04Z",
        "times": 3 });
    for event in [step_ended, oom, failed] {
        api.world.tell(&shed, SYSTEM_EVENT, event);
    }
    wait_for("the events", PATIENCE, || async { api.client.status(&shed).await.unwrap().events.len() == 3 })
        .await
        .unwrap();
    let report = api.send("GET", "/api/sheds/api/status", "").await.json();
    insta::assert_json_snapshot!(redact(report));
    api.client.stop(&shed).await.unwrap();
    let reply = api.send("GET", "/api/sheds/api/status", "").await;
    insta::assert_snapshot!(reply.body, @r#"{"name":"api","status":"stopped"}"#);
}

#[tokio::test]
async fn refusals_come_in_their_order() {
    let api = Api::new().await;
    let error = async |path: &str| api.send("GET", path, "").await.error();
    for what in ["status", "events", "logs", "logs?source=console"] {
        assert_eq!(error(&format!("/api/sheds/A/{what}")).await, (400, "INVALID_SHED_NAME".into()), "{what}");
        assert_eq!(error(&format!("/api/sheds/none/{what}")).await, (404, "SHED_NOT_FOUND".into()), "{what}");
        let reply = api.send("POST", &format!("/api/sheds/none/{what}"), "").await;
        assert_eq!(reply.error(), (405, "METHOD_NOT_ALLOWED".into()), "{what}");
    }
    let shed = api.create("api").await;
    for query in ["unit=", "lines=", "source=", "follow=", "lines=-1", "unit=%00", "source=console&unit=a"] {
        let reply = error(&format!("/api/sheds/api/logs?{query}")).await;
        assert_eq!(reply, (400, "INVALID_REQUEST".into()), "{query}");
    }
    for (refusal, expected) in [
        (LogsRefusal::NoUnit, (404, "UNIT_NOT_FOUND")),
        (LogsRefusal::NoJournal, (503, "LOGS_NOT_AVAILABLE")),
        (LogsRefusal::TooManyReaders, (503, "LOGS_NOT_AVAILABLE")),
    ] {
        api.world.set_logs(&shed, FakeLogs::Refuses(refusal));
        let (status, code) = error("/api/sheds/api/logs?unit=a").await;
        assert_eq!((status, code.as_str()), expected);
    }
    api.client.stop(&shed).await.unwrap();
    assert_eq!(error("/api/sheds/api/logs").await, (503, "SHED_NOT_RUNNING".into()));
}

#[tokio::test]
async fn events_begin_with_a_status_and_end_with_the_shed() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let mut events = api.client.events(&shed).await.unwrap();
    assert!(matches!(next(&mut events).await, ShedEvent::Status(_)));
    let failed = json!({ "event": "unit_failed", "unit": "a.service", "result": "signal", "at": "2026-01-20T10:00:04Z" });
    api.world.tell(&shed, SYSTEM_EVENT, failed);
    loop {
        if let ShedEvent::Event(event) = next(&mut events).await {
            assert_eq!(
                (event.kind.as_str(), event.message.as_str()),
                ("unit_failed", "a.service failed (signal)")
            );
            break;
        }
    }
    api.world.set_health(&shed, health());
    // A fake guest reports only when it is asked.
    let _fresh = api.client.status(&shed).await.unwrap();
    while next_status(&mut events).await.metrics.is_none() {}
    api.client.stop(&shed).await.unwrap();
    loop {
        if let ShedEvent::State(shed) = next(&mut events).await
            && shed.status.as_str() == "stopped"
        {
            break;
        }
    }
    api.client.delete(&shed).await.unwrap();
    assert_eq!(error_at_the_end(&mut events).await.code, "SHED_NOT_FOUND");
}

#[tokio::test]
async fn streams_without_an_end_do_not_hold_up_the_end_of_the_server() {
    let mut api = Api::new().await;
    let shed = api.create("api").await;
    let mut events = api.client.events(&shed).await.unwrap();
    let query = LogsQuery { follow: true, ..LogsQuery::default() };
    let mut journal = api.client.logs(&shed, &query).await.unwrap();
    let console = LogsQuery { console: true, lines: Some(0), ..query };
    let mut console = api.client.logs(&shed, &console).await.unwrap();
    let begun = Instant::now();
    api.end().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(error_at_the_end(&mut events).await.code, "SHUTTING_DOWN");
    for logs in [&mut journal, &mut console] {
        let last = logs.next().await.unwrap().unwrap();
        assert!(matches!(last, LogEvent::Error(detail) if detail.code == "SHUTTING_DOWN"));
    }
}

#[tokio::test]
async fn the_lines_of_a_journal_come_clean_and_its_reader_ends_with_the_client() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let entries = vec![
        json!({ "at_us": 1_768_905_000_123_456_u64, "unit": "ssh.service", "identifier": "sshd", "pid": 7, "priority": 6,
            "message": "hello\u{1b}[2J" }),
        json!({ "at_us": u64::MAX, "message": "" }),
    ];
    api.world.set_logs(&shed, FakeLogs::Entries(entries.clone()));
    let reply = api.send("GET", "/api/sheds/api/logs?lines=5&unit=ssh", "").await;
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "text/event-stream"));
    let expected = "event: line\ndata: {\"at\":\"2026-01-20T10:30:00.123456Z\",\"unit\":\"ssh.service\",\"identifier\":\"sshd\",\
        \"pid\":7,\"priority\":6,\"message\":\"hello\"}\n\nevent: line\ndata: {\"message\":\"\"}\n\nevent: end\ndata: {}\n\n";
    assert_eq!(reply.body, expected);
    let asked = api.world.logs_asked(&shed).unwrap();
    assert_eq!((asked.lines, asked.unit.unwrap().as_str()), (Some(5), "ssh"));

    api.world.set_logs(&shed, FakeLogs::Entries(entries));
    let query = LogsQuery { follow: true, ..LogsQuery::default() };
    let mut events = api.client.logs(&shed, &query).await.unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap(), LogEvent::Line(_)));
    assert_eq!(api.world.log_readers(&shed), 1);
    drop(events);
    wait_for("the reader to end", PATIENCE, || async { api.world.log_readers(&shed) == 0 }).await.unwrap();

    // A machine that dies while somebody reads.
    let mut events = api.client.logs(&shed, &query).await.unwrap();
    api.world.crash(&shed);
    let last = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(last, LogEvent::Error(detail) if detail.code == "CONNECT_FAILED"));
}

#[tokio::test]
async fn a_console_is_read_whether_its_shed_runs_or_not() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let console = LogsQuery { console: true, ..LogsQuery::default() };
    let (all, last) = lines(&api, &shed, &console).await;
    assert_eq!((all.last().unwrap().message.as_str(), last), ("shed-agent: ready", LogEvent::End));
    api.client.stop(&shed).await.unwrap();
    let one = LogsQuery { lines: Some(1), ..console.clone() };
    let (one, _) = lines(&api, &shed, &one).await;
    assert_eq!(one, [LogLine { message: "reboot: Power down".into(), ..LogLine::default() }]);
    let follow = LogsQuery { lines: Some(0), follow: true, ..console };
    let mut events = api.client.logs(&shed, &follow).await.unwrap();
    let _started = api.client.start(&shed).await.unwrap();
    let line = timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(line, LogEvent::Line(line) if line.message.contains("Linux version")));
}
