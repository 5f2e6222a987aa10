//! The sections of server.yaml that each describe a backend: what every one has ([`common`]), and what it has of its own.

mod common;
mod firecracker;
mod print;
mod qemu;
mod vz;

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use camino::Utf8PathBuf;
use shed_backend::qemu::ShareCache;
use shed_image::ImageOrigin;
use shed_net::{BridgeName, GuestNetwork, TapPrefix};
use shed_types::{CpuCount, DiskGb, ImageName, MemoryMb};

pub(super) use self::{firecracker::firecracker, qemu::qemu, vz::vz};

/// What runs the guest's instructions, as it may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// The fastest that is real on this host.
    #[default]
    Auto,
    /// Linux KVM.
    Kvm,
    /// macOS Hypervisor.framework.
    Hvf,
    /// QEMU's translator.
    Tcg,
}

/// Whether Firecracker is started by its jailer, which needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JailerChoice {
    /// Where that is possible.
    #[default]
    Auto,
    /// Always; a host where it is not possible runs no sheds.
    Always,
    /// Never.
    Never,
}

/// What every backend's section has. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommonSection {
    /// Images, kernel, initramfs and disk templates.
    pub images_dir: Utf8PathBuf,
    /// One directory a shed.
    pub instance_dir: Utf8PathBuf,
    /// Sockets of running machines.
    pub socket_dir: Utf8PathBuf,
    /// Kernel of every guest.
    pub kernel_path: Utf8PathBuf,
    /// Initramfs of every guest.
    pub initrd_path: Utf8PathBuf,
    /// Image of a shed that names none; none means the image `default`, else `base`.
    pub base_rootfs: Option<ImageOrigin>,
    /// Images by name. None is hidden.
    pub images: BTreeMap<ImageName, ImageOrigin>,
    /// CPUs of a shed that names none.
    pub default_cpus: CpuCount,
    /// Memory of a shed that names none, in MiB.
    pub default_memory_mb: MemoryMb,
    /// Size of a shed's own disk, in GiB.
    pub default_disk_gb: DiskGb,
    /// From the start of a machine to its agent's answer; none means the backend's own.
    pub start_timeout: Option<Duration>,
    /// From the request to power off to SIGKILL; none means the backend's own.
    pub stop_timeout: Option<Duration>,
    /// Words appended to the guest's kernel command line.
    pub extra_cmdline: Vec<String>,
}

/// The `qemu:` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuSection {
    /// What every backend has.
    pub common: CommonSection,
    /// What runs the guest's instructions.
    pub accel: Accel,
    /// The QEMU program; none means the one for this machine's architecture, from PATH and the usual places.
    pub binary: Option<Utf8PathBuf>,
    /// virtiofsd, which shares host directories; none means the one in PATH and the usual places.
    pub virtiofsd: Option<Utf8PathBuf>,
    /// How long guests may go on with what they know of a shared directory.
    pub share_cache: ShareCache,
}

/// The `firecracker:` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerSection {
    /// What every backend has.
    pub common: CommonSection,
    /// The Firecracker program; none means the one in PATH and the usual places.
    pub binary: Option<Utf8PathBuf>,
    /// Whether Firecracker confines itself with the system call filters it was built with.
    pub seccomp: bool,
    /// Whether Firecracker is started by its jailer.
    pub jailer: JailerChoice,
    /// The jailer's program; none means the one beside Firecracker's.
    pub jailer_path: Option<Utf8PathBuf>,
    /// The machines' jails, on the file system of their disks.
    pub jail_dir: Utf8PathBuf,
    /// The user of the first jailed machine; the others' follow.
    pub jail_uid_base: u32,
    /// The vsock context id of the first machine.
    pub vsock_base_cid: u32,
    /// The bridge that all machines are on.
    pub bridge_name: BridgeName,
    /// The machines' network, and the host's address in it.
    pub bridge_cidr: GuestNetwork,
    /// What the names of the machines' TAPs begin with.
    pub tap_prefix: TapPrefix,
    /// Name servers of the guests; none means those of the host.
    pub dns: Vec<Ipv4Addr>,
}

/// The `vz:` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VzSection {
    /// What every backend has.
    pub common: CommonSection,
    /// vfkit's program: a path, or a name that is looked for in PATH and the usual places.
    pub vfkit_path: Utf8PathBuf,
}
