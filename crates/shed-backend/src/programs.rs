//! Where the programs of other people are found that backends start, and which versions they are.

use std::{
    io,
    process::{Output, Stdio},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use tokio::{process::Command, time::timeout};

use crate::{CheckHostError, system::USUAL_PLACES};

/// Longest wait for `--version`.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Finds a program in a `PATH` and in the usual places of the system: what started a server may have given it a short
/// `PATH`. `is_program` says whether a path is one.
pub(crate) fn find_program(
    name: &str,
    path: &str,
    is_program: impl Fn(&Utf8Path) -> bool,
) -> Option<Utf8PathBuf> {
    // An entry that is not absolute would mean another program in another directory.
    let dirs = path.split(':').filter(|dir| dir.starts_with('/')).chain(USUAL_PLACES.iter().copied());
    dirs.map(|dir| Utf8Path::new(dir).join(name)).find(|candidate| is_program(candidate))
}

/// Whether this is a file that may be executed by somebody.
pub(crate) fn is_program(path: &Utf8Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A program's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Version {
    /// Reads three numbers with dots between them, and leaves what follows them.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
            digits.parse().ok()
        });
        let mut next = || numbers.next().flatten();
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }

    /// Returns this version when it is not older than `oldest`.
    ///
    /// # Errors
    /// When it is, with both.
    pub(crate) fn at_least(self, oldest: Self, program: &Utf8Path) -> Result<Self, CheckHostError> {
        if self >= oldest {
            return Ok(self);
        }
        let (found, oldest) = (self.to_string(), oldest.to_string());
        Err(CheckHostError::TooOld { program: program.to_string(), found, oldest })
    }
}

/// Asks a program for its version and returns what it printed.
///
/// # Errors
/// When it cannot be started, or does not end within [`PATIENCE`].
pub(crate) async fn asked_for_version(binary: &Utf8Path) -> io::Result<Output> {
    let asked = Command::new(binary)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, asked).await?
}

/// Asks a program for its version, which `parse` reads out of what it prints.
///
/// # Errors
/// When it cannot be started or does not answer, and with what it said when that is no version.
pub(crate) async fn ask_version<V>(
    binary: &Utf8Path,
    parse: impl Fn(&str) -> Option<V>,
) -> Result<V, CheckHostError> {
    let bad = |source| CheckHostError::Version { program: binary.to_string(), source };
    let output = asked_for_version(binary).await.map_err(bad)?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| {
        let said =
            text.chars().chain(String::from_utf8_lossy(&output.stderr).chars()).take(200).collect::<String>();
        bad(io::Error::other(format!("it said {said:?}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_comes_before_the_usual_places_and_relative_entries_are_ignored() {
        let there = |wanted: &'static [&'static str]| move |path: &Utf8Path| wanted.contains(&path.as_str());
        let find = |path, wanted| find_program("q", path, there(wanted)).map(Utf8PathBuf::into_string);
        assert_eq!(find("/a:/b", &["/b/q", "/usr/bin/q"]).as_deref(), Some("/b/q"));
        assert_eq!(find("/a:/b", &["/usr/bin/q"]).as_deref(), Some("/usr/bin/q"));
        assert_eq!(find(".:bin::", &["./q", "bin/q", "q", "/q"]), None);
        assert_eq!(find("", &["/usr/local/bin/q"]).as_deref(), Some("/usr/local/bin/q"));
    }

    #[test]
    fn a_directory_or_a_plain_file_is_no_program() {
        assert!(is_program(Utf8Path::new("/bin/sh")));
        assert!(!is_program(Utf8Path::new("/")));
        assert!(!is_program(Utf8Path::new("/etc/passwd")));
    }
}
