//! macOS, where no virtiofsd runs: there are no shared directories with QEMU. The vz backend has them.

use std::os::unix::net::UnixStream;

use camino::{Utf8Path, Utf8PathBuf};

use super::ShareCache;
use crate::{CheckHostError, StartVmError, VmSpec};

/// What serves directories on this host: nothing.
#[derive(Debug)]
pub(in super::super) struct Shares;

impl Shares {
    pub(in super::super) fn new(_configured: Option<Utf8PathBuf>, _cache: ShareCache) -> Self {
        Self
    }

    /// Whether there is a program that might do.
    pub(in super::super) const fn are_possible(&self) -> bool {
        false
    }

    /// Whether there is one that does.
    ///
    /// # Errors
    /// Always.
    pub(in super::super) async fn check(&self) -> Result<(), CheckHostError> {
        Err(CheckHostError::SharesUnsupported)
    }
}

/// Starts nothing.
///
/// # Errors
/// When the machine has shares.
pub(in super::super) async fn start(
    _shares: &Shares,
    spec: &VmSpec,
    _socket_dir: &Utf8Path,
) -> Result<Vec<UnixStream>, StartVmError> {
    if spec.shares.is_empty() { Ok(Vec::new()) } else { Err(CheckHostError::SharesUnsupported.into()) }
}
