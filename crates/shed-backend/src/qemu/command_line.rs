//! QEMU's command line for a machine: a pure function, and the test whether a command line is one of ours.
//!
//! Called by the launch. It names no host resource that is not in the [`VmSpec`] or handed over as a descriptor,
//! reads nothing and refuses paths that QEMU could read in another way than meant.
//!
//! Why the machine is as it is:
//! - Only what Linux needs: each default device and each legacy controller costs boot time and is code that a guest
//!   can attack. `romfile=` keeps the firmware from loading network boot code (0.2 s under TCG).
//! - Memory is a shared memfd, because virtiofs (vhost-user) needs it and snapshots accept it. It boots as fast
//!   as anonymous memory. Free pages go back to the host through the balloon's reporting.
//! - A shared directory is a vhost-user device, which no snapshot can hold; a machine without one has none.
//! - Disks use the host's page cache and honour flushes (`cache=writeback`), so that a guest's fsync is durable and
//!   read-only images are cached once for all machines. `discard=unmap` gives freed blocks back.
//! - A disk the host has no room for stops the machine instead of failing the guest's write (QEMU's default for
//!   writes); the monitor continues it when there is room again.
//! - A guest that panics resets after a second (`panic=1`), as does one whose user says `reboot`: both mean "boot
//!   again". QEMU cannot tell the two apart without a driver that a stock kernel loads late (pvpanic), so the
//!   monitor decides: resets without an answer of the agent in between mean that booting fails, and end the machine.

use camino::Utf8Path;
use serde_json::json;
use shed_types::{LaunchId, ShedName};

use super::config::GuestArch;
use crate::{Accelerator, Disk, DiskAccess, Share, StartVmError, VmSpec, system};

/// Name of the virtio-serial port of the agent; also known to `shed-init` (design §4).
const AGENT_PORT: &str = "org.shed.agent.0";

/// Id of the port's device, as it comes back in QEMU's `VSERPORT_CHANGE` events.
pub(super) const AGENT_DEVICE: &str = "agent0";

/// Size of TCG's cache of translated code in MiB. A Linux guest fills more than a small one and then translates the
/// same code again.
const TCG_CACHE_MB: u32 = 512;

/// What a command line depends on besides the [`VmSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub arch: GuestArch,
    pub accelerator: Accelerator,
    pub sandbox: Sandbox,
    /// Descriptor of the listening monitor socket.
    pub qmp_fd: i32,
    /// Descriptor of the listening socket of the guest link.
    pub link_fd: i32,
    /// Descriptors of the connections to those who serve the machine's shares, in the same order.
    pub share_fds: Vec<i32>,
    /// Where shared guest memory comes from.
    pub memory: MemoryKind,
}

/// Whether QEMU confines itself with seccomp. It needs no privileges, no new programs and no old system calls once it
/// runs, so a guest that breaks into it shall not have them either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sandbox {
    On,
    /// This QEMU was built without it, or this is not Linux.
    Unsupported,
}

/// What guest memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryKind {
    /// A shared memfd (Linux).
    Memfd,
    /// QEMU's own choice.
    Plain,
}

impl MemoryKind {
    /// Returns the best kind of this host.
    pub(super) const fn host() -> Self {
        if system::qemu_memory_is_memfd() { Self::Memfd } else { Self::Plain }
    }
}

