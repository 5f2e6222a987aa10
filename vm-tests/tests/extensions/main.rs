//! Extensions: tools in real sheds use keys, roles and logins of the host, which never come into the shed; whatever a guest,
//! a crash or a person who says no does to that.
//!
//! Every test has a stage with a server, sheds, and a host agent of a user of its own. What a tool needs on the other side
//! is real, or the nearest there is: OpenSSH's sshd and ssh-agent, git, Debian's registry, Docker; moto for AWS's STS.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};
use vm_tests::{
    BOOT, Cli, Config, Finished, HostAgent, HostSettings, SHORT, Server, SshKey, Stage, free_port, run,
    wait_for,
};

mod aws;
mod docker;
mod example;
mod hostile;
mod kills;
mod ssh;
mod states;
mod tools;

/// The namespaces of Shed's own extensions.
const ALL: [&str; 3] = ["aws-credentials", "docker-credentials", "ssh-agent"];

/// Memory of a shed that does nothing heavy, in MB.
const SMALL: &str = "512";

/// Longer than any tool of the guest waits for the host: shed-ext gives a signature 35 s, the rest less.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// A server that enables extensions, and a host agent that does not run yet.
struct World {
    /// Dropped first: it has children of its own.
    host: HostAgent,
    server: Server,
    cli: Cli,
    stage: Stage,
    /// The server's, which is the same after a restart.
    port: u16,
}

impl World {
    /// Makes one with these sheds of the base image, or nothing when such tests are left out.
    fn new(enabled: &[&str], sheds: &[&str]) -> Option<Self> {
        let port = free_port();
        let stage = Stage::configured(config(enabled, port))?;
        let server = stage.serve();
        let world = Self { host: HostAgent::new(&stage), server, cli: stage.cli(), stage, port };
        for shed in sheds {
            world.cli.create(shed, &["--memory", SMALL]);
        }
        Some(world)
    }

    /// Has the server enable these and no others, by a restart.
    #[track_caller]
    fn enable(&mut self, enabled: &[&str]) {
        self.stage.configure(config(enabled, self.port));
        self.server.restart(&self.stage, Signal::TERM);
    }

    /// Starts the host agent with the keys in the user's `~/.ssh`.
    #[track_caller]
    fn start_with_key_files(&mut self) -> SshKey {
        let key = SshKey::generate(self.host.home().join(".ssh/id_ed25519"), "ed25519");
        self.host.start(&self.server, local_keys(json!({})));
        key
    }

    /// Waits until the server and a guest agree that an extension works.
    #[track_caller]
    fn wait_until_it_works(&self, shed: &str, namespaces: &[&str]) {
        let wanted: BTreeSet<&str> = namespaces.iter().copied().collect();
        let mut last = Value::Null;
        wait_for(&format!("{namespaces:?} to work in {shed}"), BOOT, || {
            last = self.server.http().shed(shed)["extensions"].clone();
            let works = |name: &&str| last[*name] == json!({ "guest": "running", "host": "connected" });
            wanted.iter().all(works).then_some(())
        });
    }

    /// Has a shed's user sign a text, in SSH's own format, with a key of the host. What is printed is the signature.
    fn sign(&self, shed: &str, key: &SshKey, text: &str) -> Finished {
        let words = sign_words(key, text);
        run(&mut self.cli.exec_command(shed, &["sh", "-c", &words]), b"", TIMEOUT)
    }

    /// Ends the test: deletes the sheds, and looks that nothing is left and nobody has panicked.
    #[track_caller]
    fn finish(mut self, sheds: &[&str]) {
        self.host.kill();
        for shed in sheds {
            self.cli.delete(shed);
        }
        for log in [self.stage.server_log(), self.host.log()] {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(!text.contains("panicked"), "something panicked; see {log}");
        }
        drop(self.server);
        drop(self.host);
        self.stage.finish();
    }
}

/// The configuration of a server that enables these.
fn config(enabled: &[&str], port: u16) -> Config {
    Config { extensions: Some(json!({ "enabled": enabled })), http_port: port, ..Config::default() }
}

/// A host agent with the keys in the user's `~/.ssh` and this `ssh.approval`.
fn local_keys(approval: Value) -> HostSettings {
    let mut ssh = json!({ "mode": "local-keys" });
    if approval != json!({}) {
        ssh["approval"] = approval;
    }
    HostSettings { ssh: Some(ssh), namespaces: vec!["ssh-agent"], ..HostSettings::default() }
}

/// The line that signs a text, which has no quotes, with a key whose private part is elsewhere.
fn sign_words(key: &SshKey, text: &str) -> String {
    let public = key.public();
    format!(
        "f=$(mktemp) && echo '{public}' >$f.pub && echo '{text}' >$f && \
         SSH_AUTH_SOCK=/run/shed-extensions/ssh-agent.sock ssh-keygen -q -Y sign -n test -f $f.pub $f && cat $f.sig"
    )
}

/// Checks on the host that a signature is the key's, of this very text.
#[track_caller]
fn assert_signed(stage: &Stage, key: &SshKey, text: &str, signature: &str) {
    let dir = stage.dir();
    let (allowed, file) = (dir.join("allowed_signers"), dir.join("signature"));
    std::fs::write(&allowed, format!("user {}\n", key.public())).expect("a file");
    std::fs::write(&file, format!("{signature}\n")).expect("a file");
    let mut verify = std::process::Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-n", "test", "-I", "user", "-f", allowed.as_str(), "-s", file.as_str()]);
    run(&mut verify, format!("{text}\n").as_bytes(), SHORT).ok();
}
