//! The real Firecracker in an L1, which is a machine with KVM on this host. Skipped when there is no Firecracker.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    process::Command,
    sync::Arc,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_backend::{
    Backend, Disk, DiskAccess, VmIdentity, VmSpec,
    conformance::{self, BackendHarness},
    firecracker::{FirecrackerBackend, FirecrackerConfig, Jailer},
    process,
};
use shed_net::{NetSettings, ServerId};
use shed_types::{GuestPort, LaunchId, NetworkLease, ShedName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
    jailer: Jailer,
}

impl Harness {
    fn new(jailer: Jailer) -> Self {
        Self {
            jailer,
            dir: tempfile::tempdir_in(format!("{}/run", L1::DIR)).expect("the L1's disk has room"),
        }
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("temporary directories have UTF-8 names")
    }

    fn socket_dir(&self) -> Utf8PathBuf {
        self.path().join("s")
    }

    fn jail_dir(&self) -> Utf8PathBuf {
        self.path().join("j")
    }

    fn network(&self) -> NetSettings {
        let server = ServerId::of_directory(self.path().as_str());
        let (bridge, network) =
            ("shed-br0".parse().expect("a name"), "172.30.0.1/24".parse().expect("a network"));
        NetSettings::new(bridge, network, "shed-tap".parse().expect("a prefix"), server, [])
            .expect("no TAP has the bridge's name")
    }

    fn backend_with(&self, jailer: Jailer) -> Arc<dyn Backend> {
        let config = FirecrackerConfig::new(self.socket_dir(), self.network());
        let binary = Some(format!("{}/bin/firecracker", L1::DIR).into());
        let jail_dir = Some(self.jail_dir());
        Arc::new(FirecrackerBackend::new(FirecrackerConfig { binary, jailer, jail_dir, ..config }))
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
        self.backend_with(self.jailer)
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
        // The command line of one in a jail has no word of where that is.
        let jailed = |words: &[Vec<u8>]| words.first().is_some_and(|program| program == b"/firecracker");
        let machine = process::find(|words| words.iter().any(ours) || jailed(words)).unwrap();
        let jails = fs::read_dir(self.jail_dir()).into_iter().flatten().flatten().map(|server| server.path());
        let places = [self.socket_dir().into_std_path_buf()].into_iter().chain(jails);
        let files = places.flat_map(fs::read_dir).flatten().flatten();
        let devices = fs::read_dir("/sys/class/net").unwrap().flatten().map(|entry| entry.file_name());
        let taps = devices
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("shed-tap"));
        machine
            .map(|id| format!("process {}", id.pid))
            .into_iter()
            .chain(files.map(|entry| entry.path().display().to_string()))
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
    in_an_l1("firecracker_keeps_every_promise_of_a_backend", BOOT * 10, Jailer::Never, |harness, runtime| {
        let confined_by = runtime.block_on(harness.backend().check_host()).expect("a good host").confined_by;
        assert_eq!(confined_by.as_deref(), Some("seccomp only: firecracker.jailer is `never`"));
        runtime.block_on(suite(harness));
    });
}

/// The same in jails.
#[test]
fn a_jailed_firecracker_keeps_every_promise_of_a_backend() {
    let test = "a_jailed_firecracker_keeps_every_promise_of_a_backend";
    in_an_l1(test, BOOT * 10, Jailer::Always, |harness, runtime| {
        runtime.block_on(suite(harness));
    });
}

/// What a jail is for, and that nothing of it stays.
#[test]
fn a_jailed_firecracker_sees_nothing_of_its_host() {
    let test = "a_jailed_firecracker_sees_nothing_of_its_host";
    in_an_l1(test, BOOT * 6, Jailer::Auto, |harness, runtime| runtime.block_on(jailed(harness)));
}

