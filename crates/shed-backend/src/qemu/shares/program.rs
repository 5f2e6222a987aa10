//! Finds the program that serves host directories: virtiofsd, in Rust, new enough to map owners by itself.
//!
//! Called before a machine with shares is made, and again when one starts. It starts each candidate once to ask for its
//! version; the older virtiofsd that came with QEMU before 8.0 has the same name and other options, and is passed over.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    CheckHostError,
    programs::{PATIENCE, asked_for_version, is_program},
};

/// The program's name.
const NAME: &str = "virtiofsd";

/// Where distributions put a program that only other programs start, besides `PATH`: Debian 13 and Ubuntu in
/// /usr/libexec, Arch in /usr/lib, older ones in /usr/lib/qemu.
const USUAL_PLACES: [&str; 3] = ["/usr/libexec", "/usr/lib/qemu", "/usr/lib"];

/// Where `cargo install` puts it, below the home directory.
const CARGO: &str = ".cargo/bin";

/// The first version that translates user and group ids by itself.
const OLDEST: (u32, u32) = (1, 13);

/// Returns where the program is looked for: the configured path alone, or each place it may have.
pub(in super::super) fn candidates(configured: Option<&Utf8Path>) -> Vec<Utf8PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").ok();
    places(configured, &path, home.as_deref())
}

fn places(configured: Option<&Utf8Path>, path: &str, home: Option<&str>) -> Vec<Utf8PathBuf> {
    if let Some(configured) = configured {
        return vec![configured.to_owned()];
    }
    let cargo = home.map(|home| Utf8Path::new(home).join(CARGO));
    // An entry that is not absolute would mean another program in another directory.
    let dirs = path.split(':').chain(USUAL_PLACES).map(Utf8PathBuf::from).chain(cargo);
    let mut found: Vec<Utf8PathBuf> = Vec::new();
    for place in dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(NAME)) {
        if !found.contains(&place) {
            found.push(place);
        }
    }
    found
}

/// Returns whether there is a candidate at all; starts nothing.
pub(in super::super) fn is_there(configured: Option<&Utf8Path>) -> bool {
    candidates(configured).iter().any(|path| is_program(path))
}

/// Finds the first candidate that can be used.
///
/// # Errors
/// When there is none, with every place and what is wrong with what is there.
pub(super) async fn find(configured: Option<&Utf8Path>) -> Result<Utf8PathBuf, CheckHostError> {
    let candidates = candidates(configured);
    let mut refused = Vec::new();
    for path in candidates.iter().filter(|path| is_program(path)) {
        match version(path).await {
            Ok(version) if version >= OLDEST => return Ok(path.clone()),
            Ok((major, minor)) => refused.push(format!("{path} is version {major}.{minor}")),
            Err(problem) => refused.push(format!("{path} {problem}")),
        }
    }
    let places: Vec<&str> = candidates.iter().map(|path| path.as_str()).collect();
    Err(CheckHostError::VirtiofsdMissing {
        places: places.join(", "),
        found: if refused.is_empty() { "it is in none of them".to_owned() } else { refused.join("; ") },
    })
}

async fn version(path: &Utf8Path) -> Result<(u32, u32), String> {
    match asked_for_version(path).await {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(format!("did not tell its version within {PATIENCE:?}"))
        }
        Err(error) => Err(format!("cannot be started: {error}")),
        Ok(output) => parse_version(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| "is another program of this name".to_owned()),
    }
}

/// Reads `virtiofsd 1.14.0`. The older program says `virtiofsd version 7.2.0 (…)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("virtiofsd ")?.split_whitespace().next()?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn path_comes_first_each_place_once_and_a_configured_one_alone() {
        let found = places(None, "/usr/libexec:bin::/x", Some("/home/ann"));
        let dirs: Vec<&str> = found.iter().map(|path| path.parent().unwrap().as_str()).collect();
        assert_eq!(dirs, ["/usr/libexec", "/x", "/usr/lib/qemu", "/usr/lib", "/home/ann/.cargo/bin"]);
        assert_eq!(places(Some("/opt/v".into()), "/x", None), ["/opt/v"]);
    }

    #[test]
    fn versions_are_told_from_those_of_the_older_program() {
        assert_eq!(parse_version("virtiofsd 1.14.0\n"), Some((1, 14)));
        assert_eq!(parse_version("virtiofsd 1.13.2-dev\n"), Some((1, 13)));
        for text in ["virtiofsd version 7.2.9 (Debian)", "", "virtiofsd", "virtiofsd x.y", "other 1.14"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_with_its_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("virtiofsd");
        let missing = find(Some(&path)).await.unwrap_err().to_string();
        assert!(missing.contains(path.as_str()) && missing.contains("scripts/setup.sh"), "{missing}");
        for (script, fault) in [
            ("echo virtiofsd 1.10.0", "is version 1.10"),
            ("echo virtiofsd version 7.2.0", "another program"),
        ] {
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let error = find(Some(&path)).await.unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
        std::fs::write(&path, "#!/bin/sh\necho virtiofsd 1.13.0\n").unwrap();
        assert_eq!(find(Some(&path)).await.unwrap(), path);
    }
}
