//! Linux.

use std::{fs, io};

use crate::qemu::GuestArch;

/// Longest path of a Unix socket in bytes, without the final NUL: `sun_path` has 108 bytes (unix(7)).
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// Where programs are looked for behind `PATH`. virtiofsd lies in the last one.
pub(crate) const USUAL_PLACES: &[&str] = &["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// Whether this user may use KVM.
///
/// # Errors
/// When not: why, as the end of a sentence.
pub(crate) fn kvm() -> Result<(), String> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("there is no /dev/kvm".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("/dev/kvm may not be opened by this user (on most systems: add the user to the group kvm)"
                .to_owned())
        }
        Err(error) => Err(format!("/dev/kvm does not open: {error}")),
    }
}

/// Whether /proc/cpuinfo shows vmx or svm; only x86 has them.
pub(crate) fn cpu_virtualization() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| shows_virtualization(&text))
}

/// Whether a /proc/cpuinfo lists Intel's or AMD's virtualisation among the flags.
fn shows_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .any(|(_, flags)| flags.split_ascii_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// Whether there is Hypervisor.framework.
///
/// # Errors
/// Always.
pub(crate) fn hvf() -> Result<(), String> {
    Err("Hypervisor.framework is a part of macOS".to_owned())
}

/// Why guests are emulated where there is neither: the reason that the user can do something about.
pub(crate) const fn why_emulated<'a>(kvm: &'a String, _hvf: &'a String) -> &'a String {
    kvm
}

/// Returns how to get QEMU.
pub(crate) const fn qemu_remedy(arch: GuestArch) -> &'static str {
    match arch {
        GuestArch::X86_64 => "Debian, Ubuntu: apt-get install qemu-system-x86; key qemu.binary",
        GuestArch::Aarch64 => "Debian, Ubuntu: apt-get install qemu-system-arm; key qemu.binary",
    }
}

/// Whether a QEMU may have a sandbox, which is made of seccomp.
pub(crate) const fn qemu_has_sandbox() -> bool {
    true
}

/// Whether guest memory can be a memfd.
pub(crate) const fn qemu_memory_is_memfd() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_whole_flag_of_a_flags_line() {
        assert!(shows_virtualization("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(shows_virtualization("flags\t\t: fpu svm\n"));
        for no in ["", "flags : fpu svm_lock vmx2\n", "vmx flags : ept vpid\n", "model name : svm\n"] {
            assert!(!shows_virtualization(no), "{no:?}");
        }
    }
}
