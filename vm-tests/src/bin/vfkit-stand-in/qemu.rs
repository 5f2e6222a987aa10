//! QEMU's command line for a machine: a pure function.
//!
//! Called when the machine is started. The devices are those that Apple's framework gives a Linux guest, in the order they
//! were named; around them there is no more than a processor and PCI, as in the `qemu` backend. Memory is a shared memfd,
//! for the vsock device and the directories are served by other processes. The monitor is QEMU's standard input and output.
//!
//! QEMU ends when the guest powers off, and when it reboots, whereupon another one is started (`run.rs`).

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;

use crate::{
    devices::{Device, Disk, Serial},
    machine::Machine,
};

/// What runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Tcg,
    Kvm,
}

/// The guest's processor, which is the host's, as on a Mac.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub(crate) const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }
}

/// The sockets between the processes of one machine, in a directory of their own.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    pub(crate) dir: Utf8PathBuf,
}

impl Sockets {
    /// Between QEMU and who serves the vsock device.
    pub(crate) fn vhost(&self) -> Utf8PathBuf {
        self.dir.join("vhost")
    }

    /// Where the vsock device takes connections to the guest.
    pub(crate) fn vsock(&self) -> Utf8PathBuf {
        self.dir.join("vsock")
    }

    /// Where the vsock device connects when the guest connects to a port of the host.
    pub(crate) fn of_host_port(&self, port: u32) -> Utf8PathBuf {
        self.dir.join(format!("vsock_{port}"))
    }

    /// Between QEMU and who serves the device of this number.
    pub(crate) fn of_device(&self, number: usize) -> Utf8PathBuf {
        self.dir.join(format!("device-{number}"))
    }
}

/// Returns the arguments without the program.
pub(crate) fn arguments(
    machine: &Machine,
    arch: Arch,
    accelerator: Accelerator,
    sockets: &Sockets,
) -> Vec<String> {
    let mut args = Args::default();
    let memory = format!("size={}M", machine.memory_mib);
    args.word("-nodefaults").word("-no-user-config").word("-no-reboot");
    args.pair("-name", "guest=vfkit-stand-in").pair("-display", "none");
    args.pair("-machine", format!("{},memory-backend=memory", platform(arch, accelerator)));
    args.pair("-smp", format!("cpus={}", machine.cpus)).pair("-m", memory.as_str());
    args.pair("-object", format!("memory-backend-memfd,id=memory,{memory},share=on"));
    match accelerator {
        Accelerator::Tcg => args.pair("-accel", "tcg,thread=multi,tb-size=512").pair("-cpu", "max"),
        Accelerator::Kvm => args.pair("-accel", "kvm").pair("-cpu", "host"),
    };
    args.pair("-kernel", machine.kernel.as_str()).pair("-initrd", machine.initrd.as_str());
    args.pair("-append", cmdline(&machine.cmdline, arch, accelerator));
    args.pair("-chardev", "stdio,id=monitor,signal=off").pair("-mon", "chardev=monitor,mode=control");
    if machine.vsocks().next().is_some() {
        args.socket("vsock", &sockets.vhost()).pair("-device", "vhost-user-vsock-pci,chardev=vsock");
    }
    for (number, device) in machine.devices.iter().enumerate() {
        args.device(number, device, sockets);
    }
    args.0
}

const fn platform(arch: Arch, accelerator: Accelerator) -> &'static str {
    match (arch, accelerator) {
        (Arch::X86_64, _) => "q35,i8042=off,smbus=off,sata=off,hpet=off,usb=off,vmport=off",
        (Arch::Aarch64, Accelerator::Tcg) => "virt,gic-version=3",
        (Arch::Aarch64, Accelerator::Kvm) => "virt,gic-version=host",
    }
}

/// The command line as it was given and, under emulation, what keeps the kernel from panicking over timers that are late on
/// a busy host. The caller cannot know of it: a Mac needs no such words.
fn cmdline(given: &str, arch: Arch, accelerator: Accelerator) -> String {
    match (arch, accelerator) {
        (Arch::X86_64, Accelerator::Tcg) => format!("{given} cryptomgr.notests no_timer_check tsc=reliable"),
        (Arch::Aarch64, Accelerator::Tcg) => format!("{given} cryptomgr.notests"),
        (Arch::X86_64 | Arch::Aarch64, Accelerator::Kvm) => given.to_owned(),
    }
}

#[derive(Debug, Default)]
struct Args(Vec<String>);

