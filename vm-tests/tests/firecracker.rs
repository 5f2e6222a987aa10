//! The real Firecracker in an L1, which is a machine with KVM on this host. Skipped when there is no Firecracker.

use std::{fs, process::Command, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use shed_backend::{
    Backend, Disk, DiskAccess, VmIdentity, VmSpec,
    conformance::{self, BackendHarness},
    firecracker::{FirecrackerBackend, FirecrackerConfig},
    process,
};
use shed_net::{NetSettings, ServerId};
use shed_types::{LaunchId, NetworkLease, ShedName};
use vm_tests::{BOOT, L1, Promises, Watched};

const WATCHED: Watched<'static> = Watched { dirs: &["/l1/run", "/run/shed-firecracker"], cgroups: &[] };

/// What all else here stands on: the L1 has a KVM that is real, and our kernel, initramfs and image boot there.
#[test]
fn firecracker_boots_our_kernel_in_the_l1() {
    let Some(l1) = L1::boot() else { return };
    let mut promises = Promises::new();
    let before = l1.inventory(&WATCHED);
    promises.keep("the programs under test run in the L1", || {
        let versions =
            l1.sh("firecracker --version | head -n 1; shed-server version; nft --version; mke2fs -V 2>&1");
        assert!(versions.starts_with("Firecracker v"), "{versions}");
        assert!(versions.contains("nftables") && versions.contains("mke2fs"), "{versions}");
    });
    promises.keep("our kernel boots, and shed-init hands over to the image", || {
        let machine = l1.bare("first", "");
        let took = machine.await_console("shed-init: root assembled");
        print(&format!("root assembled {took:?} after the start of Firecracker"));
        let problems: Vec<_> =
            machine.console().lines().filter(|line| line.contains("warning")).map(str::to_owned).collect();
        assert!(problems.is_empty(), "{problems:?}");
        machine.press_ctrl_alt_del();
        machine.await_end();
        machine.remove();
    });
    promises.keep("a guest that powers off ends its Firecracker", || {
        let machine = l1.bare("off", "systemd.unit=poweroff.target");
        let _took = machine.await_console("shed-init: root assembled");
        machine.await_end();
        machine.remove();
    });
    promises.keep("a disk that is not there is missed by its number, and the machine ends", || {
        let machine = l1.bare("second", "shed.disk.shed-upper=none");
        let _took = machine.await_console("shed-init: error E21");
        machine.await_end();
        assert!(machine.console().contains("no disk with serial \"none\""));
        machine.remove();
    });
    promises.keep("nothing of it is left in the L1", || {
        l1.assert_nothing_beyond(&before, &WATCHED);
    });
    promises.keep("what is left is seen", || {
        l1.sh("ip tuntap add shedtap9 mode tap; nft add table ip shedtest9; mkdir -p /l1/run/left");
        let more = l1.inventory(&WATCHED).beyond(&before);
        l1.sh("ip tuntap del shedtap9 mode tap; nft delete table ip shedtest9; rmdir /l1/run/left");
        assert_eq!(more, ["file d /l1/run/left", "interface shedtap9", "nft table ip shedtest9 {", "nft }"]);
        l1.assert_nothing_beyond(&before, &WATCHED);
    });
    promises.keep("the L1 leaves nothing on its host", || l1.finish());
    promises.finish();
}

/// What a backend's suite is told of Firecracker in an L1.
struct Harness {
    dir: tempfile::TempDir,
}

impl Harness {
    fn new() -> Self {
        Self { dir: tempfile::tempdir_in(format!("{}/run", L1::DIR)).expect("the L1's disk has room") }
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("temporary directories have UTF-8 names")
    }

    fn socket_dir(&self) -> Utf8PathBuf {
        self.path().join("s")
    }

    fn network(&self) -> NetSettings {
        let server = ServerId::of_directory(self.path().as_str());
        let (bridge, network) =
            ("shed-br0".parse().expect("a name"), "172.30.0.1/24".parse().expect("a network"));
        NetSettings::new(bridge, network, "shed-tap".parse().expect("a prefix"), server, [])
            .expect("no TAP has the bridge's name")
    }

    /// Makes the shed's own disk, once.
    fn disk(&self, shed: &ShedName) -> Utf8PathBuf {
        let path = self.path().join(format!("{shed}.ext4"));
        if !path.exists() {
            let made = Command::new("mke2fs").args(["-q", "-t", "ext4", path.as_str(), "2G"]).status();
            assert!(made.expect("mke2fs is in the L1").success(), "mke2fs failed");
        }
        path
    }

    /// The same shed has the same lease; others have others.
    fn lease(shed: &ShedName) -> NetworkLease {
        let index = shed.as_str().bytes().map(u16::from).sum::<u16>() % 200;
        let last = u8::try_from(index + 2).expect("it is less than 202");
        NetworkLease { index, tap_device: format!("shed-tap{index}"), ip_address: [172, 30, 0, last].into() }
    }
}

impl BackendHarness for Harness {
    fn backend(&self) -> Arc<dyn Backend> {
        let config = FirecrackerConfig::new(self.socket_dir(), self.network());
        let binary = Some(format!("{}/bin/firecracker", L1::DIR).into());
        Arc::new(FirecrackerBackend::new(FirecrackerConfig { binary, ..config }))
    }

    fn spec(&self, shed: &ShedName) -> VmSpec {
        let images = Utf8PathBuf::from(format!("{}/images", L1::DIR));
        let image = images.join("base-rootfs.ext4");
        VmSpec {
            shed: shed.clone(),
            launch_id: LaunchId::generate(),
            cpus: 2.try_into().unwrap(),
            memory_mb: 512.try_into().unwrap(),
            kernel: images.join("vmlinux"),
            initrd: images.join("initrd.img"),
            extra_cmdline: Vec::new(),
            disks: vec![
                Disk { path: image, serial: "shed-image", access: DiskAccess::ReadOnly },
                Disk { path: self.disk(shed), serial: "shed-upper", access: DiskAccess::ReadWrite },
            ],
            shares: Vec::new(),
            network: Some(Self::lease(shed)),
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
        let ours = |word: &Vec<u8>| String::from_utf8_lossy(word).contains(self.path().as_str());
        let machine = process::find(|words| words.iter().any(ours)).unwrap();
        let sockets = fs::read_dir(self.socket_dir()).into_iter().flatten().flatten();
        let devices = fs::read_dir("/sys/class/net").unwrap().flatten().map(|entry| entry.file_name());
        let taps = devices
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("shed-tap"));
        machine
            .map(|id| format!("process {}", id.pid))
            .into_iter()
            .chain(sockets.map(|entry| entry.path().display().to_string()))
            .chain(taps)
            .collect()
    }

    fn boot_time(&self) -> Duration {
        BOOT * 2
    }
}

/// The suite that every backend passes, with the real Firecracker.
#[test]
fn firecracker_keeps_every_promise_of_a_backend() {
    if L1::is_here() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let harness = Harness::new();
        if let Err(failed) = runtime.block_on(conformance::run(&harness)) {
            let logs = ["guest.console", "guest.vmm", "kill.vmm"].map(|log| {
                let text = fs::read_to_string(harness.path().join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().rev().take(20).collect();
                format!("last lines of {log}, newest first:\n{}", lines.join("\n"))
            });
            let promises: String = failed.iter().map(|failed| format!("\n- {failed}")).collect();
            panic!("{promises}\n{}", logs.join("\n"));
        }
        return;
    }
    let Some(l1) = L1::boot() else { return };
    l1.run_inside("firecracker_keeps_every_promise_of_a_backend", BOOT * 10);
    l1.finish();
}

#[expect(clippy::print_stderr, reason = "a figure for whoever reads the test's output")]
fn print(line: &str) {
    eprintln!("{line}");
}
