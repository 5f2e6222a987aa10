//! Which paths vfkit understands as they are meant (docs/adr/0014-vfkit-command-line.md).
//!
//! Called when server.yaml is read, when the host is checked, and for each command line: a path that vfkit would read in
//! another way is refused with the reason before anything is made. It looks at no file.

use camino::Utf8Path;

use super::sockets;

/// Returns why a file or directory cannot be named to vfkit, as the end of a sentence about it; nothing when it can. Spaces
/// and `~` have no meaning there.
#[must_use]
pub fn file_problem(path: &Utf8Path) -> Option<&'static str> {
    if !path.is_absolute() {
        return Some("it is not absolute, and vfkit runs in another directory");
    }
    if path.as_str().contains(',') {
        return Some("it has a comma, at which vfkit splits its options; choose a path without one");
    }
    if path.as_str().chars().any(char::is_control) {
        return Some("it has a control character");
    }
    None
}

/// Returns why a kernel or an initramfs cannot be named to vfkit, as [`file_problem`] does. What boots a machine is one option
/// with parts that may be in quotation marks.
#[must_use]
pub fn boot_file_problem(path: &Utf8Path) -> Option<&'static str> {
    match file_problem(path) {
        None if path.as_str().contains('"') => {
            Some("it has a quotation mark, which vfkit takes for its own; choose a path without one")
        }
        problem => problem,
    }
}

/// Returns why a directory cannot have the machines' sockets, as the end of a sentence about it; nothing when it can.
///
/// vfkit makes a URL of a socket's path and takes the path out of it again in escaped form, so that a space is `%20` in the
/// name of the socket that it makes.
#[must_use]
pub fn socket_dir_problem(path: &Utf8Path) -> Option<&'static str> {
    if let Some(problem) = file_problem(path) {
        return Some(problem);
    }
    if path.as_str().contains(' ') {
        return Some(
            "it has a space, of which vfkit makes %20 in the name of a socket; choose a path without one",
        );
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._~-".contains(c);
    if !path.as_str().chars().all(is_plain) {
        return Some(
            "it has a character that vfkit writes in another way in the name of a socket; choose a path of letters, \
             digits, and . _ - ~",
        );
    }
    if path.as_str().len() > sockets::longest_dir() {
        return Some("it is too long for the names of sockets in it; choose a shorter one");
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_may_have_spaces_and_sockets_may_not() {
        let path = Utf8Path::new("/Users/ann/Library/Application Support/shed/vz/instances/api/rootfs.ext4");
        assert_eq!(file_problem(path), None);
        assert!(socket_dir_problem(path).unwrap().contains("%20"));
        for plain in ["/Users/ann/.shed/vz/sockets", "/tmp/a~b_c-d.e/F9"] {
            assert_eq!(socket_dir_problem(Utf8Path::new(plain)), None, "{plain}");
        }
    }

    #[test]
    fn what_vfkit_reads_otherwise_is_refused_with_the_reason() {
        let problems = [
            ("a/b", "not absolute"),
            ("~/b", "not absolute"),
            ("/a,readonly", "comma"),
            ("/a\nb", "control character"),
            ("/a\0", "control character"),
        ];
        for (path, word) in problems {
            assert!(file_problem(Utf8Path::new(path)).unwrap().contains(word), "{path:?}");
            assert!(socket_dir_problem(Utf8Path::new(path)).unwrap().contains(word), "{path:?}");
        }
        let quoted = Utf8Path::new("/a\"b");
        assert!(boot_file_problem(quoted).unwrap().contains("quotation mark"));
        assert!(boot_file_problem(Utf8Path::new("/a,b")).unwrap().contains("comma"));
        for path in ["/a\"b", "/a%20b", "/a?b", "/a#b", "/ä", "/a:b", "/a;b", "/[a]"] {
            assert!(socket_dir_problem(Utf8Path::new(path)).is_some(), "{path}");
            assert_eq!(file_problem(Utf8Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_directory_that_leaves_no_room_for_a_name_is_refused() {
        let longest = format!("/{}", "d".repeat(sockets::longest_dir() - 1));
        assert_eq!(socket_dir_problem(Utf8Path::new(&longest)), None);
        assert!(socket_dir_problem(Utf8Path::new(&format!("{longest}d"))).unwrap().contains("too long"));
    }

    proptest! {
        #[test]
        fn a_path_that_is_taken_has_none_of_the_characters_with_a_meaning(path in "/.*") {
            let path = Utf8Path::new(&path);
            if file_problem(path).is_none() {
                prop_assert!(!path.as_str().contains([',', '\n', '\0']));
            }
            if socket_dir_problem(path).is_none() {
                prop_assert!(!path.as_str().contains([' ', '%', '?', '#', ',']) && path.as_str().is_ascii());
            }
        }
    }
}