/// Returns the arguments of QEMU for this machine, without the program itself.
///
/// # Errors
/// When a path is relative or cannot be expressed, or a disk's serial is too long.
pub(super) fn arguments(spec: &VmSpec, around: &Surroundings) -> Result<Vec<String>, StartVmError> {
    let mut args = Args::default();
    let shed = &spec.shed;
    args.pair("-name", format!("{},process=shed-{shed},debug-threads=on", guest_option(shed)));
    args.pair("-uuid", spec.launch_id.to_string());
    args.words(["-nodefaults", "-no-user-config", "-display", "none"]);
    if around.sandbox == Sandbox::On {
        args.pair("-sandbox", SANDBOX);
    }
    args.pair("-machine", machine(around));
    args.pair("-accel", accelerator(around.accelerator));
    args.pair("-cpu", if around.accelerator == Accelerator::Tcg { "max" } else { "host" });
    args.pair("-smp", format!("cpus={}", spec.cpus));
    args.pair("-m", format!("size={}M", spec.memory_mb));
    match around.memory {
        MemoryKind::Memfd => {
            args.pair("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", spec.memory_mb));
        }
        MemoryKind::Plain => {}
    }
    args.pair("-kernel", plain_path(&spec.kernel)?);
    args.pair("-initrd", plain_path(&spec.initrd)?);
    args.pair("-append", kernel_command_line(around, &spec.extra_cmdline));

    args.pair("-chardev", format!("file,id=console,path={},append=on", escaped_path(&spec.console_log)?));
    args.pair("-serial", "chardev:console");
    args.pair("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", around.qmp_fd));
    args.pair("-mon", "chardev=qmp,mode=control");
    args.pair("-device", "virtio-serial-pci,id=serial0,max_ports=2");
    args.pair("-chardev", format!("socket,id=link,fd={},server=on,wait=off", around.link_fd));
    args.pair(
        "-device",
        format!("virtserialport,bus=serial0.0,nr=1,id={AGENT_DEVICE},chardev=link,name={AGENT_PORT}"),
    );
    args.pair("-device", "virtio-rng-pci");
    args.pair("-device", "virtio-balloon-pci,free-page-reporting=on");
    // The guest is 10.0.2.15 behind 10.0.2.2. Without IPv6, for the host may have none, and a guest would try it first.
    args.pair("-netdev", "user,id=net0,ipv6=off");
    args.pair("-device", "virtio-net-pci,netdev=net0,romfile=");
    for (number, disk) in spec.disks.iter().enumerate() {
        args.disk(number, disk)?;
    }
    for (number, (share, fd)) in spec.shares.iter().zip(&around.share_fds).enumerate() {
        args.share(number, share, *fd)?;
    }
    Ok(args.0)
}

/// Whether `words` is the command line of this launch of this shed's machine, whatever QEMU's program is called.
pub(super) fn is_launch(words: &[Vec<u8>], shed: &ShedName, launch_id: LaunchId) -> bool {
    let launch_id = launch_id.to_string();
    let name = guest_option(shed);
    let has = |option: &[u8], fits: &dyn Fn(&[u8]) -> bool| {
        words.windows(2).any(|pair| pair[0] == option && fits(&pair[1]))
    };
    has(b"-uuid", &|value| value == launch_id.as_bytes())
        && has(b"-name", &|value| value.split(|&byte| byte == b',').next() == Some(name.as_bytes()))
}

fn guest_option(shed: &ShedName) -> String {
    format!("guest=shed-{shed}")
}

const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Arguments with which QEMU starts only if it can sandbox itself; for the probe.
pub(super) const SANDBOX_ARGS: [&str; 2] = ["-sandbox", SANDBOX];

fn machine(around: &Surroundings) -> String {
    let kind = match (around.arch, around.accelerator) {
        (GuestArch::X86_64, _) => "q35,i8042=off,smbus=off,sata=off,hpet=off,usb=off,vmport=off",
        // Version 2 of the interrupt controller ends at 8 CPUs; KVM offers what its host has.
        (GuestArch::Aarch64, Accelerator::Kvm) => "virt,gic-version=host",
        (GuestArch::Aarch64, Accelerator::Hvf | Accelerator::Tcg) => "virt,gic-version=3",
    };
    let memory = match around.memory {
        MemoryKind::Memfd => ",memory-backend=memory",
        MemoryKind::Plain => "",
    };
    format!("{kind},dump-guest-core=off{memory}")
}

fn accelerator(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Hvf => "hvf".to_owned(),
        Accelerator::Tcg => format!("tcg,thread=multi,tb-size={TCG_CACHE_MB}"),
    }
}

