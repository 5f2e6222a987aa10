//! `shed tunnels` into a real guest: a local port is a port of the shed, for as long as the shed runs.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use vm_tests::{BOOT, Cli, Expect, Promises, SHORT, Stage, is_alive, wait_for};

const SHED: &str = "tunnelled";

/// Sends back what comes, as it comes, on each connection in a process of its own.
const ECHO: &str = "my $s = listen_on('127.0.0.1', 7001); $SIG{CHLD} = 'IGNORE'; ready(); \
     while (1) { my $c; accept($c, $s) or next; if (fork()) { close $c; next; } \
         my $b; while (sysread($c, $b, 1 << 16)) { say($c, $b) or last; } shutdown($c, 1); exit 0; }";

/// Connections at once, and bytes that each sends and gets back.
const CONNECTIONS: usize = 100;
const BULK: usize = 10_000_000;

/// Bytes that no other connection sends.
fn bytes(seed: usize) -> Vec<u8> {
    (0..BULK).map(|n| ((n + 1).wrapping_mul(2_654_435_761 + 2 * seed) >> 13).to_le_bytes()[0]).collect()
}

/// Holds a port that is none of those which the system gives to whoever asks for any (32768 and up).
fn held_port() -> TcpListener {
    let first = 12_000 + u16::try_from(std::process::id() % 20_000).expect("it is below 20,000");
    let mut ports = (first..32_768).chain(12_000..first);
    ports.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).expect("one of them is free")
}

/// Sends through a tunnel and returns what comes back.
fn echo(port: u16, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(BOOT))?;
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let sending =
            scope.spawn(move || writer.write_all(sent).and_then(|()| writer.shutdown(Shutdown::Write)));
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        sending.join().expect("sending does not panic")?;
        Ok(back)
    })
}

/// Starts tunnels in the background and returns their process.
#[track_caller]
fn start(cli: &Cli, mapping: &str) -> u32 {
    let done = cli.run(&["--json", "tunnels", "start", SHED, "-d", "-t", mapping]).ok().json();
    let pid = done["details"]["pid"].as_u64().expect("a process");
    pid.try_into().expect("a process id")
}

/// Many connections at once through a process in the background carry what they should, and that process is found,
/// stopped, and gone with its shed.
#[test]
fn a_hundred_connections_through_a_local_port_are_unharmed_and_end_with_the_shed() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    cli.start_service(SHED, "echo", ECHO);
    let held = held_port();
    let local = held.local_addr().expect("it is bound").port();
    let mapping = format!("{local}:7001");
    promises.keep("a port that is taken is refused, and nothing is started", || {
        let ran = cli.run(&["tunnels", "start", SHED, "-d", "-t", &mapping]).exits(1);
        assert!(ran.err().contains("is in use, and nothing is started"), "{}", ran.err());
        assert_eq!(cli.run(&["tunnels", "list"]).ok().out(), "");
    });
    drop(held);
    let pid = start(&cli, &mapping);
    promises.keep("a hundred connections at once each get back the ten megabytes they sent", || {
        thread::scope(|scope| {
            for number in 0..CONNECTIONS {
                scope.spawn(move || {
                    let sent = bytes(number);
                    let back =
                        echo(local, &sent).unwrap_or_else(|error| panic!("connection {number}: {error}"));
                    assert!(back == sent, "connection {number} got {} bytes that are others", back.len());
                });
            }
        });
    });
    promises.keep("the process is listed, and gone when it was stopped", || {
        let list = cli.run(&["tunnels", "list", "--json"]).ok().json();
        let one = &list["tunnels"][0];
        assert_eq!((one["shed_name"].as_str(), one["pid"].as_u64()), (Some(SHED), Some(pid.into())));
        assert!(is_alive(pid));
        cli.run(&["tunnels", "stop", SHED]).ok();
        assert!(!is_alive(pid));
        TcpStream::connect(("127.0.0.1", local)).expect_err("nobody listens");
    });
    promises.keep(
        "a port where nothing listens in the shed is a broken connection, and the tunnels go on",
        || {
            let pid = start(&cli, &format!("{local}:7999"));
            echo(local, b"x").expect_err("it is broken off");
            assert!(is_alive(pid));
            cli.run(&["tunnels", "stop", "--all"]).ok();
        },
    );
    promises.keep("tunnels end with the shed they lead to", || {
        let pid = start(&cli, &mapping);
        assert_eq!(echo(local, b"x").expect("it is carried"), b"x");
        cli.run(&["stop", SHED]).ok();
        assert!(!is_alive(pid));
    });
    promises.keep("a shed that is stopped is started for its tunnels", || {
        let pid = start(&cli, &mapping);
        assert_eq!(http.status(SHED), "running");
        cli.start_service(SHED, "echo-again", ECHO);
        assert_eq!(echo(local, b"x").expect("it is carried"), b"x");
        // Somebody else stops it: the next connection tells.
        http.post(&format!("/api/sheds/{SHED}/stop"), None).is(200);
        echo(local, b"x").expect_err("there is nothing to connect to");
        wait_for("the end of the tunnels", SHORT, || (!is_alive(pid)).then_some(()));
        assert_eq!(cli.run(&["tunnels", "list"]).ok().out(), "");
    });
    promises.keep("nothing is left", || {
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}
