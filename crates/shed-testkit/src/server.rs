//! A real shed-server in a directory of its own.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use shed_client::{Client, ServerAddress, Timeouts};
use shed_types::TcpPort;
use tempfile::TempDir;

use crate::{
    processes::{Process, kill, processes_with},
    programs::{program, tail},
    wait::wait_for_some,
};

/// Longest wait for a server's first answer: it may adopt several machines on a busy host first.
const START: Duration = Duration::from_secs(60);

/// Longest wait for a server that was asked to end; its own limit is 30 s.
const STOP: Duration = Duration::from_secs(45);

/// Lines of each log that a failing test shows.
const LOG_LINES: usize = 60;

/// What kind of server a test wants.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The program; none means the shed-server built beside the test.
    pub program: Option<Utf8PathBuf>,
    /// Directory with kernel, initramfs and images; none means an empty one of the test's own.
    pub guest_dir: Option<Utf8PathBuf>,
    /// Keys of the `qemu:` section, each with its value as YAML.
    pub qemu: BTreeMap<String, String>,
    /// More environment variables.
    pub env: BTreeMap<String, String>,
    /// How long the client waits.
    pub timeouts: Timeouts,
}

impl Default for Setup {
    fn default() -> Self {
        // Tests that boot machines under software emulation beside others are slow, not broken.
        let patient = Duration::from_secs(120);
        let timeouts = Timeouts { connect: patient, reply: patient, silence: patient, ..Timeouts::default() };
        Self { program: None, guest_dir: None, qemu: BTreeMap::new(), env: BTreeMap::new(), timeouts }
    }
}

impl Setup {
    /// A server whose sheds boot the kernel, initramfs and images of this directory.
    #[must_use]
    pub fn with_guest(guest_dir: impl Into<Utf8PathBuf>) -> Self {
        Self { guest_dir: Some(guest_dir.into()), ..Self::default() }
    }

    /// Sets a key of the `qemu:` section.
    #[must_use]
    pub fn qemu(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        let _old = self.qemu.insert(key.to_owned(), value.to_string());
        self
    }
}

/// A shed-server with state of its own. Dropping it kills it and its machines, and removes everything.
#[derive(Debug)]
pub struct TestServer {
    dir: TempDir,
    setup: Setup,
    running: Option<Running>,
    /// How many times it was started; each start has a ready file of its own.
    starts: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    client: Client,
    ssh_port: TcpPort,
}

/// What the server writes when it answers.
#[derive(Debug, Deserialize)]
struct Ready {
    http_port: TcpPort,
    ssh_port: TcpPort,
}

