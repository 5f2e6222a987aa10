//! macOS, which has Apple's framework and no Firecracker.

use std::sync::Arc;

use shed_backend::Backend;
use shed_types::{BackendKind, TcpPort};

use super::{ChooseBackendError, detect::Best};
use crate::config::{Config, FirecrackerSection};

/// Makes none.
///
/// # Errors
/// Always.
pub(super) fn make_firecracker(
    _: &FirecrackerSection,
    _: &[TcpPort],
) -> Result<Arc<dyn Backend>, ChooseBackendError> {
    Err(ChooseBackendError::NotBuilt { wanted: BackendKind::Firecracker })
}

/// Returns the backend that is better than QEMU on this system. Every macOS has the framework; without vfkit the check of the
/// host says how to get it.
pub(super) fn best_here(_: &Config) -> Best {
    Best { kind: BackendKind::Vz, name: "Apple's Virtualization framework", usable: Ok(()) }
}
