//! Linux, where Firecracker's machines have a network of the host's, which `shed-net` looks at itself.

use shed_types::BackendKind;

use crate::{backends, config::Config, report::Report};

/// Looks at the host's network of this backend's machines.
pub(super) async fn check_network(config: &Config, kind: BackendKind, report: &mut Report) {
    match kind {
        BackendKind::Firecracker => {}
        BackendKind::Qemu | BackendKind::Vz => return,
    }
    for finding in backends::host_network(config).check().await {
        report.add(finding);
    }
}
