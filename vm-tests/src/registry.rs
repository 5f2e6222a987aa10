//! A real registry on loopback: Debian's docker-registry, with a directory of its own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use crate::{FROM_GUEST, SHORT, free_port, run, wait_for};

/// The program; its package is called the same.
const PROGRAM: &str = "docker-registry";

/// A registry that answers.
#[derive(Debug)]
pub struct Registry {
    child: Option<Child>,
    dir: Utf8PathBuf,
    port: u16,
    login: Option<(String, String)>,
}

impl Registry {
    /// Starts a registry whose files are in `dir`.
    ///
    /// # Panics
    /// When it does not start; the message has its log.
    #[track_caller]
    #[must_use]
    pub fn start(dir: &Utf8Path) -> Self {
        Self::begin(dir, None)
    }

    /// Starts one that asks everybody for this user and password.
    ///
    /// # Panics
    /// When htpasswd is not installed, or the registry does not start.
    #[track_caller]
    #[must_use]
    pub fn with_login(dir: &Utf8Path, user: &str, password: &str) -> Self {
        Self::begin(dir, Some((user.to_owned(), password.to_owned())))
    }

    #[track_caller]
    fn begin(dir: &Utf8Path, login: Option<(String, String)>) -> Self {
        fs::create_dir_all(dir).expect("a directory for the registry");
        let mut registry = Self { child: None, dir: dir.to_owned(), port: free_port(), login };
        registry.resume();
        registry
    }

    /// Starts it again at the same port, after [`Registry::kill`].
    ///
    /// # Panics
    /// When it does not start; the message has its log.
    #[track_caller]
    pub fn resume(&mut self) {
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "formatter": "json", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": self.dir.join("data") } },
            "http": { "addr": format!("127.0.0.1:{}", self.port) },
        });
        if let Some((user, password)) = &self.login {
            config["auth"] = json!({ "htpasswd": { "realm": "stage", "path": self.passwords(user, password) } });
        }
        // JSON is YAML.
        let file = self.dir.join("config.yml");
        fs::write(&file, config.to_string()).expect("the registry's config");
        let log = File::options().create(true).append(true).open(self.log()).expect("the registry's log");
        let child = Command::new(PROGRAM)
            .args(["serve", file.as_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("cannot run {PROGRAM} ({error}); scripts/setup.sh --tests installs it")
        });
        let child = self.child.insert(child);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let log = self.dir.join("log");
        wait_for("the registry to listen", SHORT * 2, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the registry ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }

    /// Returns its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the reference of an image in it.
    #[must_use]
    pub fn reference(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Returns the reference of an image in it, for guests.
    #[must_use]
    pub fn reference_in_guest(&self, image: &str) -> String {
        format!("{FROM_GUEST}:{}/{image}", self.port)
    }

    /// Writes the file of those who may log in; it has a hash, not the password.
    #[track_caller]
    fn passwords(&self, user: &str, password: &str) -> Utf8PathBuf {
        let made = run(Command::new("htpasswd").args(["-Bin", user]), password.as_bytes(), SHORT).ok();
        let file = self.dir.join("htpasswd");
        fs::write(&file, made.out()).expect("the file of passwords");
        file
    }

    fn log(&self) -> Utf8PathBuf {
        self.dir.join("log")
    }

    /// Returns the paths that were asked for with `method`, in order.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn requests(&self, method: &str) -> Vec<String> {
        let log = fs::read_to_string(self.log()).expect("the registry's log");
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["msg"] == "response completed" && line["http.request.method"] == method)
            .filter_map(|line| Some(line["http.request.uri"].as_str()?.to_owned()))
            .collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}
