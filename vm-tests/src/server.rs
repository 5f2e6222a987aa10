//! A real `shed-server`, as a process that a test may end in any way.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Http, SHORT, Stage, kill_process, wait_for};

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    ssh_port: u16,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(stage: &Stage) -> Self {
        let ready = stage.dir().join("ready.json");
        let _none = fs::remove_file(&ready);
        let log =
            File::options().create(true).append(true).open(stage.server_log()).expect("the server's log");
        let child = Command::new(stage.parts().shed_server())
            .arg("serve")
            .arg("--config")
            .arg(stage.server_yaml())
            .arg("--ready-file")
            .arg(&ready)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", stage.home())
            .env("TMPDIR", stage.tmp_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("shed-server can be run");
        let mut server = Self { child, port: 0, ssh_port: 0 };
        // The file appears whole. With machines to take over a server may need a little longer.
        let answer = wait_for("the server to listen", SHORT * 2, || {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!(
                    "the server ended with {status}; its log: {}",
                    fs::read_to_string(stage.server_log()).unwrap_or_default()
                );
            }
            serde_json::from_slice::<Value>(&fs::read(&ready).ok()?).ok()
        });
        let port = |key: &str| answer[key].as_u64().and_then(|port| u16::try_from(port).ok());
        server.port = port("http_port").expect("the ready file names the port of the API");
        server.ssh_port = port("ssh_port").expect("the ready file names the port of SSH");
        server
    }

    /// The port of its API.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The port of its SSH server.
    #[must_use]
    pub const fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client of its API.
    #[must_use]
    pub fn http(&self) -> Http {
        Http::new(SocketAddr::from(([127, 0, 0, 1], self.port)))
    }

    /// Whether it still runs and answers.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.http()
            .try_open("GET", "/api/info", "", None)
            .and_then(crate::http::Response::read)
            .is_ok_and(|reply| reply.status == 200)
    }

    /// Ends it as a crash does, at once and without a chance to say goodbye.
    pub fn crash(mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }

    /// Asks it to end, as systemd does, and returns how long that took.
    ///
    /// # Panics
    /// When it does not end, or not with success.
    #[track_caller]
    pub fn terminate(mut self) -> Duration {
        let begun = std::time::Instant::now();
        kill_process(self.pid(), Signal::TERM);
        let status =
            wait_for("the server to end", SHORT * 2, || self.child.try_wait().expect("a child of ours"));
        assert!(status.success(), "the server ended with {status}");
        begun.elapsed()
    }

    /// Ends it by a signal, waits for that, and starts another in its place.
    ///
    /// # Panics
    /// When it does not end, or the other does not start.
    #[track_caller]
    pub fn restart(&mut self, stage: &Stage, signal: Signal) {
        kill_process(self.pid(), signal);
        let _status =
            wait_for("the server to end", SHORT * 2, || self.child.try_wait().expect("a child of ours"));
        *self = stage.serve();
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        crate::guest_files::resident_bytes(&status).expect("the kernel says VmRSS")
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
    }
}
