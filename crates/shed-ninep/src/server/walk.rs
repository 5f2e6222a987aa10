//! From a directory down to what names in it stand for.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    fids::{At, Node, State},
    lock,
    qids::{Place, kind_of},
    root::{hold, look},
    session::Session,
};
use crate::proto::{Fid, Name, Names, Qid, Qids};

impl Session {
    /// Makes `new` stand for what the names lead to. When one of them is not there, what was found before it is returned and
    /// no fid is made; when it is the first, that is an error (walk(5) of Plan 9).
    pub(super) fn walk(&self, fid: Fid, new: Fid, names: &Names<'_>) -> Result<Qids, Errno> {
        let source = self.fids.get(fid)?;
        if new != fid {
            self.fids.has_room_for(new)?;
        }
        let mut node = lock(&source).node.clone();
        let mut qids = Qids::default();
        for (index, name) in names.as_slice().iter().enumerate() {
            match self.step(&node, *name) {
                Ok((below, qid)) => {
                    node = below;
                    qids.push(qid);
                }
                Err(error) if index == 0 => return Err(error),
                Err(_) => return Ok(qids),
            }
        }
        if new == fid {
            let mut state = lock(&source);
            if state.opened.is_some() && !names.as_slice().is_empty() {
                return Err(Errno::BUSY);
            }
            if state.opened.is_none() {
                state.node = node;
            }
        } else {
            self.fids.insert(new, State::closed(node))?;
        }
        Ok(qids)
    }

    /// Holds an entry of a directory.
    pub(super) fn step(&self, directory: &Node, name: Name<'_>) -> Result<(Node, Qid), Errno> {
        let parent = directory.directory()?;
        let fd = hold(directory.fd(), name)?;
        let stat = look(std::os::fd::AsFd::as_fd(&fd))?;
        let node = Node {
            fd: Arc::new(fd),
            kind: kind_of(&stat),
            place: Place::of(&stat),
            at: At::new(parent, name),
        };
        Ok((node, self.qids.qid(&stat)))
    }
}