impl Args {
    fn word(&mut self, word: impl Into<String>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn pair(&mut self, option: &str, value: impl Into<String>) -> &mut Self {
        self.word(option).word(value)
    }

    /// QEMU reads `,,` as a comma.
    fn socket(&mut self, id: &str, path: &Utf8Path) -> &mut Self {
        self.pair("-chardev", format!("socket,id={id},path={}", path.as_str().replace(',', ",,")))
    }

    fn device(&mut self, number: usize, device: &Device, sockets: &Sockets) {
        let id = format!("device{number}");
        match device {
            Device::Disk(disk) => self.disk(&id, disk),
            Device::Net { mac } => {
                let mac = mac.as_ref().map(|mac| format!(",mac={mac}")).unwrap_or_default();
                self.pair("-netdev", format!("user,id={id},ipv6=off"));
                self.pair("-device", format!("virtio-net-pci,netdev={id},romfile={mac}"));
            }
            Device::Serial(serial) => {
                match serial {
                    // What is appended stays whole when somebody truncates the file meanwhile.
                    Serial::Log(path) => {
                        let path = path.replace(',', ",,");
                        self.pair("-chardev", format!("file,id={id},path={path},append=on"))
                    }
                    Serial::Stdio => self.socket(&id, &sockets.of_device(number)),
                };
                self.pair("-device", format!("virtio-serial-pci,id={id}-bus,max_ports=1"));
                self.pair("-device", format!("virtconsole,bus={id}-bus.0,chardev={id}"));
            }
            Device::Rng => {
                self.pair("-device", "virtio-rng-pci");
            }
            Device::Balloon => {
                self.pair("-device", "virtio-balloon-pci");
            }
            Device::Share { tag, .. } => {
                self.socket(&id, &sockets.of_device(number));
                self.pair("-device", format!("vhost-user-fs-pci,chardev={id},tag={tag},queue-size=1024"));
            }
            // All of them together are one device, which is there already.
            Device::Vsock(_) => {}
        }
    }

    /// As JSON nothing in a path has a meaning to QEMU.
    fn disk(&mut self, id: &str, disk: &Disk) {
        let read_only = disk.read_only;
        let file =
            json!({ "driver": "file", "filename": disk.path, "read-only": read_only, "discard": "unmap" });
        let node = json!({
            "node-name": id, "driver": "raw", "read-only": read_only, "discard": "unmap", "file": file,
        });
        let serial = disk.id.as_ref().map(|id| format!(",serial={id}")).unwrap_or_default();
        self.pair("-blockdev", node.to_string())
            .pair("-device", format!("virtio-blk-pci,drive={id}{serial}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Asked, parse};

    fn shown(args: &[&str], arch: Arch, accelerator: Accelerator) -> Vec<String> {
        let boot = ["--bootloader", r#"linux,kernel=/k,initrd=/i,cmdline="console=hvc0""#, "-m", "512"];
        let Asked::Run(flags) = parse(boot.iter().chain(args).map(|&arg| arg.to_owned())).unwrap() else {
            panic!("no machine")
        };
        let sockets = Sockets { dir: "/t,x".into() };
        arguments(&Machine::of(*flags).unwrap(), arch, accelerator, &sockets)
    }

    fn has(args: &[String], option: &str, value: &str) -> bool {
        args.windows(2).any(|pair| pair[0] == option && pair[1] == value)
    }

    #[test]
    fn each_device_is_there_and_only_those() {
        let bare = shown(&[], Arch::X86_64, Accelerator::Tcg);
        assert!(!bare.iter().any(|arg| arg == "-device"), "{bare:?}");
        assert!(has(&bare, "-object", "memory-backend-memfd,id=memory,size=512M,share=on"));
        let devices = [
            "-d",
            "virtio-blk,path=/d,deviceId=shed-root,readonly",
            "-d",
            "virtio-net,nat,mac=52:54:00:00:00:01",
            "-d",
            "virtio-serial,logFilePath=/c",
            "-d",
            "virtio-rng",
            "-d",
            "virtio-fs,sharedDir=/s,mountTag=w",
            "-d",
            "virtio-vsock,port=1,socketURL=/v1",
            "-d",
            "virtio-vsock,port=2,socketURL=/v2",
        ];
        let args = shown(&devices, Arch::X86_64, Accelerator::Tcg);
        let found: Vec<_> =
            args.windows(2).filter(|pair| pair[0] == "-device").map(|pair| pair[1].as_str()).collect();
        assert_eq!(
            found,
            [
                "vhost-user-vsock-pci,chardev=vsock",
                "virtio-blk-pci,drive=device0,serial=shed-root",
                "virtio-net-pci,netdev=device1,romfile=,mac=52:54:00:00:00:01",
                "virtio-serial-pci,id=device2-bus,max_ports=1",
                "virtconsole,bus=device2-bus.0,chardev=device2",
                "virtio-rng-pci",
                "vhost-user-fs-pci,chardev=device4,tag=w,queue-size=1024",
            ]
        );
        assert!(has(&args, "-chardev", "socket,id=vsock,path=/t,,x/vhost"));
        assert!(has(&args, "-chardev", "file,id=device2,path=/c,append=on"));
        let node = args.iter().find(|arg| arg.contains("node-name")).unwrap();
        assert_eq!(node.matches(r#""read-only":true"#).count(), 2, "{node}");
    }

    #[test]
    fn the_command_line_is_the_callers_but_for_what_emulation_needs() {
        assert!(has(&shown(&[], Arch::X86_64, Accelerator::Kvm), "-append", "console=hvc0"));
        let emulated = "console=hvc0 cryptomgr.notests no_timer_check tsc=reliable";
        assert!(has(&shown(&[], Arch::X86_64, Accelerator::Tcg), "-append", emulated));
        let arm = shown(&[], Arch::Aarch64, Accelerator::Tcg);
        assert!(has(&arm, "-machine", "virt,gic-version=3,memory-backend=memory"));
    }
}
