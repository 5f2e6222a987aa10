//! A machine that the stand-in for vfkit runs, as a caller of vfkit sees it: a process, a socket for each vsock port, a
//! REST socket and the console's log.
//!
//! The tests of the stand-in use it. The machine, its files and its processes end with the value.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net,
    },
    process::Command,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use serde_json::Value;
use shed_link::{MuxStream, Synced, mux};
use shed_types::GuestPort;
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::Runtime,
    time::timeout,
};

use crate::{
    BOOT, Finished, Parts, Running, SHORT, find_program,
    guard::Guard,
    vsock::{exec, show_end, upper_disk},
};

/// What the kernel is told: its console is the virtio one, and the link to the agent is vsock.
const WORDS: &str = "console=hvc0 panic=1 systemd.show_status=false shed.link=vsock";

/// The tag of the directory that the machine shares.
const TAG: &str = "stage";

/// Makes the program that a server in a test takes for vfkit: the stand-in, with the time that an emulated guest needs to stop,
/// and what it needs on its PATH, of which a server passes on its own.
///
/// # Panics
/// When there is no stand-in, or the file cannot be written.
#[must_use]
pub fn vfkit_in(dir: &Utf8Path, stand_in: &Utf8Path) -> Utf8PathBuf {
    assert!(stand_in.is_file(), "there is no {stand_in}; `cargo nextest run -p vm-tests` builds it");
    let path = dir.join("vfkit");
    let device =
        find_program("vhost-device-vsock").expect("scripts/setup.sh --tests installs vhost-device-vsock");
    let places = device.parent().expect("a program is in a directory");
    let script =
        format!("#!/bin/sh\nPATH=\"$PATH:{places}\" SHED_VFKIT_STOP_SECONDS=200 exec '{stand_in}' \"$@\"\n");
    fs::write(&path, script).expect("a file of the test");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

/// A machine that runs, or has ended.
#[derive(Debug)]
pub struct VfkitMachine {
    vfkit: Running,
    runtime: Runtime,
    /// Takes the agent's word.
    word: UnixListener,
    dir: Utf8PathBuf,
    /// Dropped last: ends what is left and removes the directory.
    _guard: Guard,
}

impl VfkitMachine {
    /// Boots one with an image by `program`, the stand-in; `environment` is for it. The agent may not answer yet.
    ///
    /// # Panics
    /// When a part is missing or the program cannot be started.
    #[must_use]
    pub fn boot(parts: &Parts, program: &str, image: &str, environment: &[(&str, &str)]) -> Self {
        let image = parts.guest_dir.join(format!("{image}-rootfs.ext4"));
        let kernel = if cfg!(target_arch = "x86_64") { "bzImage" } else { "vmlinux" };
        let (kernel, initrd) = (parts.guest_dir.join(kernel), parts.guest_dir.join("initrd.img"));
        // Sockets have short paths.
        let dir = tempfile::Builder::new().prefix("shed-").tempdir().expect("a temporary directory").keep();
        let dir = Utf8PathBuf::try_from(dir).expect("temporary directories have UTF-8 names");
        let guard = Guard::over(&dir, &[]).expect("sh runs");
        let (share, disk) = (dir.join("share"), upper_disk(&dir));
        fs::create_dir(&share).expect("a directory");
        let runtime = Runtime::new().expect("a runtime");
        let word = runtime.block_on(async { UnixListener::bind(dir.join("word")) }).expect("a socket");

        let (exec, health) = (GuestPort::Exec.number(), GuestPort::Health.number());
        let mut command = Command::new(program);
        command.args(["--cpus", "2", "--memory", "1536", "--log-level", "debug", "--bootloader"]);
        command.arg(format!("linux,kernel={kernel},initrd={initrd},cmdline=\"{WORDS}\""));
        command.args(["--restful-uri", &format!("unix://{dir}/rest"), "--pidfile", dir.join("pid").as_str()]);
        for device in [
            format!("virtio-blk,path={image},deviceId=shed-image,readonly"),
            format!("virtio-blk,path={disk},deviceId=shed-upper"),
            format!("virtio-serial,logFilePath={dir}/console.log"),
            format!("virtio-fs,sharedDir={share},mountTag={TAG}"),
            format!("virtio-vsock,port={exec},socketURL={dir}/exec,connect"),
            // Nobody in the guest listens there.
            format!("virtio-vsock,port=7,socketURL={dir}/nobody,connect"),
            format!("virtio-vsock,port={health},socketURL={dir}/word,listen"),
            "virtio-net,nat,mac=52:54:00:70:2b:71".to_owned(),
            "virtio-rng".to_owned(),
        ] {
            command.arg("--device").arg(device);
        }
        // What the program makes for itself is looked for, too.
        command.env("TMPDIR", &dir).envs(environment.iter().copied());
        Self { vfkit: Running::spawn(&mut command), runtime, word, dir, _guard: guard }
    }

    /// Its files are here: `share` is the shared directory, `console.log` the console.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Returns the process of the stand-in and all that it has started.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let child = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            parent == Some(self.vfkit.pid())
        };
        pids.filter(child).chain([self.vfkit.pid()]).collect()
    }

    /// Returns the names of the sockets and directories that are in its directory, but for what the test itself put there.
    #[must_use]
    pub fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).expect("its directory").flatten();
        let kept = entries.filter(|entry| {
            let kind = entry.file_type().expect("a type");
            let ours = ["share", "word"].iter().any(|name| entry.file_name() == *name);
            (kind.is_socket() || kind.is_dir()) && !ours
        });
        kept.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Sends the stand-in a signal.
    pub fn signal(&self, signal: Signal) {
        self.vfkit.signal(signal);
    }

    /// Waits for the agent's word that it can be reached, which comes by a connection of the guest.
    ///
    /// # Panics
    /// When it does not come within the time of a boot.
    #[track_caller]
    pub fn wait_for_agent(&self) {
        self.wait("the agent's word", async { self.word.accept().await.map(drop) }).expect("a connection");
    }

    /// Runs a script in the guest as its root; returns what it printed.
    ///
    /// # Panics
    /// When it fails, or takes longer than a boot.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(script).unwrap_or_else(|error| panic!("{script}: {error}")).ok().out()
    }

    /// The same, without a look at how it ends: the guest may be gone before it does.
    ///
    /// # Errors
    /// When the stream broke.
    ///
    /// # Panics
    /// When it takes longer than a boot.
    #[track_caller]
    pub fn run(&self, script: &str) -> std::io::Result<Finished> {
        self.wait("a command", async {
            exec::run(self.open().await?, "root", &["sh", "-ec", script], Vec::new()).await
        })
    }

    /// Opens a stream to the agent's commands, over the socket of that port.
    async fn open(&self) -> std::io::Result<MuxStream> {
        let connection = UnixStream::connect(self.dir.join("exec")).await?;
        let (mux, driver) = mux::host(Synced::fresh(connection));
        tokio::spawn(driver);
        mux.open(GuestPort::Exec).await.map_err(std::io::Error::other)
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let done = self.runtime.block_on(async { timeout(BOOT, future).await });
        done.unwrap_or_else(|_| panic!("waited {BOOT:?} in vain for {what}"))
    }

    /// Asks the REST interface: a line such as `GET /vm/state`, and a body. Returns the status and the body's JSON.
    ///
    /// # Errors
    /// When it does not listen.
    ///
    /// # Panics
    /// When its answer is none.
    pub fn rest(&self, request: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let mut stream = net::UnixStream::connect(self.dir.join("rest"))?;
        stream.set_read_timeout(Some(SHORT))?;
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// Returns the guest's console.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console.log")).unwrap_or_default()).into_owned()
    }

    /// Returns what the stand-in has said until now.
    #[must_use]
    pub fn said(&self) -> String {
        self.vfkit.stderr_so_far()
    }

    /// Waits until the stand-in has ended; returns its exit code.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    #[track_caller]
    pub fn wait_for_end(&mut self, deadline: Duration) -> i32 {
        self.vfkit.wait_code(deadline)
    }
}

impl Drop for VfkitMachine {
    #[expect(clippy::print_stderr, reason = "a failed test shows its logs")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_end(&self.dir.join("console.log"));
            eprintln!("--- what the stand-in said ---\n{}", self.said());
        }
    }
}
