//! What a user can choose about the `firecracker` backend.

use std::net::Ipv4Addr;

use camino::Utf8PathBuf;
use shed_net::NetSettings;

/// The `firecracker:` section of server.yaml, as far as it concerns machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerConfig {
    /// Firecracker's program; without it, `firecracker` is looked for in `PATH` and the usual places.
    pub binary: Option<Utf8PathBuf>,
    /// Directory for the machines' sockets, absolute. Made with mode 0700 when missing: whoever can use the sockets in it
    /// controls the machines.
    pub socket_dir: Utf8PathBuf,
    /// Whether Firecracker confines itself with its own seccomp filters. Builds against glibc have none that fit.
    pub seccomp: Seccomp,
    /// The vsock context id of the first machine, 3 to 65535 (spec K.1, `vsock_base_cid`); below are the hypervisor's and the
    /// host's (man 7 vsock).
    pub first_cid: u32,
    /// Name servers of the guests; without any, those of the host that guests can reach.
    pub dns: Vec<Ipv4Addr>,
    /// The program that serves host directories to guests, which is shed-server; without it, this very program.
    pub share_server: Option<Utf8PathBuf>,
    /// The machines' network.
    pub network: NetSettings,
    /// Whether Firecracker is started by its jailer.
    pub jailer: Jailer,
    /// The jailer's program; without it, it is looked for beside Firecracker's.
    pub jailer_binary: Option<Utf8PathBuf>,
    /// Directory for the machines' jails, absolute, on the file system of their disks, where alone a disk can have a link
    /// in its jail. Made with mode 0700 when missing. Without one there are no jails.
    pub jail_dir: Option<Utf8PathBuf>,
    /// User and group of the jailed machine with the lease index 0; each other has those that are its index above. None of
    /// these numbers, as many as there are leases, may belong to anybody.
    pub jail_uid_base: u32,
}

/// The first user unless somebody chooses. Nobody gives out the numbers from 65536 to 99999: systemd calls them unused (its
/// "Users, Groups, UIDs and GIDs on systemd Systems"), Debian's adduser leaves out what is above 59999 (Debian Policy 9.2.2),
/// and subordinate users begin at 100000 (man 5 login.defs, `SUB_UID_MIN`).
const JAIL_UID_BASE: u32 = 70_000;

/// Whether Firecracker is started by its jailer, which needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jailer {
    /// Where that is possible.
    #[default]
    Auto,
    /// Always; a host where it is not possible runs no machines.
    Always,
    /// Never.
    Never,
}

/// Whether Firecracker confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// With the filters it was built with.
    #[default]
    Own,
    /// Not at all.
    Off,
}

impl FirecrackerConfig {
    /// Makes a config that leaves everything else to detection.
    #[must_use]
    pub fn new(socket_dir: impl Into<Utf8PathBuf>, network: NetSettings) -> Self {
        Self {
            binary: None,
            socket_dir: socket_dir.into(),
            seccomp: Seccomp::default(),
            first_cid: 100,
            dns: Vec::new(),
            share_server: None,
            network,
            jailer: Jailer::default(),
            jailer_binary: None,
            jail_dir: None,
            jail_uid_base: JAIL_UID_BASE,
        }
    }
}
