//! Who is trusted and who is reached over SSH: host keys, refusals, servers that are none.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use shed_api::ErrorCode;
use shed_protocol::ExitStatus;

use crate::{
    exec::{PATIENCE, wait},
    ssh_peer::SshPeer,
    stub::{Answer, Stub, ok, unknown_path},
    user::{User, closed_port},
};

/// Takes one connection and does something with it.
fn raw(scene: impl FnOnce(TcpStream) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || scene(listener.accept().unwrap().0)))
}

fn user(http_port: u16, ssh_port: u16) -> User {
    let user = User::new();
    user.write_config(&format!(
        "servers: {{test: {{host: 127.0.0.1, http_port: {http_port}, ssh_port: {ssh_port}}}}}\ndefault_server: test\n"
    ));
    user
}

fn info(ssh_port: u16) -> Answer {
    ok(format!(r#"{{"name":"mini","version":"9.9.9","ssh_port":{ssh_port},"http_port":1,"backend":"qemu"}}"#))
}

#[test]
fn the_login_is_the_sheds_name_and_nothing_is_asked_over_http() {
    let peer = SshPeer::play(|stage| {
        assert_eq!(stage.user, "web");
        stage.exit(&ExitStatus::exited(0));
    });
    let ran = User::of_peer(&peer).shed(&["exec", "web", "true"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    peer.end();
}

#[test]
fn a_changed_host_key_stops_with_an_explanation() {
    let peer = SshPeer::with_other_key(|_| panic!("no command may come"));
    let other = SshPeer::play(|_| {});
    let user = user(1, peer.port);
    let line = format!("[127.0.0.1]:{} {}\n", peer.port, other.key);
    user.write_known_hosts(&line);
    let ran = user.shed(&["exec", "web", "id"]);
    assert_eq!(ran.stdout, "");
    ran.exits(255)
        .says("the SSH host key of server test at http://127.0.0.1:1 has changed")
        .says("it should be SHA256:")
        .says("somebody may be between you and that server")
        .says("shed server remove test && shed server add 127.0.0.1:1 --name test");
    assert_eq!(user.known_hosts(), Some(line));
    peer.end();
    drop(TcpStream::connect(("127.0.0.1", other.port)));
}

#[test]
fn a_server_without_a_known_key_is_not_logged_in_to() {
    let peer = SshPeer::play(|_| panic!("no command may come"));
    let user = user(1, peer.port);
    user.write_known_hosts(&format!(
        "# a comment\n[127.0.0.1]:{} ssh-rsa AAAA\nother {}\n",
        peer.port, peer.key
    ));
    user.shed(&["exec", "web", "id"])
        .exits(255)
        .says("no SSH host key is known for server test")
        .says("which shows SHA256:")
        .says("shed server remove test && shed server add 127.0.0.1:1 --name test");
    peer.end();
}

#[test]
fn a_revoked_key_is_no_key() {
    let peer = SshPeer::play(|_| panic!("no command may come"));
    let user = User::of_peer(&peer);
    let place = format!("[127.0.0.1]:{}", peer.port);
    user.write_known_hosts(&format!("{place} {key}\n@revoked {place} {key}\n", key = peer.key));
    user.shed(&["exec", "web", "id"]).exits(255).says("no SSH host key is known");
    peer.end();
}

#[test]
fn refusals_of_the_server_have_a_hint_and_a_code_by_kind() {
    let peer = SshPeer::refuse(ErrorCode::ShedNotFound, "there is no shed web");
    User::of_peer(&peer)
        .shed(&["exec", "web", "ls"])
        .exits(255)
        .says("error: there is no shed web")
        .says("hint: see which sheds there are: shed list --all");
    peer.end();
}

#[test]
fn a_refusal_after_the_server_has_accepted_is_one_as_well() {
    let peer = SshPeer::play(|stage| {
        stage.send(shed_protocol::FrameKind::Stderr, b"shed web is starting\n");
        let refusal = shed_ssh::Refusal::new(ErrorCode::BackendError, "shed web did not start\u{1b}[2J");
        stage.send(shed_protocol::FrameKind::ExitStatus, &refusal.to_frame().payload);
    });
    let ran = User::of_peer(&peer).shed(&["exec", "web", "ls"]);
    assert!(
        ran.stderr.starts_with("shed web is starting\nerror: shed web did not start\u{fffd}[2J\n"),
        "{ran:?}"
    );
    ran.exits(255).says("hint: the server's log has the whole story");
    peer.end();
}

#[test]
fn a_shed_that_has_moved_is_found_on_the_other_server_with_its_input() {
    let old = SshPeer::refuse(ErrorCode::ShedNotFound, "there is no shed web");
    let new = SshPeer::play(|stage| {
        let frame = stage.next().unwrap();
        assert_eq!(frame.payload.as_ref(), b"to the right one");
        stage.exit(&ExitStatus::exited(0));
    });
    let stub = Stub::serve(|line| match line {
        "GET /api/sheds/web" => ok(
            r#"{"name":"web","status":"running","created_at":"2026-01-02T03:04:05Z","backend":"qemu","cpus":1,"memory_mb":1,"image":"base"}"#,
        ),
        other => panic!("{other}"),
    });
    let user = User::of_peers(&[("a", &old), ("b", &new)]);
    user.write_config(&format!(
        "servers: {{a: {{host: 127.0.0.1, http_port: 1, ssh_port: {}}}, b: {{host: 127.0.0.1, http_port: {}, ssh_port: {}}}}}\n\
         default_server: a\nsheds: {{web: {{server: a}}}}\n",
        old.port, stub.port, new.port
    ));
    let mut child =
        user.command(&["exec", "web", "--", "cat", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"to the right one").unwrap();
    assert_eq!(wait(&mut child), Some(0));
    assert!(user.config().contains("server: b"), "{}", user.config());
    old.end();
    new.end();
}

#[test]
fn an_ssh_server_that_is_none_of_shed_is_told_from_one() {
    let peer = SshPeer::ignorant();
    User::of_peer(&peer).shed(&["exec", "web", "ls"]).exits(255).says("subsystem shed-exec");
    peer.end();
    let peer = SshPeer::locked();
    User::of_peer(&peer)
        .shed(&["exec", "web", "ls"])
        .exits(255)
        .says("without a password or key")
        .says("ssh_port");
    peer.end();
    let peer = SshPeer::farewell("too many of you");
    User::of_peer(&peer).shed(&["exec", "web", "ls"]).exits(255).says("too many of you");
    peer.end();
}

#[test]
fn rubbish_instead_of_ssh_is_an_error_at_once() {
    for rubbish in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\0\xff\xfe\r\n", &[b'x'; 5000], b"SSH-1.0-old\r\n"]
    {
        let (port, server) = raw(move |mut stream| {
            let _gone = stream.write_all(rubbish);
            let _gone = stream.shutdown(std::net::Shutdown::Write);
            let _all = stream.read_to_end(&mut Vec::new());
        });
        let ran = user(1, port).shed(&["exec", "web", "ls"]);
        assert_eq!(ran.stdout, "");
        ran.exits(255).says("could not log in to server test").says("hint: ");
        server.join().unwrap();
    }
}

#[test]
fn rubbish_behind_a_good_greeting_is_an_error() {
    let (port, server) = raw(|mut stream| {
        stream.write_all(b"SSH-2.0-x\r\n").unwrap();
        let _gone = stream.write_all(&[0x7f; 100_000]);
        let _all = stream.read_to_end(&mut Vec::new());
    });
    user(1, port).shed(&["exec", "web", "ls"]).exits(255).says("could not log in to server test");
    server.join().unwrap();
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let (over, end) = mpsc::channel::<()>();
    let (port, server) = raw(move |stream| {
        // Open until the client has gone.
        end.recv_timeout(PATIENCE * 10).unwrap();
        drop(stream);
    });
    user(1, port)
        .shed(&["exec", "web", "ls"])
        .exits(255)
        .says("took the connection, and then did not answer as an SSH server within 30s");
    over.send(()).unwrap();
    server.join().unwrap();
}

#[test]
fn a_port_that_only_http_reaches_is_named_with_what_to_look_at() {
    let (_guard, port) = closed_port();
    let stub = Stub::serve(move |_| info(port));
    user(stub.port, port)
        .shed(&["exec", "web", "ls"])
        .exits(255)
        .says(&format!("answers, but not on its SSH port, 127.0.0.1:{port}"))
        .says("firewall")
        .says("ssh_port");
    let moved = Stub::serve(|_| info(4022));
    user(moved.port, port).shed(&["exec", "web", "ls"]).exits(255).says("its SSH port is 4022 now");
    let (_guard, http) = closed_port();
    user(http, port)
        .shed(&["exec", "web", "ls"])
        .exits(255)
        .says(&format!("cannot reach server test at http://127.0.0.1:{http}"))
        .says("hint: see which servers answer");
}

#[test]
fn an_old_server_without_ssh_is_said_to_be_one() {
    let (_guard, port) = closed_port();
    let stub = Stub::serve(|_| unknown_path());
    user(stub.port, port).shed(&["exec", "web", "ls"]).exits(255).says("may be older");
}

#[test]
fn a_command_is_typed_into_a_session_and_nothing_else_is_said() {
    let peer = SshPeer::play(|stage| {
        let line = r"echo '$A b'";
        assert_eq!(
            stage.request.cmd,
            [
                "tmux",
                "-u",
                "send-keys",
                "-t",
                "=main:",
                "-l",
                "--",
                line,
                ";",
                "send-keys",
                "-t",
                "=main:",
                "Enter"
            ]
        );
        assert!(!stage.request.tty && stage.request.env.is_empty());
        stage.exit(&ExitStatus::exited(0));
    });
    let ran = User::of_peer(&peer).shed(&["exec", "-S", "main", "web", "--", "echo", "$A b"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    peer.end();
}

#[test]
fn a_session_that_is_not_there_and_a_missing_tmux_are_errors() {
    let peer = SshPeer::play(|stage| {
        stage.send(shed_protocol::FrameKind::Stderr, b"can't find pane: =main:\n");
        stage.exit(&ExitStatus::exited(1));
    });
    User::of_peer(&peer)
        .shed(&["exec", "web", "-S", "main", "ls"])
        .exits(255)
        .says("shed web has no session main")
        .says("shed sessions web");
    peer.end();
    let peer = SshPeer::play(|stage| stage.exit(&ExitStatus::failed(127, "tmux: there is no such command")));
    User::of_peer(&peer).shed(&["exec", "-S", "main", "web", "ls"]).exits(255).says("has no tmux");
    peer.end();
    User::new().shed(&["exec", "-S", "main", "web"]).exits(255).says("no command to type");
    User::new().shed(&["exec", "-S", "-x y", "web", "ls"]).exits(2);
    User::new().shed(&["exec", "-S", "main", "-t", "web", "ls"]).exits(2);
}
