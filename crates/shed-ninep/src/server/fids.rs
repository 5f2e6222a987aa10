//! The client's numbers, and what they stand for.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
};

use rustix::{fs::FileType, io::Errno};

use super::{directory::Listing, lock, qids::Place};
use crate::proto::{Fid, Name};

/// A file that is held: whatever is renamed or removed, it stays the same one.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Without the right to read or write (`O_PATH`), or the very descriptor that the file is open by.
    pub(super) fd: Arc<OwnedFd>,
    pub(super) kind: FileType,
    pub(super) place: Place,
    /// The directory and name by which it was found; the root has none. It may have another by now.
    pub(super) at: Option<Arc<At>>,
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct At {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) name: Box<[u8]>,
}

impl At {
    pub(super) fn new(directory: &Arc<OwnedFd>, name: Name<'_>) -> Option<Arc<Self>> {
        Some(Arc::new(Self { directory: Arc::clone(directory), name: name.as_bytes().into() }))
    }
}

impl Node {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor, when it is that of a directory.
    pub(super) fn directory(&self) -> Result<&Arc<OwnedFd>, Errno> {
        if self.kind == FileType::Directory { Ok(&self.fd) } else { Err(Errno::NOTDIR) }
    }
}

/// What an open fid reads and writes.
#[derive(Clone, Debug)]
pub(super) enum Opened {
    File(Arc<OwnedFd>),
    Directory(Arc<Listing>),
}

/// What a fid stands for.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) node: Node,
    pub(super) opened: Option<Opened>,
}

impl State {
    pub(super) fn closed(node: Node) -> Self {
        Self { node, opened: None }
    }

    /// The open file.
    pub(super) fn file(&self) -> Result<&Arc<OwnedFd>, Errno> {
        match &self.opened {
            Some(Opened::File(file)) => Ok(file),
            Some(Opened::Directory(_)) => Err(Errno::ISDIR),
            None => Err(Errno::BADF),
        }
    }
}

/// All fids of a client.
#[derive(Debug)]
pub(super) struct Fids {
    states: Mutex<HashMap<Fid, Arc<Mutex<State>>>>,
    most: usize,
}

impl Fids {
    pub(super) fn new(most: usize) -> Self {
        Self { states: Mutex::default(), most }
    }

    /// The fid itself, to change what it stands for.
    pub(super) fn get(&self, fid: Fid) -> Result<Arc<Mutex<State>>, Errno> {
        lock(&self.states).get(&fid).map(Arc::clone).ok_or(Errno::BADF)
    }

    /// What it stands for now.
    pub(super) fn state(&self, fid: Fid) -> Result<State, Errno> {
        Ok(lock(&*self.get(fid)?).clone())
    }

    pub(super) fn node(&self, fid: Fid) -> Result<Node, Errno> {
        Ok(lock(&*self.get(fid)?).node.clone())
    }

    /// Says early what [`insert`](Self::insert) would say, before anything is opened for it.
    pub(super) fn has_room_for(&self, fid: Fid) -> Result<(), Errno> {
        let states = lock(&self.states);
        if fid == Fid::NONE || states.contains_key(&fid) {
            Err(Errno::BADF)
        } else if states.len() >= self.most {
            Err(Errno::NFILE)
        } else {
            Ok(())
        }
    }

    /// Makes a new one.
    pub(super) fn insert(&self, fid: Fid, state: State) -> Result<(), Errno> {
        let mut states = lock(&self.states);
        let many = states.len();
        match states.entry(fid) {
            _ if fid == Fid::NONE => Err(Errno::BADF),
            Entry::Occupied(_) => Err(Errno::BADF),
            Entry::Vacant(_) if many >= self.most => Err(Errno::NFILE),
            Entry::Vacant(place) => {
                place.insert(Arc::new(Mutex::new(state)));
                Ok(())
            }
        }
    }

    /// Gives one up. Its descriptors are closed when the last request that uses them is done.
    pub(super) fn remove(&self, fid: Fid) -> Result<Arc<Mutex<State>>, Errno> {
        lock(&self.states).remove(&fid).ok_or(Errno::BADF)
    }

    /// Gives all of them up.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *lock(&self.states));
        drop(all);
    }
}
