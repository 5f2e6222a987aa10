//! OpenSSH's programs as people have them, with a configuration that is the stage's own.
//!
//! `ssh`, `scp`, `sftp`, and whatever starts `ssh` itself (rsync, git, Ansible), read the file that this makes and nothing
//! of the user who runs the tests: no keys, no agent, no known hosts. The server's key comes from its API, as a user's
//! does, and is checked strictly.

use std::{fs, process::Command, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};

use crate::{BOOT, Finished, Pty, Running, SHORT, Server, Stage, run};

/// Long enough for 20 MB through a busy machine without hardware virtualisation.
const LONG: Duration = Duration::from_secs(180);

/// OpenSSH, set up for the sheds of one server.
#[derive(Debug, Clone)]
pub struct OpenSsh {
    config: Utf8PathBuf,
    home: Utf8PathBuf,
    sockets: Utf8PathBuf,
}

impl OpenSsh {
    /// Writes a configuration in which `shed-NAME` is the shed NAME, for any name.
    ///
    /// # Panics
    /// When the server does not tell its key, or a file cannot be written.
    #[track_caller]
    #[must_use]
    pub fn new(stage: &Stage, server: &Server, sheds: &[&str]) -> Self {
        let home = stage.dir().join("openssh");
        fs::create_dir_all(&home).expect("a directory of the stage");
        let known_hosts = home.join("known_hosts");
        fs::write(&known_hosts, format!("{}\n", known_host(server))).expect("known_hosts");
        let mut text = String::new();
        for shed in sheds {
            text.push_str(&format!("Host shed-{shed}\n  User {shed}\n"));
        }
        text.push_str(&format!(
            "Host shed-*\n  HostName 127.0.0.1\n  Port {}\n  UserKnownHostsFile {known_hosts}\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  IdentityFile none\n  IdentityAgent none\n  \
             BatchMode yes\n  ConnectTimeout 60\n",
            server.ssh_port(),
        ));
        let config = home.join("config");
        fs::write(&config, text).expect("a configuration");
        Self { config, home, sockets: stage.socket_dir().to_owned() }
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Utf8Path {
        &self.config
    }

    /// A command line that starts `ssh`, for programs that are told one.
    #[must_use]
    pub fn as_words(&self) -> String {
        format!("ssh -F {}", self.config)
    }

    /// A path for the socket of a shared connection: short, as such paths must be.
    #[must_use]
    pub fn control_path(&self, name: &str) -> Utf8PathBuf {
        self.sockets.join(format!("{name}.mux"))
    }

    /// Returns the command `PROGRAM -F CONFIG ARGUMENTS…`; `ssh`, `scp` and `sftp` understand that.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.other(program, &[]);
        command.arg("-F").arg(&self.config).args(arguments);
        command
    }

    /// Returns the command of another program, with an environment that leads it to this configuration.
    #[must_use]
    pub fn other(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env("RSYNC_RSH", self.as_words())
            .env("GIT_SSH_COMMAND", self.as_words())
            .env("GIT_CONFIG_NOSYSTEM", "1");
    }

    /// Runs `ssh` with these arguments; it has the time of a boot.
    #[track_caller]
    pub fn ssh(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command("ssh", arguments), b"", BOOT)
    }

    /// Runs one command line in a shed with `ssh`, with `input` as its stdin.
    #[track_caller]
    pub fn exec_with(&self, shed: &str, line: &str, input: &[u8]) -> Finished {
        run(&mut self.command("ssh", &[&format!("shed-{shed}"), line]), input, LONG)
    }

    /// Runs one command line in a shed with `ssh`, without input.
    #[track_caller]
    pub fn exec(&self, shed: &str, line: &str) -> Finished {
        self.exec_with(shed, line, b"")
    }

    /// Runs `scp` or `sftp` with these arguments.
    #[track_caller]
    pub fn copy(&self, program: &str, arguments: &[&str]) -> Finished {
        run(&mut self.command(program, arguments), b"", LONG)
    }

    /// Runs another program, such as rsync or git.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        run(&mut self.other(program, arguments), b"", LONG)
    }

    /// Starts `ssh` and leaves it running.
    #[track_caller]
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running::spawn(&mut self.command("ssh", arguments))
    }

    /// Runs `ssh` on a terminal of these many rows and columns.
    #[track_caller]
    #[must_use]
    pub fn on_terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> Pty {
        let words: Vec<&str> =
            ["ssh", "-F", self.config.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        Pty::spawn(&words, rows, columns, |command| self.surround(command))
    }
}

/// Returns the line of known_hosts that names the server's key, made from what its API says.
///
/// # Panics
/// When the API does not say it.
#[track_caller]
#[must_use]
pub fn known_host(server: &Server) -> String {
    let key = server.http().get("/api/ssh-host-key").is(200).json();
    let key = key["host_key"].as_str().expect("`host_key` is text").trim().to_owned();
    format!("[127.0.0.1]:{} {key}", server.ssh_port())
}

/// Asks the system for a port of this machine that is free at the moment.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Waits until somebody listens at this port of this machine.
///
/// # Panics
/// When nobody does.
#[track_caller]
pub fn wait_for_listener(port: u16) {
    crate::wait_for(&format!("somebody to listen at port {port}"), SHORT * 2, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
    });
}
