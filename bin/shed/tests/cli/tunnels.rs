//! `shed tunnels start` on its terminal: bytes, ends, and the server's and the shed's coming and going.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use rustix::process::Signal;

use crate::{
    tunnel_server::{Foreground, Mode, TunnelServer, echo, eventually, free_ports, through},
    user::{User, json},
};

/// Bytes that are like no others.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|n| ((n + 1).wrapping_mul(2_654_435_761 + 2 * seed) >> 13).to_le_bytes()[0]).collect()
}

fn stage(mode: Mode) -> (TunnelServer, User) {
    let server = TunnelServer::start(mode);
    let user = User::with_server(server.port);
    (server, user)
}

#[test]
fn a_hundred_connections_at_once_each_get_back_the_megabyte_they_sent() {
    let (_server, user) = stage(Mode::Running);
    let [local, other] = free_ports();
    let tunnels =
        Foreground::start(&user, &["web", "-t", &format!("{local}:7"), "-t", &format!("{other}:9")]);
    thread::scope(|scope| {
        for number in 0..100 {
            scope.spawn(move || {
                let sent = bytes(number, 1 << 20);
                let port = if number % 2 == 0 { local } else { other };
                assert!(echo(port, &sent).unwrap() == sent, "connection {number}");
            });
        }
    });
    tunnels.signal(Signal::INT);
    assert_eq!(tunnels.end(), (Some(130), "They end with Ctrl-C.\n".to_owned()));
}

