//! Forwarded ports: `-L`, `-D` and `-W` into the guest; what goes out of it is refused.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use vm_tests::{BOOT, Promises, Running, SHORT, free_port, wait_for, wait_for_listener};

use crate::{SHED, World};

/// Where the guest's web server listens.
const WEB: u16 = 8321;

/// Length of the large file that it serves.
const LARGE: usize = 20_000_000;

pub(crate) fn prove(world: &World, promises: &mut Promises) {
    let World { ssh, cli, .. } = world;
    let host = format!("shed-{SHED}");
    cli.sh(
        SHED,
        &format!(
            "mkdir -p /tmp/web && cd /tmp/web && echo hello >small && head -c {LARGE} /dev/zero >large && \
             setsid python3 -m http.server --bind 127.0.0.1 {WEB} >/tmp/web.log 2>&1 </dev/null & true"
        ),
    );
    wait_for("the guest's web server", BOOT, || {
        let look = format!("curl -sf http://127.0.0.1:{WEB}/small");
        (cli.exec(SHED, &["sh", "-c", &look]).out() == "hello").then_some(())
    });
    local(world, &host, promises);
    promises.keep(
        "a dynamic forward (-D) serves a SOCKS client that asks for localhost, and no other host",
        || {
            let port = free_port();
            let running = ssh.spawn(&["-N", "-D", &format!("127.0.0.1:{port}"), &host]);
            wait_for_listener(port);
            let proxy = format!("127.0.0.1:{port}");
            let curl = |words: &[&str]| {
                ssh.run("curl", &[&["-sS", "--max-time", "60", "--socks5-hostname", &proxy], words].concat())
            };
            assert_eq!(curl(&[&format!("http://localhost:{WEB}/small")]).ok().out(), "hello");
            assert_eq!(curl(&[&format!("http://127.0.0.1:{WEB}/small")]).ok().out(), "hello");
            assert_ne!(curl(&["http://192.0.2.1:80/"]).code, 0);
            assert_ne!(curl(&[&format!("http://{SHED}:{WEB}/")]).code, 0);
            // A refused target does not end the connection.
            assert_eq!(curl(&[&format!("http://localhost:{WEB}/small")]).ok().out(), "hello");
            stop(running);
        },
    );
    promises.keep("stdin and stdout can be a port of the guest (-W)", || {
        let target = format!("localhost:{WEB}");
        let request = b"GET /small HTTP/1.0\r\n\r\n";
        let mut command = ssh.command("ssh", &["-W", &target, &host]);
        let done = vm_tests::run(&mut command, request, SHORT * 2).ok();
        assert!(done.out().ends_with("\r\n\r\nhello"), "{}", done.out());
    });
    refused(world, &host, promises);
}

fn local(World { ssh, .. }: &World, host: &str, promises: &mut Promises) {
    promises.keep("a local forward (-L) reaches a web server of the guest, 30 requests at a time", || {
        let port = free_port();
        let forward = format!("127.0.0.1:{port}:localhost:{WEB}");
        let running = ssh.spawn(&["-N", "-L", &forward, host]);
        wait_for_listener(port);
        let threads: Vec<_> = (0..30).map(|_| thread::spawn(move || get(port, "/small"))).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("a request does not panic"), b"hello\n");
        }
        let large = get(port, "/large");
        assert!(large.len() == LARGE && large.iter().all(|byte| *byte == 0), "{} bytes", large.len());
        stop(running);
    });
    promises.keep("a forward to a port where nobody listens is refused, and the next one works", || {
        let (dead, live) = (free_port(), free_port());
        let to_dead = format!("127.0.0.1:{dead}:127.0.0.1:9");
        let to_live = format!("127.0.0.1:{live}:127.0.0.1:{WEB}");
        let running = ssh.spawn(&["-N", "-L", &to_dead, "-L", &to_live, host]);
        wait_for_listener(live);
        for _ in 0..3 {
            assert_eq!(get(dead, "/"), b"");
        }
        assert_eq!(get(live, "/small"), b"hello\n");
        let err = running.stderr_so_far();
        assert!(err.contains("open failed") && err.contains("connect failed"), "{err}");
        stop(running);
    });
}

fn refused(World { ssh, stage, .. }: &World, host: &str, promises: &mut Promises) {
    promises.keep("a target outside the guest is refused with the reason", || {
        let done = ssh.ssh(&["-W", "192.0.2.1:80", host]);
        assert_ne!(done.code, 0);
        assert!(done.err().contains("administratively prohibited"), "{}", done.err());
    });
    promises.keep("a remote forward (-R) is refused, and the session goes on unless it insists", || {
        let done = ssh.ssh(&["-R", "0:localhost:1", host, "echo on"]).ok();
        assert_eq!(done.out(), "on");
        assert!(done.err().contains("remote port forwarding failed"), "{}", done.err());
        let done = ssh.ssh(&["-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:1", host, "echo on"]);
        assert_eq!((done.code, done.out().as_str()), (255, ""), "{}", done.err());
        assert!(done.err().contains("remote port forwarding failed"), "{}", done.err());
    });
    promises.keep("agent forwarding (-A) is refused without breaking the session", || {
        let socket = ssh.control_path("agent");
        let agent = Running::spawn(&mut ssh.other("ssh-agent", &["-D", "-a", socket.as_str()]));
        wait_for("an agent", SHORT, || socket.exists().then_some(()));
        let with_agent = format!("IdentityAgent={socket}");
        let done = ssh.ssh(&["-A", "-o", &with_agent, host, "echo \"on$SSH_AUTH_SOCK\""]).ok();
        assert_eq!(done.out(), "on");
        drop(agent);
        let _gone = std::fs::remove_file(&socket);
    });
    promises.keep("a window system's forward (-X) is refused without breaking the session", || {
        let mut command = ssh.command("ssh", &["-o", "ForwardX11=yes", host, "echo \"on$DISPLAY\""]);
        command.env("DISPLAY", "127.0.0.1:99").env("XAUTHORITY", stage.dir().join("xauthority"));
        let done = vm_tests::run(&mut command, b"", SHORT * 2).ok();
        assert_eq!(done.out(), "on");
    });
}

/// Asks the web server behind this port of ours and returns the body; nothing when the connection only ends.
fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("ssh listens");
    stream.set_read_timeout(Some(SHORT * 4)).expect("a limit");
    let mut reply = Vec::new();
    // A refused forward may be closed while the request is on its way.
    let _sent = stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    let _read = stream.read_to_end(&mut reply);
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or_else(Vec::new, |end| reply.split_off(end + 4))
}

fn stop(ssh: Running) {
    ssh.signal(rustix::process::Signal::TERM);
    let _code = ssh.wait(SHORT * 2);
}