async fn jailed(harness: &Harness) {
    let mut promises = Promises::new();
    let (backend, spec) = (harness.backend(), harness.spec(&"jailed".parse().expect("a name")));
    let cgroups = || files_of_kind("/sys/fs/cgroup", "d");
    let mounts = || fs::read_to_string("/proc/self/mounts").expect("mounts");
    let (cgroups_before, mounts_before) = (cgroups(), mounts());
    let report = backend.check_host().await.expect("a good host");
    promises.keep("the report says what confines the machines", || {
        let confined_by = report.confined_by.expect("a word of it");
        assert_eq!(confined_by, format!("jailer and seccomp ({}/bin/jailer; uids from 70000 on)", L1::DIR));
    });
    let vm = backend.start(&spec).await.expect("it starts");
    let pid = vm.identity().pid;
    let proc = Utf8PathBuf::from(format!("/proc/{pid}"));
    let uid = 70_000 + u32::from(Harness::lease(&spec.shed).index);
    promises.keep("its root directory has its own files and nothing of the host's", || {
        let root = format!("{}/", proc.join("root"));
        let mut seen: Vec<_> = files_of_kind(&root, "f,s,c,b,l,p");
        seen.iter_mut().for_each(|path| *path = path.replace(&root, ""));
        seen.sort();
        let known = [
            "config.json",
            "dev/kvm",
            "dev/net/tun",
            "dev/urandom",
            "dev/userfaultfd",
            "disk0",
            "disk1",
            "firecracker",
            "firecracker.pid",
            "initrd",
            "jailed.api",
            "jailed.vsock",
            "jailed.vsock_1025",
            "kernel",
            "metrics.json",
            "vmm.log",
        ];
        let foreign: Vec<_> = seen.iter().filter(|path| !known.contains(&path.as_str())).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert!(seen.contains(&"disk1".to_owned()), "{seen:?}");
    });
    promises.keep("it has its disk, and the others have lost nothing", || {
        let owner = |path: &Utf8Path| fs::metadata(path).expect("it is there").uid();
        assert_eq!((owner(&spec.disks[1].path), owner(&spec.disks[0].path)), (uid, 0));
        assert!(fs::read(&spec.vmm_log).is_ok() && fs::read(&spec.console_log).is_ok());
    });
    promises.keep("neither mounts nor cgroups of the host are more", || {
        assert_eq!((cgroups(), mounts()), (cgroups_before.clone(), mounts_before.clone()));
    });
    let mut stream = tokio::time::timeout(BOOT * 2, vm.connect_guest(GuestPort::Health))
        .await
        .expect("in time")
        .expect("a stream");
    stream.write_all(&[0x10, 0, 0, 0, 0]).await.expect("a request");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.expect("an answer");
    // Firecracker's filters are the last that it does before it runs the guest.
    let status = fs::read_to_string(proc.join("status")).expect("it runs");
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect("a line of the status").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    promises.keep("it is a user of its own, in no other group, with no privilege", || {
        let four = [uid.to_string(), uid.to_string(), uid.to_string(), uid.to_string()].join(" ");
        assert_eq!((line("Uid"), line("Gid"), line("Groups")), (four.clone(), four, String::new()));
        for set in ["CapEff", "CapPrm", "CapInh"] {
            assert_eq!(line(set), "0000000000000000", "{set}");
        }
    });
    promises.keep("its own filters are on as well", || assert_eq!(line("Seccomp"), "2"));
    promises.keep("metrics and console are where they are without a jail", || {
        assert!(fs::metadata(&spec.console_log).expect("a console").len() > 0);
        assert!(fs::metadata(spec.vmm_log.with_file_name("firecracker-metrics.json")).is_ok());
    });
    vm.kill(Duration::ZERO).await.expect("it ends");
    promises.keep("nothing of it is left, and its disk is the server's again", || {
        assert_eq!(harness.leftovers(), Vec::<String>::new());
        for path in [&spec.disks[1].path, &spec.vmm_log] {
            let meta = fs::metadata(path).expect("it is there");
            assert_eq!((meta.uid(), meta.gid(), meta.nlink()), (0, 0, 1), "{path}");
        }
        assert_eq!(fs::metadata(&spec.disks[0].path).expect("the image").nlink(), 1);
        assert_eq!((cgroups(), mounts()), (cgroups_before.clone(), mounts_before.clone()));
    });
    // The server was killed between the jail and its machine.
    let server = format!("server-{}", harness.network().server());
    let launch = LaunchId::generate().to_string();
    let half = harness.jail_dir().join(server).join("jailed/firecracker").join(launch);
    fs::create_dir_all(half.join("root/dev")).expect("a jail");
    chown(&half, None, Some(uid)).expect("the record of whose it is");
    fs::hard_link(&spec.disks[1].path, half.join("root/disk1")).expect("a link");
    chown(&spec.disks[1].path, Some(uid), Some(uid)).expect("the machine's disk");
    for jailer in [Jailer::Never, Jailer::Always] {
        let backend = harness.backend_with(jailer);
        let spec = VmSpec { launch_id: LaunchId::generate(), ..spec.clone() };
        let vm = backend.start(&spec).await.expect("the next one starts on the same disk");
        vm.kill(Duration::ZERO).await.expect("it ends");
        promises.keep("a later machine has the disk, in a jail or not", || {
            assert_eq!(harness.leftovers(), Vec::<String>::new());
            let meta = fs::metadata(&spec.disks[1].path).expect("it is there");
            assert_eq!((meta.uid(), meta.nlink()), (0, 1));
        });
    }
    promises.finish();
}

/// Lists what `find` does.
fn files_of_kind(dir: &str, kinds: &str) -> Vec<String> {
    let found = Command::new("find").args([dir, "-type", kinds]).output().expect("find is in the L1");
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

/// Runs a part of this test in an L1, with the harness of a backend there.
fn in_an_l1(
    test: &str,
    deadline: Duration,
    jailer: Jailer,
    part: impl FnOnce(&Harness, &tokio::runtime::Runtime),
) {
    if L1::is_here() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return part(&Harness::new(jailer), &runtime);
    }
    let Some(l1) = L1::boot() else { return };
    l1.run_inside(test, deadline);
    l1.finish();
}

async fn suite(harness: &Harness) {
    let Err(failed) = conformance::run(harness).await else { return };
    let logs = ["guest.console", "guest.vmm", "kill.vmm"].map(|log| {
        let text = fs::read_to_string(harness.path().join(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        format!("last lines of {log}, newest first:\n{}", lines.join("\n"))
    });
    let promises: String = failed.iter().map(|failed| format!("\n- {failed}")).collect();
    panic!("{promises}\n{}", logs.join("\n"));
}

#[expect(clippy::print_stderr, reason = "a figure for whoever reads the test's output")]
fn print(line: &str) {
    eprintln!("{line}");
}
