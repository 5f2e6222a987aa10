//! What a user can choose about the `vz` backend.

use camino::Utf8PathBuf;

/// The `vz:` section of server.yaml, as far as it concerns how machines are run. Kernel, initramfs, sizes and timeouts come
/// with each machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VzConfig {
    /// vfkit's program; a name without a slash is looked for in `PATH` and the usual places.
    pub vfkit_path: Utf8PathBuf,
    /// Directory for the machines' sockets, absolute, without what vfkit reads otherwise than meant
    /// ([`socket_dir_problem`](super::socket_dir_problem)). Made with mode 0700 when missing: whoever can use the sockets in it
    /// controls the machines.
    pub socket_dir: Utf8PathBuf,
}

impl VzConfig {
    /// Makes a config that looks for vfkit by its own name.
    #[must_use]
    pub fn new(socket_dir: impl Into<Utf8PathBuf>) -> Self {
        Self { vfkit_path: "vfkit".into(), socket_dir: socket_dir.into() }
    }
}
