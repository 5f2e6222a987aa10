//! Finds the layer that makes one root of another.
//!
//! A name is put when anything of it is other than below; then all hard links of its inode are put, because a link into
//! a lower layer is not kept by every tool. With each change the directories above it are put, because some tools make
//! missing ones with owners and modes of their own. A directory that is gone is one marker, for all that was in it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use super::{Name, Root, split};

/// What happens to names, sorted.
#[derive(Debug, Default)]
pub(crate) struct Changes(pub(super) BTreeMap<Name, Change>);

/// What happens to one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is this inode of the new root.
    Put(usize),
    /// It is gone, with everything below it.
    Remove,
}

impl Changes {
    /// Returns how many names change.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Root {
    /// Finds out what must change for `below` to become this root.
    ///
    /// # Errors
    /// When content cannot be read.
    pub(crate) fn changes_to(&self, below: &Self) -> io::Result<Changes> {
        let mut changes = BTreeMap::new();
        let links = self.links();
        let mut unchanged: HashMap<usize, bool> = HashMap::new();
        for (name, &inode) in &self.names {
            let same = if let Some(&known) = unchanged.get(&inode) {
                known
            } else {
                let same = self.same_below(inode, &links[&inode], below)?;
                unchanged.insert(inode, same);
                same
            };
            if !same {
                changes.insert(name.clone(), Change::Put(inode));
            }
        }
        for name in below.names.keys() {
            let gone = !self.names.contains_key(name);
            // A directory that is gone or replaced takes everything in it along.
            if gone
                && split(name)
                    .is_some_and(|(directory, _)| directory.is_empty() || self.is_directory(directory))
            {
                changes.insert(name.clone(), Change::Remove);
            }
        }
        self.add_directories(&mut changes);
        Ok(Changes(changes))
    }

    /// Tells whether an inode with all its names is below as it is here.
    fn same_below(&self, inode: usize, names: &[&Name], below: &Self) -> io::Result<bool> {
        let Some(&old) = names.first().and_then(|name| below.names.get(*name)) else { return Ok(false) };
        if names.iter().any(|name| below.names.get(*name) != Some(&old)) {
            return Ok(false);
        }
        self.inodes[inode].same(&below.inodes[old])
    }

    fn add_directories(&self, changes: &mut BTreeMap<Name, Change>) {
        let mut above = BTreeMap::new();
        for name in changes.keys() {
            let mut name = name.as_slice();
            while let Some((directory, _)) = split(name) {
                if directory.is_empty() || changes.contains_key(directory) || above.contains_key(directory) {
                    break;
                }
                if let Some(&inode) = self.names.get(directory) {
                    above.insert(directory.to_vec(), Change::Put(inode));
                }
                name = directory;
            }
        }
        changes.extend(above);
    }
}
