//! `shed-ssh-agent`, used by OpenSSH's own programs; the keys are in a real ssh-agent at the other end of the bus.

#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use common::{Answer, Bus, Service, output, program, text, wait_for_file};

/// OpenSSH's agent with two keys of the test's.
struct Holder {
    dir: tempfile::TempDir,
    _agent: Service,
}

impl Holder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("holder.sock");
        let agent = Service::start(Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket));
        for kind in ["ed25519", "rsa"] {
            let key = dir.path().join(kind);
            let made = output(
                Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-C", kind, "-f"]).arg(&key),
                b"",
            );
            assert!(made.status.success(), "{}", text(&made.stderr));
            let begun = Instant::now();
            while !output(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket), b"")
                .status
                .success()
            {
                assert!(begun.elapsed() < common::DEADLINE, "ssh-agent does not take a key");
            }
            fs::remove_file(&key).unwrap();
        }
        Self { dir, _agent: agent }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("holder.sock")
    }
}

/// Sends a message to an agent and returns its answer, both without their lengths.
fn talk(socket: &Path, message: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&string(message)).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// Takes a string off the front.
fn take(bytes: &mut &[u8]) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (taken, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
    *bytes = rest;
    taken.to_vec()
}

/// What `shed-host-agent` does in its mode `agent-forward`, with the holder.
fn answer(holder: &Path, payload: &Value) -> Answer {
    let base64 = |key: &str| STANDARD.decode(payload[key].as_str().unwrap()).unwrap();
    match payload["operation"].as_str().unwrap() {
        "ping" => Answer::Payload(json!({"status": "ok"})),
        "list" => {
            let listed = talk(holder, &[11]);
            let mut rest = &listed[5..];
            let mut keys = Vec::new();
            while !rest.is_empty() {
                let (blob, comment) = (take(&mut rest), take(&mut rest));
                let format = take(&mut blob.as_slice());
                keys.push(json!({"format": text(&format), "blob": STANDARD.encode(&blob), "comment": text(&comment)}));
            }
            Answer::Payload(json!({ "keys": keys }))
        }
        "sign" => {
            let flags = u32::try_from(payload["flags"].as_u64().unwrap()).unwrap();
            let message =
                [&[13][..], &string(&base64("public_key")), &string(&base64("data")), &flags.to_be_bytes()]
                    .concat();
            let signed = talk(holder, &message);
            if signed[0] != 14 {
                return Answer::Payload(json!({"error": "no such key", "code": "KEY_NOT_FOUND"}));
            }
            let inner = take(&mut &signed[1..]);
            let mut rest = inner.as_slice();
            let (format, blob) = (take(&mut rest), take(&mut rest));
            Answer::Payload(json!({"format": text(&format), "blob": STANDARD.encode(blob)}))
        }
        other => panic!("{other}"),
    }
}

struct Agent {
    dir: tempfile::TempDir,
    service: Service,
}

impl Agent {
    fn start(bus_url: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::start(
            program("shed-ssh-agent").args(["--publish-url", bus_url, "--run-dir"]).arg(dir.path()),
        );
        service.wait_for("listens at ");
        Self { dir, service }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("ssh-agent.sock")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(program);
        let out = output(
            command.args(arguments).env("SSH_AUTH_SOCK", self.socket()).current_dir(self.dir.path()),
            b"",
        );
        (out.status.success(), format!("{}{}", text(&out.stdout), text(&out.stderr)))
    }
}

