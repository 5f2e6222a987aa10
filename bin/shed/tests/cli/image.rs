//! `shed image` against servers that answer as the test says; its questions are answered on a terminal.

use rustix::process::Signal;

use crate::{
    exec::{signal, wait},
    pty::Pty,
    stub::{Stub, done, ok, refused, unknown_path},
    user::{User, closed_port, json},
};

const IMAGES: &str = r#"{"images":[
    {"name":"base","path":"/i/base-rootfs.ext4","docker_ref":"ghcr.io/o/base:1","size_bytes":2147483648,"source":"config","cached":true},
    {"name":"tools","path":"/i/tools-rootfs.ext4","size_bytes":1536,"source":"discovered","cached":true}
]}"#;

const PRUNED: &str = r#"{"deleted":[
    {"name":"old","path":"/i/old-rootfs.ext4","docker_ref":"ghcr.io/o/old:1\u001b[2J","size_bytes":2147483648,"cached":true}
]}"#;

/// A server with two images and one to prune.
fn server() -> Stub {
    Stub::serve(|line| match line {
        "GET /api/images" => ok(IMAGES),
        "POST /api/images/prune?dry_run=true" | "POST /api/images/prune?dry_run=false" => ok(PRUNED),
        "DELETE /api/images/tools" | "DELETE /api/images/_base" => done(),
        "DELETE /api/images/base" => refused("409 Conflict", "IMAGE_IN_USE", "server.yaml names image base"),
        "DELETE /api/images/nosuch" => refused("404 Not Found", "IMAGE_NOT_FOUND", "no image nosuch"),
        other => panic!("{other}"),
    })
}

/// The requests that change something.
fn changes(stub: &Stub) -> Vec<String> {
    stub.asked()
        .into_iter()
        .filter(|line| line.starts_with("DELETE") || line.ends_with("dry_run=false"))
        .collect()
}

