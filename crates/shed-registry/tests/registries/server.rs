//! Debian's `docker-registry`, on a free port, ended with the test.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};

/// A running registry.
pub(crate) struct Server {
    child: Child,
    config: Utf8PathBuf,
    /// Host and port.
    pub(crate) address: String,
    _dir: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts a registry that lets everybody in.
    pub(crate) fn open() -> Self {
        Self::with_auth("")
    }

    /// Starts a registry with this `auth:` of its config.
    pub(crate) fn with_auth(auth: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let config = path.join("config.yml");
        std::fs::write(&config, config_text(path, "127.0.0.1:0", auth)).unwrap();
        let (child, address) = start(&config);
        // The same port after a restart.
        std::fs::write(&config, config_text(path, &address, auth)).unwrap();
        Self { child, config, address, _dir: Some(dir) }
    }

    /// Kills the registry, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        let _status = self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and with what it had.
    pub(crate) fn start_again(&mut self) {
        let (child, address) = start(&self.config);
        self.child = child;
        assert_eq!(address, self.address);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn config_text(dir: &Utf8Path, address: &str, auth: &str) -> String {
    // Where an upload is to go is signed with the secret; without one, a restart would forget all uploads.
    format!(
        "version: 0.1\nlog: {{level: info}}\n\
         storage: {{filesystem: {{rootdirectory: {dir}/data}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"{address}\", secret: test}}\n{auth}"
    )
}

/// Starts the program and waits until it says where it listens.
fn start(config: &Utf8Path) -> (Child, String) {
    let mut child = Command::new("docker-registry")
        .args(["serve", config.as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("docker-registry is there: scripts/setup.sh installs it");
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (say, heard) = mpsc::channel();
    // To the end, or it would stop at a full pipe.
    let _reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        for line in lines.map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let _late = say.send(rest.split(['"', ' ']).next().unwrap_or_default().to_owned());
            } else if all.len() < 20 {
                all.push(line);
            }
        }
        all
    });
    let address = heard.recv_timeout(Duration::from_secs(120)).expect("docker-registry listens");
    (child, address)
}
