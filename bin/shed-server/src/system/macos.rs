//! macOS.

/// Where sockets are while the system runs (hier(7)).
pub(crate) const RUN_DIR: &str = "/var/run/shed";

/// Whether Firecracker exists for it.
pub(crate) const fn has_firecracker() -> bool {
    false
}
