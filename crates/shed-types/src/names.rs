//! The names a user gives: sheds, images, credentials and tmux sessions.
//!
//! A name becomes a file name, a host name, an SSH user and a URL segment, so each rule here is the strictest of
//! those: no separators, no upper case where a host name would fold it, no leading dash that a tool could read as
//! a flag.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest shed name in bytes: a DNS label (RFC 1035 §2.3.4), because the shed's name is its host name.
const SHED_NAME_MAX: usize = 63;

/// Longest image name in bytes; with `-rootfs.ext4.source` it stays far below the 255 of Linux's NAME_MAX.
const IMAGE_NAME_MAX: usize = 128;

/// Longest credential name in bytes: with `cred-` before it, it is the tag of a virtio-fs device, which has 36 (virtio 1.2,
/// 5.11.4).
const CREDENTIAL_NAME_MAX: usize = 31;

/// Longest session name in bytes (spec A.1).
const SESSION_NAME_MAX: usize = 63;

/// Longest name of a unit in bytes (systemd's UNIT_NAME_MAX, without its terminating zero).
const UNIT_NAME_MAX: usize = 255;

/// Says why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    #[error("a {what} name must not be empty")]
    Empty { what: &'static str },
    #[error("a {what} name has at most {max} characters; this one has {len}")]
    TooLong { what: &'static str, max: usize, len: usize },
    #[error("{name:?} is no {what} name: {rule}")]
    Malformed { what: &'static str, name: String, rule: &'static str },
}

/// The name of a shed: `^[a-z]([a-z0-9-]*[a-z0-9])?$`, at most 63 characters (spec A.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ShedName(String);

/// The name of an image variant: letters, digits, `.`, `_` and `-`, beginning with a letter, digit or `_`.
///
/// `_base` is the cache of the configured base (spec I.2) and hidden from users, hence the leading underscore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ImageName(String);

/// The name of a tmux session: `^[A-Za-z0-9][A-Za-z0-9_-]*$`, at most 63 characters (spec A.1).
///
/// It has no `:` and no `.`, which separate windows and panes in tmux's targets, and no leading dash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SessionName(String);

/// The name of a credential: `^[A-Za-z0-9][A-Za-z0-9_-]*$` (spec E), at most 31 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CredentialName(String);

/// The name of a unit of systemd, with or without its `.service`: ASCII letters, digits and `:-_.\\@` (systemd.unit(5)), at
/// most 255 characters. Patterns are none, and nor is what a program could read as a flag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UnitName(String);

impl FromStr for ShedName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "shed";
        check_length(WHAT, text, SHED_NAME_MAX)?;
        let malformed = |rule| ParseNameError::Malformed { what: WHAT, name: text.to_owned(), rule };
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(malformed("it begins with a lower-case letter"));
        }
        if text.ends_with('-') {
            return Err(malformed("it ends with a letter or a digit"));
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(malformed("it has only lower-case letters, digits and hyphens"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for ImageName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "image";
        check_length(WHAT, text, IMAGE_NAME_MAX)?;
        let malformed = |rule| ParseNameError::Malformed { what: WHAT, name: text.to_owned(), rule };
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            return Err(malformed("it begins with a letter, a digit or an underscore"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(malformed("it has only letters, digits, dots, underscores and hyphens"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for SessionName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_word("session", text, SESSION_NAME_MAX)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for CredentialName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_word("credential", text, CREDENTIAL_NAME_MAX)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for UnitName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "unit";
        check_length(WHAT, text, UNIT_NAME_MAX)?;
        let malformed = |rule| ParseNameError::Malformed { what: WHAT, name: text.to_owned(), rule };
        if text.starts_with('-') {
            return Err(malformed("it does not begin with a hyphen"));
        }
        let allowed =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
        if !text.bytes().all(allowed) {
            return Err(malformed("it has only letters, digits and the characters :-_.\\@"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Checks for `^[A-Za-z0-9][A-Za-z0-9_-]*$`.
fn check_word(what: &'static str, text: &str, max: usize) -> Result<(), ParseNameError> {
    check_length(what, text, max)?;
    let malformed = |rule| Err(ParseNameError::Malformed { what, name: text.to_owned(), rule });
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return malformed("it begins with a letter or a digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        return malformed("it has only letters, digits, underscores and hyphens");
    }
    Ok(())
}

fn check_length(what: &'static str, text: &str, max: usize) -> Result<(), ParseNameError> {
    if text.is_empty() {
        return Err(ParseNameError::Empty { what });
    }
    let len = text.chars().count();
    if len > max { Err(ParseNameError::TooLong { what, max, len }) } else { Ok(()) }
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

impl ImageName {
    /// Returns the name under which the configured base is cached when it is a reference.
    #[must_use]
    pub fn configured_base() -> Self {
        Self("_base".to_owned())
    }

    /// Tells whether the image is Shed's own: not shown to users, and nothing they can ask for.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with('_')
    }
}

text_type!(ShedName);
text_type!(ImageName);
text_type!(SessionName);
text_type!(CredentialName);
text_type!(UnitName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_shed_names_parse() {
        for name in ["a", "api", "a1", "my-shed-2", "a--b", &"a".repeat(63)] {
            assert_eq!(name.parse::<ShedName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn bad_shed_names_are_refused() {
        for name in [
            "",
            "1a",
            "-a",
            "a-",
            "A",
            "aB",
            "a_b",
            "a.b",
            "..",
            "a/b",
            "ü",
            "a\n",
            "_api",
            " a",
            &"a".repeat(64),
        ] {
            assert!(name.parse::<ShedName>().is_err(), "{name:?} must be refused");
        }
    }

    #[test]
    fn session_names_cannot_be_read_as_a_target_or_a_flag() {
        for name in ["", "-t", "a:b", "a.b", "a b", "=a", "_a", "ü", "a\n", &"a".repeat(64)] {
            assert!(name.parse::<SessionName>().is_err(), "{name:?} must be refused");
        }
        for name in ["default", "9", "A-b_C", &"a".repeat(63)] {
            assert!(name.parse::<SessionName>().is_ok(), "{name:?} is fine");
        }
    }

    #[test]
    fn unit_names_are_no_flags_and_no_patterns() {
        for name in [
            "ssh",
            "ssh.service",
            "getty@tty1.service",
            "dev-disk-by\\x2dlabel.device",
            "a:b_c",
            &"u".repeat(255),
        ] {
            assert!(name.parse::<UnitName>().is_ok(), "{name:?} is fine");
        }
        for name in ["", "-u", "--user", "a b", "a*", "a?", "[a]", "a/b", "a=b", "a\n", "ü", &"u".repeat(256)]
        {
            assert!(name.parse::<UnitName>().is_err(), "{name:?} must be refused");
        }
    }

    #[test]
    fn image_names_cannot_leave_the_images_directory() {
        for name in ["..", ".", "a/b", "/etc/passwd", "", "-n", "a b", "a\0", ".hidden"] {
            assert!(name.parse::<ImageName>().is_err(), "{name:?} must be refused");
        }
        for name in ["base", "_base", "my.image_v1-2", "9"] {
            assert!(name.parse::<ImageName>().is_ok(), "{name:?} is fine");
        }
    }

    #[test]
    fn a_name_in_json_is_checked_too() {
        assert!(serde_json::from_str::<ShedName>("\"../x\"").is_err());
        assert_eq!(serde_json::to_string(&"api".parse::<ShedName>().unwrap()).unwrap(), "\"api\"");
    }

    proptest! {
        #[test]
        fn whatever_parses_is_a_safe_path_segment(text in "\\PC{0,70}") {
            if let Ok(name) = text.parse::<ShedName>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!name.as_str().contains(['/', '.', '\0']));
                prop_assert!(name.as_str().len() <= 63);
            }
        }
    }
}
