//! The name of an entry: relative, and on its face nowhere but below where it is unpacked.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// Longest name of an entry, in bytes (PATH_MAX of Linux).
pub const MAX_PATH: usize = 4096;

/// Longest part of a name between two slashes, in bytes (NAME_MAX of Linux).
pub const MAX_NAME: usize = 255;

/// Most characters of a name that a message shows.
const SHOWN: usize = 200;

/// Says why bytes are not the name of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseEntryPathError {
    #[error("its name is absolute")]
    Absolute,
    #[error("its name has `..` in it")]
    Parent,
    #[error("its name has a zero byte in it")]
    Zero,
    #[error("its name is longer than {MAX_PATH} bytes, or a part of it longer than {MAX_NAME}")]
    TooLong,
}

/// A relative path without `.` and `..`; empty for the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntryPath(PathBuf);

impl EntryPath {
    /// Reads a name. Empty parts, `.` and a slash at the end are dropped.
    ///
    /// # Errors
    /// When the name is none that may be unpacked.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseEntryPathError> {
        if bytes.len() > MAX_PATH {
            return Err(ParseEntryPathError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(ParseEntryPathError::Zero);
        }
        if bytes.starts_with(b"/") {
            return Err(ParseEntryPathError::Absolute);
        }
        let mut path = OsString::new();
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(ParseEntryPathError::Parent),
                part if part.len() > MAX_NAME => return Err(ParseEntryPathError::TooLong),
                part => {
                    if !path.is_empty() {
                        path.push("/");
                    }
                    path.push(OsStr::from_bytes(part));
                }
            }
        }
        Ok(Self(PathBuf::from(path)))
    }

    /// Returns the path; empty for the directory itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Returns the bytes of the path.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_os_string().into_vec()
    }
}

/// Returns a name as a message shows it: on one line, without control characters, and not all of a long one.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, error) in [
            (&b"/etc/passwd"[..], ParseEntryPathError::Absolute),
            (b"..", ParseEntryPathError::Parent),
            (b"a/../../b", ParseEntryPathError::Parent),
            (b"a/..", ParseEntryPathError::Parent),
            (b"a\0b", ParseEntryPathError::Zero),
        ] {
            assert_eq!(EntryPath::parse(name), Err(error), "{}", shown(name));
        }
        assert_eq!(EntryPath::parse(&[b'a'; MAX_NAME + 1]), Err(ParseEntryPathError::TooLong));
        assert_eq!(EntryPath::parse(&b"a/".repeat(MAX_PATH)), Err(ParseEntryPathError::TooLong));
    }

    #[test]
    fn odd_names_that_lead_nowhere_else_are_kept() {
        for name in ["...", "a b", "a\nb", "..a", "ü", "-rf", "a\\b", "~"] {
            assert_eq!(EntryPath::parse(name.as_bytes()).unwrap().as_path(), Path::new(name));
        }
        for name in ["", ".", "./", "././/"] {
            assert_eq!(EntryPath::parse(name.as_bytes()).unwrap().as_path(), Path::new(""), "{name:?}");
        }
        assert_eq!(EntryPath::parse(b"./a//b/.").unwrap().as_path(), Path::new("a/b"));
    }

    #[test]
    fn a_shown_name_is_short_and_cannot_steer_a_terminal() {
        assert_eq!(shown(b"a\x1b[2J\nb\xff"), "a\\u{1b}[2J\\nb\u{fffd}");
        assert!(shown(&[b'x'; 5000]).chars().count() <= SHOWN + 1);
    }

    proptest! {
        #[test]
        fn fuzz_entry_path(bytes in prop::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..64)) {
            if let Ok(path) = EntryPath::parse(&bytes) {
                prop_assert!(path.as_path().components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
