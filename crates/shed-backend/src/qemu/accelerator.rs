//! Chooses what runs a guest's instructions: a pure policy over facts that a thin probe collects.
//!
//! An accelerator that does not work must not be chosen: nested clouds and sandboxes show a /dev/kvm that opens and
//! even makes machines on a CPU without virtualisation, and no kernel ever boots on it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::config::GuestArch;
use crate::{Accelerator, CheckHostError, system};

/// What the user wants; `qemu.accel` in server.yaml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// The fastest that can be trusted to work.
    #[default]
    Auto,
    /// Linux KVM, even where detection doubts it.
    Kvm,
    /// macOS Hypervisor.framework.
    Hvf,
    /// QEMU's translator.
    Tcg,
}

/// Says that a text names no accelerator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an accelerator; use auto, kvm, hvf or tcg")]
pub struct ParseAcceleratorError(String);

impl FromStr for AcceleratorChoice {
    type Err = ParseAcceleratorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "hvf" => Ok(Self::Hvf),
            "tcg" => Ok(Self::Tcg),
            other => Err(ParseAcceleratorError(other.to_owned())),
        }
    }
}

/// What the host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostFacts {
    /// The host's architecture, as Rust names it.
    pub arch: &'static str,
    pub kvm: Offer,
    pub hvf: Offer,
    /// Whether the CPU shows vmx or svm; only x86 has them, and only Linux is asked.
    pub cpu_virtualization: bool,
}

/// Whether an accelerator can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Offer {
    Opens,
    /// And why not, as the end of a sentence.
    No(String),
}

/// The accelerator to use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub accelerator: Accelerator,
    pub reason: String,
}

/// Chooses an accelerator.
///
/// # Errors
/// When the user wants one that this host or this guest cannot have.
pub(super) fn choose(
    choice: AcceleratorChoice,
    guest: GuestArch,
    facts: &HostFacts,
) -> Result<Chosen, CheckHostError> {
    let foreign = (guest.as_str() != facts.arch)
        .then(|| format!("a guest for {} must be translated on a host for {}", guest.as_str(), facts.arch));
    let unreal = facts.arch == "x86_64" && !facts.cpu_virtualization;
    match choice {
        AcceleratorChoice::Auto => Ok(choose_best(foreign, unreal, facts)),
        AcceleratorChoice::Tcg => Ok(Chosen {
            accelerator: Accelerator::Tcg,
            reason: "qemu.accel in server.yaml says so".to_owned(),
        }),
        AcceleratorChoice::Kvm => insist("kvm", Accelerator::Kvm, foreign, &facts.kvm).map(|mut chosen| {
            if unreal {
                chosen.reason.push_str(", although the CPU shows neither vmx nor svm");
            }
            chosen
        }),
        AcceleratorChoice::Hvf => insist("hvf", Accelerator::Hvf, foreign, &facts.hvf),
    }
}

fn insist(
    wanted: &'static str,
    accelerator: Accelerator,
    foreign: Option<String>,
    offer: &Offer,
) -> Result<Chosen, CheckHostError> {
    match (foreign, offer) {
        (Some(reason), _) => Err(CheckHostError::Accelerator { wanted, reason }),
        (None, Offer::No(reason)) => Err(CheckHostError::Accelerator { wanted, reason: reason.clone() }),
        (None, Offer::Opens) => {
            Ok(Chosen { accelerator, reason: "qemu.accel in server.yaml says so".to_owned() })
        }
    }
}

fn choose_best(foreign: Option<String>, unreal: bool, facts: &HostFacts) -> Chosen {
    let tcg = |reason| Chosen { accelerator: Accelerator::Tcg, reason };
    match (foreign, &facts.kvm, &facts.hvf) {
        (Some(reason), _, _) => tcg(reason),
        (None, Offer::Opens, _) if unreal => {
            tcg("/dev/kvm opens, but the CPU shows neither vmx nor svm, so no guest would boot on it"
                .to_owned())
        }
        (None, Offer::Opens, _) => Chosen {
            accelerator: Accelerator::Kvm,
            reason: "/dev/kvm opens and the CPU has virtualisation".to_owned(),
        },
        (None, Offer::No(_), Offer::Opens) => {
            Chosen { accelerator: Accelerator::Hvf, reason: "this Mac has Hypervisor.framework".to_owned() }
        }
        (None, Offer::No(kvm), Offer::No(hvf)) => tcg(system::why_emulated(kvm, hvf).clone()),
    }
}

