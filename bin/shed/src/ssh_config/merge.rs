//! Which entries of the block change when sheds that were found are written into it.
//!
//! A name such as `shed-web` is one entry, and two servers may each have a shed web. `commands/ssh_config.rs` says what was
//! found and how it was asked for; this decides whose the name is, and what is said of it. Nobody's entry is given to
//! another server in silence.

use shed_types::ShedName;

use super::{block::Entries, entry::Entry};
use crate::config::{ClientConfig, ServerName};

/// Of which servers all sheds are known.
#[derive(Debug)]
pub(crate) enum Reach {
    /// Of none: one shed was asked for.
    Shed,
    /// Of this one, which the user has named.
    Chosen(ServerName),
    /// Of this one, which is the default.
    Default(ServerName),
    /// Of all but these.
    AllBut(Vec<ServerName>),
}

/// An entry that is to be there.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The shed.
    pub(crate) shed: ShedName,
    /// The server it was found on.
    pub(crate) server: ServerName,
    /// Its entry.
    pub(crate) entry: Entry,
}

impl Reach {
    /// Returns whether the shed of an entry would have been found.
    fn covers(&self, entry: &Entry) -> bool {
        match self {
            Self::Shed => false,
            Self::Chosen(name) | Self::Default(name) => entry.server() == Some(name.as_ref()),
            Self::AllBut(silent) => {
                entry.server().is_none_or(|server| !silent.iter().any(|name| name.as_ref() == server))
            }
        }
    }

    /// Returns whether a name that another server has must stay with it.
    fn yields_to(&self, other: &ServerName) -> bool {
        match self {
            Self::Shed | Self::Chosen(_) => false,
            Self::Default(_) => true,
            // Of those that answered it is known that the shed is not there, or is not meant.
            Self::AllBut(silent) => silent.contains(other),
        }
    }
}

/// Drops the entries of sheds that are gone, writes those that were found, and returns what the user must know of names
/// that two servers have.
pub(crate) fn merge(
    there: &mut Entries,
    wanted: Vec<Wanted>,
    reach: &Reach,
    config: &ClientConfig,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for Wanted { shed, server, entry } in wanted {
        let alias = &entry.alias;
        // A server that is configured no more has nothing to lose.
        let is_other = |name: &&ServerName| **name != server && config.servers.contains_key(*name);
        let installed = there.get(alias).and_then(Entry::server);
        let installed = installed
            .and_then(|name| config.servers.keys().find(|known| known.as_ref() == name))
            .filter(is_other);
        let owner = config.sheds.get(shed.as_str()).map(|seen| &seen.server).filter(is_other);
        let yields_to = |other: &&ServerName| reach.yields_to(other);
        let why = match (installed.filter(yields_to), owner.filter(yields_to)) {
            (Some(other), _) => Some(format!("it is the shed {shed} on {other}")),
            (None, Some(other)) => Some(format!("without --server the shed {shed} is the one on {other}")),
            (None, None) => None,
        };
        if let Some(why) = why {
            warnings.push(format!(
                "{alias} is left as it is, because {why}; for the one on {server}: shed ssh-config --install {shed} -s \
                 {server}"
            ));
            left.push(entry.alias);
            continue;
        }
        if let Some(other) = installed {
            warnings
                .push(format!("{alias} is the shed {shed} on {server} now, and no more the one on {other}"));
        } else if let (Some(other), Reach::Chosen(_)) = (owner, reach) {
            warnings.push(format!(
                "{alias} is the shed {shed} on {server}, but without --server that is the one on {other}"
            ));
        }
        taken.push(entry);
    }
    there.retain(|alias, entry| left.contains(alias) || !reach.covers(entry));
    there.extend(taken.into_iter().map(|entry| (entry.alias.clone(), entry)));
    warnings
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
