//! A user of the real `shed`, with an environment of their own.

use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::ssh_peer::SshPeer;

/// A user: a home directory, and nothing else in the environment.
pub(crate) struct User {
    pub(crate) home: TempDir,
}

/// What a run of `shed` left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// Returns a user whose only server, the default one, is at this port of 127.0.0.1.
    pub(crate) fn with_server(port: u16) -> Self {
        let user = Self::new();
        user.write_config(&format!(
            "servers: {{test: {{host: 127.0.0.1, http_port: {port}}}}}\ndefault_server: test\n"
        ));
        user
    }

    /// Returns a user whose only server is this one, over SSH; nothing may be asked of it over HTTP.
    pub(crate) fn of_peer(peer: &SshPeer) -> Self {
        Self::of_peers(&[("test", peer)])
    }

    /// Returns a user with these servers, with their keys; the first one is the default.
    pub(crate) fn of_peers(servers: &[(&str, &SshPeer)]) -> Self {
        let user = Self::new();
        // Port 1 of the loopback address is nobody's: a request there fails.
        let entries: Vec<String> = servers
            .iter()
            .map(|(name, peer)| format!("{name}: {{host: 127.0.0.1, http_port: 1, ssh_port: {}}}", peer.port))
            .collect();
        user.write_config(&format!(
            "servers: {{{}}}\ndefault_server: {}\n",
            entries.join(", "),
            servers[0].0
        ));
        let lines = servers.iter().map(|(_, peer)| format!("[127.0.0.1]:{} {}\n", peer.port, peer.key));
        user.write_known_hosts(&lines.collect::<String>());
        user
    }

    pub(crate) fn write_known_hosts(&self, text: &str) {
        std::fs::create_dir_all(self.home.path().join(".shed")).unwrap();
        std::fs::write(self.home.path().join(".shed/known_hosts"), text).unwrap();
    }

    pub(crate) fn known_hosts(&self) -> Option<String> {
        std::fs::read_to_string(self.home.path().join(".shed/known_hosts")).ok()
    }

    /// Returns a user with servers of these names and ports; the first one is the default.
    pub(crate) fn with_servers(servers: &[(&str, u16)]) -> Self {
        let user = Self::new();
        let entries: Vec<String> = servers
            .iter()
            .map(|(name, port)| format!("{name}: {{host: 127.0.0.1, http_port: {port}}}"))
            .collect();
        user.write_config(&format!(
            "servers: {{{}}}\ndefault_server: {}\n",
            entries.join(", "),
            servers[0].0
        ));
        user
    }

    pub(crate) fn write_config(&self, text: &str) {
        let dir = self.home.path().join(".shed");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.yaml"), text).unwrap();
    }

    pub(crate) fn config(&self) -> String {
        std::fs::read_to_string(self.home.path().join(".shed/config.yaml")).unwrap_or_default()
    }

    /// Returns the command, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shed"));
        command.env_clear().env("HOME", self.home.path()).args(arguments);
        command
    }

    pub(crate) fn shed(&self, arguments: &[&str]) -> Ran {
        Ran::of(&Command::from_std(self.command(arguments)).output().unwrap())
    }
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().expect("shed is not ended by a signal"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code, with all there is to see when it is another one.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
        self
    }
}

/// Returns a port of 127.0.0.1 on which nothing listens, for as long as the guard lives: it is bound, not listening.
pub(crate) fn closed_port() -> (impl Sized, u16) {
    use std::net::SocketAddrV4;
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new([127, 0, 0, 1].into(), 0)).unwrap();
    let address = SocketAddrV4::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    (socket, address.port())
}

/// Reads the JSON that a command has printed.
#[track_caller]
pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}
