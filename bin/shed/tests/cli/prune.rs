//! `shed system prune` against servers that answer as the test says; its questions are answered on a terminal.

use std::{process::Stdio, sync::mpsc};

use rustix::process::Signal;

use crate::{
    exec::{PATIENCE, signal, wait},
    pty::Pty,
    stub::{Answer, Stub, ok, refused},
    user::{Ran, User, closed_port, json},
};

const REPORT: &str = include_str!("../../../../crates/shed-api/fixtures/system-prune.json");

/// The report of the seed, as a dry run and for real.
fn answer(line: &str) -> Answer {
    assert!(line.starts_with("POST /api/system/prune"), "{line}");
    let dry = line.contains("dry_run=true");
    ok(REPORT.replace("\"dry_run\": false", &format!("\"dry_run\": {dry}")))
}

fn nothing(_line: &str) -> Answer {
    ok(
        r#"{"dry_run":true,"server_name":"x","scope":[],"until":"72h0m0s","items":[],"skipped":[{"kind":"instance","name":"web","reason":"cannot prune running shed"}],"notes":[],"totals":{"freed":{"logical_bytes":0,"physical_bytes":0},"items":0}}"#,
    )
}

/// A report with a note of something that could not be done.
fn partial(_line: &str) -> Answer {
    ok(REPORT.replace(
        "\"notes\": [",
        "\"notes\": [\"partial failure: could not delete api-old\\u001b[2J: busy\",",
    ))
}

fn changes(stub: &Stub) -> Vec<String> {
    stub.asked().into_iter().filter(|line| !line.contains("dry_run=true")).collect()
}

#[test]
fn the_dialogue_shows_what_goes_asks_and_then_does_it_with_the_same_parameters() {
    let stub = Stub::serve(answer);
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let line = [
        "system",
        "prune",
        "--scope",
        "images,instances",
        "--scope",
        "logs",
        "--until",
        "3d",
        "--log-tail-bytes",
        "512k",
    ];
    let mut child = pty.spawn(&user, &line);
    let shown = pty.shows("Prune 3 items on test and free up to 7.0GiB? [y/N] ");
    for text in [
        "instance  api-old ",
        "image     old-variant ",
        "delete  2.0GiB",
        "3 more things are kept; -v says why.",
    ] {
        assert!(shown.contains(text), "{text:?} is not in {shown}");
    }
    pty.types(b"y\n");
    let shown = pty.shows("Pruned 3 items on test and freed up to 7.0GiB");
    assert!(shown.contains("deleted  2.0GiB"), "{shown}");
    assert_eq!(wait(&mut child), Some(0));
    let query = "until=72h0m0s&log_tail_bytes=524288";
    let scopes = "scope=images&scope=instances&scope=logs";
    assert_eq!(
        stub.asked(),
        [
            format!("POST /api/system/prune?{scopes}&dry_run=true&{query}"),
            format!("POST /api/system/prune?{scopes}&{query}"),
        ]
    );
}

#[test]
fn without_a_clear_yes_nothing_is_changed() {
    for keys in [&b"\n"[..], b"no\n", b"\x04"] {
        let stub = Stub::serve(answer);
        let (pty, user) = (Pty::open(), User::with_server(stub.port));
        let mut child = pty.spawn(&user, &["system", "prune"]);
        pty.shows("[y/N] ");
        pty.types(keys);
        pty.shows("Nothing was changed.");
        assert_eq!((wait(&mut child), changes(&stub)), (Some(1), vec![]), "{keys:?}");
    }
    let stub = Stub::serve(answer);
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["system", "prune"]);
    pty.shows("[y/N] ");
    signal(&child, Signal::INT);
    assert_eq!((wait(&mut child), changes(&stub)), (Some(1), vec![]));
}

#[test]
fn an_interrupt_after_the_yes_is_heard() {
    let (ready, begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let stub = Stub::serve(move |line| {
        if !line.contains("dry_run=true") {
            ready.send(()).unwrap();
            released.recv_timeout(PATIENCE).unwrap();
        }
        answer(line)
    });
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["system", "prune"]);
    pty.shows("[y/N] ");
    pty.types(b"y\n");
    begun.recv_timeout(PATIENCE).unwrap();
    signal(&child, Signal::INT);
    pty.shows("the wait for the prune was interrupted; what the server has begun may go on");
    assert_eq!(wait(&mut child), Some(130));
    release.send(()).unwrap();
}