#[test]
fn images_are_listed_with_human_sizes_and_json_is_the_apis() {
    let stub = server();
    let user = User::with_server(stub.port);
    let ran = user.shed(&["image", "ls"]).exits(0);
    insta::assert_snapshot!(ran.stdout, @r"
    NAME   SOURCE        SIZE  CACHED  REF
    base   config      2.0GiB  yes     ghcr.io/o/base:1
    tools  discovered  1.5KiB  yes     -
    ");
    let ran = user.shed(&["image", "list", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout), json(IMAGES));
}

#[test]
fn images_of_all_servers_are_listed_and_missing_servers_named() {
    let stub = server();
    let (_guard, closed) = closed_port();
    let user = User::with_servers(&[("big", stub.port), ("gone", closed)]);
    let ran = user.shed(&["image", "list", "--all"]).exits(0).says("the images of gone are missing");
    assert!(ran.stdout.starts_with("NAME   SERVER  SOURCE "), "{ran:?}");
    let value = json(&user.shed(&["image", "list", "--all", "--json"]).exits(0).stdout);
    assert_eq!(
        (&value["images"][1]["server"], &value["images"][1]["name"]),
        (&"big".into(), &"tools".into())
    );
    assert_eq!(value["offline"][0]["server"], "gone");
}

#[test]
fn an_old_server_is_said_to_be_old() {
    let stub = Stub::serve(|_| unknown_path());
    let user = User::with_server(stub.port);
    for line in [
        &["image", "list"][..],
        &["image", "delete", "--force", "x"],
        &["image", "prune", "--dry-run"],
        &["image", "prune", "--force"],
        &["system", "df"],
        &["system", "prune", "--dry-run"],
        &["system", "prune", "--force"],
        &["sessions"],
    ] {
        user.shed(line).exits(1).says("may be older than this client").says("shed version -v");
    }
}

#[test]
fn nobody_is_asked_who_is_not_there() {
    let stub = server();
    let user = User::with_server(stub.port);
    for line in [&["image", "delete", "tools"][..], &["image", "prune"]] {
        user.shed(line).exits(2).says("stdin is not a terminal").says("--force");
        let json_line = [line, &["--json"]].concat();
        let ran = user.shed(&json_line).exits(2);
        assert!(json(&ran.stderr)["error"].as_str().unwrap().contains("--json"), "{ran:?}");
    }
    assert_eq!(stub.asked(), [""; 0]);
}

#[test]
fn a_forced_delete_reports_each_image_and_the_first_failure_gives_the_code() {
    let stub = server();
    let user = User::with_server(stub.port);
    let ran = user.shed(&["image", "rm", "-f", "tools", "nosuch", "base", "tools"]).exits(4);
    assert_eq!(ran.stdout, "Deleted image tools on test\n");
    let ran =
        ran.says("hint: see which images there are: shed image list").says("take it out of server.yaml");
    assert_eq!(ran.stderr.matches("error: ").count(), 2, "{ran:?}");
    let mut changes = changes(&stub);
    changes.sort();
    assert_eq!(changes, ["base", "nosuch", "tools"].map(|name| format!("DELETE /api/images/{name}")));
    let ran = user.shed(&["--json", "image", "delete", "-f", "tools"]).exits(0);
    assert_eq!(
        ran.stdout,
        "{\"status\":\"ok\",\"action\":\"image delete\",\"name\":\"tools\",\"server\":\"test\"}\n"
    );
}

#[test]
fn names_that_are_no_images_are_refused_before_anybody_is_asked() {
    for name in ["../x", "a/b", "", "a b"] {
        User::with_server(1).shed(&["image", "delete", "-f", name]).exits(2).says("image name");
    }
}

#[test]
fn a_delete_asks_on_a_terminal_and_only_yes_is_yes() {
    let question = "Delete images tools (1.5KiB), _base on test? [y/N] ";
    for (keys, yes) in [
        (&b"y\n"[..], true),
        (b"YES\n", true),
        (b"\n", false),
        (b"n\n", false),
        (b"yo\n", false),
        (b"\x04", false),
    ] {
        let stub = server();
        let (pty, user) = (Pty::open(), User::with_server(stub.port));
        let mut child = pty.spawn(&user, &["image", "delete", "tools", "_base"]);
        pty.shows(question);
        assert_eq!(changes(&stub), [""; 0], "nothing is done before the answer");
        pty.types(keys);
        if yes {
            pty.shows("Deleted image _base on test");
            assert_eq!((wait(&mut child), changes(&stub).len()), (Some(0), 2));
        } else {
            pty.shows("Nothing was changed.");
            assert_eq!((wait(&mut child), changes(&stub).len()), (Some(1), 0), "{keys:?}");
        }
    }
}

#[test]
fn an_interrupt_at_the_question_is_a_no() {
    let stub = server();
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["image", "prune"]);
    pty.shows("[y/N] ");
    signal(&child, Signal::INT);
    pty.shows("\r\nNothing was changed.");
    assert_eq!(wait(&mut child), Some(1));
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn one_image_that_is_not_there_leaves_all_of_them_alone() {
    let stub = server();
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["image", "delete", "tools", "nosuch"]);
    pty.shows("there is no image nosuch on server test");
    assert_eq!(wait(&mut child), Some(4));
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn a_prune_shows_first_asks_and_then_does_it() {
    let stub = server();
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["image", "prune"]);
    let shown = pty.shows("Delete 1 image on test and free up to 2.0GiB? [y/N] ");
    assert!(shown.contains("old   2.0GiB  ghcr.io/o/old:1\u{fffd}[2J"), "{shown}");
    assert_eq!(changes(&stub), [""; 0]);
    pty.types(b"y\n");
    pty.shows("Deleted 1 image on test and freed up to 2.0GiB");
    assert_eq!((wait(&mut child), changes(&stub).len()), (Some(0), 1));
}

#[test]
fn a_dry_run_changes_nothing_even_with_force() {
    let stub = server();
    let user = User::with_server(stub.port);
    for line in [&["image", "prune", "--dry-run"][..], &["image", "prune", "--dry-run", "--force"]] {
        let ran = user.shed(line).exits(0).says("A prune deletes 1 image on test and frees up to 2.0GiB.");
        assert!(ran.stdout.starts_with("NAME    SIZE  REF\nold "), "{ran:?}");
    }
    let ran = user.shed(&["image", "prune", "--dry-run", "--json"]).exits(0);
    assert_eq!(json(&ran.stdout), json(PRUNED));
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn a_forced_prune_looks_only_once_and_json_has_what_was_deleted() {
    let stub = server();
    let user = User::with_server(stub.port);
    let ran = user.shed(&["image", "prune", "-f", "--json"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!((&value["status"], &value["action"]), (&"ok".into(), &"image prune".into()));
    assert_eq!((&value["server"], &value["details"]), (&"test".into(), &json(PRUNED)));
    assert_eq!(stub.asked(), ["POST /api/images/prune?dry_run=false"]);
}

#[test]
fn with_nothing_to_prune_nobody_is_asked() {
    let stub = Stub::serve(|_| ok(r#"{"deleted":[]}"#));
    let (pty, user) = (Pty::open(), User::with_server(stub.port));
    let mut child = pty.spawn(&user, &["image", "prune"]);
    pty.shows("There is nothing to prune on test: every image is in use.");
    assert_eq!(wait(&mut child), Some(0));
    user.shed(&["image", "prune", "--force"]).exits(0).says("nothing to prune");
}
