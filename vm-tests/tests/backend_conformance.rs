//! The conformance suite of `shed-backend`, run on the `qemu` backend with real machines.

use std::{fs, process::Command, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use shed_backend::{
    Backend, Disk, DiskAccess, VmIdentity, VmSpec,
    conformance::{self, BackendHarness},
    process,
    qemu::{QemuBackend, QemuConfig},
};
use shed_types::{LaunchId, ShedName};
use vm_tests::{BOOT, Parts};

/// Kernels in the order in which they are liked: the unpacked one boots faster.
const KERNELS: [&str; 3] = ["vmlinux", "Image", "bzImage"];

struct Harness {
    guest: Utf8PathBuf,
    dir: tempfile::TempDir,
}

impl Harness {
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
            let made = Command::new("mke2fs").args(["-q", "-t", "ext4", path.as_str(), "2G"]).status().unwrap();
            assert!(made.success(), "mke2fs failed");
        }
        path
    }
}

impl BackendHarness for Harness {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(QemuBackend::new(QemuConfig::new(self.socket_dir())))
    }

    fn spec(&self, shed: &ShedName) -> VmSpec {
        let kernel = KERNELS.map(|name| self.guest.join(name)).into_iter().find(|path| path.exists());
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
        let ours = |word: &Vec<u8>| word.windows(self.path().as_str().len()).any(|w| w == self.path().as_str().as_bytes());
        let machine = process::find(|words| words.iter().any(ours)).unwrap();
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
            let Some(pid) = i32::try_from(id.pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
            if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_every_promise_of_a_backend() {
    let Some(parts) = Parts::find() else { return };
    let harness = Harness { guest: parts.guest_dir, dir: tempfile::tempdir().unwrap() };
    if let Err(failed) = conformance::run(&harness).await {
        let consoles = fs::read_to_string(harness.path().join("guest.console")).unwrap_or_default();
        let tail: Vec<&str> = consoles.lines().rev().take(20).collect();
        let promises: String = failed.iter().map(|failed| format!("\n- {failed}")).collect();
        panic!("{promises}\nlast lines of the guest's console, newest first:\n{}", tail.join("\n"));
    }
}
