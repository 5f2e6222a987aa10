//! `shed sessions` against servers that answer as the test says.

use crate::{
    stub::{Stub, done, ok, refused, unknown_path},
    user::{User, closed_port, json},
};

/// A list with one session.
fn list(shed: &str, session: &str) -> String {
    format!(
        r#"{{"sessions":[{{"name":"{session}","shed_name":"{shed}","created_at":"2026-01-20T10:30:00Z","attached":true,"window_count":2}}]}}"#
    )
}

#[test]
fn without_a_name_all_running_sheds_of_the_server_are_asked_and_the_missing_ones_named() {
    let body = r#"{"sessions":[
        {"name":"default","shed_name":"web","created_at":"2001-01-20T10:30:00Z","attached":true,"window_count":1},
        {"name":"agent","shed_name":"web","created_at":"2999-01-20T10:30:00Z","attached":false,"window_count":3}
    ],"warnings":["shed old: its agent does not answer\u001b[2J"]}"#;
    let stub = Stub::serve(move |_| ok(body));
    let user = User::with_server(stub.port);
    let ran = user.shed(&["sessions"]).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["SHED", "SESSION", "STATUS", "CREATED", "WINDOWS"]
    );
    assert!(lines[1].starts_with("web   default  attached  ") && lines[1].ends_with(" 1"), "{ran:?}");
    assert!(lines[2].starts_with("web   agent    detached  just now"), "{ran:?}");
    assert_eq!(ran.stderr, "warning: shed old: its agent does not answer\u{fffd}[2J\n");

    let ran = user.shed(&["sessions", "--json"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!((value["sessions"].as_array().unwrap().len(), ran.stderr.as_str()), (2, ""));
    assert!(value["warnings"][0].as_str().unwrap().starts_with("shed old"), "it is in the object: {ran:?}");
    assert!(value["sessions"][0].get("server_name").is_none(), "it is the API's object: {ran:?}");
    assert_eq!(stub.asked(), ["GET /api/sessions", "GET /api/sessions"]);
}

#[test]
fn an_empty_list_is_no_error_and_in_json_a_list() {
    let stub = Stub::serve(|_| ok(r#"{"sessions":[]}"#));
    let user = User::with_server(stub.port);
    let ran = user.shed(&["sessions"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "There are no sessions on test.\n"));
    let ran = user.shed(&["sessions", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout), serde_json::json!({"sessions": []}));
}

#[test]
fn named_sheds_are_found_on_their_servers_and_a_failure_costs_only_its_own() {
    let here = Stub::serve(|line| match line {
        "GET /api/sheds/web/sessions" => ok(list("web", "default")),
        "GET /api/sheds/old/sessions" => {
            refused("409 Conflict", "SHED_ALREADY_STOPPED", "shed old is not running")
        }
        "GET /api/sheds/api/sessions" => refused("404 Not Found", "SHED_NOT_FOUND", "no shed api"),
        other => panic!("{other}"),
    });
    let there = Stub::serve(|line| match line {
        "GET /api/sheds/api" => {
            ok(r#"{"name":"api","status":"running","created_at":"2026-01-20T10:30:00Z"}"#)
        }
        "GET /api/sheds/api/sessions" => ok(list("api", "agent")),
        other => panic!("{other}"),
    });
    let user = User::with_servers(&[("here", here.port), ("there", there.port)]);
    let ran =
        user.shed(&["sessions", "web", "old", "api", "web"]).exits(1).says("hint: start it: shed start old");
    let rows: Vec<Vec<&str>> =
        ran.stdout.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(rows, [["SHED", "SERVER", "SESSION"], ["web", "here", "default"], ["api", "there", "agent"]]);
    assert!(user.config().contains("server: there"), "where the shed is, is kept: {}", user.config());

    let ran = user.shed(&["sessions", "api", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout)["sessions"][0]["server_name"], "there");
}

#[test]
fn all_servers_are_asked_at_once_and_those_that_are_gone_are_named() {
    let (_guard, closed) = closed_port();
    let a = Stub::serve(|_| ok(list("web", "default")));
    let b = Stub::serve(|_| ok(list("web", "agent").replace("]}", r#"],"warnings":["shed x: gone"]}"#)));
    let old = Stub::serve(|_| unknown_path());
    let user = User::with_servers(&[("a", a.port), ("b", b.port), ("gone", closed), ("old", old.port)]);
    let ran = user.shed(&["sessions", "--all"]).exits(0);
    assert!(ran.stdout.starts_with("SHED  SERVER  SESSION  STATUS"), "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 3, "{ran:?}");
    let ran = ran.says("warning: b: shed x: gone").says("the sessions of gone are missing: cannot reach");
    assert!(
        ran.stderr.contains("Connection refused") && ran.stderr.contains("older than this client"),
        "{ran:?}"
    );

    let value = json(&user.shed(&["sessions", "--all", "--json"]).exits(0).stdout);
    assert_eq!(value["sessions"][1]["server_name"], "b");
    assert_eq!(value["warnings"], serde_json::json!(["b: shed x: gone"]));
    assert_eq!(
        (&value["offline"][0]["server"], &value["offline"][1]["server"]),
        (&"gone".into(), &"old".into())
    );

    User::with_servers(&[("gone", closed)])
        .shed(&["sessions", "--all"])
        .exits(3)
        .says("cannot reach server gone");
}

#[test]
fn a_shed_called_kill_can_be_listed_and_a_kill_is_never_a_list() {
    let stub = Stub::serve(|line| match line {
        "DELETE /api/sheds/web/sessions/default" => done(),
        _ => ok(r#"{"sessions":[]}"#),
    });
    let user = User::with_server(stub.port);
    user.shed(&["sessions", "--", "kill"]).exits(0);
    user.shed(&["sessions", "web", "kill"]).exits(0);
    user.shed(&["sessions", "help"]).exits(0);
    let asked = ["kill", "web", "kill", "help"].map(|name| format!("GET /api/sheds/{name}/sessions"));
    assert_eq!(stub.asked(), asked);
    for line in [
        &["sessions", "kill"][..],
        &["sessions", "kill", "web"],
        &["sessions", "--all", "kill", "web", "default"],
        &["sessions", "kill", "web", "a:b"],
        &["sessions", "kill", "web", "default", "more"],
        &["sessions", "--all", "web"],
        &["sessions", "--all", "--server", "test"],
    ] {
        assert_eq!(user.shed(line).exits(2).stdout, "", "{line:?}");
    }
    assert_eq!(stub.asked().len(), 4);
    user.shed(&["sessions", "--no-color", "-s", "test", "kill", "web", "default"]).exits(0);
    assert_eq!(stub.asked()[4], "DELETE /api/sheds/web/sessions/default");
}

#[test]
fn a_killed_session_is_reported() {
    let stub = Stub::serve(|_| done());
    let user = User::with_server(stub.port);
    let ran = user.shed(&["sessions", "kill", "web", "default"]).exits(0);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("Ended session default of shed web on test\n", "")
    );
    let ran = user.shed(&["--json", "sessions", "kill", "web", "default"]).exits(0);
    let expected = serde_json::json!({
        "status": "ok", "action": "sessions kill", "name": "default", "server": "test",
        "details": {"shed_name": "web"},
    });
    assert_eq!((json(&ran.stdout), ran.stdout.lines().count()), (expected, 1));
}

#[test]
fn a_kill_that_is_refused_says_why_and_what_to_do() {
    for (answer, code, text) in [
        (refused("404 Not Found", "SESSION_NOT_FOUND", "no session x"), 4, "shed sessions web"),
        (refused("404 Not Found", "SHED_NOT_FOUND", "no shed web"), 4, "shed list --all"),
        (refused("409 Conflict", "SHED_ALREADY_STOPPED", "shed web is not running"), 1, "shed start web"),
        (refused("503 Service Unavailable", "TMUX_NOT_AVAILABLE", "no tmux"), 1, "apt-get install tmux"),
        (unknown_path(), 1, "does not know this request and may be older"),
    ] {
        let stub = Stub::serve(move |_| answer.clone());
        User::with_server(stub.port).shed(&["sessions", "kill", "web", "x"]).exits(code).says(text);
    }
}

#[test]
fn a_session_of_a_shed_elsewhere_is_not_killed_for_one_that_was_here() {
    let here = Stub::serve(|_| refused("404 Not Found", "SHED_NOT_FOUND", "no shed web"));
    let there = Stub::serve(|line| panic!("{line}"));
    let user = User::with_servers(&[("here", here.port), ("there", there.port)]);
    user.write_config(&format!("{}sheds: {{web: {{server: here, status: running}}}}\n", user.config()));
    user.shed(&["sessions", "kill", "web", "default"]).exits(4);
    assert_eq!(there.asked(), [""; 0]);
}

#[test]
fn replies_that_are_none_are_an_error_and_no_list() {
    for body in [
        "",
        "[]",
        r#"{"sessions":null}"#,
        r#"{"sessions":[{"name":"a"}]}"#,
        r#"{"sessions":[{"name":"a","shed_name":"b","created_at":"yesterday","attached":true,"window_count":1}]}"#,
        r#"{"sessions":[{"name":"a","shed_name":"b","created_at":"2026-01-20T10:30:00Z","attached":true,"window_count":-1}]}"#,
    ] {
        let stub = Stub::serve(move |_| ok(body));
        let ran = User::with_server(stub.port).shed(&["sessions"]).exits(1).says("is not understood");
        assert_eq!(ran.stdout, "", "{body}");
    }
}
