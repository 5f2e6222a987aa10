//! Host directories of a machine: one virtiofsd process each, started before QEMU, found again and ended after it.
//!
//! `start` is called before QEMU is, and gives the connections that QEMU is started with; a machine keeps the
//! [`Daemons`](crate::shares::Daemons) that serve it. They are detached like QEMU and end with it; who is left over is
//! recognised by its [`Marker`](crate::shares::Marker).

#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod filter;
mod options;
mod program;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::OnceCell;

pub use self::options::ShareCache;
pub(super) use self::program::is_there;
use crate::CheckHostError;

/// What serves directories on this host; the program is looked for when it is first needed.
#[derive(Debug)]
pub(super) struct Shares {
    configured: Option<Utf8PathBuf>,
    cache: ShareCache,
    program: OnceCell<Utf8PathBuf>,
}

impl Shares {
    pub(super) fn new(configured: Option<Utf8PathBuf>, cache: ShareCache) -> Self {
        Self { configured, cache, program: OnceCell::new() }
    }

    /// Whether there is a program that might do.
    pub(super) fn are_possible(&self) -> bool {
        is_there(self.configured.as_deref())
    }

    /// Finds the program. A failure is not remembered: somebody may install it.
    pub(super) async fn program(&self) -> Result<&Utf8Path, CheckHostError> {
        let found = self.program.get_or_try_init(|| program::find(self.configured.as_deref())).await?;
        Ok(found)
    }
}

#[cfg(target_os = "linux")]
mod start;
#[cfg(target_os = "linux")]
pub(super) use start::start;
#[cfg(not(target_os = "linux"))]
mod start {
    use std::os::unix::net::UnixStream;

    use super::{Shares, Utf8Path};
    use crate::{CheckHostError, StartVmError, VmSpec};

    /// There are none here.
    pub(in super::super) async fn start(
        _: &Shares,
        spec: &VmSpec,
        _: &Utf8Path,
    ) -> Result<Vec<UnixStream>, StartVmError> {
        if spec.shares.is_empty() { Ok(Vec::new()) } else { Err(CheckHostError::SharesUnsupported.into()) }
    }
}
#[cfg(not(target_os = "linux"))]
pub(super) use start::start;
