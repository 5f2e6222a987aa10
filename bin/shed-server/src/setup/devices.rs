//! /dev/kvm and /dev/net/tun: there, and open to the server's user.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    process::Command,
};

use shed_backend::qemu::real_kvm;
use shed_types::BackendKind;

use super::modules;
use crate::{
    account::{Account, not_as},
    step::Step,
};

const KVM: &str = "/dev/kvm";
const TUN: &str = "/dev/net/tun";

/// Bits of a mode that let a group read and write.
const GROUP_READS_AND_WRITES: u32 = 0o060;

/// Makes KVM be there where the processor has it. What that came to is for [`kvm_step`] to tell.
pub(super) fn wake_kvm() -> Result<bool, String> {
    if fs::exists(KVM).unwrap_or(false) {
        return Ok(false);
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match kvm_module(&cpuinfo) {
        Some(module) => modules::load(module).map(|()| true),
        None => Ok(false),
    }
}

/// Returns the module of KVM for a processor; nothing when it has no virtualisation, or needs no module of its own.
fn kvm_module(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    flags.split_ascii_whitespace().find_map(|flag| match flag {
        "vmx" => Some("kvm_intel"),
        "svm" => Some("kvm_amd"),
        _other => None,
    })
}

/// Says how KVM is, for a server of this backend.
pub(super) fn kvm_step(woken: Result<bool, String>, kind: BackendKind) -> Step {
    const ITEM: &str = "KVM";
    const HINT: &str =
        "turn virtualisation on in the firmware, or nested virtualisation in the host of this machine";
    match (woken, real_kvm(), kind) {
        (Ok(true), Ok(()), _) => Step::done(ITEM, "its module is loaded, now and at each boot"),
        (Ok(false) | Err(_), Ok(()), _) => Step::was_so(ITEM, "it is there and real"),
        (Err(problem), Err(_), BackendKind::Firecracker) => Step::failed(ITEM, problem).hint(HINT),
        (Ok(_), Err(reason), BackendKind::Firecracker) => Step::failed(ITEM, reason).hint(HINT),
        (_, Err(_), BackendKind::Vz) => Step::was_so(ITEM, "sheds of this backend run without it"),
        (_, Err(reason), BackendKind::Qemu) => {
            Step::was_so(ITEM, format!("sheds run without it, about ten times slower: {reason}")).hint(HINT)
        }
    }
}

/// Lets an ordinary user open /dev/kvm. Nothing is told where there is none.
pub(super) fn kvm_for(account: &Account) -> Option<Step> {
    const ITEM: &str = "KVM's group";
    if account.is_root() {
        return None;
    }
    let device = fs::metadata(KVM).ok()?;
    match account.act(|| OpenOptions::new().read(true).write(true).open(KVM).map(drop)) {
        Ok(Ok(())) => return Some(Step::was_so(ITEM, format!("{} may open {KVM}", account.name))),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Ok(Err(error)) => return Some(Step::failed(ITEM, format!("{KVM} does not open: {error}"))),
        Err(error) => return Some(Step::failed(ITEM, not_as(account, &error))),
    }
    let group_may = device.mode() & GROUP_READS_AND_WRITES == GROUP_READS_AND_WRITES;
    if device.gid() == 0 || !group_may {
        let problem = format!("{} may not open {KVM}, and it has no group for that", account.name);
        let hint = format!(
            "sudo setfacl -m u:{}:rw {KVM}, or a rule of udev that gives it the group kvm",
            account.name
        );
        return Some(Step::failed(ITEM, problem).hint(hint));
    }
    Some(match join(account, device.gid()) {
        Ok(group) => {
            Step::done(ITEM, format!("{} is in the group {group} now, which may open {KVM}", account.name))
                .hint("sessions that are open know it after the next login")
        }
        Err(problem) => {
            Step::failed(ITEM, problem).hint(format!("sudo usermod -aG {} {}", device.gid(), account.name))
        }
    })
}

/// Puts the user into a group; returns its name.
fn join(account: &Account, gid: u32) -> Result<String, String> {
    let found = Command::new("getent").args(["group", &gid.to_string()]).output();
    let found = found.map_err(|error| format!("getent cannot be run: {error}"))?;
    let line = String::from_utf8_lossy(&found.stdout).into_owned();
    let Some((group, _)) = line.split_once(':') else {
        return Err(format!("the group {gid} of {KVM} has no name"));
    };
    // Not `--`: some versions of usermod know no end of options, and neither name begins with a hyphen.
    let joined = Command::new("usermod").args(["-a", "-G", group, &account.name]).output();
    let joined = joined.map_err(|error| format!("usermod cannot be run: {error}"))?;
    if joined.status.success() {
        Ok(group.to_owned())
    } else {
        Err(format!("usermod: {}", String::from_utf8_lossy(&joined.stderr).trim()))
    }
}

/// Makes the driver of TAPs be there, and looks whether the user may open it.
pub(super) fn tun_for(account: &Account) -> Step {
    const ITEM: &str = "TAP driver";
    let open = || account.act(|| OpenOptions::new().read(true).write(true).open(TUN).map(drop));
    let (loaded, opened) = match open() {
        Ok(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => {
            (Some(modules::load("tun")), open())
        }
        other => (None, other),
    };
    match (loaded, opened) {
        (Some(Ok(())), Ok(Ok(()))) => Step::done(ITEM, "its module is loaded, now and at each boot"),
        (_, Ok(Ok(()))) => Step::was_so(ITEM, format!("{} may open {TUN}", account.name)),
        (Some(Err(problem)), Ok(Err(_))) => Step::failed(ITEM, problem)
            .hint("take a kernel that has CONFIG_TUN, or load it where modules may be loaded"),
        (_, Ok(Err(error))) => Step::failed(ITEM, format!("{TUN} does not open: {error}"))
            .hint(format!("sudo chmod 0666 {TUN}: it is the capability that matters")),
        (_, Err(error)) => Step::failed(ITEM, not_as(account, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Outcome;

    #[test]
    fn the_processor_says_which_module_it_is() {
        assert_eq!(kvm_module("processor : 0\nflags\t\t: fpu vmx sse\n"), Some("kvm_intel"));
        assert_eq!(kvm_module("flags : fpu svm\n"), Some("kvm_amd"));
        for none in ["", "flags : fpu svm_lock\n", "Features : fp asimd\n"] {
            assert_eq!(kvm_module(none), None, "{none}");
        }
    }

    #[test]
    fn without_kvm_firecracker_fails_and_qemu_does_not() {
        if real_kvm().is_err() {
            assert_eq!(kvm_step(Ok(false), BackendKind::Firecracker).outcome, Outcome::Failed);
            assert_eq!(kvm_step(Ok(false), BackendKind::Qemu).outcome, Outcome::WasSo);
        } else {
            assert_eq!(kvm_step(Ok(true), BackendKind::Firecracker).outcome, Outcome::Done);
        }
    }
}
