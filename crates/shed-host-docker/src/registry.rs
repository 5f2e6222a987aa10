//! The names of registries, of which Docker writes each in several ways.

use std::fmt;

/// Longest name that is taken, in bytes: a host name of DNS (253), a port, and some path.
const NAME: usize = 512;

/// The one name of Docker's own registry here.
const DOCKER: &str = "docker.io";

/// The others that it has, and the one that its own configuration has always used.
const DOCKER_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// What Docker itself asks helpers for, and writes into its configuration, when it means its own registry.
pub(crate) const DOCKER_URL: &str = "https://index.docker.io/v1/";

/// A registry: a host, perhaps with a port and a path; without a scheme, without `/v1` or `/v2`, in small letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(String);

/// It is no name of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no name of a registry, like ghcr.io or https://registry.example:5000/v2/")]
pub struct ParseRegistryError;

impl Registry {
    /// Reads a name in any of the ways that Docker writes it.
    ///
    /// # Errors
    /// When it has another form, which no registry has: a user, a query, a path with `..`, a control character, too much.
    pub fn parse(written: &str) -> Result<Self, ParseRegistryError> {
        if written.len() > NAME {
            return Err(ParseRegistryError);
        }
        let lower = written.trim().to_ascii_lowercase();
        let mut rest =
            lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")).unwrap_or(&lower);
        loop {
            let shorter = rest.trim_end_matches('/');
            let shorter = ["/v1", "/v2"].iter().find_map(|end| shorter.strip_suffix(end)).unwrap_or(shorter);
            if shorter == rest {
                break;
            }
            rest = shorter;
        }
        if !is_plain(rest) {
            return Err(ParseRegistryError);
        }
        Ok(Self(if DOCKER_ALIASES.contains(&rest) { DOCKER.to_owned() } else { rest.to_owned() }))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what helpers know it as.
    pub(crate) fn for_helper(&self) -> &str {
        if self.0 == DOCKER { DOCKER_URL } else { &self.0 }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether it is a host, perhaps with a port, and perhaps a path of plain words.
fn is_plain(name: &str) -> bool {
    let mut parts = name.split('/');
    let host = parts.next().unwrap_or_default();
    let (host, port) = host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| is_word(label, "-_") && !label.starts_with('-')),
    };
    host_is_good
        && port
            .is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()))
        && parts.all(|part| is_word(part, "-_.") && !part.bytes().all(|byte| byte == b'.'))
}

fn is_word(text: &str, and: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || and.contains(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_registry_has_one_name() {
        for (written, name) in [
            ("ghcr.io", "ghcr.io"),
            ("https://GHCR.io/", "ghcr.io"),
            ("http://r.example:5000/v2/", "r.example:5000"),
            ("r.example/v1", "r.example"),
            ("r.example/team/v2//", "r.example/team"),
            ("localhost:5000", "localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("10.0.0.1", "10.0.0.1"),
            (DOCKER_URL, "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(Registry::parse(written).map(|registry| registry.0).as_deref(), Ok(name), "{written}");
        }
        assert_eq!(Registry::parse("docker.io").unwrap().for_helper(), DOCKER_URL);
    }

    #[test]
    fn what_is_no_registry_is_refused() {
        let long = format!("{}.example", "x".repeat(1 << 20));
        for written in [
            "",
            " ",
            "https://",
            "/",
            "/v2",
            "../etc",
            "a/../b",
            "a/./b",
            "r.example//x",
            "user:pw@r.example",
            "r.example?x=1",
            "r.example#x",
            "r.ex\nample",
            "r.ex\0ample",
            "r.example\r\nServerURL",
            "r.example:99999",
            "r.example:+80",
            "-x",
            "r..example",
            "r.example/%2e%2e",
            "ｇhcr.io",
            "a b",
            "file:///etc/passwd",
            "https://http://x",
            &long,
        ] {
            assert_eq!(Registry::parse(written), Err(ParseRegistryError), "{written:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_name(written: String) {
            if let Ok(registry) = Registry::parse(&written) {
                prop_assert_eq!(Registry::parse(registry.as_str()), Ok(registry.clone()));
                prop_assert!(!registry.as_str().contains(|c: char| c.is_control() || c.is_whitespace()));
            }
        }
    }
}
