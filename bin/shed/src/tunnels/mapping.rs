//! Which port of this machine leads to which port of a shed.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use shed_types::TcpPort;

/// Says why a text is not a mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mapping of ports: write PORT or LOCAL:REMOTE, each from 1 to 65535")]
pub(crate) struct ParseMappingError(String);

/// A port of this machine and the port of a shed that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mapping {
    /// Port on 127.0.0.1 of this machine.
    pub(crate) local: TcpPort,
    /// Port on the shed's loopback address.
    pub(crate) remote: TcpPort,
}

impl Mapping {
    /// Returns the mapping of a port to the same port of the shed.
    pub(crate) const fn same(port: TcpPort) -> Self {
        Self { local: port, remote: port }
    }
}

impl FromStr for Mapping {
    type Err = ParseMappingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |part: &str| part.parse().map_err(|_| ParseMappingError(text.to_owned()));
        match text.split_once(':') {
            None => port(text).map(Self::same),
            Some((local, remote)) => Ok(Self { local: port(local)?, remote: port(remote)? }),
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local == self.remote {
            self.local.fmt(f)
        } else {
            write!(f, "{}:{}", self.local, self.remote)
        }
    }
}

/// Returns the mappings by local port. Of several for one local port the last counts.
pub(crate) fn settle(mappings: impl IntoIterator<Item = Mapping>) -> Vec<Mapping> {
    let by_port: BTreeMap<TcpPort, Mapping> =
        mappings.into_iter().map(|mapping| (mapping.local, mapping)).collect();
    by_port.into_values().collect()
}

/// Returns mappings for people: `3000, 8080:80`.
pub(crate) fn list(mappings: &[Mapping]) -> String {
    let texts: Vec<String> = mappings.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_leads_to_the_same_port() {
        for (text, local, remote, shown) in [
            ("3000", 3000, 3000, "3000"),
            ("3001:3000", 3001, 3000, "3001:3000"),
            ("1:65535", 1, 65535, "1:65535"),
        ] {
            let mapping: Mapping = text.parse().unwrap();
            assert_eq!((mapping.local.get(), mapping.remote.get()), (local, remote));
            assert_eq!(mapping.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_the_text() {
        for text in [
            "",
            ":",
            "3000:",
            ":3000",
            "0",
            "3000:0",
            "65536",
            "1:2:3",
            "a",
            "-1",
            " 3000",
            "+3000",
            "127.0.0.1:3000",
        ] {
            let error = text.parse::<Mapping>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn the_last_mapping_of_a_local_port_counts() {
        let mappings = ["3000", "80:8080", "3000:4000"].map(|text| text.parse().unwrap());
        assert_eq!(list(&settle(mappings)), "80:8080, 3000:4000");
    }
}
