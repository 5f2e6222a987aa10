//! Namespaces: what a message of the plugin bus is about, and so who gets it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest namespace in bytes (spec A.9).
const MAX: usize = 128;

/// What the namespaces of Shed itself begin with (spec A.9).
const RESERVED: &str = "system:";

/// Says why a text is no namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNamespaceError {
    #[error("a namespace must not be empty")]
    Empty,
    #[error("a namespace has at most {MAX} characters; this one has {len}")]
    TooLong { len: usize },
    #[error("{text:?} is no namespace: it has only printable ASCII characters and no space")]
    Malformed { text: String },
    #[error("the namespace `{text}` is reserved: those that begin with `{RESERVED}` are Shed's own")]
    Reserved { text: String },
}

/// The namespace of an extension: printable ASCII without a space, at most 128 characters, and none of Shed's own, which
/// begin with `system:` (spec A.9).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Namespace(String);

impl Namespace {
    /// Returns the namespace as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = ParseNamespaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseNamespaceError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let text = text.chars().take(MAX).collect();
            return Err(ParseNamespaceError::Malformed { text });
        }
        if text.len() > MAX {
            return Err(ParseNamespaceError::TooLong { len: text.len() });
        }
        if text.starts_with(RESERVED) {
            return Err(ParseNamespaceError::Reserved { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Namespace, ParseNamespaceError> {
        text.parse()
    }

    #[test]
    fn what_can_be_printed_is_a_namespace() {
        let longest = "x".repeat(MAX);
        for good in ["ssh-agent", "a", "com.acme/thing:v1", "system", "System:x", "~!@#", longest.as_str()] {
            assert_eq!(parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn the_rest_is_refused_with_a_reason() {
        assert_eq!(parse(""), Err(ParseNamespaceError::Empty));
        assert_eq!(parse(&"x".repeat(MAX + 1)), Err(ParseNamespaceError::TooLong { len: MAX + 1 }));
        for bad in ["a b", " a", "a\n", "a\0", "\u{1b}[2J", "\u{e9}", "a\u{202e}"] {
            assert!(matches!(parse(bad), Err(ParseNamespaceError::Malformed { .. })), "{bad:?}");
        }
        for ours in ["system:", "system:health", "system:anything else".replace(' ', "-").as_str()] {
            assert!(matches!(parse(ours), Err(ParseNamespaceError::Reserved { .. })), "{ours:?}");
        }
    }
}
