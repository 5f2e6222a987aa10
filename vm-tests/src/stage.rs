//! A stage: directories, a configuration and a home of their own for one test, and the end of all that runs there.

use std::{fs, path::Path};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use shed_types::BackendKind;
use tempfile::TempDir;

use crate::{Cli, Parts, Server, guard::Guard, vfkit_in, vmm_processes};

/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 40;

/// Names the backend under test; without it, that is QEMU.
pub(crate) const BACKEND: &str = "SHED_TEST_BACKEND";

/// Start and stop timeouts where the backend is Firecracker, whose own are for machines that are not emulated.
const FIRECRACKER_TIMEOUTS: [&str; 2] = ["5m", "60s"];

/// The same for vz, whose vfkit is a stand-in that emulates, too.
const VZ_TIMEOUTS: [&str; 2] = ["4m", "60s"];

/// What a test may want otherwise in server.yaml. A key of a backend is in the section of the one under test.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `default_backend`; otherwise the one under test.
    pub backend: Option<BackendKind>,
    /// `qemu.start_timeout`.
    pub start_timeout: Option<&'static str>,
    /// `qemu.stop_timeout`.
    pub stop_timeout: Option<&'static str>,
    /// `qemu.extra_cmdline`.
    pub extra_cmdline: Vec<String>,
    /// `qemu.default_disk_gb`; otherwise the server's default.
    pub default_disk_gb: Option<u32>,
    /// `qemu.images`; otherwise none.
    pub images: Option<serde_json::Value>,
    /// `env_file`; otherwise none.
    pub env_file: Option<Utf8PathBuf>,
    /// `git`; otherwise none.
    pub git: Option<serde_json::Value>,
    /// `qemu.binary`; otherwise it is looked for.
    pub qemu_binary: Option<Utf8PathBuf>,
    /// `qemu.virtiofsd`; otherwise it is looked for.
    pub virtiofsd: Option<Utf8PathBuf>,
    /// `credentials`; otherwise none. `~` in a source is the stage's home.
    pub credentials: Option<serde_json::Value>,
    /// `extensions`; otherwise none.
    pub extensions: Option<serde_json::Value>,
    /// `http_port`, for a server that shall be found where the one before was; otherwise the system picks one.
    pub http_port: u16,
    /// `ssh_port`, for the same; otherwise the system picks one.
    pub ssh_port: u16,
    /// `listen`; otherwise the server's default, loopback.
    pub listen: Option<&'static str>,
    /// `qemu.instance_dir`; otherwise a directory of the stage.
    pub instance_dir: Option<Utf8PathBuf>,
}

/// One test's world.
#[derive(Debug)]
pub struct Stage {
    parts: Parts,
    dir: Utf8PathBuf,
    images: Utf8PathBuf,
    instances: Utf8PathBuf,
    sockets: Utf8PathBuf,
    backend: BackendKind,
    /// Dropped last: ends what is left and removes the directories.
    _guard: Guard,
}

impl Stage {
    /// Makes a stage with the base image and no other; returns nothing when these tests are to be skipped.
    ///
    /// # Panics
    /// When the parts under test are missing, or the directories cannot be made.
    #[must_use]
    pub fn new() -> Option<Self> {
        Some(Self::with(Parts::find()?, Config::default()))
    }

    /// Makes a stage with another configuration.
    ///
    /// # Panics
    /// When the parts under test are missing, or the directories cannot be made.
    #[must_use]
    pub fn configured(config: Config) -> Option<Self> {
        Some(Self::with(Parts::find()?, config))
    }

