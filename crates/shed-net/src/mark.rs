//! The mark that our devices bear: the alias of the interface, which anybody can read and only an administrator can write.
//!
//! Nothing without this server's mark is ever changed or deleted.

use shed_types::ShedName;

use crate::names::ServerId;

/// What marks begin with. An id of a server has no slash.
const OURS: &str = "shed/";

/// What a device is, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The bridge of a server.
    Bridge(ServerId),
    /// The TAP of a shed of a server.
    Tap(ServerId, ShedName),
}

impl Mark {
    /// Reads an alias; nothing when it is no mark of any server.
    pub(crate) fn parse(alias: &str) -> Option<Self> {
        let (server, what) = alias.strip_prefix(OURS)?.split_once('/')?;
        let server = server.parse().ok()?;
        if what == "bridge" {
            return Some(Self::Bridge(server));
        }
        let shed = what.strip_prefix("tap/")?.parse().ok()?;
        Some(Self::Tap(server, shed))
    }

    /// Returns the alias. It has at most 138 bytes; the kernel takes 255 (IFALIASZ).
    pub(crate) fn alias(&self) -> String {
        match self {
            Self::Bridge(server) => format!("{OURS}{server}/bridge"),
            Self::Tap(server, shed) => format!("{OURS}{server}/tap/{shed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let server: ServerId = "a".repeat(64).parse().unwrap();
        let longest = Mark::Tap(server.clone(), "b".repeat(63).parse().unwrap());
        assert!(longest.alias().len() <= 138);
        for mark in [Mark::Bridge(server), longest] {
            assert_eq!(Mark::parse(&mark.alias()), Some(mark));
        }
    }

    #[test]
    fn other_aliases_are_no_marks() {
        for alias in [
            "",
            "shed",
            "shed/",
            "shed/a",
            "shed//bridge",
            "shed/a/",
            "shed/a/bridge2",
            "shed/a/tap/",
            "shed/a/tap/UP",
            "shed/a/tap/x/y",
            "shed/a b/bridge",
            " shed/a/bridge",
            "uplink",
        ] {
            assert_eq!(Mark::parse(alias), None, "{alias:?}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_mark(alias in "(shed/)?\\PC{0,40}") {
            if let Some(mark) = Mark::parse(&alias) {
                prop_assert_eq!(mark.alias(), alias);
            }
        }
    }
}