#[test]
fn with_nothing_to_do_nobody_is_asked() {
    let stub = Stub::serve(nothing);
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["system", "prune", "-v"]);
    pty.shows("There is nothing to prune on test.");
    pty.shows("cannot prune running shed");
    assert_eq!((wait(&mut child), changes(&stub)), (Some(0), vec![]));
    let ran = user.shed(&["system", "prune", "--force"]).exits(0).says("There is nothing to prune on test.");
    assert_eq!(ran.says("One more thing is kept; -v says why.").stdout, "");
}

#[test]
fn without_a_terminal_it_takes_force_or_a_dry_run() {
    let stub = Stub::serve(answer);
    let user = User::with_server(stub.port);
    user.shed(&["system", "prune"])
        .exits(2)
        .says("stdin is not a terminal")
        .says("--dry-run")
        .says("--force");
    let ran = user.shed(&["system", "prune", "--json"]).exits(2);
    assert!(json(&ran.stderr)["error"].as_str().unwrap().contains("nothing is pruned"), "{ran:?}");
    assert_eq!(stub.asked(), [""; 0]);

    // A question that nobody sees is not asked either.
    let pty = Pty::open();
    let output = user
        .command(&["system", "prune"])
        .stdin(Stdio::from(pty.slave.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    Ran::of(&output).exits(2).says("stderr is not a terminal");
    assert_eq!(stub.asked(), [""; 0]);
}

#[test]
fn a_dry_run_shows_the_same_and_changes_nothing_even_with_force() {
    let stub = Stub::serve(answer);
    let user = User::with_server(stub.port);
    let ran = user.shed(&["system", "prune", "--dry-run", "--force", "-v"]).exits(0);
    let ran =
        ran.says("A prune takes 3 items on test and frees up to 7.0GiB.").says("test: physical bytes are");
    insta::assert_snapshot!(ran.stdout, @r"
    KIND      NAME                                    ACTION   FREES  REASON
    instance  api-old                                 delete  2.0GiB  deleted (stopped 5d)
    image     old-variant                             delete  5.0GiB  -
    tmp       /var/lib/shed/vz/stale-rootfs.ext4.tmp  delete  4.0KiB  -

    KEPT      NAME                                   REASON
    instance  api-dev                                cannot prune running shed
    instance  api-test                               too recent (3h < 72h)
    tmp       /var/lib/shed/vz/live-rootfs.ext4.tmp  lock held (conversion in progress)
    ");
    let ran = user.shed(&["system", "prune", "--dry-run", "--json"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!((&value["dry_run"], &value["server_name"]), (&true.into(), &"prod-mac".into()));
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn a_forced_prune_is_one_request_and_json_has_the_report() {
    let stub = Stub::serve(answer);
    let ran = User::with_server(stub.port).shed(&["--json", "system", "prune", "-f"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!((&value["status"], &value["action"]), (&"ok".into(), &"system prune".into()));
    assert_eq!((&value["server"], &value["details"]), (&"test".into(), &json(REPORT)));
    assert!(value.get("name").is_none() && ran.stdout.lines().count() == 1, "{ran:?}");
    assert_eq!(stub.asked(), ["POST /api/system/prune"]);
}

#[test]
fn what_could_not_be_done_is_a_warning_and_a_failure() {
    let stub = Stub::serve(partial);
    let user = User::with_server(stub.port);
    let ran = user.shed(&["system", "prune", "--force"]).exits(1);
    assert!(ran.stdout.ends_with("Pruned 3 items on test and freed up to 7.0GiB\n"), "{ran:?}");
    ran.says("warning: test: partial failure: could not delete api-old\u{fffd}[2J: busy\n");
    let ran = user.shed(&["system", "prune", "--force", "--json"]).exits(1);
    assert_eq!(json(&ran.stdout)["status"], "partial");
}

#[test]
fn wrong_parameters_are_refused_before_anybody_is_asked() {
    let user = User::with_server(1);
    for (flags, text) in [
        (&["--scope", "all"][..], "the scopes are images, instances, logs and orphans"),
        (&["--scope", "images,"], "the scopes are"),
        (&["--scope", ""], "the scopes are"),
        (&["--until", "-1h"], "an age is not negative"),
        (&["--until", "72"], "write a number with a unit"),
        (&["--until", ""], "write a number with a unit"),
        (&["--until", "300000d"], "at most 292 years"),
        (&["--log-tail-bytes", "-1"], "write bytes"),
        (&["--log-tail-bytes", "65m"], "at most 64m"),
        (&["--all", "--server", "test"], "cannot be used with"),
        (&["-a"], "unexpected argument"),
    ] {
        let ran = user.shed(&[&["system", "prune", "--force"], flags].concat()).exits(2).says(text);
        assert_eq!(ran.stdout, "", "{flags:?}");
    }
}

#[test]
fn what_a_server_refuses_is_said() {
    for (answer, code, text) in [
        (refused("400 Bad Request", "INVALID_REQUEST", "`until=x`: no"), 1, "`until=x`: no"),
        (refused("501 Not Implemented", "BACKEND_ERROR", "this backend cannot prune"), 1, "cannot prune"),
        (refused("500 Internal Server Error", "BACKEND_ERROR", "the disk is gone"), 1, "the server's log"),
        (ok("{}"), 1, "is not understood"),
    ] {
        let stub = Stub::serve(move |_| answer.clone());
        let user = User::with_server(stub.port);
        for mode in ["--force", "--dry-run"] {
            user.shed(&["system", "prune", mode]).exits(code).says(text);
        }
    }
    let (_guard, closed) = closed_port();
    User::with_server(closed).shed(&["system", "prune", "--force"]).exits(3).says("cannot reach server test");
}

#[test]
fn the_dialogue_about_all_servers_shows_all_of_them_first_and_leaves_out_those_with_nothing_to_do() {
    let (big, idle) = (Stub::serve(answer), Stub::serve(nothing));
    let (_guard, closed) = closed_port();
    let user = User::with_servers(&[("big", big.port), ("gone", closed), ("idle", idle.port)]);
    let pty = Pty::open();
    let mut child = pty.spawn(&user, &["system", "prune", "--all"]);
    let shown = pty.shows("Prune 3 items on big and free up to 7.0GiB? [y/N] ");
    assert!(shown.contains("big     instance  api-old"), "{shown}");
    assert!(shown.contains("nothing is pruned on gone: cannot reach"), "{shown}");
    pty.types(b"y\n");
    pty.shows("Pruned 3 items on big and freed up to 7.0GiB");
    pty.shows("cannot reach server gone");
    assert_eq!(wait(&mut child), Some(3), "one server was not pruned");
    assert_eq!((changes(&big).len(), changes(&idle)), (1, vec![]));
}

#[test]
fn all_servers_in_json_are_a_line_each_and_in_a_dry_run_one_object() {
    let (a, b) = (Stub::serve(answer), Stub::serve(partial));
    let (_guard, closed) = closed_port();
    let user = User::with_servers(&[("a", a.port), ("b", b.port), ("gone", closed)]);
    let ran = user.shed(&["system", "prune", "--all", "--dry-run", "--json"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!(value["servers"][1]["server_name"], "b");
    assert_eq!(value["servers"][0]["report"]["dry_run"], true);
    assert!(value["servers"][2]["error"].as_str().unwrap().contains("cannot reach"), "{value}");

    let ran = user.shed(&["system", "prune", "--all", "--force", "--json"]).exits(1);
    let lines: Vec<_> = ran.stdout.lines().map(json).collect();
    assert_eq!((&lines[0]["server"], &lines[0]["status"]), (&"a".into(), &"ok".into()));
    assert_eq!((&lines[1]["server"], &lines[1]["status"]), (&"b".into(), &"partial".into()));
    assert!(json(&ran.stderr)["error"].as_str().unwrap().contains("cannot reach server gone"), "{ran:?}");

    let none = User::with_servers(&[("gone", closed)]);
    none.shed(&["system", "prune", "--all", "--dry-run"]).exits(3);
}
