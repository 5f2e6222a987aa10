//! Finds vfkit's program and asks it once which version it is.
//!
//! Called by the check of the host. It starts no machine: whether the framework lets this program run one is known when the
//! first one starts.

use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};

use super::config::VzConfig;
use crate::{
    CheckHostError,
    programs::{Version, ask_version, find_program, is_program},
};

/// How to get the program.
const REMEDY: &str = "macOS: brew install vfkit; key vz.vfkit_path";

/// The oldest version that is known to understand our command line: the first one with read-only disks.
const OLDEST: Version = Version { major: 0, minor: 6, patch: 0 };

/// What vfkit says of its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VfkitVersion {
    /// A release, or what was built some way behind one.
    Release(Version),
    /// What was built from sources without their history is named by a commit, or not at all.
    Unnumbered(String),
}

impl fmt::Display for VfkitVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release(version) => version.fmt(f),
            Self::Unnumbered(name) => f.write_str(name),
        }
    }
}

/// Finds the program.
///
/// # Errors
/// When it is not there.
pub(super) fn find(config: &VzConfig) -> Result<Utf8PathBuf, CheckHostError> {
    let name = &config.vfkit_path;
    let found = if name.as_str().contains('/') {
        Some(name.clone()).filter(|path| path.is_absolute() && is_program(path))
    } else {
        find_program(name.as_str(), &std::env::var("PATH").unwrap_or_default(), is_program)
    };
    found.ok_or_else(|| CheckHostError::ProgramMissing { program: name.to_string(), remedy: REMEDY })
}

/// Asks the program for its version.
///
/// # Errors
/// When it does not say one, or one that is too old.
pub(super) async fn version(binary: &Utf8Path) -> Result<VfkitVersion, CheckHostError> {
    match ask_version(binary, parse).await? {
        VfkitVersion::Release(version) => version.at_least(OLDEST, binary).map(VfkitVersion::Release),
        unnumbered @ VfkitVersion::Unnumbered(_) => Ok(unnumbered),
    }
}

/// Reads `vfkit version: v0.6.4`, where the `v` and what follows the numbers may be or not.
fn parse(text: &str) -> Option<VfkitVersion> {
    let name = text.lines().find_map(|line| line.strip_prefix("vfkit version: "))?.trim();
    let version = Version::parse(name.strip_prefix('v').unwrap_or(name));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match version {
        Some(version) => Some(VfkitVersion::Release(version)),
        None if !name.is_empty() && name.len() <= 60 && name.chars().all(is_word) => {
            Some(VfkitVersion::Unnumbered(name.to_owned()))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read_as_releases_packages_and_builds_say_them() {
        let said = |text: &str| parse(text).map(|version| version.to_string());
        assert_eq!(said("vfkit version: v0.6.4\n").as_deref(), Some("0.6.4"));
        assert_eq!(said("vfkit version: 0.6.1\n").as_deref(), Some("0.6.1"));
        assert_eq!(said("vfkit version: v0.6.3-12-gb2bc27e-dirty\n").as_deref(), Some("0.6.3"));
        assert_eq!(said("vfkit version: b2bc27e\n").as_deref(), Some("b2bc27e"));
        assert_eq!(said("vfkit version: unknown\n").as_deref(), Some("unknown"));
        for text in [
            "",
            "vfkit",
            "vfkit version:",
            "vfkit version: \n",
            "krunkit version: v1.0.0",
            "vfkit version: a b",
        ] {
            assert_eq!(said(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_none_or_too_old_is_refused_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("vfkit");
        let says = |text: &str| {
            std::fs::write(&path, format!("#!/bin/sh\n[ \"$*\" = --version ] && echo '{text}'\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        says("hello");
        let error = version(&path).await.unwrap_err();
        assert!(format!("{error:?}").contains("hello"), "{error:?}");
        says("vfkit version: 0.5.1");
        assert!(matches!(version(&path).await, Err(CheckHostError::TooOld { .. })));
        says("vfkit version: v0.6.4");
        assert_eq!(version(&path).await.unwrap().to_string(), "0.6.4");
    }

    #[test]
    fn a_program_is_found_by_its_path_or_its_name_and_a_remedy_named() {
        let with = |path: &str| find(&VzConfig { vfkit_path: path.into(), ..VzConfig::new("/s") });
        assert_eq!(with("/bin/sh").unwrap(), "/bin/sh");
        assert!(with("sh").unwrap().is_absolute());
        for missing in ["/no/such/vfkit", "bin/sh", "no-such-vfkit"] {
            let error = with(missing).unwrap_err().to_string();
            assert!(error.contains(missing) && error.contains("brew install vfkit"), "{error}");
        }
    }
}
