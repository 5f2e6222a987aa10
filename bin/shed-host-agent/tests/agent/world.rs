//! A user with a home, keys and a configuration, and the agent that runs for them.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Output, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use crate::bus::Bus;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_shed-host-agent");

/// A user.
pub(crate) struct World {
    _guard: tempfile::TempDir,
    pub(crate) home: Utf8PathBuf,
    agent: Option<Child>,
}

impl World {
    pub(crate) fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::try_from(guard.path().to_owned()).unwrap();
        for directory in [".ssh", ".config/shed", "run"] {
            fs::create_dir_all(home.join(directory)).unwrap();
        }
        Self { _guard: guard, home, agent: None }
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.home.join(".config/shed/extensions.yaml"), text).unwrap();
    }

    /// Makes a key and returns its public part as on the wire.
    pub(crate) fn key(&self, file: &str, kind: &str, passphrase: &str) -> Vec<u8> {
        let path = self.home.join(file);
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-t", kind, "-C", file, "-N", passphrase, "-f", path.as_str()]);
        assert!(make.status().unwrap().success());
        let public = fs::read_to_string(format!("{path}.pub")).unwrap();
        STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap()
    }

    /// Starts OpenSSH's agent with these keys; it ends with what is returned.
    pub(crate) fn ssh_agent(&self, keys: &[&str]) -> Running {
        let socket = self.home.join("run/agent.sock");
        let mut agent = Command::new("ssh-agent");
        let mut child = agent.args(["-D", "-a", socket.as_str()]).stdout(Stdio::piped()).spawn().unwrap();
        // It prints its socket when it listens.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        for key in keys {
            let mut add = Command::new("ssh-add");
            add.args(["-q", self.home.join(key).as_str()]).env("SSH_AUTH_SOCK", &socket);
            assert!(add.status().unwrap().success());
        }
        Running(child)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", self.home.join("run"));
        command.env("SSH_AUTH_SOCK", self.home.join("run/agent.sock"));
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it prints.
    pub(crate) fn print(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn start(&mut self) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.home.join("log")).unwrap();
        self.agent = Some(self.command(&["run", "--debug"]).stderr(log).spawn().unwrap());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Ends the agent with a signal and returns whether it called that a success.
    pub(crate) fn end(&mut self, signal: &str) -> bool {
        let mut agent = self.agent.take().unwrap();
        assert!(Command::new("kill").args([signal, &agent.id().to_string()]).status().unwrap().success());
        agent.wait().unwrap().success()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap()
    }

    pub(crate) fn audit_path(&self) -> Utf8PathBuf {
        self.home.join(".local/share/shed/extensions-audit.log")
    }

    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Has OpenSSH verify what a shed got: a signature over the frame of sshsig (OpenSSH's PROTOCOL.sshsig).
    pub(crate) fn verify(&self, blob: &[u8], data: &[u8], answer: &Value) {
        let format = answer["format"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let signature =
            [text(format.as_bytes()), text(&STANDARD.decode(answer["blob"].as_str().unwrap()).unwrap())];
        let whole = [
            b"SSHSIG\0\0\0\x01".to_vec(),
            text(blob),
            text(b"file"),
            text(b""),
            text(b"sha512"),
            text(&signature.concat()),
        ];
        let armored = STANDARD.encode(whole.concat());
        let dir = tempfile::tempdir_in(&self.home).unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let armor = format!("-----BEGIN SSH SIGNATURE-----\n{armored}\n-----END SSH SIGNATURE-----\n");
        fs::write(dir.join("sig"), armor).unwrap();
        let kind = String::from_utf8(blob[4..4 + usize::from(blob[3])].to_vec()).unwrap();
        fs::write(dir.join("allowed"), format!("me {kind} {}\n", STANDARD.encode(blob))).unwrap();
        let mut verify = Command::new("ssh-keygen");
        verify
            .args(["-Y", "verify", "-I", "me", "-n", "file", "-f"])
            .arg(dir.join("allowed"))
            .arg("-s")
            .arg(dir.join("sig"));
        let mut child =
            verify.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(data).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{format}: {output:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.kill().unwrap();
            let _status = agent.wait().unwrap();
        }
        if std::thread::panicking() {
            let log = fs::read(self.home.join("log")).unwrap_or_default();
            let _shown = std::io::stderr().write_all(&log);
        }
    }
}

/// Makes a user with one key in a file, whose agent runs and listens; returns the key's public part as well.
pub(crate) async fn begin(configuration: &str) -> (World, Bus, Vec<u8>) {
    let mut world = World::new();
    let blob = world.key(".ssh/id_ed25519", "ed25519", "");
    let bus = Bus::start().await;
    world.configure(&format!("server: {}\n{configuration}\n", bus.url()));
    world.start();
    bus.listened().await;
    (world, bus, blob)
}

/// A process that ends with this.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        let _status = self.0.wait().unwrap();
    }
}

/// Returns what a signature of the kind sshsig is made over.
pub(crate) fn framed(data: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha512};
    [b"SSHSIG".to_vec(), text(b"file"), text(b""), text(b"sha512"), text(&Sha512::digest(data))].concat()
}

/// Makes the request for a signature of that kind.
pub(crate) fn sign(blob: &[u8], data: &[u8], flags: u32) -> Value {
    let (key, data) = (STANDARD.encode(blob), STANDARD.encode(framed(data)));
    serde_json::json!({"operation": "sign", "public_key": key, "data": data, "flags": flags})
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

pub(crate) fn mode(path: &Utf8Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
