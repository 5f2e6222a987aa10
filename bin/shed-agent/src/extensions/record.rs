//! What this boot's agent has enabled, as a file: the next agent of the boot takes back what is not wanted any more, and
//! `shed-ext health` reads what is.

use std::{collections::BTreeSet, fs, io, path::Path};

use serde::{Deserialize, Serialize};
use shed_types::Namespace;

use super::manifests::Unit;
use crate::whole_file;

/// The file, below the root.
const FILE: &str = "run/shed-extensions.json";

/// What is enabled.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The extensions that the server has named.
    namespaces: BTreeSet<String>,
    /// Their units, and those that are to be stopped.
    pub(super) units: BTreeSet<Unit>,
}

impl Record {
    /// Makes one.
    pub(super) fn new(namespaces: &BTreeSet<Namespace>, units: BTreeSet<Unit>) -> Self {
        Self { namespaces: namespaces.iter().map(ToString::to_string).collect(), units }
    }

    /// Reads the one of this boot; without one nothing is enabled.
    pub(super) fn read(root: &Path) -> Self {
        let text = fs::read(root.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes it, before what it says is done.
    pub(super) fn write(&self, root: &Path) -> io::Result<()> {
        whole_file::replace(&root.join(FILE), &serde_json::to_vec(self)?, 0o644)
    }
}