    /// Makes a stage of these parts.
    ///
    /// # Panics
    /// When the directories cannot be made.
    #[must_use]
    pub fn with(parts: Parts, config: Config) -> Self {
        // Beside the guest files, because an image is hardlinked where that is possible; sockets in a short path.
        let beside = parts.guest_dir.parent().expect("the guest files are in a directory below another");
        let dir = keep(tempfile::Builder::new().prefix("stage-").tempdir_in(beside));
        let sockets = keep(tempfile::Builder::new().prefix("shed-").tempdir());
        let guard = Guard::over(&dir, std::slice::from_ref(&sockets)).expect("sh runs");
        let (images, instances) = (dir.join("images"), dir.join("instances"));
        let backend = config.backend.unwrap_or_else(backend_under_test);
        let mut stage = Self { parts, images, instances, sockets, backend, dir, _guard: guard };
        for path in [stage.images_dir(), stage.instance_dir(), &stage.home(), &stage.tmp_dir()] {
            fs::create_dir_all(path).expect("a directory of the stage");
        }
        for entry in stage.parts.guest_dir.read_dir_utf8().expect("the guest files").flatten() {
            // With `default` there, sheds that name no image would be made from it.
            let other_image =
                entry.file_name().contains("-rootfs.ext4") && !entry.file_name().starts_with("base-");
            if entry.file_type().is_ok_and(|kind| kind.is_file()) && !other_image {
                link_or_copy(entry.path(), &stage.images_dir().join(entry.file_name()));
            }
        }
        stage.configure(config);
        stage
    }

    /// Writes server.yaml anew; a server that runs does not notice.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&mut self, config: Config) {
        if let Some(dir) = config.instance_dir {
            self.instances = dir;
        }
        let mut section = json!({
            "images_dir": self.images_dir(),
            "instance_dir": self.instance_dir(),
            "socket_dir": self.socket_dir(),
            "extra_cmdline": config.extra_cmdline,
        });
        let mut set = |key: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                section[key] = value;
            }
        };
        let [start, stop] = match self.backend {
            BackendKind::Firecracker => FIRECRACKER_TIMEOUTS.map(Some),
            BackendKind::Qemu => [None; 2],
            BackendKind::Vz => VZ_TIMEOUTS.map(Some),
        };
        let vfkit = match self.backend {
            BackendKind::Vz => Some(self.vfkit()),
            BackendKind::Qemu | BackendKind::Firecracker => None,
        };
        set("vfkit_path", vfkit.map(|path| path.as_str().into()));
        set("start_timeout", config.start_timeout.or(start).map(Into::into));
        set("stop_timeout", config.stop_timeout.or(stop).map(Into::into));
        set("binary", config.qemu_binary.map(|path| path.as_str().into()));
        set("virtiofsd", config.virtiofsd.map(|path| path.as_str().into()));
        set("images", config.images);
        set("default_disk_gb", config.default_disk_gb.map(Into::into));
        // JSON is YAML, so nothing needs quoting here. Whatever a test makes up as a reference: nothing leaves this host.
        let mut yaml = json!({ "name": "stage", "http_port": config.http_port, "ssh_port": config.ssh_port, "ssh_host_key": self.dir.join("host_key"), "default_backend": self.backend.as_str(), "log_level": "debug", "registries": { "allow": ["127.0.0.1"] } });
        yaml[self.backend.as_str()] = section;
        if let Some(listen) = config.listen {
            yaml["listen"] = listen.into();
        }
        if let Some(file) = config.env_file {
            yaml["env_file"] = file.as_str().into();
        }
        if let Some(git) = config.git {
            yaml["git"] = git;
        }
        if let Some(credentials) = config.credentials {
            yaml["credentials"] = credentials;
        }
        if let Some(extensions) = config.extensions {
            yaml["extensions"] = extensions;
        }
        fs::write(self.server_yaml(), yaml.to_string()).expect("server.yaml");
    }

    /// Makes the program that is vfkit here.
    fn vfkit(&self) -> Utf8PathBuf {
        let test = std::env::current_exe().expect("a test is a program");
        let built = test.parent().and_then(Path::parent).expect("it is in `deps`, below where programs are");
        let built = Utf8Path::from_path(built).expect("build directories have UTF-8 names");
        vfkit_in(&self.dir, &built.join("vfkit-stand-in"))
    }

    /// Starts a server, waits until it listens, and makes it the CLI's default.
    ///
    /// # Panics
    /// When it does not start; the message has its log.
    #[track_caller]
    #[must_use]
    pub fn serve(&self) -> Server {
        let server = Server::start(self);
        self.cli().use_server(server.port());
        server
    }

    /// Returns a client with a home on this stage.
    #[must_use]
    pub fn cli(&self) -> Cli {
        Cli::new(&self.parts, self.home())
    }

    /// Puts another built image beside the base image.
    ///
    /// # Panics
    /// When it was not built.
    #[track_caller]
    pub fn bring_image(&self, name: &str) {
        let file = format!("{name}-rootfs.ext4");
        let built = self.parts.guest_dir.join(&file);
        assert!(built.is_file(), "there is no {built}: build it with `./x image {name}`");
        link_or_copy(&built, &self.images_dir().join(file));
    }

    /// The programs under test.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What runs the sheds.
    #[must_use]
    pub const fn backend(&self) -> BackendKind {
        self.backend
    }

    /// The directory that only this stage's processes name.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Where the server keeps sheds.
    #[must_use]
    pub fn instance_dir(&self) -> &Utf8Path {
        &self.instances
    }

    /// Where the server keeps images.
    #[must_use]
    pub fn images_dir(&self) -> &Utf8Path {
        &self.images
    }

    /// Where the server keeps sockets.
    #[must_use]
    pub fn socket_dir(&self) -> &Utf8Path {
        &self.sockets
    }

    /// The home of server and client.
    #[must_use]
    pub fn home(&self) -> Utf8PathBuf {
        self.dir.join("home")
    }

    /// TMPDIR of server and client; empty when neither does something at the moment.
    #[must_use]
    pub fn tmp_dir(&self) -> Utf8PathBuf {
        self.dir.join("tmp")
    }

    /// The server's configuration.
    #[must_use]
    pub fn server_yaml(&self) -> Utf8PathBuf {
        self.dir.join("server.yaml")
    }

    /// The logs of all servers of this stage, one after the other.
    #[must_use]
    pub fn server_log(&self) -> Utf8PathBuf {
        self.dir.join("server.log")
    }

    /// A file of one shed.
    #[must_use]
    pub fn shed_file(&self, shed: &str, file: &str) -> Utf8PathBuf {
        self.instance_dir().join(shed).join(file)
    }

    /// Ends a test that has deleted its sheds: nothing may be left.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn finish(self) {
        self.assert_only(&[]);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_end(&self.server_log());
            for entry in self.instance_dir().read_dir_utf8().into_iter().flatten().flatten() {
                show_end(&entry.path().join("vmm.log"));
                show_end(&entry.path().join("console.log"));
            }
            say(&format!("machines that run: {:?}", vmm_processes(&self.dir)));
        }
    }
}

