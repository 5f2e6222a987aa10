//! `shed server add` and `remove`, and the file of host keys.

use crate::{
    stub::{Answer, Stub, ok, refused, unknown_path},
    user::{User, json},
};

const INFO: &str = r#"{"name":"mini","version":"9.9.9","ssh_port":2222,"http_port":8080,"backend":"qemu"}"#;

/// A server with this host key, or another answer to the question.
fn server(key: impl Fn() -> Answer + Send + 'static) -> Stub {
    Stub::serve(move |line| match line {
        "GET /api/info" => ok(INFO),
        "GET /api/ssh-host-key" => key(),
        other => panic!("{other}"),
    })
}

fn with_key(key: &'static str) -> Stub {
    server(move || ok(serde_json::json!({ "host_key": key }).to_string()))
}

fn add(user: &User, stub: &Stub, name: &str) -> crate::user::Ran {
    user.shed(&["server", "add", &format!("127.0.0.1:{}", stub.port), "-n", name])
}

#[test]
fn the_host_key_is_kept_as_ssh_reads_it_until_the_last_name_of_the_server_goes() {
    let (stub, same) = (with_key("ssh-ed25519 AAAA me@mini"), with_key("ssh-ed25519 AAAA"));
    let user = User::new();
    add(&user, &stub, "a").exits(0).says("Its SSH host key is kept in ").says("/.shed/known_hosts.");
    add(&user, &same, "b").exits(0);
    let line = "[127.0.0.1]:2222 ssh-ed25519 AAAA\n";
    assert_eq!(user.known_hosts().as_deref(), Some(line));
    user.shed(&["server", "remove", "a"]).exits(0);
    assert_eq!(user.known_hosts().as_deref(), Some(line));
    user.shed(&["server", "remove", "b"]).exits(0);
    assert_eq!(user.known_hosts().as_deref(), Some(""));
}

#[test]
fn json_has_the_key() {
    let stub = with_key("ssh-ed25519 AAAA");
    let ran = User::new().shed(&["--json", "server", "add", &format!("127.0.0.1:{}", stub.port)]).exits(0);
    let details = &json(&ran.stdout)["details"];
    assert_eq!((&details["host"], &details["host_key"]), (&"127.0.0.1".into(), &"ssh-ed25519 AAAA".into()));
}

#[test]
fn a_key_that_has_changed_is_refused_and_nothing_is_written() {
    let (stub, other) = (with_key("ssh-ed25519 AAAA"), with_key("ssh-ed25519 BBBB"));
    let user = User::new();
    add(&user, &stub, "a").exits(0);
    let before = (user.config(), user.known_hosts());
    add(&user, &other, "b")
        .exits(1)
        .says("the SSH host key of [127.0.0.1]:2222 is not the one that ")
        .says("somebody may be between")
        .says("ssh-keygen -f ")
        .says(" -R '[127.0.0.1]:2222'");
    assert_eq!((user.config(), user.known_hosts()), before);
}

#[test]
fn a_server_without_a_key_is_added_all_the_same() {
    let old = server(unknown_path);
    let user = User::new();
    let ran = add(&user, &old, "old").exits(0);
    assert_eq!((ran.stderr.as_str(), user.known_hosts()), ("", None));
    for answer in [
        refused("500 Internal Server Error", "INTERNAL_ERROR", "the key is gone"),
        ok(r#"{"host_key":"ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"}"#),
        ok("{}"),
    ] {
        let stub = server(move || answer.clone());
        let user = User::new();
        add(&user, &stub, "x").exits(0).says("warning: the server's SSH host key is not kept");
        assert_eq!(user.known_hosts(), None);
    }
}
