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

/// The backend that is better than QEMU on this system.
#[derive(Debug)]
pub(super) struct Best {
    /// The backend.
    pub(super) kind: BackendKind,
    /// Its name in sentences.
    pub(super) name: &'static str,
    /// Whether it can run machines here, and if not, why.
    pub(super) usable: Result<(), String>,
}

/// What the decision depends on.
#[derive(Debug)]
struct Facts<'a> {
    qemu_instances: &'a Utf8Path,
    qemu_has_sheds: bool,
    best: Best,
    best_instances: &'a Utf8Path,
    best_has_sheds: bool,
}

/// Looks at the host and decides.
pub(super) fn detect(config: &Config, best: Best) -> Decision {
    let (qemu, section) = (&config.qemu.common, super::section(config, best.kind));
    decide(Facts {
        qemu_instances: &qemu.instance_dir,
        qemu_has_sheds: has_sheds(qemu),
        best_instances: &section.instance_dir,
        best_has_sheds: has_sheds(section),
        best,
    })
}

/// Whether there is any. A directory that cannot be read has none that this server could run.
fn has_sheds(section: &CommonSection) -> bool {
    let Ok(mut entries) = section.instance_dir.read_dir_utf8() else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()))
}

fn decide(facts: Facts<'_>) -> Decision {
    let Best { kind: best, name, usable } = facts.best;
    let (kind, reason) = match (facts.qemu_has_sheds, facts.best_has_sheds, usable) {
        (true, false, usable) => {
            let there = format!("there are QEMU sheds in {}", facts.qemu_instances);
            let other = match usable {
                Ok(()) => format!("; `default_backend: {best}` would leave them alone and begin anew"),
                Err(_) => String::new(),
            };
            (BackendKind::Qemu, format!("{there}{other}"))
        }
        (false, true, _) => (best, format!("there are {name} sheds in {}", facts.best_instances)),
        (true, true, Ok(())) => {
            let reason = format!(
                "{name} can run here and has sheds; those of QEMU in {} are left alone (`default_backend: qemu`)",
                facts.qemu_instances
            );
            (best, reason)
        }
        (false, false, Ok(())) => (best, format!("{name} can run here")),
        (_, _, Err(problem)) => (BackendKind::Qemu, format!("{name} cannot run here: {problem}")),
    };
    Decision { kind, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided_for(best: Best, qemu: bool, has_sheds: bool) -> (BackendKind, String) {
        let Decision { kind, reason } = decide(Facts {
            qemu_instances: "/q".into(),
            qemu_has_sheds: qemu,
            best,
            best_instances: "/f".into(),
            best_has_sheds: has_sheds,
        });
        (kind, reason)
    }

    fn decided(qemu: bool, firecracker: bool, usable: bool) -> (BackendKind, String) {
        let usable = if usable { Ok(()) } else { Err("there is no /dev/kvm".to_owned()) };
        let best = Best { kind: BackendKind::Firecracker, name: "Firecracker", usable };
        decided_for(best, qemu, firecracker)
    }

    #[test]
    fn macos_takes_its_own_framework_unless_only_qemu_has_sheds() {
        let of = |qemu, vz| {
            let best = Best { kind: BackendKind::Vz, name: "Apple's framework", usable: Ok(()) };
            decided_for(best, qemu, vz)
        };
        for (qemu, vz, wanted) in [
            (false, false, BackendKind::Vz),
            (false, true, BackendKind::Vz),
            (true, true, BackendKind::Vz),
            (true, false, BackendKind::Qemu),
        ] {
            assert_eq!(of(qemu, vz).0, wanted);
        }
        assert!(of(true, false).1.contains("`default_backend: vz`"));
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
