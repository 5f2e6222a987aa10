//! Finds out whether this host can run Firecracker: the program, its version, and a KVM that is real.

use std::{io, process::Stdio, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use tokio::{process::Command, time::timeout};

use super::{FirecrackerBackend, config::FirecrackerConfig};
use crate::{
    CheckHostError,
    programs::{find_program, is_program},
    qemu::real_kvm,
};

/// How to get the program.
const REMEDY: &str = "https://github.com/firecracker-microvm/firecracker/releases; key firecracker.binary";

/// The program's name where the configuration has none.
const PROGRAM: &str = "firecracker";

/// Longest wait for `--version`.
const PATIENCE: Duration = Duration::from_secs(20);

/// The oldest version that is known to understand our configuration file: the first that tells guests their devices by
/// ACPI, which Debian's kernel needs.
pub(super) const OLDEST: Version = Version { major: 1, minor: 8, patch: 0 };

/// Firecracker's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

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
    let bad = |source| CheckHostError::Version { program: binary.to_string(), source };
    let asked = Command::new(binary)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, asked).await.map_err(|late| bad(late.into()))?.map_err(bad)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse(&text).ok_or_else(|| {
        let said =
            text.chars().chain(String::from_utf8_lossy(&output.stderr).chars()).take(200).collect::<String>();
        bad(io::Error::other(format!("it said {said:?}")))
    })?;
    if version < OLDEST {
        let (found, oldest) = (version.to_string(), OLDEST.to_string());
        return Err(CheckHostError::TooOld { program: binary.to_string(), found, oldest });
    }
    Ok(version)
}

/// Reads `Firecracker v1.14.1` and what may follow it (`-dev`, more lines).
fn parse(text: &str) -> Option<Version> {
    let words = text.lines().find_map(|line| line.strip_prefix("Firecracker v"))?;
    let mut numbers = words.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
        digits.parse().ok()
    });
    let mut next = || numbers.next().flatten();
    Some(Version { major: next()?, minor: next()?, patch: next()? })
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
