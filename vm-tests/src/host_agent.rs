//! A real `shed-host-agent`, as the user of a stage runs it: with a home, keys and logins of its own.
//!
//! The home is not the server's, so that what the agent writes, and what it must not write, can be told apart. It may dump
//! core wherever the system lets a program do so: what is then not in a core is not there because the agent sees to that.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
};

use camino::Utf8PathBuf;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Finished, SHORT, Server, Stage, kill_process, run, wait_for};

/// Runs its words with cores allowed, in the directory that is the first of them.
const WITH_CORES: &str = r#"ulimit -c unlimited; cd "$1"; shift; exec "$@""#;

/// What a test wants of a host agent.
#[derive(Debug, Clone, Default)]
pub struct HostSettings {
    /// `ssh` of extensions.yaml; otherwise none.
    pub ssh: Option<Value>,
    /// `aws`; otherwise none.
    pub aws: Option<Value>,
    /// `docker`; otherwise none.
    pub docker: Option<Value>,
    /// SSH_AUTH_SOCK; otherwise none.
    pub auth_sock: Option<Utf8PathBuf>,
    /// Further variables of its environment.
    pub variables: Vec<(&'static str, String)>,
    /// Namespaces that it must listen to before a test goes on.
    pub namespaces: Vec<&'static str>,
}

/// The user's machine: a home, and the host agent that runs there while it does.
#[derive(Debug)]
pub struct HostAgent {
    program: Utf8PathBuf,
    dir: Utf8PathBuf,
    runtime: TempDir,
    settings: HostSettings,
    child: Option<Child>,
}

/// A request that waits for a yes or a no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// What `approve` and `deny` want to be told.
    pub id: String,
    /// The shed that asks.
    pub shed: String,
}

impl HostAgent {
    /// Makes a home without anything in it, in which no agent runs yet.
    ///
    /// # Panics
    /// When it cannot be made, or there is no such program.
    #[must_use]
    pub fn new(stage: &Stage) -> Self {
        let program = stage.parts().bin_dir.join("shed-host-agent");
        assert!(program.is_file(), "there is no {program}; `./x build` makes it");
        let host = Self {
            program,
            dir: stage.dir().join("developer"),
            runtime: tempfile::Builder::new().prefix("run-").tempdir().expect("a temporary directory"),
            settings: HostSettings::default(),
            child: None,
        };
        for dir in [host.home().join(".ssh"), host.cores()] {
            fs::create_dir_all(dir).expect("a directory of the stage");
        }
        host
    }

    /// Writes its configuration, starts it, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come to that; the message has its log.
    #[track_caller]
    pub fn start(&mut self, server: &Server, settings: HostSettings) {
        let mut yaml = json!({
            "server": format!("http://127.0.0.1:{}", server.port()),
            "logging": { "enabled": true, "path": self.audit_log() },
        });
        for (key, value) in [("ssh", &settings.ssh), ("aws", &settings.aws), ("docker", &settings.docker)] {
            if let Some(value) = value {
                yaml[key] = value.clone();
            }
        }
        let config = self.config();
        fs::create_dir_all(config.parent().expect("it is in a directory")).expect("a directory of the stage");
        // JSON is YAML, so nothing needs quoting here.
        fs::write(&config, yaml.to_string()).expect("extensions.yaml");
        self.settings = settings;
        self.resume(server);
    }

