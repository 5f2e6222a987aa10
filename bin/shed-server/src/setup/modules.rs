//! Modules of the kernel that did not come by themselves: loaded now, and by systemd at each boot (modules-load.d(5)).
//!
//! Most come when they are first asked for: bridge and nf_tables with the first of their kind, tun with /dev/net/tun, KVM's by
//! udev. So the file is only made on a host where one had to be loaded by hand.

use std::{fs, io, process::Command};

use camino::Utf8Path;
use shed_state::atomic;
use shed_types::error_chain;

use crate::step::Step;

/// What systemd reads at boot.
pub(super) const FILE: &str = "/etc/modules-load.d/shed.conf";

/// First line of it; one that begins otherwise is somebody else's.
const MARK: &str = "# Written by `shed-server setup`; `shed-server setup --remove` removes it.";

/// Loads a module and has it loaded at each boot. The file comes first: what is loaded is never without it.
///
/// # Errors
/// When it cannot be; what is in the way.
pub(super) fn load(module: &str) -> Result<(), String> {
    record(Utf8Path::new(FILE), module)?;
    let output = Command::new("modprobe").arg("--").arg(module).output();
    let output = output.map_err(|error| format!("modprobe cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("modprobe {module}: {}", said.trim().lines().next().unwrap_or("it failed")))
}

/// Removes the file when it is ours.
pub(super) fn forget(file: &Utf8Path) -> Option<Step> {
    const ITEM: &str = "modules";
    let removed = match fs::read_to_string(file) {
        Ok(text) if is_ours(&text) => fs::remove_file(file),
        Ok(_theirs) => return None,
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Some(Step::done(ITEM, format!("{file} is removed"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Step::failed(ITEM, format!("{file}: {error}")).hint(format!("sudo rm {file}"))),
    }
}

fn record(file: &Utf8Path, module: &str) -> Result<(), String> {
    let before = match fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{file}: {error}")),
    };
    let Some(text) = with(before.as_deref(), module).map_err(|problem| format!("{file} {problem}"))? else {
        return Ok(());
    };
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(|error| format!("{directory}: {error}"))?;
    }
    atomic::write(file, text.as_bytes(), 0o644).map_err(|error| error_chain(&error))
}

/// Returns the file with this module in it; nothing when it is in it already.
fn with(before: Option<&str>, module: &str) -> Result<Option<String>, &'static str> {
    match before {
        None => Ok(Some(format!("{MARK}\n{module}\n"))),
        Some(text) if !is_ours(text) => Err("is somebody else's, and left alone"),
        Some(text) if text.lines().any(|line| line == module) => Ok(None),
        Some(text) => Ok(Some(format!("{}\n{module}\n", text.trim_end()))),
    }
}

fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_recorded_once_and_only_in_a_file_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(dir.path()).unwrap().join("d/shed.conf");
        for module in ["tun", "kvm_amd", "tun"] {
            record(&file, module).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{MARK}\ntun\nkvm_amd\n"));
        assert!(forget(&file).is_some() && !file.exists() && forget(&file).is_none());
        fs::write(&file, "tun\n").unwrap();
        assert!(record(&file, "kvm_amd").unwrap_err().contains("somebody else's"));
        assert!(forget(&file).is_none() && file.exists());
    }
}
