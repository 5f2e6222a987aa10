//! What a user can choose about the `qemu` backend, and where its program is found.

use camino::{Utf8Path, Utf8PathBuf};

use super::{accelerator::AcceleratorChoice, shares::ShareCache};

/// Where programs are looked for behind `PATH`: a server started by systemd or launchd has a short one.
const USUAL_PLACES: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin", "/usr/libexec"];

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
        if cfg!(target_os = "macos") {
            return "brew install qemu; key qemu.binary";
        }
        match self {
            Self::X86_64 => "Debian, Ubuntu: apt-get install qemu-system-x86; key qemu.binary",
            Self::Aarch64 => "Debian, Ubuntu: apt-get install qemu-system-arm; key qemu.binary",
        }
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

/// Finds a program in a `PATH` and in the usual places. `is_program` says whether a path is one.
pub(super) fn find_program(
    name: &str,
    path: &str,
    is_program: impl Fn(&Utf8Path) -> bool,
) -> Option<Utf8PathBuf> {
    // An entry that is not absolute would mean another program in another directory.
    let dirs = path.split(':').filter(|dir| dir.starts_with('/')).chain(USUAL_PLACES);
    dirs.map(|dir| Utf8Path::new(dir).join(name)).find(|candidate| is_program(candidate))
}

/// Whether this is a file that may be executed by somebody.
pub(super) fn is_program(path: &Utf8Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_comes_before_the_usual_places_and_relative_entries_are_ignored() {
        let there = |wanted: &'static [&'static str]| move |path: &Utf8Path| wanted.contains(&path.as_str());
        let find = |path, wanted| find_program("q", path, there(wanted)).map(Utf8PathBuf::into_string);
        assert_eq!(find("/a:/b", &["/b/q", "/usr/bin/q"]).as_deref(), Some("/b/q"));
        assert_eq!(find("/a:/b", &["/usr/bin/q"]).as_deref(), Some("/usr/bin/q"));
        assert_eq!(find(".:bin::", &["./q", "bin/q", "q", "/q"]), None);
        assert_eq!(find("", &["/opt/homebrew/bin/q"]).as_deref(), Some("/opt/homebrew/bin/q"));
    }

    #[test]
    fn a_directory_or_a_plain_file_is_no_program() {
        assert!(is_program(Utf8Path::new("/bin/sh")));
        assert!(!is_program(Utf8Path::new("/")));
        assert!(!is_program(Utf8Path::new("/etc/passwd")));
    }
}
