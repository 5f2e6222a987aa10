//! A host of git repositories on loopback, with real servers for each way that git clones: git://, https://, ssh://.
//! Guests reach it at [`FROM_GUEST`].

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};

use crate::{SHORT, free_port, wait_for};

/// The host's loopback, as guests of QEMU's user-mode network see it.
pub const FROM_GUEST: &str = "10.0.2.2";

/// Who may clone what is private, and by which password.
pub const LOGIN: (&str, &str) = ("reader", "hush-hush");

/// A directory of bare repositories and the servers that serve it. They end with it.
#[derive(Debug)]
pub struct GitHost {
    dir: Utf8PathBuf,
    servers: Vec<Child>,
}

/// An SSH server that has the repositories of a [`GitHost`].
#[derive(Debug)]
pub struct GitSsh {
    /// Its port.
    pub port: u16,
    /// Its line of known_hosts, as guests need it.
    pub known_host: String,
    /// The private key that opens it.
    pub key: Utf8PathBuf,
}

impl GitHost {
    /// Makes one without repositories.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[must_use]
    pub fn new(dir: Utf8PathBuf) -> Self {
        fs::create_dir_all(dir.join("repos/private")).expect("a directory for repositories");
        Self { dir, servers: Vec::new() }
    }

    /// Makes a bare repository of files, given with their contents; those that end with `.sh` can be executed.
    ///
    /// # Panics
    /// When git fails.
    #[track_caller]
    pub fn repository(&self, name: &str, files: &[(&str, &str)]) {
        let work = self.dir.join("work").join(name);
        for (path, content) in files {
            let path = work.join(path);
            fs::create_dir_all(path.parent().expect("it is below the work tree")).expect("a directory");
            fs::write(&path, content).expect("a file");
            let mode = if path.as_str().ends_with(".sh") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        }
        let bare = self.dir.join("repos").join(name);
        self.git(&["init", "--quiet", "--initial-branch=main", work.as_str()]);
        self.git(&["-C", work.as_str(), "add", "--all"]);
        self.git(&["-C", work.as_str(), "commit", "--quiet", "--allow-empty", "--message=all"]);
        self.git(&["clone", "--quiet", "--bare", work.as_str(), bare.as_str()]);
    }

    fn git(&self, words: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(words);
        git.env("HOME", &self.dir).env("GIT_CONFIG_NOSYSTEM", "1");
        let ran = git.output().expect("git can be run");
        assert!(ran.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Serves all of it by git's daemon, and returns the URL of the directory for guests.
    ///
    /// # Panics
    /// When the daemon does not start.
    #[track_caller]
    pub fn serve_git(&mut self) -> String {
        let port = free_port();
        let log = self.log("git-daemon");
        // `git daemon` itself would leave the daemon behind when it is killed.
        let programs = Command::new("git").arg("--exec-path").output().expect("git can be run").stdout;
        let programs = String::from_utf8(programs).expect("a path");
        let mut daemon = Command::new(format!("{}/git-daemon", programs.trim()));
        daemon.args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        daemon.arg(format!("--port={port}")).arg(format!("--base-path={}", self.dir.join("repos")));
        self.servers.push(daemon.stderr(log).spawn().expect("git daemon can be run"));
        wait_until_it_listens("git daemon", port);
        format!("git://{FROM_GUEST}:{port}")
    }

    /// Serves all of it over HTTPS, and returns host and port for guests. Its certificate is signed by nobody that guests
    /// trust.
    ///
    /// # Panics
    /// When the server does not start.
    #[track_caller]
    pub fn serve_https(&mut self) -> String {
        let (certificate, key) = (self.dir.join("cert.pem"), self.dir.join("key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=git"])
            .args(["-addext", &format!("subjectAltName=IP:{FROM_GUEST}")])
            .args(["-out", certificate.as_str(), "-keyout", key.as_str()])
            .output()
            .expect("openssl can be run");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let script = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("git/https_server.py");
        let mut server = Command::new("python3");
        server.arg(script).arg(self.dir.join("repos")).arg(certificate).arg(key);
        server.arg(format!("{}:{}", LOGIN.0, LOGIN.1)).env("HOME", &self.dir);
        let mut server = server
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.log("https"))
            .spawn()
            .expect("python3 can be run");
        let mut line = String::new();
        let stdout = server.stdout.take().expect("it is piped");
        let _length = BufReader::new(stdout).read_line(&mut line).expect("it says its port");
        self.servers.push(server);
        let port: u16 = line.trim().parse().expect("a port");
        format!("{FROM_GUEST}:{port}")
    }

    /// Serves all of it by a real sshd, to whoever has the key.
    ///
    /// # Panics
    /// When there is no sshd, or it does not start.
    #[track_caller]
    pub fn serve_ssh(&mut self) -> GitSsh {
        let program =
            ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Utf8Path::new(path).exists());
        let program = program.expect("there is no sshd; scripts/setup.sh --tests installs openssh-server");
        let dir = self.dir.join("ssh");
        fs::create_dir_all(&dir).expect("a directory");
        let (host_key, key) = (dir.join("host_key"), dir.join("id_ed25519"));
        for path in [&host_key, &key] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", path.as_str()])
                .status();
            assert!(made.expect("ssh-keygen can be run").success());
        }
        let port = free_port();
        let config = dir.join("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             AuthorizedKeysFile {key}.pub\nSetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*\n"
        );
        fs::write(&config, text).expect("sshd's config");
        if rustix::process::geteuid().is_root() {
            // Debian's unit makes it otherwise (sshd(8), FILES).
            fs::create_dir_all("/run/sshd").expect("the directory that sshd wants");
        }
        let server =
            Command::new(program).args(["-D", "-e", "-f", config.as_str()]).stderr(self.log("sshd")).spawn();
        self.servers.push(server.expect("sshd can be run"));
        wait_until_it_listens("sshd", port);
        let public = fs::read_to_string(format!("{host_key}.pub")).expect("the host's public key");
        let fields: Vec<&str> = public.split(' ').collect();
        GitSsh { port, known_host: format!("[{FROM_GUEST}]:{port} {} {}", fields[0], fields[1]), key }
    }

    /// The path of a repository on this host.
    #[must_use]
    pub fn path(&self, name: &str) -> Utf8PathBuf {
        self.dir.join("repos").join(name)
    }

    fn log(&self, name: &str) -> File {
        File::create(self.dir.join(format!("{name}.log"))).expect("a log")
    }
}

impl Drop for GitHost {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _gone = server.kill();
            let _status = server.wait();
        }
    }
}

fn wait_until_it_listens(what: &str, port: u16) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_for(&format!("{what} to listen"), SHORT * 2, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    });
}
