//! `shed status` and `shed logs` against servers that answer as the test says.

use crate::{
    stub::{Stub, ok, refused, unknown_path},
    user::{User, json},
};

const RUNNING: &str = r#"{"name":"web","status":"running","channel":"open","health":"ok","started_at":"2026-01-20T10:00:00Z",
    "last_healthy":"2026-01-20T10:30:00Z","later":1,"events":[{"kind":"of a newer server","at":"2026-01-20T10:12:00Z",
    "message":"something\u001b[2J new"}]}"#;

#[test]
fn a_status_is_text_for_people_and_the_api_object_for_programs() {
    let stub = Stub::serve(|_| ok(RUNNING));
    let user = User::with_server(stub.port);
    let ran = user.shed(&["status", "web"]).exits(0);
    assert!(ran.stdout.starts_with("web\n  Server:     test ("), "{ran:?}");
    assert!(ran.stdout.contains("\n    2026-01-20T10:12:00Z  something\u{fffd}[2J new\n"), "{ran:?}");
    let ran = user.shed(&["status", "web", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout)["channel"], "open");
    assert_eq!(stub.asked(), ["GET /api/sheds/web/status", "GET /api/sheds/web/status"]);
}

#[test]
fn a_watch_shows_each_change_and_ends_with_the_shed() {
    let status = RUNNING.replace('\n', " ");
    let events = format!(
        "event: status\ndata: {status}\n\nevent: later\ndata: x\n\n\
         event: event\ndata: {{\"kind\":\"unit_failed\",\"at\":\"2026-01-20T10:13:00Z\",\"message\":\"a failed\"}}\n\n\
         event: state\ndata: {{\"name\":\"web\",\"status\":\"stopping\",\"created_at\":\"2026-01-20T10:00:00Z\"}}\n\n\
         event: error\ndata: {{\"code\":\"SHED_NOT_FOUND\",\"message\":\"there is no shed named `web`\"}}\n\n"
    );
    let stub = Stub::serve(move |_| ok(events.clone()));
    let user = User::with_server(stub.port);
    let ran = user.shed(&["status", "web", "--watch"]).exits(4).says("there is no shed named `web`");
    let lines: Vec<&str> = ran.stdout.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!(lines, ["running", "a failed", "the shed is stopping"]);
    let ran = user.shed(&["status", "web", "-w", "--json"]).exits(4);
    let types: Vec<_> = ran.stdout.lines().map(|line| json(line)["type"].clone()).collect();
    assert_eq!(types, ["status", "event", "state"]);
}

#[test]
fn logs_are_lines_and_what_they_lack_is_said() {
    let lines = "event: line\ndata: {\"at\":\"2026-01-20T10:30:00.5Z\",\"identifier\":\"sshd\",\"pid\":7,\"message\":\"a\\nb\\u001b[2J\"}\n\n\
                 event: end\ndata: {}\n\n";
    let stub = Stub::serve(move |line| match line {
        "GET /api/sheds/web/logs?source=journal" => ok(lines),
        "GET /api/sheds/web/logs?source=journal&unit=a%40b.service&lines=3" => {
            refused("404 Not Found", "UNIT_NOT_FOUND", "no unit")
        }
        "GET /api/sheds/web/logs?source=journal&lines=10&follow=true" => ok(
            "event: error\ndata: {\"code\":\"SHUTTING_DOWN\",\"message\":\"the server is shutting down\"}\n\n",
        ),
        "GET /api/sheds/web/logs?source=console&lines=0" => ok("event: end\ndata: {}\n\n"),
        "GET /api/sheds/off/logs?source=journal" => {
            refused("503 Service Unavailable", "SHED_NOT_RUNNING", "shed `off` is not running")
        }
        other => panic!("{other}"),
    });
    let user = User::with_server(stub.port);
    let ran = user.shed(&["logs", "web"]).exits(0);
    assert_eq!(ran.stdout, "2026-01-20T10:30:00Z sshd[7]: a\n    b\u{fffd}[2J\n");
    let ran = user.shed(&["logs", "web", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout)["pid"], 7);
    user.shed(&["logs", "web", "-u", "a@b.service", "-n", "3"]).exits(4).says("systemctl list-units");
    user.shed(&["logs", "web", "-f"]).exits(1).says("the server is shutting down");
    let ran = user.shed(&["logs", "web", "--console", "-n", "0"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    user.shed(&["logs", "off"]).exits(1).says("hint: start it: shed start off");
}

#[test]
fn a_line_that_is_no_command_is_a_usage_error() {
    let user = User::with_server(1);
    for line in [
        &["logs"][..],
        &["logs", "web", "-u", "-x"],
        &["logs", "web", "-u", "a*"],
        &["logs", "web", "-u", "a", "--console"],
        &["logs", "web", "-n", "-1"],
        &["logs", "web", "-n", "1000001"],
        &["status"],
        &["status", "A"],
        &["status", "a", "b"],
    ] {
        let _ran = user.shed(line).exits(2);
    }
}

#[test]
fn a_server_that_is_older_is_named_as_such() {
    let stub = Stub::serve(|_| unknown_path());
    let user = User::with_server(stub.port);
    for line in [&["status", "web"][..], &["logs", "web"], &["status", "web", "--watch"]] {
        user.shed(line).exits(1).says("may be older than this client");
    }
}
