//! Tunnels into a real guest: bytes, ends and refusals as the API promises them.

use std::{
    io::{Read, Write},
    thread,
};

use sha2::{Digest, Sha256};
use vm_tests::{Expect, Promises, Stage};

const SHED: &str = "reached";

/// Sends back what it gets, when it has got all of it.
fn repeats(address: &str, port: u16) -> String {
    format!(
        "my $s = listen_on('{address}', {port}); ready(); \
         while (1) {{ my $c = take($s); say($c, 'got ' . read_all($c)); close $c; }}"
    )
}

/// Says something and its end first, then hears, and keeps what it has heard in a file.
const SPEAKS_FIRST: &str = "my $s = listen_on('127.0.0.1', 7003); ready(); \
     while (1) { my $c = take($s); say($c, 'hello'); shutdown($c, 1); my $all = read_all($c); \
                 open(my $f, '>', '/tmp/heard') or die; print $f $all; close $f; close $c; }";

/// Takes and sends at the same time, and says in a file what the sum of what it took was.
const BOTH_WAYS: &str = "my $s = listen_on('127.0.0.1', 7004); ready(); \
     while (1) { my $c = take($s); my $pid = fork(); \
         if (!$pid) { open(my $f, '<', '/tmp/out') or die; my $b; \
             while (sysread($f, $b, 1 << 20)) { say($c, $b) or last; } shutdown($c, 1); exit 0; } \
         open(my $f, '>', '/tmp/in') or die; my $b; \
         while (sysread($c, $b, 1 << 20)) { say($f, $b); } close $f; waitpid($pid, 0); \
         rename('/tmp/in', '/tmp/in.whole'); close $c; }";

/// Resets the connection in the middle of an answer.
const BREAKS_OFF: &str = "my $s = listen_on('127.0.0.1', 7005); ready(); \
     while (1) { my $c = take($s); say($c, 'half an ans'); sysread($c, my $go, 1); \
                 setsockopt($c, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)); close $c; }";

/// Answers what it hears first, hears until the connection ends, and says in a file how it did. Were it to speak before,
/// its word could come along with the reply of the upgrade, which the test has read by then.
const HEARS_BREAKS: &str = "my $s = listen_on('127.0.0.1', 7006); ready(); \
     while (1) { my $c = take($s); my $n = sysread($c, my $first, 1 << 16); say($c, 'go'); \
                 while ($n = sysread($c, my $b, 1 << 16)) {} \
                 my $how = defined $n ? 'end' : qq(error: $!); \
                 open(my $f, '>', '/tmp/how.new') or die; print $f $how; close $f; \
                 rename('/tmp/how.new', '/tmp/how'); close $c; }";

/// Answers one HTTP request a connection.
const HTTP: &str = "my $s = listen_on('127.0.0.1', 7080); ready(); \
     while (1) { my $c = take($s); my $head = ''; \
         while ($head !~ /\\r\\n\\r\\n/) { sysread($c, $head, 4096, length $head) or last; } \
         my ($path) = $head =~ m{^GET (\\S+) HTTP/1}; my $body = qq(you asked for $path\\n); \
         say($c, qq(HTTP/1.1 200 OK\\r\\nContent-Length: ) . length($body) . qq(\\r\\nConnection: close\\r\\n\\r\\n$body)); \
         close $c; }";

/// Bytes that go each way at once.
const BULK: usize = 100_000_000;

