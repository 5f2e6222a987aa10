//! `shed create` and `shed start` against a peer that tells events as the test wants them: what is shown, and how a
//! wait is given up. Real creates are tested in vm-tests.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
    sync::mpsc,
};

use rustix::process::Signal;

use crate::{
    exec::{PATIENCE, signal, wait},
    peer::Peer,
    pty::Pty,
    user::{Ran, User},
};

const SHED: &str = r#"{"name":"web","status":"running","created_at":"2026-01-02T03:04:05Z","timeline":[{"phase":"disk","start_ms":0,"ms":12},{"phase":"boot","start_ms":12,"ms":1200}]}"#;

fn tell(stream: &mut TcpStream, name: &str, data: &str) {
    stream.write_all(format!("event: {name}\ndata: {data}\n\n").as_bytes()).unwrap();
}

/// Tells of a create that goes well, with a warning.
fn success(_request: &str, stream: &mut TcpStream) {
    tell(stream, "progress", r#"{"message":"Making the disk","phase":"disk"}"#);
    tell(stream, "progress", r#"{"message":"The clone failed","warning":true}"#);
    tell(stream, "complete", SHED);
}

/// Tells of a create that does not end, and waits until the client hangs up.
fn endless(ready: mpsc::Sender<()>) -> impl FnOnce(&str, &mut TcpStream) + Send + 'static {
    move |_request, stream| {
        tell(stream, "progress", r#"{"message":"Booting"}"#);
        // A client that has a timeout does not wait for the test.
        let _unheard = ready.send(());
        let mut rest = Vec::new();
        // A reset is a hang-up, too.
        let _reset = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
}

#[test]
fn the_request_says_what_the_flags_say() {
    let peer = Peer::events(|request, stream| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /api/sheds HTTP/1.1"), "{head}");
        assert!(head.to_lowercase().contains("accept: text/event-stream"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let expected = serde_json::json!({
            "name": "web", "image": "base", "backend": "qemu", "cpus": 4, "memory_mb": 8192, "repo": "owner/web",
            "no_provision": true,
        });
        assert_eq!(body, expected);
        success(request, stream);
    });
    let user = User::with_server(peer.port);
    let line = "create web -i base --backend qemu --cpus 4 --memory 8g -r owner/web --no-provision";
    let line: Vec<&str> = line.split(' ').collect();
    let ran = user.shed(&line).exits(0);
    assert!(ran.stdout.starts_with("Created shed web on test in "), "{ran:?}");
    assert!(user.config().contains("status: running"), "where the shed is, is kept: {}", user.config());
    peer.end();
}

#[test]
fn without_a_terminal_progress_is_plain_lines_on_stderr_and_warnings_stand_out() {
    let peer = Peer::events(success);
    let ran = User::with_server(peer.port).shed(&["create", "web", "--trace"]).exits(0);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("web: Making the disk ("), "{ran:?}");
    assert_eq!(lines[1..], ["warning: web: The clone failed"], "{ran:?}");
    let table: Vec<Vec<&str>> =
        ran.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        table[..3],
        [vec!["PHASE", "START", "MS"], vec!["disk", "0", "12"], vec!["boot", "12", "1200"]]
    );
    assert_eq!(table[3], ["server,", "all", "phases", "1212"]);
    assert_eq!(table.last().unwrap()[0], "total");
    peer.end();
}

/// A `progress` event with output of a hook.
fn output(text: &str) -> String {
    serde_json::json!({"message": "", "phase": "provision", "output": text}).to_string()
}

/// Tells of a create whose install hook fails.
fn failing_hook(_request: &str, stream: &mut TcpStream) {
    tell(stream, "progress", r#"{"message":"Cloning the repository","phase":"repo"}"#);
    tell(stream, "progress", &output("Receiving objects: 50%\rReceiving objects: 100%, done.\nnpm inst"));
    tell(stream, "progress", &output("all\nno end"));
    let warning = "the install hook, x.sh, ended with exit code 3\nits last lines:\n  one\n  two";
    let event = serde_json::json!({"message": warning, "phase": "provision", "warning": true});
    tell(stream, "progress", &event.to_string());
    let mut shed: serde_json::Value = serde_json::from_str(SHED).unwrap();
    // The second one was not told of as an event: the client was slow.
    shed["warnings"] = serde_json::json!([warning, "the startup hook failed"]);
    tell(stream, "complete", &shed.to_string());
}

#[test]
fn output_is_shown_in_lines_and_warnings_once_at_the_end() {
    let peer = Peer::events(failing_hook);
    let ran = User::with_server(peer.port).shed(&["create", "web"]).exits(0);
    peer.end();
    assert!(ran.stdout.starts_with("Created shed web"), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("web: Cloning the repository ("), "{ran:?}");
    assert_eq!(
        lines[1..],
        [
            "web | Receiving objects: 100%, done.",
            "web | npm install",
            "web | no end",
            "warning: web: the install hook, x.sh, ended with exit code 3",
            "  its last lines:",
            "    one",
            "    two",
            "warning: web: the startup hook failed",
        ]
    );
}

#[test]
fn with_json_output_is_left_out_and_each_warning_is_there_once() {
    let peer = Peer::events(failing_hook);
    let ran = User::with_server(peer.port).shed(&["create", "web", "--json"]).exits(0);
    peer.end();
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.stdout.matches("\"warnings\"").count(), 1, "{ran:?}");
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["details"]["warnings"].as_array().unwrap().len(), 2, "{value}");
}

#[test]
fn on_a_terminal_output_stays_above_the_line_that_moves() {
    let (go_on, gone_on) = mpsc::channel();
    let peer = Peer::events(move |_, stream| {
        tell(stream, "progress", r#"{"message":"Running the install hook","phase":"provision"}"#);
        tell(stream, "progress", &output("first line\n10%\r20"));
        tell(stream, "progress", &output("%\r"));
        gone_on.recv_timeout(PATIENCE).unwrap();
        tell(stream, "progress", &output("100%\n"));
        tell(stream, "complete", SHED);
    });
    let user = User::with_server(peer.port);
    let pty = Pty::open();
    let mut child = pty.spawn(&user, &["create", "web", "--no-sync"]);
    let shown = pty.shows("web: 20%");
    assert!(shown.contains("web | first line"), "{shown:?}");
    go_on.send(()).unwrap();
    let shown = pty.shows("Created shed web");
    assert!(shown.contains("web | 100%") && !shown.contains("| 10%"), "{shown:?}");
    assert_eq!(wait(&mut child), Some(0));
    peer.end();
}

#[test]
fn a_create_whose_shed_runs_is_only_not_waited_for_any_more() {
    for (line, code, words) in [
        (&["create", "web", "--timeout", "3s"][..], 1, "took longer than 3s"),
        (&["create", "web"], 130, "was interrupted"),
    ] {
        let peer = Peer::events(move |request, stream| {
            tell(stream, "progress", r#"{"message":"Running the install hook","phase":"provision"}"#);
            endless(mpsc::channel().0)(request, stream);
        });
        let user = User::with_server(peer.port);
        let mut command = user.command(line);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        // The second event: the client has read the first.
        while !told.contains("Booting") {
            assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
        }
        if code == 130 {
            signal(&child, Signal::INT);
        }
        stderr.read_to_string(&mut told).unwrap();
        assert_eq!(wait(&mut child), Some(code));
        peer.end();
        for text in [words, "the shed is there and runs, and its setup goes on", "shed status web"] {
            assert!(told.contains(text), "{text}: {told}");
        }
        assert!(user.config().contains("status: running"), "where the shed is, is kept: {}", user.config());
    }
}

/// A `progress` event of an image.
fn image(step: &str, mebibytes: u64, layers: u32) -> String {
    let done = mebibytes << 20;
    format!(
        r#"{{"message":"m","phase":"image","image":{{"step":"{step}","bytes_done":{done},"bytes_total":94371840,"layers_done":{layers},"layers_total":5}}}}"#
    )
}

#[test]
fn an_image_that_comes_is_told_of_now_and_then() {
    let peer = Peer::events(|request, stream| {
        assert!(request.contains(r#""image":"ghcr.io/owner/web:v1""#), "{request}");
        let events = [("download", 0, 0), ("download", 50, 2), ("write", 90, 5), (r"\u001b[2J", 0, 0)];
        for (step, mebibytes, layers) in events {
            tell(stream, "progress", &image(step, mebibytes, layers));
        }
        tell(stream, "complete", SHED);
    });
    let line = ["create", "web", "--image", "ghcr.io/owner/web:v1"];
    let ran = User::with_server(peer.port).shed(&line).exits(0);
    peer.end();
    let lines: Vec<&str> = ran.stderr.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "web: downloading the image, 0B of 90.0MiB, 0 of 5 layers done",
            "web: writing the image, 90.0MiB of 90.0MiB, 5 of 5 layers done",
            "web: \u{fffd}[2J, 0B of 90.0MiB, 0 of 5 layers done",
        ]
    );
}

#[test]
fn an_image_that_comes_is_a_bar_on_a_terminal() {
    let (go_on, gone_on) = mpsc::channel();
    let peer = Peer::events(move |_, stream| {
        tell(stream, "progress", &image("download", 50, 2));
        gone_on.recv_timeout(PATIENCE).unwrap();
        tell(stream, "complete", SHED);
    });
    let user = User::with_server(peer.port);
    let pty = Pty::open();
    let mut child = pty.spawn(&user, &["create", "web", "--no-sync"]);
    let shown = pty.shows("downloading the image, 50.0MiB of 90.0MiB, 2 of 5 layers done");
    assert!(shown.contains("=====>"), "{shown:?}");
    go_on.send(()).unwrap();
    pty.shows("Created shed web");
    assert_eq!(wait(&mut child), Some(0));
    peer.end();
}

#[test]
fn with_json_there_is_one_line_with_all_of_it_and_nothing_on_stderr() {
    let peer = Peer::events(success);
    let ran = User::with_server(peer.port).shed(&["create", "web", "--trace", "--json"]).exits(0);
    assert_eq!((ran.stderr.as_str(), ran.stdout.lines().count()), ("", 1), "{ran:?}");
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&value["status"], &value["action"], &value["name"], &value["server"]),
        (&"ok".into(), &"create".into(), &"web".into(), &"test".into())
    );
    let details = &value["details"];
    assert_eq!(details["warnings"], serde_json::json!(["The clone failed"]));
    assert_eq!(details["timeline"][1]["ms"], 1200);
    assert!(details["client_ms"].is_u64(), "{details}");
    peer.end();
}

#[test]
fn an_error_event_is_an_error_with_its_hint() {
    let peer = Peer::events(|_, stream| {
        tell(
            stream,
            "error",
            r#"{"code":"SHED_ALREADY_EXISTS","message":"there is a shed named `web`\u001b[2J already"}"#,
        );
    });
    let ran = User::with_server(peer.port).shed(&["create", "web"]).exits(1);
    assert_eq!(
        ran.stderr,
        "error: there is a shed named `web`\u{fffd}[2J already\n\
         hint: choose another name, or delete that shed first: shed delete web\n"
    );
    peer.end();
}

#[test]
fn events_that_end_without_a_result_are_an_error() {
    let peer = Peer::events(|_, stream| tell(stream, "progress", r#"{"message":"Booting"}"#));
    let ran = User::with_server(peer.port).shed(&["create", "web"]);
    assert!(ran.code == 1 || ran.code == 3, "{ran:?}");
    ran.says("error: ");
    peer.end();
}

#[test]
fn an_interrupted_create_hangs_up_and_says_so() {
    for (signal_name, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (ready, begun) = mpsc::channel();
        let peer = Peer::events(endless(ready));
        let user = User::with_server(peer.port);
        let child =
            user.command(&["create", "web"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
        signal(&child, signal_name);
        let ran = Ran::of(&child.wait_with_output().unwrap());
        peer.end();
        ran.exits(code).says("the create of shed web was interrupted; it is cancelled");
        assert!(!user.config().contains("sheds"));
    }
}

#[test]
fn a_create_that_takes_too_long_is_cancelled() {
    let peer = Peer::events(endless(mpsc::channel().0));
    let ran = User::with_server(peer.port).shed(&["create", "web", "--timeout", "200ms"]).exits(1);
    peer.end();
    ran.says("took longer than 200ms; it is cancelled").says("--timeout");
}

#[test]
fn the_config_file_may_say_how_long_a_create_takes() {
    let peer = Peer::events(endless(mpsc::channel().0));
    let user = User::new();
    user.write_config(&format!(
        "servers: {{test: {{host: 127.0.0.1, http_port: {}}}}}\ncreate_timeout: 150ms\n",
        peer.port
    ));
    user.shed(&["create", "web"]).exits(1).says("took longer than 150ms");
    peer.end();
}

#[test]
fn a_start_that_is_not_waited_for_goes_on() {
    let peer = Peer::events(endless(mpsc::channel().0));
    let ran = User::with_server(peer.port).shed(&["start", "web", "--timeout", "200ms"]).exits(1);
    peer.end();
    ran.says("takes longer than 200ms; it goes on on the server").says("shed list");
}