    /// Starts it again as it was, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come to that; the message has its log.
    #[track_caller]
    pub fn resume(&mut self, server: &Server) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log()).expect("the host agent's log");
        let mut command = Command::new("sh");
        command.args(["-c", WITH_CORES, "sh", self.cores().as_str(), self.program.as_str()]);
        command.arg("--config").arg(self.config());
        self.surround(&mut command);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.child = Some(command.spawn().expect("sh can be run"));
        self.wait_until_it_listens(server);
    }

    /// Waits until the server has a listener for each of its namespaces.
    ///
    /// # Panics
    /// When it does not come to that; the message has the agent's log.
    #[track_caller]
    pub fn wait_until_it_listens(&mut self, server: &Server) {
        let wanted = self.settings.namespaces.clone();
        wait_for(&format!("the host agent to listen to {wanted:?}; its log is {}", self.log()), SHORT * 2, || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the host agent ended with {status}: {}", self.log_text());
            }
            let heard = listeners(server);
            wanted.iter().all(|namespace| heard.iter().any(|one| one == namespace)).then_some(())
        });
    }

    /// The requests that wait for a yes or a no.
    ///
    /// # Panics
    /// When the agent does not tell.
    #[track_caller]
    #[must_use]
    pub fn approvals(&self) -> Vec<Approval> {
        let told = self.command(&["approvals", "list", "--json"]).ok().json();
        let waiting = told.as_array().expect("a list").iter();
        waiting.map(|one| Approval { id: text(&one["id"]), shed: text(&one["shed"]) }).collect()
    }

    /// Waits until so many requests of a shed wait, and returns them.
    ///
    /// # Panics
    /// When they do not come.
    #[track_caller]
    #[must_use]
    pub fn wait_for_approvals(&self, shed: &str, count: usize) -> Vec<Approval> {
        wait_for(&format!("{count} requests of {shed} to wait for approval"), SHORT, || {
            let mut waiting = self.approvals();
            waiting.retain(|one| one.shed == shed);
            (waiting.len() >= count).then_some(waiting)
        })
    }

    /// Says yes to a request.
    ///
    /// # Panics
    /// When it does not wait any more.
    #[track_caller]
    pub fn approve(&self, approval: &Approval) {
        self.command(&["approvals", "approve", &approval.id]).ok();
    }

    /// Says no to a request.
    ///
    /// # Panics
    /// When it does not wait any more.
    #[track_caller]
    pub fn deny(&self, approval: &Approval) {
        self.command(&["approvals", "deny", &approval.id]).ok();
    }

    /// Runs one of its other commands to its end.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> Finished {
        let mut command = Command::new(&self.program);
        command.args(words);
        self.surround(&mut command);
        run(&mut command, b"", SHORT)
    }

    fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            // Its socket is there; the stage's directory may be too long for one.
            .env("XDG_RUNTIME_DIR", self.runtime.path());
        if let Some(socket) = &self.settings.auth_sock {
            command.env("SSH_AUTH_SOCK", socket);
        }
        command.envs(self.settings.variables.iter().map(|(name, value)| (*name, value)));
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the host agent runs").id()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }

    /// Ends it by a fault of its own, as a crash does, and returns how it ended.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn fault(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the host agent runs");
        kill_process(child.id(), Signal::SEGV);
        let status = wait_for("the host agent to end", SHORT, || child.try_wait().expect("a child of ours"));
        assert!(status.signal().is_some(), "it took the fault for nothing: {status}");
        status
    }

    /// Its home, where keys and logins of the user are.
    #[must_use]
    pub fn home(&self) -> Utf8PathBuf {
        self.dir.join("home")
    }

    /// Where it works, and would leave a core.
    #[must_use]
    pub fn cores(&self) -> Utf8PathBuf {
        self.dir.join("cores")
    }

    /// What it prints.
    #[must_use]
    pub fn log(&self) -> Utf8PathBuf {
        self.dir.join("host-agent.log")
    }

    /// Its audit log.
    #[must_use]
    pub fn audit_log(&self) -> Utf8PathBuf {
        self.dir.join("audit/extensions-audit.log")
    }

    /// The lines of its audit log.
    ///
    /// # Panics
    /// When one is no JSON.
    #[track_caller]
    #[must_use]
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_log()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of the audit log is JSON")).collect()
    }

    fn config(&self) -> Utf8PathBuf {
        self.home().join(".config/shed/extensions.yaml")
    }

    fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for HostAgent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            crate::stage::show_end(&self.log());
            crate::stage::show_end(&self.audit_log());
        }
    }
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Returns the namespaces that somebody listens to.
#[track_caller]
fn listeners(server: &Server) -> Vec<String> {
    let told = server.http().get("/api/plugins/listeners").is(200).json();
    let list = told["listeners"].as_array().expect("`listeners` is a list").clone();
    list.iter().filter_map(|one| Some(one["namespace"].as_str()?.to_owned())).collect()
}
