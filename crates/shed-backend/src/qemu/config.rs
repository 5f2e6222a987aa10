//! What a user can choose about the `qemu` backend.

use camino::Utf8PathBuf;

use super::{accelerator::AcceleratorChoice, shares::ShareCache};
use crate::system;

/// What instruction set the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestArch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl GuestArch {
    /// Returns the architecture of this host, which is the one that can be accelerated; x86-64 where Shed knows
    /// no guest of the host's kind.
    #[must_use]
    pub const fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// Returns the name used by Linux, QEMU and Rust alike.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Returns the name of QEMU's program for it.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// Returns how to get that program.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        system::qemu_remedy(self)
    }
}

/// The `qemu:` section of server.yaml, as far as it concerns machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuConfig {
    /// QEMU's program; without it, [`GuestArch::program`] is looked for in `PATH` and the usual places.
    pub binary: Option<Utf8PathBuf>,
    /// What shall run the guest's instructions.
    pub accel: AcceleratorChoice,
    /// virtiofsd, which shares host directories; without it, it is looked for in `PATH` and the usual places.
    pub virtiofsd: Option<Utf8PathBuf>,
    /// How long guests may go on with what they know of a shared directory.
    pub share_cache: ShareCache,
    /// Directory for the machines' sockets, absolute. Made with mode 0700 when missing: whoever can use the sockets
    /// in it controls the machines.
    pub socket_dir: Utf8PathBuf,
    /// What instruction set the guests have.
    pub arch: GuestArch,
}

impl QemuConfig {
    /// Makes a config that leaves everything else to detection.
    #[must_use]
    pub fn new(socket_dir: impl Into<Utf8PathBuf>) -> Self {
        Self {
            binary: None,
            accel: AcceleratorChoice::Auto,
            virtiofsd: None,
            share_cache: ShareCache::default(),
            socket_dir: socket_dir.into(),
            arch: GuestArch::host(),
        }
    }
}