impl TestServer {
    /// Makes the state and starts the server; returns when it answers.
    ///
    /// # Errors
    /// When it does not; the error has its log.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        // Not TMPDIR, which is long on macOS: paths of sockets have about 100 bytes.
        let dir =
            tempfile::Builder::new().prefix("shed-t").tempdir_in("/tmp").context("no temporary directory")?;
        let mut server = Self { dir, setup, running: None, starts: 0 };
        for dir in [server.home(), server.instance_dir()] {
            fs::create_dir_all(&dir).with_context(|| format!("could not make {dir}"))?;
        }
        fs::write(server.config_file(), server.config_text()).context("could not write server.yaml")?;
        server.restart().await?;
        Ok(server)
    }

    /// Starts the server again, on the state it left; returns when it answers.
    ///
    /// # Errors
    /// When it still runs or does not come up; the error has its log.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "the server still runs; stop or kill it first");
        self.starts += 1;
        let ready_file = self.path(&format!("ready-{}.json", self.starts));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .context("could not open the log")?;
        let program = self.setup.program.clone().unwrap_or_else(|| program("shed-server"));
        let child = Command::new(&program)
            .args(["serve", "--config", self.config_file().as_str(), "--ready-file", ready_file.as_str()])
            .current_dir(self.dir.path())
            .env("HOME", self.home())
            .env_remove("XDG_DATA_HOME")
            .env_remove("SHED_CONFIG")
            .envs(&self.setup.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {program}"))?;
        let mut starting = Starting(Some(child));
        let ready = wait_for_some("the server's ready file", START, || {
            let seen = fs::read(&ready_file).ok().map(Ok).or_else(|| starting.ended().map(Err));
            async move { seen }
        })
        .await;
        let text = match ready {
            Ok(Ok(text)) => text,
            Ok(Err(status)) => bail!("the server ended at once ({status}):\n{}", self.log()),
            Err(error) => return Err(error.context(format!("the log:\n{}", self.log()))),
        };
        let Ready { http_port, ssh_port } =
            serde_json::from_slice(&text).context("the ready file cannot be read")?;
        let address = ServerAddress::new("127.0.0.1", http_port).context("the server's address")?;
        let child = starting.0.take().context("the server's process was taken twice")?;
        self.running = Some(Running { child, client: Client::new(address, self.setup.timeouts), ssh_port });
        Ok(())
    }

    /// Kills the server with SIGKILL and waits for its death. Its machines live on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the server does not run")?;
        running.child.kill().context("the server cannot be killed")?;
        running.child.wait().context("the server cannot be waited for")?;
        Ok(())
    }

    /// Asks the server to end with SIGTERM and waits until it has. Its machines live on.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        self.wait_for_end().await
    }

    /// Sends the server a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).context("the server's pid")?;
        let pid = rustix::process::Pid::from_raw(pid).context("the server's pid is 0")?;
        rustix::process::kill_process(pid, signal).context("the server cannot be signalled")
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn wait_for_end(&mut self) -> anyhow::Result<ExitStatus> {
        let running = self.running.as_mut().context("the server does not run")?;
        let child = &mut running.child;
        let status = wait_for_some("the server's end", STOP, || {
            let status = child.try_wait().ok().flatten();
            async move { status }
        })
        .await
        .with_context(|| format!("the log:\n{}", tail(&self.log_file(), LOG_LINES)))?;
        self.running = None;
        Ok(status)
    }

    /// Returns a client of the running server.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.running().client
    }

    /// Returns the port of its SSH server.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn ssh_port(&self) -> TcpPort {
        self.running().ssh_port
    }

    /// Returns the server's process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the test uses a server that it has stopped")
    }

    /// Returns the directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("a directory made in /tmp has a UTF-8 name")
    }

    /// Returns the home directory of the server, for a CLI that shall have the same.
    #[must_use]
    pub fn home(&self) -> Utf8PathBuf {
        self.path("home")
    }

    /// Returns the directory with one directory a shed.
    #[must_use]
    pub fn instance_dir(&self) -> Utf8PathBuf {
        self.path("i")
    }

    /// Returns the directory of the machines' sockets.
    #[must_use]
    pub fn socket_dir(&self) -> Utf8PathBuf {
        self.path("s")
    }

    /// Returns the directory with kernel, initramfs and images.
    #[must_use]
    pub fn guest_dir(&self) -> Utf8PathBuf {
        self.setup.guest_dir.clone().unwrap_or_else(|| self.path("g"))
    }

    /// Returns the server's log, from its first start on.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Returns the processes that belong to this server's sheds, dead or alive.
    #[must_use]
    pub fn machines(&self) -> Vec<Process> {
        let server = self.running.as_ref().map(|running| running.child.id());
        let mut all = processes_with(self.instance_dir().as_str());
        all.retain(|process| Some(process.pid) != server);
        all
    }

    /// Returns what is left of sheds: processes, sockets, files. Empty when every shed was deleted.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let machines = self.machines().into_iter().map(|p| format!("process {} {}", p.pid, p.command_line));
        let files = [self.instance_dir(), self.socket_dir()].into_iter().flat_map(|dir| {
            // The lock of the directory is there for good.
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .filter(|entry| entry.file_name() != ".lock")
                .map(|entry| entry.path().display().to_string())
        });
        machines.chain(files).collect()
    }

    /// Asserts that no process, socket or directory of any shed is left.
    ///
    /// # Panics
    /// When something is; the message lists it.
    pub fn assert_clean(&self) {
        let left = self.leftovers();
        assert!(
            left.is_empty(),
            "left over:\n  {}\nthe log:\n{}",
            left.join("\n  "),
            tail(&self.log_file(), LOG_LINES)
        );
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        self.dir().join(name)
    }

    fn config_file(&self) -> Utf8PathBuf {
        self.path("server.yaml")
    }

    fn log_file(&self) -> Utf8PathBuf {
        self.path("server.log")
    }

    fn config_text(&self) -> String {
        let mut keys = BTreeMap::from([
            ("images_dir".to_owned(), self.guest_dir().into_string()),
            ("instance_dir".to_owned(), self.instance_dir().into_string()),
            ("socket_dir".to_owned(), self.socket_dir().into_string()),
        ]);
        keys.extend(self.setup.qemu.clone());
        let host_key = self.path("host_key");
        let mut text = format!(
            "name: test\nhttp_port: 0\nssh_port: 0\nssh_host_key: {host_key}\nlog_level: debug\nqemu:\n"
        );
        for (key, value) in keys {
            writeln!(text, "  {key}: {value}").expect("writing to a String cannot fail");
        }
        text
    }

    #[expect(clippy::print_stderr, reason = "a failing test shows what its server and machines said")]
    fn show_logs(&self) {
        eprintln!("--- shed-server's log\n{}", tail(&self.log_file(), LOG_LINES));
        for entry in fs::read_dir(self.instance_dir()).into_iter().flatten().flatten() {
            let Ok(dir) = Utf8PathBuf::from_path_buf(entry.path()) else { continue };
            for name in ["console.log", "vmm.log"] {
                let text = tail(&dir.join(name), LOG_LINES);
                if !text.is_empty() {
                    eprintln!("--- {}/{name}\n{text}", dir.file_name().unwrap_or_default());
                }
            }
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.running.is_some()
            && let Err(error) = self.kill()
        {
            // Panicking here would hide why the test failed.
            debug_assert!(std::thread::panicking(), "{error:#}");
        }
        if std::thread::panicking() {
            self.show_logs();
        }
        for machine in self.machines() {
            kill(machine.pid);
        }
    }
}

/// A server that may not come up: killed when it is dropped.
#[derive(Debug)]
struct Starting(Option<Child>);

impl Starting {
    /// Returns how it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself; then there is nothing to kill.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}
