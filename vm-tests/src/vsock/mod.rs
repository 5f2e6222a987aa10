//! A machine whose link is a vsock device, on a host that needs neither KVM nor Firecracker: QEMU as the `qemu` backend
//! runs it, but for the link, which `vhost-device-vsock` serves. Its Unix socket speaks as Firecracker's does.
//!
//! The tests of the link and of directories by 9P use it. Streams are opened by the real code, `GuestLink` of shed-backend;
//! there is no server and no shed. The machine, its files and its helpers end with the value.

mod channel;
pub(crate) mod exec;
mod share;

use std::{
    fs::{self, File},
    io,
    process::{Child, Command, Stdio},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use shed_backend::firecracker::GuestLink;
use shed_link::{MuxStream, OpenError};
use shed_types::GuestPort;
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

use crate::{BOOT, Finished, Parts, SHORT, guard::Guard, process::find_program, skipped, wait_for};

pub use self::{channel::Channel, share::Share};

/// The device's other end. `scripts/setup.sh --tests` installs it.
const DEVICE: &str = "vhost-device-vsock";

/// Most bytes that the guest may send before the device has passed them on. Linux lays out a packet of more than 32 KiB in
/// pieces (net/vmw_vsock/virtio_transport_common.c, `virtio_transport_alloc_skb`), which Firecracker takes and this device
/// drops.
const WINDOW: u32 = 28 << 10;

/// Memory in MiB; as memory is shared with the device, it has a name in QEMU's options.
const MEMORY_MB: u32 = 1536;

/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 60;

/// A machine that runs.
#[derive(Debug)]
pub struct VsockMachine {
    link: GuestLink,
    runtime: Runtime,
    qemu: Child,
    device: Child,
    dir: Utf8PathBuf,
    /// Dropped last: ends what is left and removes the directory.
    _guard: Guard,
}

impl VsockMachine {
    /// Boots one with an image, or returns nothing when these tests are to be skipped. The agent may not answer yet.
    ///
    /// # Panics
    /// When a part or a program is missing, or the machine cannot be started.
    #[must_use]
    pub fn boot(image: &str) -> Option<Self> {
        let parts = Parts::find()?;
        if !cfg!(target_arch = "x86_64") {
            skipped("the machine of these tests is an x86-64 one");
            return None;
        }
        let image = parts.guest_dir.join(format!("{image}-rootfs.ext4"));
        assert!(image.is_file(), "there is no {image}: `./x image` builds it");
        let program = find_program(DEVICE).unwrap_or_else(|| {
            panic!("there is no {DEVICE}: scripts/setup.sh --tests installs it, or `cargo install --locked {DEVICE}`")
        });
        let runtime = Runtime::new().expect("a runtime");
        // Sockets have short paths.
        let dir = tempfile::Builder::new().prefix("shed-").tempdir().expect("a temporary directory").keep();
        let dir = Utf8PathBuf::try_from(dir).expect("temporary directories have UTF-8 names");
        let guard = Guard::over(&dir, &[]).expect("sh runs");

        let vsock = dir.join("vsock");
        let device = spawn(
            Command::new(program)
                .args(["--guest-cid", "3", "--socket"])
                .arg(dir.join("vhost"))
                .arg("--uds-path")
                .arg(&vsock)
                .args(["--tx-buffer-size", &WINDOW.to_string()]),
            &dir.join("device.log"),
        );
        wait_for("the vsock device", SHORT, || dir.join("vhost").exists().then_some(()));
        let link =
            runtime.block_on(async { GuestLink::listen(&vsock) }).expect("a socket for the agent's word");
        let disk = upper_disk(&dir);
        let arguments = arguments(&parts.guest_dir, &image, &disk, &dir);
        let qemu = spawn(Command::new("qemu-system-x86_64").args(arguments), &dir.join("qemu.log"));
        Some(Self { link, runtime, qemu, device, dir, _guard: guard })
    }

    /// A directory that goes with the machine. Files below it are the caller's.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Where the socket of the device is.
    #[must_use]
    pub fn socket(&self) -> Utf8PathBuf {
        self.dir.join("vsock")
    }

    /// Opens a connection to a port of the guest, by the code under test, as the guest's kernel reads it.
    ///
    /// # Panics
    /// When that fails, or takes longer than a boot.
    #[track_caller]
    #[must_use]
    pub fn connect(&self, port: GuestPort) -> UnixStream {
        self.wait(&format!("a connection to port {port}"), BOOT, self.link.connect(port))
            .expect("a connection")
    }

    /// Opens a stream to a service of the agent, by the code under test.
    ///
    /// # Panics
    /// When that fails, or takes longer than a boot.
    #[track_caller]
    #[must_use]
    pub fn stream(&self, port: GuestPort) -> MuxStream {
        self.wait(&format!("a stream to port {port}"), BOOT, self.link.open(port)).expect("a stream")
    }

    /// The same, for whoever opens several at a time.
    ///
    /// # Errors
    /// As `GuestLink::open`.
    pub async fn open(&self, port: GuestPort) -> Result<MuxStream, OpenError> {
        self.link.open(port).await
    }

    /// Runs a future to its end on the machine's runtime.
    ///
    /// # Panics
    /// When `deadline` passes first; the message names `what`.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, deadline: Duration, future: impl Future<Output = T>) -> T {
        let done = self.runtime.block_on(async { timeout(deadline, future).await });
        done.unwrap_or_else(|_| panic!("waited {deadline:?} in vain for {what}"))
    }

    /// Runs a command in the guest as a user, with `input` as its stdin.
    ///
    /// # Panics
    /// When it does not end within `deadline`, or its stream breaks.
    #[track_caller]
    pub fn run(&self, user: &str, command: &[&str], input: Vec<u8>, deadline: Duration) -> Finished {
        let stream = self.stream(GuestPort::Exec);
        let what = format!("{command:.80?}");
        self.wait(&what, deadline, exec::run(stream, user, command, input))
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Runs a script in the guest as its root; returns what it printed.
    ///
    /// # Panics
    /// When it fails, or takes longer than a boot.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run("root", &["sh", "-ec", script], Vec::new(), BOOT).ok().out()
    }

    /// Begins a command whose frames are the caller's to read.
    ///
    /// # Panics
    /// When the guest does not take it.
    #[track_caller]
    #[must_use]
    pub fn begin(&self, user: &str, command: &[&str]) -> exec::Frames {
        let stream = self.stream(GuestPort::Exec);
        self.wait("an exec request to be sent", SHORT, exec::begin(stream, user, command)).expect("a stream")
    }

    /// Returns whether the guest has said that it reboots.
    #[must_use]
    pub fn has_said_reboot(&self) -> bool {
        self.link.has_said_reboot()
    }

    /// Waits until the machine has ended, as it does when its guest reboots.
    ///
    /// # Panics
    /// When it does not within the time of a boot.
    #[track_caller]
    pub fn wait_for_end(&mut self) {
        wait_for("the machine to end", BOOT, || self.qemu.try_wait().expect("a child"));
    }

    /// Returns the guest's console.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console.log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for VsockMachine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["console.log", "qemu.log", "device.log"] {
                show_end(&self.dir.join(log));
            }
        }
        for child in [&mut self.qemu, &mut self.device] {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// Makes the disk of what a machine changes.
pub(crate) fn upper_disk(dir: &Utf8Path) -> Utf8PathBuf {
    let disk = dir.join("upper.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", disk.as_str(), "8G"])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .status();
    assert!(made.expect("mke2fs, of e2fsprogs").success(), "mke2fs failed");
    disk
}