/// Nothing here tells one shed from another: that comes as a message (design §5).
fn kernel_command_line(around: &Surroundings, extra: &[String]) -> String {
    let mut words = vec![
        match around.arch {
            GuestArch::X86_64 => "console=ttyS0",
            GuestArch::Aarch64 => "console=ttyAMA0",
        },
        "quiet",
        "panic=1",
    ];
    match around.accelerator {
        Accelerator::Kvm | Accelerator::Hvf => {}
        Accelerator::Tcg => {
            // The kernel's self-tests of its ciphers are an eighth of its boot when translated.
            words.push("cryptomgr.notests");
            match around.arch {
                // On a busy host emulated timers are late. The kernel would then panic over its timer interrupt, or
                // distrust the TSC and read the time from an emulated device ever after.
                GuestArch::X86_64 => words.extend(["no_timer_check", "tsc=reliable"]),
                GuestArch::Aarch64 => {}
            }
        }
    }
    words.extend(extra.iter().map(String::as_str));
    words.join(" ")
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn words<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.map(str::to_owned));
    }

    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }

    fn disk(&mut self, number: usize, disk: &Disk) -> Result<(), StartVmError> {
        if let Some(reason) = disk.problem() {
            return Err(StartVmError::Path { path: disk.path.clone(), reason });
        }
        let read_only = disk.access == DiskAccess::ReadOnly;
        // As JSON nothing in a path has a meaning to QEMU: no commas, no `nbd:` prefix, no format guessed.
        let node = json!({
            "node-name": format!("disk{number}"),
            "driver": "raw",
            "read-only": read_only,
            "discard": "unmap",
            "cache": { "direct": false, "no-flush": false },
            "file": {
                "driver": "file",
                "filename": plain_path(&disk.path)?,
                "read-only": read_only,
                "aio": "threads",
                "discard": "unmap",
                "cache": { "direct": false, "no-flush": false },
            },
        });
        self.pair("-blockdev", node.to_string());
        self.pair("-device", format!("virtio-blk-pci,drive=disk{number},serial={}", disk.serial));
        Ok(())
    }

    /// As many requests as a queue may hold: each takes a few descriptors of it.
    fn share(&mut self, number: usize, share: &Share, fd: i32) -> Result<(), StartVmError> {
        let tag = share.tag;
        if let Some(reason) = share.problem() {
            return Err(StartVmError::Path { path: share.source.clone(), reason });
        }
        self.pair("-chardev", format!("socket,id=share{number},fd={fd}"));
        self.pair("-device", format!("vhost-user-fs-pci,chardev=share{number},tag={tag},queue-size=1024"));
        Ok(())
    }
}

/// A path that is an argument, or a JSON string, of its own.
fn plain_path(path: &Utf8Path) -> Result<String, StartVmError> {
    let unfit = |reason| Err(StartVmError::Path { path: path.to_owned(), reason });
    if !path.is_absolute() {
        return unfit("it is not absolute, and the VMM runs in another directory");
    }
    if path.as_str().contains('\0') {
        return unfit("it holds a NUL byte");
    }
    Ok(path.as_str().to_owned())
}

