//! The `qemu` backend with real machines, and `vz` with the stand-in for vfkit: the conformance suite of `shed-backend`, and what
//! only `qemu` promises.

use std::{fs, process::Command, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use futures::{SinkExt, StreamExt};
use shed_backend::{
    Backend, Disk, DiskAccess, GuestStream, Vm, VmIdentity, VmSpec,
    conformance::{self, BackendHarness},
    process,
    qemu::{QemuBackend, QemuConfig},
    vz::{VzBackend, VzConfig},
};
use shed_protocol::{
    Envelope, ExecRequest, Frame, FrameCodec, FrameKind, HelloReply, HelloRequest, SYSTEM_HELLO,
};
use shed_types::{GuestPort, LaunchId, ShedName};
use tokio::{io::AsyncReadExt, time::timeout};
use tokio_util::codec::Framed;
use vm_tests::{BOOT, Parts, SHORT, vfkit_in};

/// Kernels in the order in which they are liked: the unpacked one boots faster.
const KERNELS: [&str; 3] = ["vmlinux", "Image", "bzImage"];

/// What is vfkit here.
const STAND_IN: &str = env!("CARGO_BIN_EXE_vfkit-stand-in");

struct Harness {
    guest: Utf8PathBuf,
    /// Whether the backend is vz.
    vz: bool,
    dir: tempfile::TempDir,
}

impl Harness {
    fn new(parts: Parts, vz: bool) -> Self {
        Self { guest: parts.guest_dir, vz, dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("temporary directories have UTF-8 names")
    }

    fn socket_dir(&self) -> Utf8PathBuf {
        self.path().join("s")
    }

    /// Makes the shed's own disk, once.
    fn disk(&self, shed: &ShedName) -> Utf8PathBuf {
        let path = self.path().join(format!("{shed}.ext4"));
        if !path.exists() {
            let made =
                Command::new("mke2fs").args(["-q", "-t", "ext4", path.as_str(), "2G"]).status().unwrap();
            assert!(made.success(), "mke2fs failed");
        }
        path
    }
}

impl BackendHarness for Harness {
    fn backend(&self) -> Arc<dyn Backend> {
        if self.vz {
            return Arc::new(VzBackend::new(VzConfig {
                vfkit_path: vfkit_in(self.path(), Utf8Path::new(STAND_IN)),
                socket_dir: self.socket_dir(),
            }));
        }
        Arc::new(QemuBackend::new(QemuConfig::new(self.socket_dir())))
    }

    fn spec(&self, shed: &ShedName) -> VmSpec {
        // Intel's Macs boot what a boot loader would.
        let kernels = if self.vz { ["Image", "bzImage", "bzImage"] } else { KERNELS };
        let kernel = kernels.map(|name| self.guest.join(name)).into_iter().find(|path| path.exists());
        VmSpec {
            shed: shed.clone(),
            launch_id: LaunchId::generate(),
            cpus: 2.try_into().unwrap(),
            memory_mb: 512.try_into().unwrap(),
            kernel: kernel.expect("a kernel is among the guest files"),
            initrd: self.guest.join("initrd.img"),
            extra_cmdline: Vec::new(),
            disks: vec![
                Disk {
                    path: self.guest.join("base-rootfs.ext4"),
                    serial: "shed-image",
                    access: DiskAccess::ReadOnly,
                },
                Disk { path: self.disk(shed), serial: "shed-upper", access: DiskAccess::ReadWrite },
            ],
            console_log: self.path().join(format!("{shed}.console")),
            shares: Vec::new(),
            network: None,
            vmm_log: self.path().join(format!("{shed}.vmm")),
        }
    }

    fn spec_without_disk(&self, shed: &ShedName) -> VmSpec {
        let mut spec = self.spec(shed);
        spec.disks[1].path = self.path().join("no-such-disk");
        spec
    }

    fn kill_from_outside(&self, identity: &VmIdentity) {
        let pid = rustix::process::Pid::from_raw(identity.pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    fn leftovers(&self) -> Vec<String> {
        // Every file of a machine is in our directory.
        let ours = |word: &Vec<u8>| {
            word.windows(self.path().as_str().len()).any(|w| w == self.path().as_str().as_bytes())
        };
        // The stand-in's own processes are killed by the kernel when it is gone, a moment later; vfkit has none.
        let is_machine =
            |words: &[Vec<u8>]| !self.vz || words.first().is_some_and(|word| word == STAND_IN.as_bytes());
        let machine = process::find(|words| is_machine(words) && words.iter().any(ours)).unwrap();
        let sockets = fs::read_dir(self.socket_dir()).into_iter().flatten().flatten();
        machine
            .map(|id| format!("process {}", id.pid))
            .into_iter()
            .chain(sockets.map(|entry| entry.path().display().to_string()))
            .collect()
    }

    fn boot_time(&self) -> Duration {
        BOOT
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        // A failed suite may have left a machine.
        let prefix = self.path().to_owned();
        let ours = |words: &[Vec<u8>]| {
            words.iter().any(|word| String::from_utf8_lossy(word).contains(prefix.as_str()))
        };
        while let Ok(Some(id)) = process::find(ours) {
            let Some(pid) = i32::try_from(id.pid).ok().and_then(rustix::process::Pid::from_raw) else {
                return;
            };
            if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_every_promise_of_a_backend() {
    let Some(parts) = Parts::find() else { return };
    keeps_every_promise(Harness::new(parts, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vz_keeps_every_promise_of_a_backend() {
    let Some(parts) = Parts::find() else { return };
    keeps_every_promise(Harness::new(parts, true)).await;
}

async fn keeps_every_promise(harness: Harness) {
    if let Err(failed) = conformance::run(&harness).await {
        let consoles = fs::read_to_string(harness.path().join("guest.console")).unwrap_or_default();
        let tail: Vec<&str> = consoles.lines().rev().take(20).collect();
        let promises: String = failed.iter().map(|failed| format!("\n- {failed}")).collect();
        panic!("{promises}\nlast lines of the guest's console, newest first:\n{}", tail.join("\n"));
    }
}

async fn within<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> T {
    timeout(patience, future).await.unwrap_or_else(|_| panic!("{what} did not come within {patience:?}"))
}

/// Asks the agent which boot this is.
async fn boot_id(vm: &dyn Vm) -> String {
    let stream = within(BOOT, "the agent", vm.connect_guest(GuestPort::Messages)).await.unwrap();
    let mut frames = Framed::new(stream, FrameCodec);
    let hello = HelloRequest { generation: 1, version: "test".into(), features: [].into() };
    let request = Envelope::request(SYSTEM_HELLO, &hello);
    frames.send(Frame::json(FrameKind::Message, &request)).await.unwrap();
    loop {
        let frame = within(SHORT, "the agent's hello", frames.next()).await.unwrap().unwrap();
        let envelope: Envelope = frame.parse().unwrap();
        if envelope.in_reply_to == Some(request.id) {
            return envelope.parse::<HelloReply>().unwrap().boot_id;
        }
    }
}

/// Begins a command as root, whose end is nobody's business.
async fn begin(vm: &dyn Vm, command: &[&str]) -> Framed<GuestStream, FrameCodec> {
    let stream = within(SHORT, "a command", vm.connect_guest(GuestPort::Exec)).await.unwrap();
    let mut frames = Framed::new(stream, FrameCodec);
    let cmd = command.iter().map(ToString::to_string).collect();
    let request = ExecRequest { cmd, user: "root".into(), ..ExecRequest::default() };
    frames.send(Frame::json(FrameKind::ExecRequest, &request)).await.unwrap();
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_panics_while_it_boots_ends_its_machine_and_the_logs_say_why() {
    let Some(parts) = Parts::find() else { return };
    let harness = Harness::new(parts, false);
    let shed: ShedName = "panic".parse().unwrap();
    // Without an init in the initramfs the kernel looks for a root disk, and panics.
    let spec = VmSpec { extra_cmdline: vec!["rdinit=/no-such-init".into()], ..harness.spec(&shed) };
    let vm = harness.backend().start(&spec).await.unwrap();
    within(BOOT, "the end of the machine", vm.ended()).await;
    let console = fs::read_to_string(&spec.console_log).unwrap();
    assert_eq!(console.matches("Kernel panic").count(), 1, "{console}");
    let log = fs::read_to_string(&spec.vmm_log).unwrap();
    assert!(log.contains("reset itself before its agent had answered"), "{log}");
    assert_eq!(harness.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_reached_again_after_its_agent_died_and_after_a_reboot_and_ends_by_its_power_button() {
    let Some(parts) = Parts::find() else { return };
    let harness = Harness::new(parts, false);
    let shed: ShedName = "reboot".parse().unwrap();
    let vm = harness.backend().start(&harness.spec(&shed)).await.unwrap();
    let first = boot_id(&*vm).await;
    assert_eq!(boot_id(&*vm).await, first);

    // A new agent in the same boot, then a new boot.
    for (command, same_boot) in
        [(["pkill", "-KILL", "shed-agent"], true), (["systemctl", "reboot", "--quiet"], false)]
    {
        let mut held = within(SHORT, "a stream", vm.connect_guest(GuestPort::Health)).await.unwrap();
        let _running = begin(&*vm, &command).await;
        // Streams to the old agent end, one way or the other; what comes after is the next one's.
        let mut rest = Vec::new();
        within(BOOT, "the end of the old streams", held.read_to_end(&mut rest)).await.ok();
        assert_eq!(boot_id(&*vm).await == first, same_boot, "{command:?}");
    }
    assert!(!vm.has_ended());

    // The agent answers before the guest listens to its button, which it does late in its boot; so it is pressed again.
    let press = async {
        loop {
            vm.press_power_button().await.unwrap();
            if timeout(Duration::from_secs(5), vm.ended()).await.is_ok() {
                return;
            }
        }
    };
    within(BOOT, "the end of the machine", press).await;
    assert_eq!(harness.leftovers(), Vec::<String>::new());
}