#[test]
fn each_port_leads_where_it_should_and_listens_on_the_loopback_address() {
    let (server, user) = stage(Mode::Running);
    let [local] = free_ports();
    let _tunnels = Foreground::start(&user, &["web", "-t", &format!("{local}:4321")]);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    assert_eq!(server.asked(), ["GET /api/sheds/web", "GET /api/sheds/web/connect/4321"]);
    let error = TcpListener::bind(("127.0.0.1", local)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_stopped_shed_is_started_first() {
    let (server, user) = stage(Mode::Stopped);
    let [local] = free_ports();
    let _tunnels = Foreground::start(&user, &["web", "-t", &local.to_string()]);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    assert_eq!(server.asked()[..2], ["GET /api/sheds/web", "POST /api/sheds/web/start"]);
}

#[test]
fn when_one_port_is_taken_nothing_is_started() {
    let (server, user) = stage(Mode::Stopped);
    let [free] = free_ports();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for detach in [&[][..], &["-d"]] {
        let (first, second) = (free.to_string(), port.to_string());
        let line = [&["tunnels", "start", "web", "-t", &first, "-t", &second], detach].concat();
        user.shed(&line)
            .exits(1)
            .says(&format!("port {port} of 127.0.0.1 is in use, and nothing is started"));
    }
    assert!(
        server.asked().iter().all(|line| line.starts_with("GET")),
        "the shed stays stopped: {:?}",
        server.asked()
    );
    TcpListener::bind(("127.0.0.1", free)).unwrap();
    assert_eq!(user.shed(&["tunnels", "list"]).exits(0).stderr, "There are no tunnels.\n");
}

#[test]
fn ctrl_c_ends_them_at_once_and_cuts_open_connections_off() {
    let (_server, user) = stage(Mode::Running);
    let [local] = free_ports();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let tunnels = Foreground::start(&user, &["web", "-t", &local.to_string()]);
        let mut open: Vec<TcpStream> = (0..20).map(|_| through(local).unwrap()).collect();
        open[0].write_all(b"x").unwrap();
        open[0].read_exact(&mut [0]).unwrap();
        tunnels.signal(signal);
        assert_eq!(tunnels.end().0, Some(code));
        for stream in &mut open {
            let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it does not look like a whole answer");
        }
        assert_eq!(user.shed(&["tunnels", "list"]).exits(0).stdout, "");
    }
}

#[test]
fn they_end_with_the_shed() {
    let (server, user) = stage(Mode::Running);
    let [local] = free_ports();
    for (mode, code, text) in [
        (Mode::Deleted, 4, "there is no shed web on test any more, so its tunnels have ended"),
        (Mode::Stopped, 1, "shed web on test does not run any more, so its tunnels have ended"),
    ] {
        server.become_(Mode::Running);
        let tunnels = Foreground::start(&user, &["web", "-t", &local.to_string()]);
        assert_eq!(echo(local, b"x").unwrap(), b"x");
        server.become_(mode);
        through(local).unwrap_err();
        let (ended, said) = tunnels.end();
        assert!(ended == Some(code) && said.contains(text), "{ended:?} {said}");
    }
}

#[test]
fn a_server_that_is_away_costs_only_the_connections_of_that_while() {
    let (server, user) = stage(Mode::Running);
    let [local] = free_ports();
    let tunnels = Foreground::start(&user, &["web", "-t", &local.to_string()]);
    let port = server.port;
    drop(server);
    for _ in 0..3 {
        through(local).unwrap_err();
    }
    let _back = TunnelServer::start_at(port, Mode::Running);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    tunnels.signal(Signal::INT);
    let (code, said) = tunnels.end();
    assert_eq!(code, Some(130));
    let line =
        format!("warning: port {local}: a connection failed: cannot reach the server at 127.0.0.1:{port}: ");
    assert_eq!(said.matches(&line).count(), 3, "{said}");
}

#[test]
fn a_service_that_breaks_off_is_seen_to_and_the_others_go_on() {
    let (server, user) = stage(Mode::BreakingOff);
    let [local] = free_ports();
    let tunnels = Foreground::start(&user, &["web", "-t", &local.to_string()]);
    let mut stream = through(local).unwrap();
    stream.write_all(b"!").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    server.become_(Mode::Running);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    tunnels.signal(Signal::INT);
    let (_, said) = tunnels.end();
    assert!(said.contains(&format!("port {local}: a connection broke")), "{said}");
}

#[test]
fn a_client_that_gives_up_costs_nothing() {
    let (_server, user) = stage(Mode::Running);
    let [local] = free_ports();
    let tunnels = Foreground::start(&user, &["web", "-t", &local.to_string()]);
    for _ in 0..50 {
        let stream = TcpStream::connect(("127.0.0.1", local)).unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        drop(stream);
        drop(through(local).unwrap());
    }
    eventually("a whole answer", || echo(local, b"x").is_ok_and(|back| back == b"x"));
    tunnels.signal(Signal::INT);
    assert_eq!(tunnels.end(), (Some(130), "They end with Ctrl-C.\n".to_owned()));
}

#[test]
fn a_second_start_is_refused_where_nobody_can_be_asked() {
    let (_server, user) = stage(Mode::Running);
    let [local, other] = free_ports();
    let first = Foreground::start(&user, &["web", "-t", &local.to_string()]);
    let pid = first.child.id();
    let ran = user.shed(&["tunnels", "start", "web", "-t", &other.to_string()]).exits(1);
    ran.says(&format!(
        "there are tunnels to shed web on test already ({local}, process {pid}), and nothing is started"
    ))
    .says("--replace");
    // The one that takes its place gets its ports, too.
    let (one, two) = (local.to_string(), other.to_string());
    let second = Foreground::start(&user, &["web", "-t", &one, "-t", &two, "--replace"]);
    assert_eq!(first.end().0, Some(143));
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    let list = user.shed(&["tunnels", "list"]).exits(0).stdout;
    assert!(list.contains(&second.child.id().to_string()) && !list.contains(&pid.to_string()), "{list}");
}

#[test]
fn what_cannot_be_is_refused_before_the_server_is_asked() {
    let (server, user) = stage(Mode::Running);
    for (line, text) in [
        (&["start", "web"][..], "shed web has no tunnel profile default"),
        (&["start", "web", "-p", "x"], "shed web has no tunnel profile x"),
        (&["start", "web", "-t", "0"], "is no mapping of ports"),
        (&["start", "web", "-t", "3000:x"], "is no mapping of ports"),
        (&["start", "Web", "-t", "1"], "Web"),
        (&["start"], "SHED"),
        (&["stop"], "SHED"),
        (&["stop", "web", "--all"], "--all"),
        (&["config"], "SHED"),
        (&["daemon", "web"], "unrecognized subcommand"),
    ] {
        let line = [&["tunnels"], line].concat();
        user.shed(&line).exits(2).says(text);
    }
    user.shed(&["--config", "/nowhere/x", "tunnels", "daemon", "web"]).exits(2).says("nobody else");
    user.shed(&["tunnels", "stop", "web"]).exits(4).says("there are no tunnels to shed web");
    let ran = user.shed(&["tunnels", "stop", "--all"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "There are no tunnels.\n"));
    assert_eq!(
        json(&user.shed(&["tunnels", "list", "--json"]).exits(0).stdout),
        serde_json::json!({"tunnels": []})
    );
    assert_eq!(server.asked(), [""; 0]);
    server.become_(Mode::Deleted);
    user.shed(&["tunnels", "start", "web", "-t", "3000"]).exits(4).says("no, web");
}
