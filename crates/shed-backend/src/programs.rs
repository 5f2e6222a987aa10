//! Where the programs of other people are found that backends start.

use camino::{Utf8Path, Utf8PathBuf};

/// Where programs are looked for behind `PATH`: a server started by systemd or launchd has a short one.
const USUAL_PLACES: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin", "/usr/libexec"];

/// Finds a program in a `PATH` and in the usual places. `is_program` says whether a path is one.
pub(crate) fn find_program(
    name: &str,
    path: &str,
    is_program: impl Fn(&Utf8Path) -> bool,
) -> Option<Utf8PathBuf> {
    // An entry that is not absolute would mean another program in another directory.
    let dirs = path.split(':').filter(|dir| dir.starts_with('/')).chain(USUAL_PLACES);
    dirs.map(|dir| Utf8Path::new(dir).join(name)).find(|candidate| is_program(candidate))
}

/// Whether this is a file that may be executed by somebody.
pub(crate) fn is_program(path: &Utf8Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
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
        assert_eq!(find("", &["/opt/homebrew/bin/q"]).as_deref(), Some("/opt/homebrew/bin/q"));
    }

    #[test]
    fn a_directory_or_a_plain_file_is_no_program() {
        assert!(is_program(Utf8Path::new("/bin/sh")));
        assert!(!is_program(Utf8Path::new("/")));
        assert!(!is_program(Utf8Path::new("/etc/passwd")));
    }
}
