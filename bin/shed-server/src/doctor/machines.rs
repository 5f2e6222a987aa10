//! What runs the machines: the backend, its program, what runs the guest's instructions, and what confines it.

use shed_backend::{Accelerator, CheckHostError};
use shed_types::{BackendChoice, BackendKind, Finding, error_chain};

use crate::{
    backends::{self, Decision},
    config::{Accel, Config},
    report::Report,
    system,
};

const VMM: &str = "machine monitor";
const ACCELERATOR: &str = "accelerator";

/// Looks at it, and returns the backend that all else is about.
pub(super) async fn check(config: &Config, report: &mut Report) -> BackendKind {
    let decision = backends::decide(config);
    let made =
        decision.and_then(|Decision { kind, reason }| Ok((kind, reason, backends::make(config, kind, &[])?)));
    let (kind, reason, backend) = match made {
        Ok(made) => made,
        Err(error) => {
            report.add(Finding::fail("backend", error_chain(&error)));
            return BackendKind::Qemu;
        }
    };
    report.add(Finding::pass("backend", format!("{kind}: {reason}")));
    match backend.check_host().await {
        Ok(found) => {
            report.add(Finding::pass(VMM, found.vmm));
            report.add(accelerator(kind, found.accelerator, &found.reason, config.qemu.accel));
            if let Some(confined_by) = found.confined_by {
                report.add(confinement(config, kind, &confined_by));
            }
        }
        Err(error @ CheckHostError::Accelerator { .. }) => {
            let remedy = match kind {
                BackendKind::Firecracker => {
                    "`sudo shed-server setup`; where there is no KVM, set `default_backend: qemu` in server.yaml"
                }
                BackendKind::Qemu => "set `qemu.accel: auto` in server.yaml",
                BackendKind::Vz => "set `default_backend: qemu` in server.yaml",
            };
            report.add(Finding::fail(ACCELERATOR, error_chain(&error)).remedy(remedy));
        }
        Err(error) => {
            let finding = Finding::fail(VMM, error_chain(&error));
            // Nobody asked for QEMU: Firecracker could not run.
            let is_second_choice = kind == BackendKind::Qemu
                && config.default_backend == BackendChoice::Detect
                && system::has_firecracker();
            let remedy =
                "or let Firecracker run the sheds: `sudo shed-server setup` makes ready what it needs";
            report.add(if is_second_choice { finding.remedy(remedy) } else { finding });
        }
    }
    // Sheds go without it as long as none asks for a directory.
    report.add(match backend.check_shares().await {
        Ok(()) => Finding::pass("host directories", "can be shared with sheds"),
        Err(error) => Finding::warn("host directories", error_chain(&error)),
    });
    kind
}

fn accelerator(kind: BackendKind, found: Accelerator, reason: &str, asked: Accel) -> Finding {
    if kind == BackendKind::Vz {
        return Finding::pass(ACCELERATOR, format!("the system's: {reason}"));
    }
    match (found, asked) {
        (Accelerator::Kvm, _) => Finding::pass(ACCELERATOR, format!("KVM: {reason}")),
        (Accelerator::Hvf, _) => Finding::pass(ACCELERATOR, format!("HVF: {reason}")),
        (Accelerator::Tcg, Accel::Tcg) => {
            Finding::pass(ACCELERATOR, format!("TCG, software emulation: {reason}"))
        }
        (Accelerator::Tcg, Accel::Auto | Accel::Kvm | Accel::Hvf) => {
            Finding::warn(ACCELERATOR, format!("TCG, software emulation: {reason}")).remedy(
                "sheds run all the same, about ten times slower; `sudo shed-server setup` looks for KVM",
            )
        }
    }
}

/// What keeps a guest that breaks out of its VMM from the rest of the host, in the backend's own words: the one place that says so.
fn confinement(config: &Config, kind: BackendKind, confined_by: &str) -> Finding {
    const ITEM: &str = "confinement";
    if kind == BackendKind::Firecracker && !config.firecracker.seccomp {
        return Finding::warn(ITEM, confined_by).remedy(
            "take `firecracker.seccomp: off` out of server.yaml; released builds have filters that fit",
        );
    }
    Finding::pass(ITEM, confined_by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shed_types::Verdict;

    #[test]
    fn emulation_is_a_warning_unless_it_was_asked_for() {
        let verdict = |found, asked| accelerator(BackendKind::Qemu, found, "because", asked).verdict;
        assert_eq!(verdict(Accelerator::Tcg, Accel::Auto), Verdict::Warn);
        assert_eq!(verdict(Accelerator::Tcg, Accel::Tcg), Verdict::Pass);
        assert_eq!(verdict(Accelerator::Kvm, Accel::Auto), Verdict::Pass);
        assert_eq!(verdict(Accelerator::Hvf, Accel::Hvf), Verdict::Pass);
    }
}
