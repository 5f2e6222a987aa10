//! What `default_backend: detect` means here: a pure policy over facts that a thin probe collects.
//!
//! A server runs the sheds of one backend. So what comes first is that sheds which are there go on being there: a host that
//! gets Firecracker does not lose its QEMU sheds by that.

use camino::Utf8Path;
use shed_types::BackendKind;

use crate::config::{CommonSection, Config};

/// A backend, and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The backend.
    pub kind: BackendKind,
    /// Why, for the user.
    pub reason: String,
}

/// What the decision depends on.
#[derive(Debug)]
struct Facts<'a> {
    qemu_instances: &'a Utf8Path,
    qemu_has_sheds: bool,
    firecracker_instances: &'a Utf8Path,
    firecracker_has_sheds: bool,
    /// Whether Firecracker can run machines here, and if not, why.
    firecracker: Result<(), String>,
}

/// Looks at the host and decides.
pub(super) fn detect(config: &Config, firecracker: Result<(), String>) -> Decision {
    let (qemu, fire) = (&config.qemu.common, &config.firecracker.common);
    decide(Facts {
        qemu_instances: &qemu.instance_dir,
        qemu_has_sheds: has_sheds(qemu),
        firecracker_instances: &fire.instance_dir,
        firecracker_has_sheds: has_sheds(fire),
        firecracker,
    })
}

/// Whether there is any. A directory that cannot be read has none that this server could run.
fn has_sheds(section: &CommonSection) -> bool {
    let Ok(mut entries) = section.instance_dir.read_dir_utf8() else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()))
}

fn decide(facts: Facts<'_>) -> Decision {
    let (kind, reason) = match (facts.qemu_has_sheds, facts.firecracker_has_sheds, facts.firecracker) {
        (true, false, usable) => {
            let there = format!("there are QEMU sheds in {}", facts.qemu_instances);
            let other = match usable {
                Ok(()) => "; `default_backend: firecracker` would leave them alone and begin anew",
                Err(_) => "",
            };
            (BackendKind::Qemu, format!("{there}{other}"))
        }
        (false, true, _) => {
            let there = format!("there are Firecracker sheds in {}", facts.firecracker_instances);
            (BackendKind::Firecracker, there)
        }
        (true, true, Ok(())) => {
            let reason = format!(
                "Firecracker can run here and has sheds; those of QEMU in {} are left alone (`default_backend: qemu`)",
                facts.qemu_instances
            );
            (BackendKind::Firecracker, reason)
        }
        (false, false, Ok(())) => (BackendKind::Firecracker, "Firecracker can run here".to_owned()),
        (_, _, Err(problem)) => (BackendKind::Qemu, format!("Firecracker cannot run here: {problem}")),
    };
    Decision { kind, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(qemu: bool, firecracker: bool, usable: bool) -> (BackendKind, String) {
        let Decision { kind, reason } = decide(Facts {
            qemu_instances: "/q".into(),
            qemu_has_sheds: qemu,
            firecracker_instances: "/f".into(),
            firecracker_has_sheds: firecracker,
            firecracker: if usable { Ok(()) } else { Err("there is no /dev/kvm".to_owned()) },
        });
        (kind, reason)
    }

    #[test]
    fn firecracker_is_taken_where_it_can_run_and_qemu_elsewhere() {
        assert_eq!(decided(false, false, true).0, BackendKind::Firecracker);
        let (kind, reason) = decided(false, false, false);
        assert_eq!(kind, BackendKind::Qemu);
        assert!(reason.contains("there is no /dev/kvm"), "{reason}");
    }

    #[test]
    fn sheds_that_are_there_are_not_lost_sight_of() {
        for usable in [false, true] {
            let (kind, reason) = decided(true, false, usable);
            assert_eq!(kind, BackendKind::Qemu);
            assert!(reason.contains("/q") && reason.contains("default_backend") == usable, "{reason}");
            // What cannot run now says so at the start, instead of an empty list.
            assert_eq!(decided(false, true, usable).0, BackendKind::Firecracker);
        }
        let (kind, reason) = decided(true, true, true);
        assert!(kind == BackendKind::Firecracker && reason.contains("/q"), "{reason}");
        assert_eq!(decided(true, true, false).0, BackendKind::Qemu);
    }
}