#[test]
fn openssh_lists_and_signs_with_keys_that_are_elsewhere() {
    let holder = Holder::new();
    let socket = holder.socket();
    let bus = Bus::serve(move |_, payload| answer(&socket, payload));
    let agent = Agent::start(&bus.url);
    assert_eq!(fs::metadata(agent.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let (listed, out) = agent.run("ssh-add", &["-l"]);
    assert!(listed && out.contains("(ED25519)") && out.contains("(RSA)"), "{out}");
    let dir = agent.dir.path();
    fs::write(dir.join("data"), "what is signed").unwrap();
    for (kind, flags) in [("ed25519", 0), ("rsa", 4)] {
        let public = fs::read_to_string(holder.dir.path().join(format!("{kind}.pub"))).unwrap();
        fs::write(dir.join("key.pub"), &public).unwrap();
        fs::write(dir.join("signers"), format!("me {public}")).unwrap();
        let _before = fs::remove_file(dir.join("data.sig"));
        let (signed, out) =
            agent.run("ssh-keygen", &["-q", "-Y", "sign", "-f", "key.pub", "-n", "file", "data"]);
        assert!(signed, "{out}");
        let mut verify = Command::new("ssh-keygen");
        verify
            .args(["-Y", "verify", "-f", "signers", "-I", "me", "-n", "file", "-s", "data.sig"])
            .current_dir(dir);
        let verified = output(&mut verify, b"what is signed");
        assert!(verified.status.success(), "{}", text(&verified.stderr));
        assert!(!output(&mut verify, b"something else").status.success());
        let asked = bus.asked.lock().unwrap();
        assert_eq!(asked.last().unwrap()["payload"]["flags"], flags);
    }
    // Nothing else is done: no key in, none out, no lock. OpenSSH's client says so itself.
    let refused = output(
        Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f", "new"]).current_dir(dir),
        b"",
    );
    assert!(refused.status.success());
    for arguments in [&["new"][..], &["-D"], &["-d", "key.pub"]] {
        assert!(!agent.run("ssh-add", arguments).0, "{arguments:?}");
    }
    assert!(agent.run("ssh-add", &["-l"]).0);
    // What clients since OpenSSH 8.9 say first.
    let parts = [string(b"host"), string(b"session"), string(b"signature"), vec![0]].concat();
    let bind = [&[27][..], &string(b"session-bind@openssh.com"), &parts].concat();
    assert_eq!(talk(&agent.socket(), &bind), [6]);
    assert_eq!(talk(&agent.socket(), &[&[27][..], &string(b"other@example.org")].concat()), [5]);
    let path = agent.socket();
    assert!(agent.service.end().success());
    assert!(!path.exists());
}

#[test]
fn a_signature_may_take_long_and_holds_nobody_else() {
    let bus = Bus::serve(|_, payload| match payload["operation"].as_str().unwrap() {
        "sign" => Answer::Silence,
        "list" => Answer::Payload(json!({"keys": [{"format": "x", "blob": "AAAA", "comment": "c"}]})),
        _ => Answer::Payload(json!({"status": "ok"})),
    });
    let agent = Agent::start(&bus.url);
    let sign = [&[13][..], &string(b"key"), &string(b"data"), &[0; 4]].concat();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.write_all(&string(&sign)).unwrap();
        waiting.push(stream);
    }
    let begun = Instant::now();
    while bus.asked.lock().unwrap().iter().filter(|asked| asked["payload"]["operation"] == "sign").count()
        < 20
    {
        assert!(begun.elapsed() < common::DEADLINE);
        std::thread::yield_now();
    }
    assert_eq!(talk(&agent.socket(), &[11])[..5], [12, 0, 0, 0, 1]);
    // Longer than the limit of what nobody approves.
    waiting[0].set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let kind = waiting[0].read(&mut [0]).unwrap_err().kind();
    assert!(matches!(kind, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{kind}");
}

#[test]
fn a_bus_that_fails_or_lies_is_a_failure_in_time_and_the_agent_goes_on() {
    let silent = Bus::serve(|_, _| Answer::Silence);
    let agent = Agent::start(&silent.url);
    let begun = Instant::now();
    let (listed, out) = agent.run("ssh-add", &["-l"]);
    assert!(!listed && out.contains("refused operation"), "{out}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    agent.service.wait_for("cannot list keys: ssh-agent: nobody answered within 3 s");
    let status = wait_for_file(&agent.dir.path().join("ssh-agent.status"));
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["connected"], false);

    type Lie = fn() -> Answer;
    let lies: [Lie; 6] = [
        || Answer::Payload(json!({"keys": "none"})),
        || Answer::Payload(json!({"keys": [{"format": "x", "blob": "*"}]})),
        || Answer::Payload(json!({"error": "e", "code": "NEW"})),
        || Answer::Error(503, "TOO_MANY_REQUESTS"),
        || Answer::Raw(b"no HTTP at all\r\n\r\n".to_vec()),
        || Answer::Raw(Vec::new()),
    ];
    for lie in lies {
        let bus = Bus::serve(move |_, _| lie());
        let agent = Agent::start(&bus.url);
        for _ in 0..2 {
            assert_eq!(talk(&agent.socket(), &[11]), [5]);
        }
    }
}

#[test]
fn hostile_clients_hurt_only_themselves() {
    let bus = Bus::serve(|_, _| Answer::Payload(json!({"keys": []})));
    let agent = Agent::start(&bus.url);
    for bytes in [vec![255; 4], vec![0, 0, 0, 0], vec![0, 4, 0, 1, 11], vec![0, 0, 1, 0, 13, 1], vec![0, 0]] {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{bytes:?}");
    }
    assert_eq!(talk(&agent.socket(), &[11]), [12, 0, 0, 0, 0]);
    // A second agent does not take the socket of one that lives.
    let second = output(
        program("shed-ssh-agent").args(["--publish-url", &bus.url, "--run-dir"]).arg(agent.dir.path()),
        b"",
    );
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("answers at"), "{}", text(&second.stderr));
    assert_eq!(talk(&agent.socket(), &[11]), [12, 0, 0, 0, 0]);
}
