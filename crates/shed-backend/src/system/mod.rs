//! What differs between the systems that hosts have: numbers, names, and what there is to ask. Called by the backends; it decides
//! nothing. Each system has a file with the same items, and every line for one system alone is in its file.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{
    SOCKET_PATH_MAX, USUAL_PLACES, cpu_virtualization, hvf, kvm, qemu_has_sandbox, qemu_memory_is_memfd,
    qemu_remedy, why_emulated,
};
#[cfg(target_os = "macos")]
pub(crate) use self::macos::{
    SOCKET_PATH_MAX, USUAL_PLACES, cpu_virtualization, hvf, kvm, qemu_has_sandbox, qemu_memory_is_memfd,
    qemu_remedy, why_emulated,
};
