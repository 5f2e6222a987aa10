//! The host's network of Firecracker's machines, which `shed-net` looks at itself.

use crate::{
    backends,
    config::Config,
    finding::{Finding, Report, Verdict},
};

/// Looks at it.
pub(super) async fn check(config: &Config, report: &mut Report) {
    for found in backends::host_network(config).check().await {
        let shed_net::Finding { item, verdict, text, remedy } = found;
        let verdict = match verdict {
            shed_net::Verdict::Pass => Verdict::Pass,
            shed_net::Verdict::Warn => Verdict::Warn,
            shed_net::Verdict::Fail => Verdict::Fail,
        };
        report.add(Finding { item, verdict, text, remedy });
    }
}
