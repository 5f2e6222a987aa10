//! A machine as Firecracker's configuration file and command line: pure functions, and the test whether a command line is
//! one of ours.
//!
//! Why the machine is as it is:
//! - Disks are `Writeback`: Firecracker then offers the guest a flush and syncs the file for it. Its own default loses what a
//!   guest has synced when the host fails.
//! - Firecracker chooses its disks' serial numbers from their files; shed-init is told which belongs to which.
//! - The balloon is empty and lets go when the guest needs memory; a later server can use it, as it can set limits of disks
//!   and network by the API.
//! - A guest that reboots or panics ends its machine: Firecracker has no reset. One that reboots says so before (`link`).

use std::{fs, io, os::unix::fs::MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use shed_types::LaunchId;

use super::{config::Seccomp, sockets::SocketPaths};
use crate::{Disk, DiskAccess, VmSpec};

/// Longest serial number of a virtio disk in bytes (Linux, include/uapi/linux/virtio_blk.h, `VIRTIO_BLK_ID_BYTES`).
const SERIAL_MAX: usize = 20;

/// Words of every guest's kernel command line. A keyboard controller has only the port by which Linux resets the machine
/// (`reboot=k`) and Firecracker presses Ctrl-Alt-Del; looking for more on it costs time. There is no PCI.
const KERNEL_WORDS: [&str; 13] = [
    "console=ttyS0",
    "quiet",
    "reboot=k",
    "panic=1",
    "pci=off",
    "i8042.noaux",
    "i8042.nomux",
    "i8042.dumbkbd",
    "cryptomgr.notests",
    "no_timer_check",
    "tsc=reliable",
    "shed.link=vsock",
    // Firecracker has no power switch: its guests end by a reset.
    "shed.power-off=restart",
];

/// Firecracker's configuration file (its API's `FullVmConfiguration`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Machine<'a> {
    boot_source: BootSource<'a>,
    drives: Vec<Drive<'a>>,
    machine_config: MachineConfig,
    network_interfaces: Vec<NetworkInterface<'a>>,
    vsock: Vsock<'a>,
    balloon: Balloon,
    entropy: Entropy,
    metrics: Metrics<'a>,
}

#[derive(Debug, Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a Utf8Path,
    initrd_path: &'a Utf8Path,
    boot_args: String,
}

#[derive(Debug, Serialize)]
struct Drive<'a> {
    drive_id: String,
    path_on_host: &'a Utf8Path,
    is_root_device: bool,
    is_read_only: bool,
    cache_type: &'static str,
}

#[derive(Debug, Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u32,
}

#[derive(Debug, Serialize)]
struct NetworkInterface<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
    guest_mac: String,
}

#[derive(Debug, Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a Utf8Path,
}

#[derive(Debug, Serialize)]
struct Balloon {
    amount_mib: u32,
    deflate_on_oom: bool,
}

#[derive(Debug, Serialize)]
struct Entropy {}

#[derive(Debug, Serialize)]
struct Metrics<'a> {
    metrics_path: &'a Utf8Path,
}

/// What a machine depends on besides its [`VmSpec`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) sockets: &'a SocketPaths,
    /// The guest's vsock context id.
    pub(super) cid: u32,
    /// Gets Firecracker's metrics.
    pub(super) metrics: &'a Utf8Path,
    /// Serial numbers of the disks, in their order.
    pub(super) serials: &'a [String],
}

/// Returns the text of the configuration file.
pub(super) fn config_file(spec: &VmSpec, around: Surroundings<'_>) -> String {
    let machine = Machine {
        boot_source: BootSource {
            kernel_image_path: &spec.kernel,
            initrd_path: &spec.initrd,
            boot_args: kernel_command_line(spec, around.serials),
        },
        drives: spec.disks.iter().enumerate().map(drive).collect(),
        machine_config: MachineConfig { vcpu_count: spec.cpus.get(), mem_size_mib: spec.memory_mb.get() },
        network_interfaces: spec
            .network
            .iter()
            .map(|lease| NetworkInterface {
                iface_id: "eth0",
                host_dev_name: &lease.tap_device,
                guest_mac: lease.mac(),
            })
            .collect(),
        vsock: Vsock { guest_cid: around.cid, uds_path: &around.sockets.vsock },
        balloon: Balloon { amount_mib: 0, deflate_on_oom: true },
        entropy: Entropy {},
        metrics: Metrics { metrics_path: around.metrics },
    };
    serde_json::to_string_pretty(&machine).expect("paths, texts and numbers are JSON")
}

fn drive((number, disk): (usize, &Disk)) -> Drive<'_> {
    Drive {
        drive_id: format!("disk{number}"),
        path_on_host: &disk.path,
        // The initramfs finds the root, not the kernel.
        is_root_device: false,
        is_read_only: disk.access == DiskAccess::ReadOnly,
        cache_type: "Writeback",
    }
}

fn kernel_command_line(spec: &VmSpec, serials: &[String]) -> String {
    let serials = spec.disks.iter().zip(serials);
    let serials = serials.map(|(disk, serial)| format!("shed.disk.{}={serial}", disk.serial));
    let own = KERNEL_WORDS.into_iter().map(str::to_owned);
    own.chain(serials).chain(spec.extra_cmdline.iter().cloned()).collect::<Vec<_>>().join(" ")
}

