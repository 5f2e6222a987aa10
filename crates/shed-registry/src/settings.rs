//! How registries are reached, and how long they are waited for.
//!
//! The server makes the settings of its config, the command line of its flags; tests shorten the times.

use std::{collections::BTreeSet, time::Duration};

use camino::Utf8PathBuf;

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistrySettings {
    /// `host` or `host:port` of registries that speak HTTP without TLS; a `host` covers all its ports. Those on loopback
    /// addresses always are spoken to without TLS.
    pub insecure: BTreeSet<String>,
    /// `host` or `host:port` of the only registries that may be asked, `docker.io` among them by this name; a `host` covers
    /// all its ports. Absent means all may.
    pub allow: Option<BTreeSet<String>>,
    /// Docker's config directory with `config.json`; absent means `$DOCKER_CONFIG`, else `~/.docker`.
    pub docker_config: Option<Utf8PathBuf>,
}

impl RegistrySettings {
    /// Tells whether a registry may be asked; `registry` is host and port as references have them.
    #[must_use]
    pub fn allows(&self, registry: &str) -> bool {
        self.allow.as_ref().is_none_or(|allow| covers(allow, registry))
    }
}

/// Tells whether a set has this host and port, or the host alone.
pub(crate) fn covers(set: &BTreeSet<String>, registry: &str) -> bool {
    // The colons of an IPv6 address are in brackets.
    let name = match registry.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        Some(_) | None => registry,
    };
    set.contains(registry) || set.contains(name)
}

/// How long registries are waited for, and how often they are asked again. The defaults suit everybody but tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// For a connection to be made.
    pub connect: Duration,
    /// For the next bytes of an answer or the next that the registry takes; after this a connection counts as stalled.
    pub quiet: Duration,
    /// For the answer when all of a blob is sent: registries read it once more before they answer.
    pub settle: Duration,
    /// Before the second try; doubled for each further one.
    pub pause: Duration,
    /// The longest pause between tries.
    pub longest_pause: Duration,
    /// The most that a registry can ask for with `Retry-After`.
    pub longest_asked_pause: Duration,
    /// How often the same is tried without getting any further.
    pub tries: u32,
    /// For one answer of a credential helper.
    pub helper: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            quiet: Duration::from_secs(60),
            settle: Duration::from_secs(300),
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(15),
            longest_asked_pause: Duration::from_secs(60),
            tries: 5,
            helper: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_covers_its_ports_and_a_port_itself_alone() {
        let set = ["docker.io", "127.0.0.1", "lan:5000", "[::1]"].map(str::to_owned).into();
        for registry in ["docker.io", "127.0.0.1:5000", "127.0.0.1", "lan:5000", "[::1]", "[::1]:5000"] {
            assert!(covers(&set, registry), "{registry}");
        }
        for registry in ["ghcr.io", "lan", "lan:5001", "xdocker.io", "[::2]", "io"] {
            assert!(!covers(&set, registry), "{registry}");
        }
        assert!(RegistrySettings::default().allows("anything"));
        let closed = RegistrySettings { allow: Some(BTreeSet::new()), ..RegistrySettings::default() };
        assert!(!closed.allows("docker.io"));
    }
}
