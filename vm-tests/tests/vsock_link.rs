//! The link over vsock, as the `firecracker` backend has it, with a real guest and without Firecracker: the backend's own
//! code at this end, the agent at the other, and `vhost-device-vsock` for the VMM's part.
//!
//! That program's sockets take Firecracker's words and, like Firecracker's, carry no half-close; the link does.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use sha2::{Digest, Sha256};
use shed_link::MuxStream;
use shed_protocol::{ExitStatus, Frame, FrameCodec, FrameKind};
use shed_types::GuestPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::Framed;
use vm_tests::{BOOT, Promises, SHORT, VsockMachine, wait_for};

/// Bytes of a large transfer.
const LARGE: usize = 100 << 20;

/// By how much each answer of a service is longer than the one before, in bytes.
const LINE: usize = 1000;

/// Streams that are open at a time.
const MANY: usize = 50;

fn hex_sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes that repeat nowhere within a frame or a buffer.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn is_healthy(frames: &mut Framed<MuxStream, FrameCodec>) {
    frames.send(Frame::empty(FrameKind::HealthRequest)).await.expect("the agent reads");
    let answer = frames.next().await.expect("an answer").expect("a frame");
    assert_eq!(answer, Frame::empty(FrameKind::HealthResponse));
}

#[test]
fn the_link_carries_what_firecrackers_does() {
    let begun = Instant::now();
    let Some(mut machine) = VsockMachine::boot("base") else { return };
    let mut promises = Promises::new();

    promises.keep("an open before the boot waits for the agent, and the agent answers", || {
        // The first stream was asked for before QEMU had a guest.
        let hello = machine.channel().hello;
        print(&format!("the agent answered {:?} after the start", begun.elapsed()));
        assert_eq!(hello.generation, 1);
        let mut health = Framed::new(machine.stream(GuestPort::Health), FrameCodec);
        machine.wait("health", SHORT, is_healthy(&mut health));
    });
    promises.keep("the machine becomes who the host says it is", || {
        let mut channel = machine.channel();
        assert_eq!(channel.identify("linked", Vec::new()), serde_json::json!({}));
        assert_eq!(
            machine.sh("hostname; . /run/environment.d/10-shed.conf; echo $SHED_NAME"),
            "linked\nlinked"
        );
        // Told again, by another host.
        let mut newer = machine.channel();
        assert_eq!(newer.identify("renamed", Vec::new()), serde_json::json!({}));
        assert_eq!(machine.sh("hostname"), "renamed");
    });
    promises.keep("100 MB reach a command whole, and 100 MB of a command reach the host", || {
        let bytes = noise(LARGE);
        let sum = hex_sum(&bytes);
        let began = Instant::now();
        let done = machine.run("root", &["sh", "-c", "tee /tmp/large | sha256sum"], bytes, BOOT).ok();
        assert_eq!(done.out(), format!("{sum}  -"));
        print(&format!("100 MB in: {:?}", began.elapsed()));
        let done = machine.run("root", &["cat", "/tmp/large"], Vec::new(), BOOT).ok();
        assert_eq!(done.stdout.len(), LARGE);
        assert_eq!(hex_sum(&done.stdout), sum);
        print(&format!("100 MB out: {:?}", done.took));
        machine.sh("rm /tmp/large");
    });
    promises.keep("a command is told the end of its input and goes on speaking", || {
        let script = "cat >/tmp/in; sleep 1; wc -c </tmp/in; echo done >&2; exit 7";
        let done = machine.run("root", &["sh", "-c", script], b"12345".to_vec(), SHORT * 2).exits(7);
        assert_eq!((done.out().as_str(), done.err().as_str()), ("5", "done"));
    });
    promises.keep("a command that reads nothing is not waited for", || {
        let done = machine.run("root", &["true"], noise(4 << 20), SHORT * 2).ok();
        assert_eq!(done.stdout, b"");
    });
    promises.keep("fifty streams at once, each with its own bytes", || many_streams(&machine));
    promises
        .keep("a stream whose host is slow holds up no other, and loses nothing", || slow_hosts(&machine));
    promises.keep("a stream that the host drops ends its process in the guest", || {
        let (mut reader, writer) = machine.begin("root", &["sh", "-c", "echo $$; exec sleep 100000"]);
        let pid = machine.wait("a pid", SHORT * 2, reader.next()).expect("output").expect("a frame").payload;
        let pid = String::from_utf8(pid.to_vec()).expect("a number").trim().to_owned();
        assert_eq!(machine.sh(&format!("cat /proc/{pid}/comm")), "sleep");
        drop((reader, writer));
        wait_for("the process to end", SHORT * 2, || {
            machine.sh(&format!("test -e /proc/{pid} || echo gone")).contains("gone").then_some(())
        });
    });
    promises.keep("the guest's loopback is reached through the TCP port", || tcp(&machine));
    promises.keep("an agent that is killed comes back, and says so", || {
        let boot_id = machine.channel().hello.boot_id;
        let mut held = machine.stream(GuestPort::Health);
        let killed = machine.begin("root", &["pkill", "-KILL", "-x", "shed-agent"]);
        let mut rest = Vec::new();
        let _end = machine.wait("the end of the old streams", BOOT, held.read_to_end(&mut rest));
        drop(killed);
        // The host's end of the link is the same; nobody has told it anything.
        let began = Instant::now();
        let hello = machine.channel().hello;
        print(&format!("the agent was back {:?} after its end", began.elapsed()));
        assert_eq!(hello.boot_id, boot_id, "the guest has not booted again");
        assert_eq!(machine.sh("echo back"), "back");
    });
    promises.keep("the agent left nothing open and nothing running", || {
        wait_for("the agent's streams to end", SHORT * 2, || {
            let script = "ls /proc/$(pgrep -x shed-agent)/fd | wc -l; pgrep -c -x sleep || true";
            let seen = machine.sh(script);
            let counts: Vec<usize> = seen.lines().map(|line| line.parse().expect("a number")).collect();
            (counts[0] < 40 && counts[1] == 0).then_some(())
        });
    });
    promises.keep("a guest that reboots has said so before its machine ends", || {
        assert!(!machine.has_said_reboot());
        let rebooting = machine.begin("root", &["systemctl", "reboot"]);
        machine.wait_for_end();
        assert!(machine.has_said_reboot(), "{}", machine.console());
        drop(rebooting);
    });
    promises.finish();
}