/// # Panics
/// When the environment names something else than a backend.
fn backend_under_test() -> BackendKind {
    match std::env::var(BACKEND) {
        Err(_) => BackendKind::Qemu,
        Ok(name) => {
            let all = [BackendKind::Qemu, BackendKind::Firecracker, BackendKind::Vz];
            let found = all.into_iter().find(|kind| kind.as_str() == name);
            found.unwrap_or_else(|| panic!("{BACKEND}={name} is no backend"))
        }
    }
}

/// From here on the guard removes the directory.
fn keep(dir: std::io::Result<TempDir>) -> Utf8PathBuf {
    let dir = dir.expect("a temporary directory").keep();
    Utf8PathBuf::from_path_buf(dir).expect("temporary directories have UTF-8 names")
}

pub(crate) fn link_or_copy(from: &Utf8Path, to: &Utf8Path) {
    if fs::hard_link(from, to).is_ok() {
        return;
    }
    // A copy of an image must stay sparse, or it takes minutes and gigabytes.
    let copied = std::process::Command::new("cp").arg("--sparse=always").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {from} to {to}");
}

pub(crate) fn show_end(log: &Utf8Path) {
    let Ok(bytes) = fs::read(Path::new(log)) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    say(&format!("--- the end of {log} ---"));
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        say(&line.chars().filter(|c| !c.is_control()).collect::<String>());
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows its logs")]
fn say(line: &str) {
    eprintln!("{line}");
}
