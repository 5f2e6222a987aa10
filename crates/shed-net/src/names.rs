//! Names of devices and of the server that owns them.
//!
//! They become names of interfaces, parts of paths below /proc/sys and words of rules, so only what means nothing special in
//! any of these is taken.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::lease::LeaseIndex;

/// Longest name of an interface in bytes (IFNAMSIZ of linux/if.h, without its terminating zero).
pub(crate) const DEVICE_NAME_MAX: usize = 15;

/// Longest prefix of TAPs: four digits of an index follow ([`LeaseIndex`]).
const PREFIX_MAX: usize = DEVICE_NAME_MAX - 4;

/// Longest id of a server in characters; with the longest shed name it fits an interface's alias (255, IFALIASZ).
const SERVER_ID_MAX: usize = 64;

/// Directories of /proc/sys/net/ipv4/conf that are no interface, and the interface that every host has.
const RESERVED: [&str; 3] = ["all", "default", "lo"];

/// Says why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetNameError {
    #[error("{what} must not be empty")]
    Empty { what: &'static str },
    #[error("{what} has at most {max} characters; {name:?} has more")]
    TooLong { what: &'static str, max: usize, name: String },
    #[error("{name:?} cannot be {what}: {rule}")]
    Malformed { what: &'static str, name: String, rule: &'static str },
}

/// The name of the bridge, like `shed-br0`: letters, digits, `-` and `_`, beginning with a letter, at most 15 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeName(String);

/// What the names of TAPs begin with, like `shed-tap`: as [`BridgeName`], at most 11 characters, and not ending in a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapPrefix(String);

/// The name of a shed's TAP: prefix and index, like `shed-tap7`. It comes from [`LeaseIndex`] only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapName(String);

/// Names the server that devices belong to: letters, digits, `-`, `_` and `.`, at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(String);

impl FromStr for BridgeName {
    type Err = ParseNetNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "the name of a bridge";
        check_device_word(WHAT, text, DEVICE_NAME_MAX)?;
        if RESERVED.contains(&text) {
            return Err(malformed(WHAT, text, "the system uses this name itself"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for TapPrefix {
    type Err = ParseNetNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "the prefix of TAPs";
        check_device_word(WHAT, text, PREFIX_MAX)?;
        if text.ends_with(|c: char| c.is_ascii_digit()) {
            return Err(malformed(WHAT, text, "it must not end with a digit, because a number follows"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for ServerId {
    type Err = ParseNetNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "the id of a server";
        check_length(WHAT, text, SERVER_ID_MAX)?;
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(malformed(WHAT, text, "it has only letters, digits, hyphens, underscores and dots"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl ServerId {
    /// Makes an id of the path of a server's instance directory, which no other server on the host can have: the first
    /// 16 digits of its SHA-256.
    #[must_use]
    pub fn of_directory(path: &str) -> Self {
        Self(hex::encode(&Sha256::digest(path.as_bytes())[..8]))
    }
}

impl TapPrefix {
    /// Returns the name of the TAP of an index.
    #[must_use]
    pub fn tap(&self, index: LeaseIndex) -> TapName {
        TapName(format!("{}{index}", self.0))
    }

    /// Returns the index in a TAP's name: nothing for a name that [`Self::tap`] does not make.
    pub(crate) fn index_of(&self, name: &str) -> Option<LeaseIndex> {
        let digits = name.strip_prefix(&self.0)?;
        let index = digits.parse::<u16>().ok().and_then(LeaseIndex::new)?;
        (index.to_string() == digits).then_some(index)
    }
}

macro_rules! text {
    ($($name:ident),+) => {$(
        impl $name {
            /// Returns the text.
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
    )+};
}
text!(BridgeName, TapPrefix, TapName, ServerId);

fn check_device_word(what: &'static str, text: &str, max: usize) -> Result<(), ParseNetNameError> {
    check_length(what, text, max)?;
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(malformed(what, text, "it begins with a letter"));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(malformed(what, text, "it has only letters, digits, hyphens and underscores"));
    }
    Ok(())
}

fn check_length(what: &'static str, text: &str, max: usize) -> Result<(), ParseNetNameError> {
    if text.is_empty() {
        return Err(ParseNetNameError::Empty { what });
    }
    if text.len() > max {
        return Err(ParseNetNameError::TooLong { what, max, name: shortened(text) });
    }
    Ok(())
}

fn malformed(what: &'static str, text: &str, rule: &'static str) -> ParseNetNameError {
    ParseNetNameError::Malformed { what, name: text.to_owned(), rule }
}

/// A hostile text goes into an error with its beginning only.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_defaults_are_names() {
        assert_eq!("shed-br0".parse::<BridgeName>().unwrap().to_string(), "shed-br0");
        let prefix: TapPrefix = "shed-tap".parse().unwrap();
        let index = LeaseIndex::new(1023).unwrap();
        assert_eq!(prefix.tap(index).as_str(), "shed-tap1023");
        assert_eq!(prefix.index_of("shed-tap1023"), Some(index));
        assert_eq!("abcdefghijk".parse::<TapPrefix>().unwrap().tap(index).as_str().len(), DEVICE_NAME_MAX);
    }

    #[test]
    fn what_a_kernel_a_path_or_a_rule_could_take_for_something_else_is_refused() {
        for text in [
            "",
            "br/0",
            "..",
            ".",
            "br 0",
            "br%d",
            "br*",
            "br:1",
            "br\n0",
            "0br",
            "-br",
            "a234567890123456",
            "all",
            "default",
            "lo",
            "brücke",
            "br\0",
        ] {
            assert!(text.parse::<BridgeName>().is_err(), "{text:?}");
        }
        for text in ["", "tap/", "tap1", "abcdefghijkl", "tap*", "../tap", "-tap"] {
            assert!(text.parse::<TapPrefix>().is_err(), "{text:?}");
        }
        for text in ["", "a b", "a:b", "a\n", &"a".repeat(65)] {
            assert!(text.parse::<ServerId>().is_err(), "{text:?}");
        }
        let long = "x".repeat(1 << 20).parse::<BridgeName>().unwrap_err();
        assert!(long.to_string().len() < 200);
    }

    #[test]
    fn names_of_records_that_no_index_makes_are_none() {
        let prefix: TapPrefix = "shed-tap".parse().unwrap();
        for name in [
            "shed-tap",
            "shed-tap-1",
            "shed-tap+1",
            "shed-tap01",
            "shed-tap1024",
            "shed-tap65536",
            "shed-tap1/x",
            "shed-tap1 ",
            "shed-tap１",
            "shed-tap12345678",
            "eth0",
            "",
        ] {
            assert_eq!(prefix.index_of(name), None, "{name:?}");
        }
    }

    #[test]
    fn directories_have_ids_of_their_own() {
        let one = ServerId::of_directory("/var/lib/shed/a");
        assert_eq!(one, ServerId::of_directory("/var/lib/shed/a"));
        assert_ne!(one, ServerId::of_directory("/var/lib/shed/b"));
        assert_eq!(one.as_str().parse::<ServerId>().unwrap(), one);
    }

    proptest! {
        #[test]
        fn fuzz_device_names(text in "\\PC{0,20}") {
            if let Ok(name) = text.parse::<BridgeName>() {
                prop_assert!(name.as_str() == text && text.len() <= DEVICE_NAME_MAX && !text.contains(['/', ':', '%']));
            }
            let prefix: TapPrefix = "shed-tap".parse().unwrap();
            if let Some(index) = prefix.index_of(&text) {
                prop_assert_eq!(prefix.tap(index).to_string(), text);
            }
        }
    }
}
