//! Names: making, linking, renaming and removing them.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, linkat, mkdirat, mknodat, renameat, symlinkat, unlinkat},
    io::Errno,
};

use super::{
    fids::{At, Node},
    files::plain_mode,
    lock,
    qids::Place,
    root::look_at,
    session::Session,
};
use crate::proto::{Fid, Name, Qid, bits};

impl Session {
    pub(super) fn symlink(&self, directory: Fid, name: Name<'_>, target: &[u8]) -> Result<Qid, Errno> {
        self.may_write()?;
        let directory = self.fids.node(directory)?;
        let parent = directory.directory()?;
        symlinkat(target, parent, name.as_bytes())?;
        self.made(&directory, name)
    }

    pub(super) fn make_directory(&self, directory: Fid, name: Name<'_>, mode: u32) -> Result<Qid, Errno> {
        self.may_write()?;
        // The guest's kernel asks for the group bit of a directory that has it; the host's kernel passes that on by itself.
        let mode = plain_mode(mode & !bits::MODE_SETGID)?;
        let directory = self.fids.node(directory)?;
        mkdirat(directory.directory()?, name.as_bytes(), mode)?;
        self.made(&directory, name)
    }

    pub(super) fn make_node(&self, directory: Fid, name: Name<'_>, mode: u32) -> Result<Qid, Errno> {
        self.may_write()?;
        let kind = match mode & bits::MODE_TYPE {
            0 | bits::MODE_FILE => FileType::RegularFile,
            bits::MODE_FIFO => FileType::Fifo,
            _ => return Err(Errno::PERM),
        };
        let mode: Mode = plain_mode(mode)?;
        let directory = self.fids.node(directory)?;
        mknodat(directory.directory()?, name.as_bytes(), kind, mode, 0)?;
        self.made(&directory, name)
    }

    /// Gives a held file one more name.
    pub(super) fn link(&self, directory: Fid, fid: Fid, name: Name<'_>) -> Result<(), Errno> {
        self.may_write()?;
        let directory = self.fids.node(directory)?;
        let node = self.fids.node(fid)?;
        if node.kind == FileType::Directory {
            return Err(Errno::PERM);
        }
        // What is followed is the kernel's link to the held file; a symbolic link that is held is linked itself.
        let (descriptors, held) = self.root.name_of(&node);
        linkat(descriptors, held, directory.directory()?, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
    }

    pub(super) fn rename_at(&self, from: Fid, name: Name<'_>, to: Fid, new: Name<'_>) -> Result<(), Errno> {
        self.may_write()?;
        let from = self.fids.node(from)?;
        let to = self.fids.node(to)?;
        renameat(from.directory()?, name.as_bytes(), to.directory()?, new.as_bytes())
    }

    /// Renames by fid.
    pub(super) fn rename(&self, fid: Fid, directory: Fid, new: Name<'_>) -> Result<(), Errno> {
        self.may_write()?;
        let directory = self.fids.node(directory)?;
        let to = directory.directory()?;
        let fid = self.fids.get(fid)?;
        let mut state = lock(&fid);
        let (from, name) = still_at(&state.node)?;
        renameat(from, name, to, new.as_bytes())?;
        state.node.at = At::new(to, new);
        Ok(())
    }

    pub(super) fn unlink(&self, directory: Fid, name: Name<'_>, flags: u32) -> Result<(), Errno> {
        self.may_write()?;
        let flags = match flags {
            0 => AtFlags::empty(),
            bits::REMOVE_DIRECTORY => AtFlags::REMOVEDIR,
            _ => return Err(Errno::INVAL),
        };
        let directory = self.fids.node(directory)?;
        unlinkat(directory.directory()?, name.as_bytes(), flags)
    }

    /// Removes what a fid stands for. The fid is gone in any case (remove(5) of Plan 9).
    pub(super) fn remove(&self, fid: Fid) -> Result<(), Errno> {
        let fid = self.fids.remove(fid)?;
        self.may_write()?;
        let state = lock(&fid);
        let (directory, name) = still_at(&state.node)?;
        let flags =
            if state.node.kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(directory, name, flags)
    }

    fn made(&self, directory: &Node, name: Name<'_>) -> Result<Qid, Errno> {
        Ok(self.qids.qid(&look_at(directory.fd(), name.as_bytes())?))
    }
}

/// The directory and name by which a file was found, when that is still its name.
fn still_at(node: &Node) -> Result<(BorrowedFd<'_>, &[u8]), Errno> {
    // The root has no name.
    let at = node.at.as_ref().ok_or(Errno::BUSY)?;
    let (directory, name) = (at.directory.as_fd(), &*at.name);
    if Place::of(&look_at(directory, name)?) == node.place {
        Ok((directory, name))
    } else {
        Err(Errno::NOENT)
    }
}