/// What to tell the user when a guest never answered: which accelerator it had, and how to choose another.
pub(super) fn advice(chosen: &Chosen) -> String {
    let Chosen { accelerator, reason } = chosen;
    match accelerator {
        Accelerator::Kvm => format!(
            "the guest ran with the accelerator kvm ({reason}); where KVM is broken, as in some nested clouds, set \
             `qemu.accel: tcg` in server.yaml"
        ),
        Accelerator::Hvf => format!(
            "the guest ran with the accelerator hvf ({reason}); set `qemu.accel: tcg` in server.yaml to try without"
        ),
        Accelerator::Tcg => format!(
            "the guest ran under software emulation, about ten times slower than a real machine ({reason}); raise \
             start_timeout in server.yaml if the console shows it was still booting"
        ),
    }
}

/// Looks at this host.
pub(super) fn probe() -> HostFacts {
    HostFacts {
        arch: std::env::consts::ARCH,
        kvm: offer(system::kvm()),
        hvf: offer(system::hvf()),
        cpu_virtualization: system::cpu_virtualization(),
    }
}

fn offer(asked: Result<(), String>) -> Offer {
    match asked {
        Ok(()) => Offer::Opens,
        Err(reason) => Offer::No(reason),
    }
}

/// Whether this host has a KVM on which guests boot.
///
/// # Errors
/// When it has none; why not, as the end of a sentence.
pub fn real_kvm() -> Result<(), String> {
    let facts = probe();
    match choose_best(None, facts.arch == "x86_64" && !facts.cpu_virtualization, &facts) {
        Chosen { accelerator: Accelerator::Kvm, .. } => Ok(()),
        Chosen { accelerator: Accelerator::Hvf | Accelerator::Tcg, reason } => Err(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(arch: &'static str, kvm: Offer, cpu_virtualization: bool) -> HostFacts {
        HostFacts { arch, kvm, hvf: Offer::No("no mac".into()), cpu_virtualization }
    }

    fn auto(guest: GuestArch, facts: &HostFacts) -> Accelerator {
        choose(AcceleratorChoice::Auto, guest, facts).unwrap().accelerator
    }

    #[test]
    fn a_kvm_device_without_cpu_support_is_not_believed() {
        let lying = facts("x86_64", Offer::Opens, false);
        assert_eq!(auto(GuestArch::X86_64, &lying), Accelerator::Tcg);
        let real = facts("x86_64", Offer::Opens, true);
        assert_eq!(auto(GuestArch::X86_64, &real), Accelerator::Kvm);
        let no_device = facts("x86_64", Offer::No("no".into()), true);
        assert_eq!(auto(GuestArch::X86_64, &no_device), Accelerator::Tcg);
    }

    #[test]
    fn arm_has_no_cpu_flag_to_ask_for() {
        let arm = facts("aarch64", Offer::Opens, false);
        assert_eq!(auto(GuestArch::Aarch64, &arm), Accelerator::Kvm);
    }

    #[test]
    fn a_foreign_guest_is_always_translated() {
        let real = facts("x86_64", Offer::Opens, true);
        assert_eq!(auto(GuestArch::Aarch64, &real), Accelerator::Tcg);
        let error = choose(AcceleratorChoice::Kvm, GuestArch::Aarch64, &real).unwrap_err();
        assert!(error.to_string().contains("must be translated"), "{error}");
    }

    #[test]
    fn the_user_may_insist_on_kvm_but_not_where_it_does_not_open() {
        let lying = facts("x86_64", Offer::Opens, false);
        let chosen = choose(AcceleratorChoice::Kvm, GuestArch::X86_64, &lying).unwrap();
        assert_eq!(chosen.accelerator, Accelerator::Kvm);
        assert!(chosen.reason.contains("neither vmx nor svm"), "{}", chosen.reason);
        let none = facts("x86_64", Offer::No("there is no /dev/kvm".into()), true);
        let error = choose(AcceleratorChoice::Kvm, GuestArch::X86_64, &none).unwrap_err();
        assert_eq!(error.to_string(), "accelerator kvm was asked for, but there is no /dev/kvm");
    }

    #[test]
    fn hvf_is_chosen_where_it_is_offered() {
        let mac = HostFacts {
            arch: "aarch64",
            kvm: Offer::No("no linux".into()),
            hvf: Offer::Opens,
            cpu_virtualization: false,
        };
        assert_eq!(auto(GuestArch::Aarch64, &mac), Accelerator::Hvf);
        assert_eq!(auto(GuestArch::X86_64, &mac), Accelerator::Tcg);
    }

    #[test]
    fn the_advice_names_the_accelerator_and_the_key() {
        let chosen = Chosen { accelerator: Accelerator::Kvm, reason: "because".into() };
        let text = advice(&chosen);
        assert!(
            text.contains("kvm") && text.contains("because") && text.contains("qemu.accel: tcg"),
            "{text}"
        );
    }

    #[test]
    fn the_names_in_the_config_are_read_and_others_refused() {
        assert_eq!("auto".parse(), Ok(AcceleratorChoice::Auto));
        assert_eq!("tcg".parse(), Ok(AcceleratorChoice::Tcg));
        assert!("KVM".parse::<AcceleratorChoice>().is_err());
    }
}
