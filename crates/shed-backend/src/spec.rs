//! What a machine is made of, what a backend can do, and what identifies a running one.

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use shed_types::{CpuCount, LaunchId, MemoryMb, NetworkLease, ShedName};

/// Everything a backend needs to start one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// The shed this machine belongs to; names sockets and the process.
    pub shed: ShedName,
    /// This launch, and no other.
    pub launch_id: LaunchId,
    /// Virtual CPUs.
    pub cpus: CpuCount,
    /// Memory in MiB.
    pub memory_mb: MemoryMb,
    /// Kernel image of the kind the backend boots.
    pub kernel: Utf8PathBuf,
    /// Initramfs with shed-init and shed-agent.
    pub initrd: Utf8PathBuf,
    /// Words appended to the backend's own kernel command line.
    pub extra_cmdline: Vec<String>,
    /// Disks in the order the guest sees them.
    pub disks: Vec<Disk>,
    /// Host directories that the guest can mount.
    pub shares: Vec<Share>,
    /// What the machine has on the host's network, where the backend gives each one something of its own.
    pub network: Option<NetworkLease>,
    /// File that gets the guest's console; appended to, and may be cut in place while the machine runs.
    pub console_log: Utf8PathBuf,
    /// File that gets what the VMM itself prints.
    pub vmm_log: Utf8PathBuf,
}

/// One disk of a machine: a raw image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image file.
    pub path: Utf8PathBuf,
    /// Serial number shown to the guest (at most 20 characters, the limit of virtio-blk's `VIRTIO_BLK_ID_BYTES`);
    /// shed-init finds its disks by it.
    pub serial: &'static str,
    /// Whether the guest may write.
    pub access: DiskAccess,
}

/// Longest serial of a virtio disk in bytes (Linux, include/uapi/linux/virtio_blk.h, `VIRTIO_BLK_ID_BYTES`).
const SERIAL_MAX: usize = 20;

/// Longest tag of a shared directory in bytes (virtio 1.2, 5.11.4).
const TAG_MAX: usize = 36;

impl Disk {
    /// Returns why no guest could have this disk, as the end of a sentence about it; nothing when one can.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.serial.is_empty() || self.serial.len() > SERIAL_MAX {
            return Some("its serial does not have 1 to 20 characters");
        }
        (!is_plain(self.serial)).then_some("its serial has characters other than letters, digits and hyphens")
    }
}

impl Share {
    /// Returns why no guest could have this share, as the end of a sentence about it; nothing when one can.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let fits = !self.tag.is_empty() && self.tag.len() <= TAG_MAX && is_plain(self.tag);
        (!fits).then_some("its tag does not have 1 to 36 letters, digits and hyphens")
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A host directory that the guest sees live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// By which the guest finds it: letters, digits and hyphens, at most 36 (virtio 1.2, 5.11.4).
    pub tag: &'static str,
    /// The directory, absolute.
    pub source: Utf8PathBuf,
    /// Whether the guest may write.
    pub access: DiskAccess,
}

/// Whether a guest may write to a disk or a shared directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAccess {
    /// Reads only; several machines may share the file.
    ReadOnly,
    /// Reads and writes; the file belongs to one machine.
    ReadWrite,
}

/// What a backend can do; callers read this instead of asking for a backend's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A console.log is kept for each machine.
    pub console_log: bool,
    /// Guests have an address that the host can reach.
    pub guest_address: bool,
    /// Host directories can be shared live.
    pub shared_directories: bool,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Linux KVM.
    Kvm,
    /// macOS Hypervisor.framework.
    Hvf,
    /// QEMU's translator: works everywhere, about ten times slower.
    Tcg,
}

/// What [`Backend::check_host`](crate::Backend::check_host) found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostReport {
    /// Program and version, for logs.
    pub vmm: String,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// Why this accelerator and no other, in a sentence.
    pub reason: String,
    /// What keeps a VMM from the rest of the host, and why; nothing where a backend leaves no choice.
    pub confined_by: Option<String>,
}

/// What identifies a VMM process across restarts of the server; part of a shed's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmIdentity {
    /// Process id.
    pub pid: u32,
    /// When the process started, in the unit of the system's process table (Linux: clock ticks since boot, field 22
    /// of /proc/pid/stat). With the pid it names a process that no later one can be confused with until a reboot.
    pub start_time: u64,
    /// The launch it belongs to; on its command line.
    pub launch_id: LaunchId,
}