/// A tunnel is a TCP connection to the guest's loopback, with all that makes one.
#[test]
fn tunnels_are_tcp_connections_into_the_guest() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    let open = |port: u16| http.tunnel(SHED, port).unwrap_or_else(|reply| panic!("{}", reply.text()));
    let refused = |port: u16| match http.tunnel(SHED, port) {
        Ok(_) => panic!("port {port} is open"),
        Err(reply) => (reply.status, reply.error()),
    };

    cli.start_service(SHED, "four", &repeats("127.0.0.1", 7001));
    cli.start_service(SHED, "six", &repeats("::1", 7002));
    promises.keep(
        "services on either loopback address are reached, and the end of the request is passed on",
        || {
            for port in [7001, 7002] {
                let mut tunnel = open(port);
                tunnel.write_all(b"question").unwrap();
                tunnel.shut().unwrap();
                assert_eq!(tunnel.rest().unwrap(), b"got question", "{port}");
            }
        },
    );
    cli.start_service(SHED, "first", SPEAKS_FIRST);
    promises.keep("a service that ends first still hears the client out", || {
        let mut tunnel = open(7003);
        assert_eq!(tunnel.rest().unwrap(), b"hello");
        tunnel.write_all(b"heard after the end").unwrap();
        drop(tunnel);
        vm_tests::wait_for("the service to have heard it", vm_tests::SHORT, || {
            (cli.exec(SHED, &["cat", "/tmp/heard"]).out() == "heard after the end").then_some(())
        });
    });
    promises.keep("a closed port is a failed connection that names shed, port and reason", || {
        let (status, (code, message)) = refused(7999);
        assert_eq!((status, code.as_str()), (502, "CONNECT_FAILED"));
        assert!(message.contains(SHED) && message.contains("7999"), "{message}");
        assert!(message.to_lowercase().contains("refused"), "{message}");
    });
    promises.keep("a service that only listens on the network is not on the loopback, and cannot be reached", || {
        let script = "my ($ip) = `ip -4 -o addr show scope global` =~ m{inet ([0-9.]+)/}; \
                      my $s = listen_on($ip, 7007); ready(); while (1) { my $c = take($s); say($c, 'here'); }";
        cli.start_service(SHED, "network", script);
        let (status, (code, _)) = refused(7007);
        assert_eq!((status, code.as_str()), (502, "CONNECT_FAILED"));
    });
    cli.start_service(SHED, "http", HTTP);
    promises.keep("HTTP goes through", || {
        let mut tunnel = open(7080);
        tunnel.write_all(b"GET /some/path HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let answer = String::from_utf8(tunnel.rest().unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nyou asked for /some/path\n"), "{answer}");
    });
    cli.start_service(SHED, "breaks", BREAKS_OFF);
    promises.keep("an answer that the service breaks off does not look complete", || {
        let mut tunnel = open(7005);
        let mut half = [0; 11];
        tunnel.read_exact(&mut half).unwrap();
        assert_eq!(&half, b"half an ans");
        tunnel.write_all(b"!").unwrap();
        assert_eq!(tunnel.rest().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
    cli.start_service(SHED, "hears", HEARS_BREAKS);
    promises.keep("nor does a request that the client breaks off", || {
        let mut tunnel = open(7006);
        tunnel.write_all(b"half a requ").unwrap();
        // Closing with unread bytes resets.
        let socket = tunnel.writer().unwrap();
        vm_tests::wait_for("the service's word", vm_tests::SHORT, || {
            (socket.peek(&mut [0; 2]).unwrap() == 2).then_some(())
        });
        drop((tunnel, socket));
        vm_tests::wait_for("the service to notice", vm_tests::SHORT, || {
            let how = cli.exec(SHED, &["cat", "/tmp/how"]).out();
            (!how.is_empty()).then_some(how)
        })
        .contains("reset")
        .then_some(())
        .expect("the service sees a reset");
    });

    promises.keep("a hundred megabytes each way at once arrive as they were", || {
        cli.sh(SHED, &format!("head -c {BULK} /dev/urandom >/tmp/out"));
        let theirs = cli.sh(SHED, "sha256sum </tmp/out");
        cli.start_service(SHED, "both", BOTH_WAYS);
        let ours: Vec<u8> =
            (0..BULK).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        let sum = hex::encode(Sha256::digest(&ours));
        let mut tunnel = open(7004);
        let mut writer = tunnel.writer().unwrap();
        let sending = thread::spawn(move || {
            writer.write_all(&ours).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let got = tunnel.rest().unwrap();
        sending.join().unwrap();
        assert_eq!(got.len(), BULK);
        assert!(theirs.starts_with(&hex::encode(Sha256::digest(&got))), "what came out is not what was sent");
        vm_tests::wait_for("all of it to be there", vm_tests::BOOT, || {
            (cli.exec(SHED, &["test", "-e", "/tmp/in.whole"]).code == 0).then_some(())
        });
        assert!(cli.sh(SHED, "sha256sum </tmp/in.whole").starts_with(&sum), "what went in is not what came");
    });
    promises.keep("a stopped shed is not connected to", || {
        cli.run(&["stop", SHED]).ok();
        let (status, (code, message)) = refused(7001);
        assert_eq!((status, code.as_str()), (503, "SHED_NOT_RUNNING"));
        assert!(message.contains(&format!("shed start {SHED}")), "{message}");
    });
    promises.keep("nothing is left", || {
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}

/// A thousand silent connections, all into one guest, and it is still worked in.
#[test]
fn a_thousand_tunnels_into_one_guest_leave_room_for_commands_and_nothing_behind() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    cli.start_service(SHED, "holds", "hold_all(listen_on('127.0.0.1', 7001));");
    let before = server.descriptors();
    let mut tunnels = Vec::new();
    promises.keep("a thousand can be open", || {
        for _ in 0..1000 {
            let mut tunnel = http.tunnel(SHED, 7001).unwrap_or_else(|reply| panic!("{}", reply.text()));
            tunnel.read_exact(&mut [0; 1]).unwrap();
            tunnels.push(tunnel);
        }
    });
    promises.keep("commands run beside them, and the list answers", || {
        assert_eq!(cli.sh(SHED, "echo beside"), "beside");
        assert_eq!(http.names(), [SHED]);
    });
    promises.keep("their descriptors are closed with them", || {
        tunnels.clear();
        vm_tests::wait_for("the server's descriptors", vm_tests::SHORT, || {
            (server.descriptors() <= before).then_some(())
        });
        vm_tests::wait_for("the agent's descriptors", vm_tests::SHORT, || {
            let count = cli.run(&[
                "exec",
                "-u",
                "root",
                SHED,
                "--",
                "sh",
                "-c",
                "ls /proc/$(pgrep -o -x shed-agent)/fd | wc -l",
            ]);
            (count.ok().out().parse::<u32>().unwrap() < 100).then_some(())
        });
    });
    cli.delete(SHED);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
