//! What can go wrong, one type an operation. Display never includes the source.

use std::{io, time::Duration};

use camino::Utf8PathBuf;
use shed_link::OpenError;
use shed_types::{GuestPort, ShedName};

/// Why this host cannot run machines.
#[derive(Debug, thiserror::Error)]
pub enum CheckHostError {
    #[error("`{program}` was not found; install it or set its path in server.yaml ({remedy})")]
    ProgramMissing { program: String, remedy: &'static str },
    #[error("`{program}` did not tell its version")]
    Version {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("`{program}` is version {found}; at least {oldest} is needed")]
    TooOld { program: String, found: String, oldest: String },
    #[error(
        "the socket directory {path} has {length} bytes; it must be absolute and have at most {longest} (key {key})"
    )]
    SocketDir { path: Utf8PathBuf, length: usize, longest: usize, key: &'static str },
    #[error("{path} cannot have the machines' sockets: {reason} (key vz.socket_dir)")]
    SocketPath { path: Utf8PathBuf, reason: &'static str },
    #[error(
        "virtiofsd, which shares host directories, cannot be used: {found} (looked for: {places}; version 1.13 or newer is needed). Install it with scripts/setup.sh, your distribution's package `virtiofsd`, or `cargo install --locked virtiofsd`; key qemu.virtiofsd"
    )]
    VirtiofsdMissing { places: String, found: String },
    #[error(
        "host directories cannot be shared with the machines of this server; copy the files in, or clone a repository"
    )]
    SharesUnsupported,
    #[error(
        "Firecracker's jailer was asked for, but {reason}; key firecracker.jailer: `auto` does without it where it cannot be used"
    )]
    Jailer { reason: String },
    #[error("accelerator {wanted} was asked for, but {reason}")]
    Accelerator { wanted: &'static str, reason: String },
}

/// Why a machine has no place on the host's network.
#[derive(Debug, thiserror::Error)]
#[error("there is no place on the host's network for another machine")]
pub struct LeaseError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartVmError {
    #[error("the path {path} cannot be given to the VMM: {reason}")]
    Path { path: Utf8PathBuf, reason: &'static str },
    #[error("the kernel parameter {word:?} cannot be given to the VMM: {reason}")]
    Parameter { word: String, reason: &'static str },
    #[error("could not prepare {path} for shed `{shed}`")]
    Prepare {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the host directory {path} of shed `{shed}` cannot be shared")]
    Share {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{program}` does not serve the host directory {path} of shed `{shed}`: {reasons}")]
    ServeShare { shed: ShedName, path: Utf8PathBuf, program: String, reasons: String },
    #[error("could not make the network interface {tap} of shed `{shed}`")]
    Tap {
        shed: ShedName,
        tap: String,
        #[source]
        source: io::Error,
    },
    #[error("could not start `{program}` for shed `{shed}`")]
    Spawn {
        shed: ShedName,
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("the VMM of shed `{shed}` ended at once: {output}")]
    EndedAtOnce { shed: ShedName, output: String },
    #[error("the VMM of shed `{shed}` did not answer on {path} within {waited:?}")]
    NoMonitor {
        shed: ShedName,
        path: Utf8PathBuf,
        waited: Duration,
        #[source]
        source: io::Error,
    },
    #[error("this host cannot run the machine")]
    Host(#[from] CheckHostError),
}

/// Why a running machine could not be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AttachVmError {
    #[error("the process table could not be read")]
    Processes(#[source] io::Error),
    #[error("the VMM of shed `{shed}` (pid {pid}) runs but cannot be watched")]
    Watch {
        shed: ShedName,
        pid: u32,
        #[source]
        source: io::Error,
    },
}

/// Why no stream to the guest could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectGuestError {
    #[error("the machine of shed `{shed}` has ended")]
    Ended { shed: ShedName },
    #[error("the guest of shed `{shed}` refused port {port}: {reason}")]
    Refused { shed: ShedName, port: GuestPort, reason: String },
    #[error("the link to the guest of shed `{shed}` broke while opening port {port}")]
    Broken {
        shed: ShedName,
        port: GuestPort,
        #[source]
        source: io::Error,
    },
}

impl ConnectGuestError {
    /// Says what a stream that could not be opened means for whoever wants it.
    pub(crate) fn of_open(shed: ShedName, port: GuestPort, error: OpenError) -> Self {
        match error {
            OpenError::Refused { reason, .. } => Self::Refused { shed, port, reason },
            error @ OpenError::TooMany { .. } => Self::Refused { shed, port, reason: error.to_string() },
            error @ OpenError::Timeout { .. } => {
                Self::Broken { shed, port, source: io::Error::new(io::ErrorKind::TimedOut, error) }
            }
            error @ (OpenError::Gone | OpenError::Protocol { .. } | OpenError::Io { .. }) => {
                Self::Broken { shed, port, source: io::Error::other(error) }
            }
        }
    }
}

/// Why a machine could not be ended or asked to.
#[derive(Debug, thiserror::Error)]
pub enum EndVmError {
    #[error("the VMM of shed `{shed}` could not be asked to power off")]
    Ask {
        shed: ShedName,
        #[source]
        source: io::Error,
    },
    #[error("the VMM of shed `{shed}` (pid {pid}) still runs {waited:?} after SIGKILL")]
    StillRunning { shed: ShedName, pid: u32, waited: Duration },
    #[error("the VMM of shed `{shed}` (pid {pid}) could not be signalled")]
    Signal {
        shed: ShedName,
        pid: u32,
        #[source]
        source: io::Error,
    },
}
