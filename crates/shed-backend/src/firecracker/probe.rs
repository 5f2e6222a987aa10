//! Finds out whether this host can run Firecracker: the program, its version, and a KVM that is real.

use camino::{Utf8Path, Utf8PathBuf};

use super::{FirecrackerBackend, config::FirecrackerConfig};
use crate::{
    CheckHostError,
    programs::{Version, ask_version, find_program, is_program},
    qemu::real_kvm,
};

/// How to get the program.
const REMEDY: &str = "https://github.com/firecracker-microvm/firecracker/releases; key firecracker.binary";

/// The program's name where the configuration has none.
const PROGRAM: &str = "firecracker";

/// The oldest version that is known to understand our configuration file: the first that tells guests their devices by
/// ACPI, which Debian's kernel needs.
const OLDEST: Version = Version { major: 1, minor: 8, patch: 0 };

/// Finds the program.
///
/// # Errors
/// When it is not there.
pub(super) fn find(config: &FirecrackerConfig) -> Result<Utf8PathBuf, CheckHostError> {
    let missing = |program: String| CheckHostError::ProgramMissing { program, remedy: REMEDY };
    match &config.binary {
        Some(binary) if binary.is_absolute() && is_program(binary) => Ok(binary.clone()),
        Some(binary) => Err(missing(binary.to_string())),
        None => {
            let path = std::env::var("PATH").unwrap_or_default();
            find_program(PROGRAM, &path, is_program).ok_or_else(|| missing(PROGRAM.to_owned()))
        }
    }
}

impl FirecrackerBackend {
    /// Whether this host can run machines with Firecracker, as far as that is known without running anything: what decides
    /// whether it is taken where nobody asks for it.
    ///
    /// # Errors
    /// When it cannot; why, as the end of a sentence.
    pub fn runs_here(config: &FirecrackerConfig) -> Result<(), String> {
        let _binary = find(config).map_err(|_| match &config.binary {
            Some(path) => format!("there is no program {path}"),
            None => format!("there is no {PROGRAM} in PATH"),
        })?;
        real_kvm()?;
        if !shed_net::may_administer() {
            return Err("it needs a network of its own, and this user has no CAP_NET_ADMIN (`sudo shed-server setup`)"
                .to_owned());
        }
        Ok(())
    }
}

/// Asks the program for its version.
///
/// # Errors
/// When it does not say one, or one that is too old.
pub(super) async fn version(binary: &Utf8Path) -> Result<Version, CheckHostError> {
    ask_version(binary, parse).await?.at_least(OLDEST, binary)
}

/// Reads `Firecracker v1.14.1` and what may follow it (`-dev`, more lines).
fn parse(text: &str) -> Option<Version> {
    text.lines().find_map(|line| line.strip_prefix("Firecracker v")).and_then(Version::parse)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read_whatever_follows_them() {
        let parsed = |text: &str| parse(text).map(|version| version.to_string());
        assert_eq!(
            parsed("Firecracker v1.14.1\n\nSupported snapshot data format versions: 8.0.0\n").as_deref(),
            Some("1.14.1")
        );
        assert_eq!(parsed("Firecracker v1.17.0-dev\n").as_deref(), Some("1.17.0"));
        for text in
            ["", "firecracker 1.2.3", "Firecracker v1", "Firecracker v1.x.2", "Firecracker v99999999999.1.1"]
        {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert!(parse("Firecracker v1.7.9").unwrap() < OLDEST);
    }

    #[tokio::test]
    async fn a_program_that_is_none_or_too_old_is_refused_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("firecracker");
        let says = |text: &str| {
            std::fs::write(&path, format!("#!/bin/sh\necho '{text}'\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        says("hello");
        let error = version(&path).await.unwrap_err();
        assert!(format!("{error:?}").contains("hello"), "{error:?}");
        says("Firecracker v1.0.0");
        assert!(matches!(version(&path).await, Err(CheckHostError::TooOld { .. })));
        says("Firecracker v1.13.1");
        assert_eq!(version(&path).await.unwrap().to_string(), "1.13.1");
    }
}