fn many_streams(machine: &VsockMachine) {
    let all = futures::future::join_all((0..MANY).map(|index| {
        let bytes = noise(100_000 + index * 1000);
        async move {
            let stream = open(machine, GuestPort::Exec).await;
            let sum = hex_sum(&bytes);
            let script = format!("echo {index}; sha256sum; head -c 65536 /dev/zero | tr '\\0' x");
            let mut frames = Framed::new(stream, FrameCodec);
            let request = shed_protocol::ExecRequest {
                cmd: ["sh", "-c", &script].map(str::to_owned).into(),
                user: "root".into(),
                ..Default::default()
            };
            frames.send(Frame::json(FrameKind::ExecRequest, &request)).await.expect("a request");
            frames.send(Frame::new(FrameKind::Data, Bytes::from(bytes))).await.expect("input");
            frames.send(Frame::empty(FrameKind::StdinEof)).await.expect("the end of input");
            let (out, code) = read_all(&mut frames).await;
            assert_eq!(code, 0);
            let expected = format!("{index}\n{sum}  -\n{}", "x".repeat(65536));
            assert!(out == expected.as_bytes(), "stream {index} got {} bytes", out.len());
        }
    }));
    machine.wait("fifty commands", BOOT, all);
}

/// Hosts that read nothing until long after their commands have ended. No more comes of each than the sockets hold: of the
/// rest a VMM forgets what is not read soon after the guest has closed (Firecracker after two seconds).
fn slow_hosts(machine: &VsockMachine) {
    const PAUSE: Duration = Duration::from_secs(12);
    let all = futures::future::join_all((0..16_usize).map(|index| async move {
        let length = 10_000 + index * 8_000;
        let stream = open(machine, GuestPort::Exec).await;
        let mut frames = Framed::new(stream, FrameCodec);
        let request = shed_protocol::ExecRequest {
            cmd: ["head", "-c", &length.to_string(), "/dev/zero"].map(str::to_owned).into(),
            user: "root".into(),
            ..Default::default()
        };
        frames.send(Frame::json(FrameKind::ExecRequest, &request)).await.expect("a request");
        tokio::time::sleep(PAUSE).await;
        let (out, code) = read_all(&mut frames).await;
        (length, out.len(), code)
    }));
    let began = Instant::now();
    let busy = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| machine.wait("slow hosts", BOOT, all));
        assert_eq!(machine.sh("echo meanwhile"), "meanwhile");
        assert!(began.elapsed() < BOOT);
        waiting.join().expect("no panic")
    });
    let lost: Vec<_> = busy.iter().filter(|(length, got, code)| got != length || *code != 0).collect();
    assert!(lost.is_empty(), "length, received, exit code: {lost:?}");
}

/// A service of the guest, through the agent's proxy; each end tells the other when it has said all. The answers are short:
/// a connection whose host is slow to read more is reset by this device, not by Firecracker, with which the tests of whole
/// sheds have long ones.
fn tcp(machine: &VsockMachine) {
    machine.sh(
        "cat >/tmp/service.py <<'END'\n\
         import socket\n\
         s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 7777)); s.listen(64)\n\
         open('/tmp/service.ready', 'w').close()\n\
         while True:\n\
        \x20    c, _ = s.accept(); n = int(c.makefile('rb').readline()); c.sendall(b'y' * n); c.close()\n\
         END\n\
         setsid python3 /tmp/service.py >/dev/null 2>&1 </dev/null &\n\
         until [ -e /tmp/service.ready ]; do sleep 0.1; done",
    );
    let asked = async {
        let all = futures::future::join_all((0..20_usize).map(|index| async move {
            let mut stream = open(machine, GuestPort::Tcp).await;
            stream
                .write_all(format!("CONNECT 7777\n{}\n", index * LINE).as_bytes())
                .await
                .expect("a request");
            stream.shutdown().await.expect("an end");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an answer");
            assert_eq!(answer.len(), 3 + index * LINE);
            assert!(answer.starts_with(b"OK\n") && answer[3..].iter().all(|byte| *byte == b'y'));
        }));
        all.await;
        let mut stream = open(machine, GuestPort::Tcp).await;
        stream.write_all(b"CONNECT 7\n").await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("a refusal");
        assert!(answer.contains("refused"), "{answer}");
    };
    machine.wait("a service", BOOT, asked);
    machine.sh("pkill -f '[/]tmp/service.py' || true");
}

async fn open(machine: &VsockMachine, port: GuestPort) -> MuxStream {
    machine.open(port).await.expect("a stream")
}

async fn read_all(frames: &mut Framed<MuxStream, FrameCodec>) -> (Vec<u8>, i32) {
    let mut out = Vec::new();
    while let Some(frame) = frames.next().await {
        let Ok(frame) = frame else { break };
        if frame.kind == FrameKind::ExitStatus {
            return (out, frame.parse::<ExitStatus>().expect("a status").code);
        }
        out.extend_from_slice(&frame.payload);
    }
    (out, -1)
}

#[expect(clippy::print_stderr, reason = "a figure for whoever reads the test's output")]
fn print(line: &str) {
    eprintln!("{line}");
}
