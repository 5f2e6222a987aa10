//! macOS.

use crate::qemu::GuestArch;

/// Longest path of a Unix socket in bytes, without the final NUL: `sun_path` has 104 bytes (sys/un.h).
pub(crate) const SOCKET_PATH_MAX: usize = 103;

/// Where programs are looked for behind `PATH`: Homebrew's places on Intel and on Apple silicon, and that of MacPorts.
pub(crate) const USUAL_PLACES: &[&str] =
    &["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin"];

/// Whether this user may use KVM.
///
/// # Errors
/// Always.
pub(crate) fn kvm() -> Result<(), String> {
    Err("KVM is a part of Linux".to_owned())
}

/// Whether the CPU shows what KVM needs, which nobody asks here.
pub(crate) const fn cpu_virtualization() -> bool {
    false
}

/// Whether there is Hypervisor.framework.
///
/// # Errors
/// When not: why, as the end of a sentence.
pub(crate) fn hvf() -> Result<(), String> {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "kern.hv_support"]).output();
    match output {
        Ok(output) if output.stdout.trim_ascii() == b"1" => Ok(()),
        Ok(_) => Err("this Mac has no Hypervisor.framework (sysctl kern.hv_support)".to_owned()),
        Err(error) => Err(format!("sysctl kern.hv_support could not be asked: {error}")),
    }
}

/// Why guests are emulated where there is neither: the reason that the user can do something about.
pub(crate) const fn why_emulated<'a>(_kvm: &'a String, hvf: &'a String) -> &'a String {
    hvf
}

/// Returns how to get QEMU.
pub(crate) const fn qemu_remedy(_arch: GuestArch) -> &'static str {
    "brew install qemu; key qemu.binary"
}

/// Whether a QEMU may have a sandbox, which is made of Linux's seccomp.
pub(crate) const fn qemu_has_sandbox() -> bool {
    false
}

/// Whether guest memory can be a memfd, which Linux has.
pub(crate) const fn qemu_memory_is_memfd() -> bool {
    false
}
