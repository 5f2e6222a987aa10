//! The section `extensions:` of server.yaml: whether there is a plugin bus, and what sheds run for it. Called by the check of
//! the whole file.

use std::collections::BTreeSet;

use shed_types::Namespace;

use super::{LoadConfigError, check::Source, file::ExtensionsFile};

/// Most extensions at once: each guest starts them all and reports on each.
const MOST: usize = 64;

/// What sheds may say to programs that listen, and run for it (spec K.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extensions {
    /// Whether there is a bus at all.
    pub bus: bool,
    /// The namespaces whose units sheds run.
    pub enabled: BTreeSet<Namespace>,
}

impl Default for Extensions {
    fn default() -> Self {
        Self { bus: true, enabled: BTreeSet::new() }
    }
}

/// Checks them.
pub(super) fn extensions(raw: ExtensionsFile, source: Source<'_>) -> Result<Extensions, LoadConfigError> {
    const KEY: &str = "extensions.enabled";
    let mut enabled = BTreeSet::new();
    for entry in raw.enabled.unwrap_or_default() {
        let namespace: Namespace =
            entry.value.parse().map_err(|error| source.bad(&entry, KEY, format!("{error}")))?;
        if enabled.len() == MOST {
            return Err(source.bad(&entry, KEY, format!("has more than {MOST} entries")));
        }
        if !enabled.insert(namespace) {
            return Err(source.bad(&entry, KEY, format!("{:?} is there twice", entry.value)));
        }
    }
    Ok(Extensions { bus: raw.bus.unwrap_or(true), enabled })
}