/// Returns the serial number that Firecracker gives the disk of a file: the numbers of its file system, its device and its
/// inode, one after the other (src/vmm/src/devices/virtio/block, `build_device_id`).
///
/// # Errors
/// When the file cannot be looked at.
pub(super) fn serial_of(path: &Utf8Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    let mut serial = format!("{}{}{}", meta.dev(), meta.rdev(), meta.ino());
    serial.truncate(SERIAL_MAX);
    Ok(serial)
}

/// Returns Firecracker's arguments.
pub(super) fn arguments(
    spec: &VmSpec,
    sockets: &SocketPaths,
    config_file: &Utf8Path,
    seccomp: Seccomp,
) -> Vec<String> {
    let id = ["--id".to_owned(), spec.launch_id.to_string()];
    id.into_iter().chain(arguments_but_id(spec, sockets, config_file, seccomp)).collect()
}

/// Returns Firecracker's arguments without its id, which its jailer puts in front of them.
pub(super) fn arguments_but_id(
    spec: &VmSpec,
    sockets: &SocketPaths,
    config_file: &Utf8Path,
    seccomp: Seccomp,
) -> Vec<String> {
    let mut args = Vec::new();
    let pairs: [(&str, String); 4] = [
        ("--api-sock", sockets.api.to_string()),
        ("--config-file", config_file.to_string()),
        // Otherwise it would be in the middle of the console.
        ("--log-path", spec.vmm_log.to_string()),
        // It warns of each port that a booting kernel tries.
        ("--level", "Error".to_owned()),
    ];
    for (option, value) in pairs {
        args.extend([option.to_owned(), value]);
    }
    match seccomp {
        Seccomp::Own => {}
        Seccomp::Off => args.push("--no-seccomp".to_owned()),
    }
    args
}

/// Whether `words` is the command line of this launch's machine, whatever Firecracker's program is called.
pub(super) fn is_launch(words: &[Vec<u8>], sockets: &SocketPaths, launch_id: LaunchId) -> bool {
    let has =
        |option: &[u8], value: &[u8]| words.windows(2).any(|pair| pair[0] == option && pair[1] == value);
    has(b"--id", launch_id.to_string().as_bytes()) && has(b"--api-sock", sockets.api.as_str().as_bytes())
}

/// Returns where the configuration file of a machine is: beside its logs.
pub(super) fn config_path(spec: &VmSpec) -> Utf8PathBuf {
    spec.vmm_log.with_file_name("firecracker.json")
}

/// Returns where Firecracker writes the metrics of a machine.
pub(super) fn metrics_path(spec: &VmSpec) -> Utf8PathBuf {
    spec.vmm_log.with_file_name("firecracker-metrics.json")
}

#[cfg(test)]
mod tests {
    use shed_types::NetworkLease;

    use super::*;

    fn spec() -> VmSpec {
        let disk = |path: &str, serial, access| Disk { path: path.into(), serial, access };
        VmSpec {
            shed: "api".parse().unwrap(),
            launch_id: "7c0ebd4e-98a4-4e5b-9b0f-2c40b6a1fd43".parse().unwrap(),
            cpus: 2.try_into().unwrap(),
            memory_mb: 4096.try_into().unwrap(),
            kernel: "/images/vmlinux".into(),
            initrd: "/images/initrd.img".into(),
            extra_cmdline: vec!["loglevel=7".to_owned()],
            disks: vec![
                disk("/sheds/api/image.ext4", "shed-image", DiskAccess::ReadOnly),
                disk("/sheds/api/root \"fs\".ext4", "shed-upper", DiskAccess::ReadWrite),
            ],
            shares: Vec::new(),
            network: Some(NetworkLease {
                index: 6,
                tap_device: "shed-tap6".to_owned(),
                ip_address: [172, 30, 0, 8].into(),
            }),
            console_log: "/sheds/api/console.log".into(),
            vmm_log: "/sheds/api/vmm.log".into(),
        }
    }

    #[test]
    fn a_whole_machine() {
        let sockets = SocketPaths::new(Utf8Path::new("/run/shed"), &"api".parse().unwrap());
        let serials = ["20490131".to_owned(), "20490132".to_owned()];
        let metrics = metrics_path(&spec());
        let around = Surroundings { sockets: &sockets, cid: 106, metrics: &metrics, serials: &serials };
        insta::assert_snapshot!(config_file(&spec(), around));
        let args = arguments(&spec(), &sockets, &config_path(&spec()), Seccomp::Off);
        insta::assert_snapshot!(args.join("\n"));
    }

    #[test]
    fn only_the_same_launch_of_the_same_shed_is_recognised() {
        let (dir, spec) = (Utf8Path::new("/run/shed"), spec());
        let sockets = SocketPaths::new(dir, &spec.shed);
        let mut words = vec![b"/opt/firecracker".to_vec()];
        words.extend(
            arguments(&spec, &sockets, "/c".into(), Seccomp::Own).into_iter().map(String::into_bytes),
        );
        assert!(is_launch(&words, &sockets, spec.launch_id));
        assert!(!is_launch(&words, &sockets, LaunchId::generate()));
        assert!(!is_launch(&words, &SocketPaths::new(dir, &"web".parse().unwrap()), spec.launch_id));
        assert!(!is_launch(&[], &sockets, spec.launch_id));
    }

    #[test]
    fn a_serial_is_no_longer_than_a_disk_can_say() {
        let serial = serial_of(Utf8Path::new("/etc/passwd")).unwrap();
        assert!(!serial.is_empty() && serial.len() <= SERIAL_MAX);
        assert!(serial.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(serial_of(Utf8Path::new("/no/such")).is_err());
    }
}
