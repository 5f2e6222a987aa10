//! On which of several servers a shed is looked for (spec G): where it was last seen, on the default server, on all; and
//! `--server` before any of these.

use crate::{
    stub::{Stub, ok, refused},
    user::{User, closed_port, json},
};

/// A server on which a stop of `web` succeeds.
fn having() -> Stub {
    Stub::serve(|line| match line {
        "GET /api/sheds/web" | "POST /api/sheds/web/stop" => {
            ok(r#"{"name":"web","status":"stopped","created_at":"2026-01-20T10:30:00Z"}"#)
        }
        other => panic!("{other}"),
    })
}

/// A server without sheds.
fn lacking() -> Stub {
    Stub::serve(|_| refused("404 Not Found", "SHED_NOT_FOUND", "there is no shed web"))
}

fn seen_on(user: &User, server: &str) {
    user.write_config(&format!("{}sheds: {{web: {{server: {server}, status: running}}}}\n", user.config()));
}

const STOP: &str = "POST /api/sheds/web/stop";
const GET: &str = "GET /api/sheds/web";

#[test]
fn where_it_was_last_seen_comes_before_the_default_server() {
    let (a, b) = (having(), having());
    let user = User::with_servers(&[("a", a.port), ("b", b.port)]);
    seen_on(&user, "b");
    let ran = user.shed(&["stop", "web"]).exits(0);
    assert_eq!(ran.stdout, "Stopped shed web on b\n");
    assert_eq!((a.asked(), b.asked()), (vec![], vec![STOP.to_owned()]));
    assert!(user.config().contains("status: stopped"), "{}", user.config());
}

#[test]
fn a_note_that_is_out_of_date_is_corrected() {
    let (a, b, c) = (lacking(), lacking(), having());
    let user = User::with_servers(&[("a", a.port), ("b", b.port), ("c", c.port)]);
    seen_on(&user, "b");
    user.shed(&["stop", "web"]).exits(0);
    assert_eq!((a.asked(), b.asked()), (vec![GET.to_owned()], vec![STOP.to_owned()]));
    assert_eq!(c.asked(), [GET, STOP], "it is found before anything is done");
    assert!(user.config().contains("server: c"), "{}", user.config());
    // A note about a server that is no more is none.
    let user = User::with_servers(&[("c", c.port)]);
    seen_on(&user, "nosuch");
    user.shed(&["stop", "web"]).exits(0);
}

#[test]
fn the_server_that_is_named_wins_over_all_and_is_remembered() {
    let (a, b) = (having(), having());
    let user = User::with_servers(&[("a", a.port), ("b", b.port)]);
    seen_on(&user, "a");
    for line in [&["-s", "b", "stop", "web"][..], &["stop", "--server", "b", "web"]] {
        assert_eq!(user.shed(line).exits(0).stdout, "Stopped shed web on b\n");
    }
    assert_eq!(a.asked(), [""; 0]);
    user.shed(&["stop", "web"]).exits(0);
    assert_eq!((a.asked().len(), b.asked().len()), (0, 3), "{}", user.config());
    let none = lacking();
    let user = User::with_servers(&[("a", a.port), ("none", none.port)]);
    user.shed(&["-s", "none", "stop", "web"]).exits(4).says("there is no shed web");
    user.shed(&["-s", "nosuch", "stop", "web"]).exits(4).says("no server is called nosuch");
    assert_eq!(a.asked(), [""; 0], "nobody else is asked");
}

#[test]
fn a_name_that_several_other_servers_have_is_the_user_s_to_decide() {
    let (a, b, c) = (lacking(), having(), having());
    let user = User::with_servers(&[("a", a.port), ("b", b.port), ("c", c.port)]);
    user.shed(&["stop", "web"]).exits(2).says("several servers have a shed web: b, c").says("--server NAME");
    assert_eq!((b.asked(), c.asked()), (vec![GET.to_owned()], vec![GET.to_owned()]));
    // The default server has it: nobody else is asked.
    let user = User::with_servers(&[("b", b.port), ("c", c.port)]);
    user.shed(&["stop", "web"]).exits(0);
    assert_eq!(c.asked().len(), 1);
    assert!(!user.config().contains("nosuch"));
}

/// Those that go over SSH are in `ssh`.
#[test]
fn every_command_that_names_a_shed_finds_it_on_another_server() {
    let (_guard, closed) = closed_port();
    for line in [
        &["start", "web"][..],
        &["stop", "web"],
        &["delete", "-f", "web"],
        &["sessions", "web"],
        &["sessions", "kill", "web", "s"],
        &["tunnels", "start", "web", "-t", "3000"],
        &["ssh-config", "web"],
    ] {
        let there = Stub::serve(|line| match line {
            GET => ok(r#"{"name":"web","status":"stopped","created_at":"2026-01-20T10:30:00Z"}"#),
            _ => refused("409 Conflict", "SHED_BUSY", "this is the one"),
        });
        let here = lacking();
        let user = User::with_servers(&[("here", here.port), ("there", there.port)]);
        let ran = user.shed(line);
        assert!(ran.stderr.contains("this is the one") || ran.code == 0, "{line:?}: {ran:?}");
        assert!(!here.asked().is_empty() && !there.asked().is_empty(), "{line:?}");
        // One that does not answer may have it, too.
        let user = User::with_servers(&[("here", here.port), ("gone", closed)]);
        user.shed(line).says("did not say whether it has");
    }
}

#[test]
fn all_servers_are_listed_at_once_with_those_that_are_gone() {
    let (_guard, closed) = closed_port();
    let list = |name: &'static str| {
        Stub::serve(move |_| {
            ok(format!(
                r#"{{"sheds":[{{"name":"{name}","status":"stopped","created_at":"2026-01-20T10:30:00Z"}}]}}"#
            ))
        })
    };
    let (a, b) = (list("web"), list("api"));
    let user = User::with_servers(&[("a", a.port), ("b", b.port), ("gone", closed)]);
    let value = json(&user.shed(&["list", "--all", "--json"]).exits(0).stdout);
    let rows: Vec<(&str, &str)> = value["sheds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shed| (shed["server"].as_str().unwrap(), shed["name"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [("a", "web"), ("b", "api")]);
    assert_eq!(value["offline"][0]["server"], "gone");
}
