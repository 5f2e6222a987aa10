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
    /// Docker's config directory with `config.json`; absent means `$DOCKER_CONFIG`, else `~/.docker`.
    pub docker_config: Option<Utf8PathBuf>,
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