/// A path among comma-separated options, where QEMU reads `,,` as a comma.
fn escaped_path(path: &Utf8Path) -> Result<String, StartVmError> {
    Ok(plain_path(path)?.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use proptest::prelude::*;

    use super::*;

    fn spec() -> VmSpec {
        VmSpec {
            shed: "api".parse().unwrap(),
            launch_id: "6b3c1a52-8a4e-4d3a-9f0e-0c1d2e3f4a5b".parse().unwrap(),
            cpus: 2.try_into().unwrap(),
            memory_mb: 1024.try_into().unwrap(),
            kernel: "/guest/vmlinux".into(),
            initrd: "/guest/initrd.img".into(),
            extra_cmdline: vec!["shed.base=shed-base".into(), "systemd.show_status=false".into()],
            disks: vec![
                Disk {
                    path: "/sheds/api/base.ext4".into(),
                    serial: "shed-base",
                    access: DiskAccess::ReadOnly,
                },
                Disk {
                    path: "/sheds/api/rootfs.ext4".into(),
                    serial: "shed-root",
                    access: DiskAccess::ReadWrite,
                },
            ],
            shares: Vec::new(),
            network: None,
            console_log: "/sheds/api/console.log".into(),
            vmm_log: "/sheds/api/vmm.log".into(),
        }
    }

    const AROUND: Surroundings = Surroundings {
        arch: GuestArch::X86_64,
        accelerator: Accelerator::Tcg,
        sandbox: Sandbox::On,
        qmp_fd: 11,
        link_fd: 12,
        share_fds: Vec::new(),
        memory: MemoryKind::Memfd,
    };

    /// One option a line, as one reads it.
    fn shown(spec: &VmSpec, around: &Surroundings) -> String {
        let mut text = String::new();
        for word in arguments(spec, around).unwrap() {
            text.push(if word.starts_with('-') { '\n' } else { ' ' });
            text.push_str(&word);
        }
        text.trim_start().to_owned()
    }

    fn as_words(args: &[String]) -> Vec<Vec<u8>> {
        ["qemu"]
            .into_iter()
            .chain(args.iter().map(String::as_str))
            .map(|word| word.as_bytes().to_vec())
            .collect()
    }

    #[test]
    fn the_command_line_under_emulation() {
        insta::assert_snapshot!(shown(&spec(), &AROUND));
    }

    #[test]
    fn a_share_is_a_device_more_and_nothing_else() {
        let share = |tag| Share { tag, source: "/home/ann/web".into(), access: DiskAccess::ReadWrite };
        let with = VmSpec { shares: vec![share("workspace")], ..spec() };
        let around = Surroundings { share_fds: vec![13], ..AROUND };
        let shown_with = shown(&with, &around);
        let added = shown_with.strip_prefix(&shown(&spec(), &AROUND)).unwrap();
        assert_eq!(
            added,
            "\n-chardev socket,id=share0,fd=13\n-device vhost-user-fs-pci,chardev=share0,tag=workspace,queue-size=1024"
        );
        for tag in ["", "a,b", "1234567890123456789012345678901234567"] {
            assert!(arguments(&VmSpec { shares: vec![share(tag)], ..spec() }, &around).is_err(), "{tag}");
        }
    }

    #[test]
    fn the_command_line_with_kvm() {
        let around = Surroundings { accelerator: Accelerator::Kvm, ..AROUND };
        insta::assert_snapshot!(shown(&spec(), &around));
    }

    #[test]
    fn the_command_line_of_an_arm_guest_on_a_mac() {
        let around = Surroundings {
            arch: GuestArch::Aarch64,
            accelerator: Accelerator::Hvf,
            sandbox: Sandbox::Unsupported,
            memory: MemoryKind::Plain,
            ..AROUND
        };
        insta::assert_snapshot!(shown(&spec(), &around));
    }

    #[test]
    fn odd_paths_reach_qemu_as_they_are() {
        let odd = VmSpec {
            kernel: "/a,b/vm linux".into(),
            initrd: "/a,b/=initrd".into(),
            console_log: "/a,b,server=on/con sole".into(),
            disks: vec![Disk {
                path: "/nbd:x,y=\"z\"/ü\\disk".into(),
                serial: "shed-root",
                access: DiskAccess::ReadWrite,
            }],
            ..spec()
        };
        insta::assert_snapshot!(shown(&odd, &AROUND));
    }

    #[test]
    fn paths_and_serials_that_cannot_be_meant_are_refused() {
        let refused = |change: &dyn Fn(&mut VmSpec)| {
            let mut spec = spec();
            change(&mut spec);
            assert!(matches!(arguments(&spec, &AROUND), Err(StartVmError::Path { .. })), "{spec:?}");
        };
        refused(&|spec| spec.kernel = "vmlinux".into());
        refused(&|spec| spec.console_log = "../console.log".into());
        refused(&|spec| spec.disks[0].path = "/a\0b".into());
        refused(&|spec| spec.disks[0].serial = "");
        refused(&|spec| spec.disks[0].serial = "123456789012345678901");
        refused(&|spec| spec.disks[0].serial = "a,b");
    }

    #[test]
    fn a_command_line_is_recognised_by_launch_and_shed() {
        let spec = spec();
        let words = as_words(&arguments(&spec, &AROUND).unwrap());
        assert!(is_launch(&words, &spec.shed, spec.launch_id));
        assert!(!is_launch(&words, &spec.shed, LaunchId::generate()));
        assert!(!is_launch(&words, &"ap".parse().unwrap(), spec.launch_id));
        assert!(!is_launch(&words, &"api-2".parse().unwrap(), spec.launch_id));
        let grep = as_words(&["-uuid".to_owned(), spec.launch_id.to_string()]);
        assert!(!is_launch(&grep, &spec.shed, spec.launch_id));
    }

    proptest! {
        #[test]
        fn no_path_can_smuggle_an_option_in(name in "[^\0/]{1,40}") {
            let path = Utf8PathBuf::from(format!("/sheds/{name}"));
            let escaped = escaped_path(&path).unwrap();
            // Read as QEMU does: pairs of commas are a comma, a single one ends the value.
            prop_assert!(!escaped.replace(",,", "").contains(','));
            prop_assert_eq!(escaped.replace(",,", ","), path.as_str());
        }
    }
}