/// QEMU's arguments: what the `qemu` backend gives a machine, with a vsock device instead of a serial port.
fn arguments(guest: &Utf8Path, image: &Utf8Path, disk: &Utf8Path, dir: &Utf8Path) -> Vec<String> {
    let memory = format!("memory-backend-memfd,id=memory,size={MEMORY_MB}M,share=on");
    let kernel = guest.join("vmlinux");
    let initrd = guest.join("initrd.img");
    let words = "console=ttyS0 quiet panic=1 cryptomgr.notests no_timer_check tsc=reliable systemd.show_status=false \
                 shed.link=vsock shed.power-off=restart";
    let console = format!("file,id=console,path={dir}/console.log");
    let vhost = format!("socket,id=vsock,path={dir}/vhost");
    let memory_size = format!("size={MEMORY_MB}M");
    let mut arguments: Vec<String> = [
        "-name",
        "guest=shed-vsock",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "q35,i8042=off,smbus=off,sata=off,hpet=off,usb=off,vmport=off,memory-backend=memory",
        "-accel",
        "tcg,thread=multi,tb-size=512",
        "-cpu",
        "max",
        "-smp",
        "cpus=2",
        "-m",
        &memory_size,
        "-object",
        &memory,
        "-kernel",
        kernel.as_str(),
        "-initrd",
        initrd.as_str(),
        "-append",
        words,
        "-chardev",
        &console,
        "-serial",
        "chardev:console",
        "-chardev",
        &vhost,
        "-device",
        "vhost-user-vsock-pci,chardev=vsock",
        "-device",
        "virtio-rng-pci",
    ]
    .map(str::to_owned)
    .into();
    for (name, path, read_only) in [("shed-image", image, true), ("shed-upper", disk, false)] {
        let file = json!({ "driver": "file", "filename": path, "read-only": read_only });
        let node = json!({ "node-name": name, "driver": "raw", "read-only": read_only, "file": file });
        arguments.extend(["-blockdev".to_owned(), node.to_string()]);
        arguments.extend(["-device".to_owned(), format!("virtio-blk-pci,drive={name},serial={name}")]);
    }
    arguments
}

/// Starts a program whose words go to a log.
fn spawn(command: &mut Command, log: &Utf8Path) -> Child {
    let sink = File::create(log).expect("a log");
    let both = sink.try_clone().expect("a descriptor");
    let child: io::Result<Child> = command.stdin(Stdio::null()).stdout(sink).stderr(both).spawn();
    child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

#[expect(clippy::print_stderr, reason = "a failed test shows its logs")]
pub(crate) fn show_end(log: &Utf8Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- the end of {log} ---");
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        eprintln!("{}", line.chars().filter(|c| !c.is_control()).collect::<String>());
    }
}
