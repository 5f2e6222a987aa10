//! The host's network of Firecracker's machines, which `shed-net` looks at itself.

use crate::{backends, config::Config, report::Report};

/// Looks at it.
pub(super) async fn check(config: &Config, report: &mut Report) {
    for finding in backends::host_network(config).check().await {
        report.add(finding);
    }
}
