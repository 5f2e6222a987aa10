//! The architectures a guest can have, and what they are called where.

use clap::ValueEnum;
use shed_image::file_name;

/// A guest's architecture, by Debian's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// Returns the architecture of this machine, or amd64 when Shed has no guest for it.
    pub(crate) fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    /// Returns Debian's name.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns Debian's package that depends on the newest kernel.
    pub(crate) const fn kernel_package(self) -> &'static str {
        match self {
            Self::Amd64 => "linux-image-amd64",
            Self::Arm64 => "linux-image-arm64",
        }
    }

    /// Returns the number ELF files of this architecture have (elf(5), `e_machine`).
    pub(crate) const fn elf_machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// Returns the names of the kernel files the VMMs of this architecture boot.
    pub(crate) const fn kernel_files(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &[file_name::BZIMAGE, file_name::VMLINUX],
            Self::Arm64 => &[file_name::ARM64_IMAGE],
        }
    }
}
