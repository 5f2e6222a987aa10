//! What a guest can reach: the network and services of its host, but never the API that owns it.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use vm_tests::{BOOT, Config, Expect, Promises, SHORT, Stage, wait_for};

const SHED: &str = "inside";

/// The host, as a guest behind user-mode networking sees it.
const HOST: &str = "10.0.2.2";

/// A guest has a network and cannot use it to command the server that runs it.
#[test]
fn a_guest_has_a_network_but_no_power_over_its_server() {
    let Some(mut stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    let api = format!("http://{HOST}:{}/api", server.port());
    // Prints the status and nothing else; 000 when there is no reply.
    let ask = |arguments: &str| {
        let line = format!("curl -s -o /dev/null -m 20 -w '%{{http_code}}' {arguments} || true");
        cli.exec(SHED, &["sh", "-c", &line]).ok().out()
    };

    promises.keep("the first command already has the network: address, route and name server", || {
        let seen = cli.sh(SHED, "ip -4 -o addr; ip -4 route; cat /etc/resolv.conf");
        assert!(seen.contains("10.0.2.15") && seen.contains(&format!("default via {HOST}")), "{seen}");
        assert!(seen.contains("nameserver"), "{seen}");
    });
    promises.keep("the system's own name server takes over when it has started", || {
        wait_for("systemd-resolved", BOOT, || {
            let conf = cli.sh(SHED, "cat /etc/resolv.conf; stat -L -c %U /etc/resolv.conf");
            (conf.contains("127.0.0.53") && conf.ends_with("systemd-resolve")).then_some(())
        });
        wait_for("it to know the host's name server", BOOT, || {
            cli.exec(SHED, &["resolvectl", "dns"]).out().contains("10.0.2.3").then_some(())
        });
    });
    promises.keep("the clock of the guest is that of the host", || {
        let guest: i64 = cli.sh(SHED, "date +%s").parse().expect("seconds");
        let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(guest.abs_diff(i64::try_from(host).unwrap()) < 10, "{guest} in the guest, {host} outside");
    });
    promises.keep("a guest reaches a service on its host", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SHORT)).unwrap();
            let mut line = [0; 5];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(b"pong\n").unwrap();
            line
        });
        let script = format!("exec 3<>/dev/tcp/{HOST}/{port}; echo ping >&3; head -n 1 <&3");
        assert_eq!(cli.exec(SHED, &["bash", "-c", &script]).ok().out(), "pong");
        assert_eq!(&service.join().unwrap(), b"ping\n");
    });
    promises.keep("a guest cannot list, read, create, stop or delete sheds", || {
        assert_eq!(ask(&format!("{api}/sheds")), "403");
        assert_eq!(ask(&format!("{api}/sheds/{SHED}")), "403");
        assert_eq!(ask(&format!("-X POST -d '{{\"name\":\"mine\"}}' {api}/sheds")), "403");
        assert_eq!(ask(&format!("-X POST {api}/sheds/{SHED}/stop")), "403");
        assert_eq!(ask(&format!("-X DELETE {api}/sheds/{SHED}")), "403");
        let upgrade = "-H 'Connection: Upgrade' -H 'Upgrade: shed-exec'";
        assert_eq!(ask(&format!("{upgrade} {api}/sheds/{SHED}/exec")), "403");
        assert_eq!(http.names(), [SHED]);
    });
    promises.keep("a guest cannot log in over SSH: its connection is closed without a word", || {
        let port = server.ssh_port();
        let mut from_outside = [0; 8];
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        stream.read_exact(&mut from_outside).unwrap();
        assert_eq!(&from_outside, b"SSH-2.0-");
        let script = format!("timeout 60 cat </dev/tcp/{HOST}/{port} | wc -c");
        assert_eq!(cli.exec(SHED, &["bash", "-c", &script]).ok().out(), "0");
    });
    promises.keep("nor as root, nor by a request that is sent before its connection is torn down", || {
        let request = format!("DELETE /api/sheds/{SHED} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n");
        let script = format!(
            "for i in $(seq 30); do printf '{request}' >/dev/tcp/{HOST}/{port}; done 2>/dev/null; true",
            port = server.port()
        );
        cli.run(&["exec", "-u", "root", SHED, "--", "bash", "-c", &script]).ok();
        assert_eq!(http.status(SHED), "running");
    });
    stage.configure(Config { http_port: server.port(), ..Config::default() });
    promises.keep("nor while the server restarts under it", || {
        // Its requests come all the time, also in the first moment of the new server.
        let script = format!("while :; do curl -s -m 2 -X DELETE {api}/sheds/{SHED} >/dev/null; done");
        cli.sh(SHED, &format!("setsid sh -c '{script}' >/dev/null 2>&1 </dev/null & true"));
        server.crash();
        let server = stage.serve();
        let refused = |log: &str| log.matches("status=403").count();
        let log = || fs::read_to_string(stage.server_log()).unwrap();
        let before = refused(&log());
        wait_for("the new server to refuse the guest", SHORT, || {
            (refused(&log()) > before + 3).then_some(())
        });
        assert_eq!(server.http().status(SHED), "running");
        stage.assert_only(&[Expect::Running(SHED)]);
        cli.delete(SHED);
        assert!(server.terminate() < Duration::from_secs(20));
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
