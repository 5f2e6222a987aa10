//! Open files: opening, creating, reading, writing, syncing.

use std::{os::fd::AsFd, sync::Arc};

use rustix::{
    fs::{FileType, Mode, OFlags, fdatasync, fsync},
    io::{Errno, pread, pwrite},
};

use super::{
    directory::Listing,
    fids::{At, Node, Opened, State},
    lock,
    qids::{Place, kind_of},
    root::{beneath, look},
    session::{Answer, Session},
};
use crate::proto::{Fid, HEADER, IO_HEADER, Name, Qid, Tag, bits, finish, start};

/// Type of the reply to a read (`P9_RREAD`).
const READ_REPLY: u8 = 117;

/// How often a create is tried again when somebody makes and removes the name meanwhile.
const ATTEMPTS: u32 = 16;

/// What the length of a reply's data takes.
const COUNT: u32 = 4;

impl Session {
    /// Opens what a fid stands for. Returns its qid, and how much is best read or written at once.
    pub(super) fn open(&self, fid: Fid, flags: u32) -> Result<(Qid, u32), Errno> {
        let changes = flags & bits::OPEN_ACCESS != bits::OPEN_READ || flags & bits::OPEN_TRUNCATE != 0;
        if changes {
            self.may_write()?;
        }
        let flags = self.open_flags(flags)?;
        let fid = self.fids.get(fid)?;
        let mut state = lock(&fid);
        if state.opened.is_some() {
            return Err(Errno::INVAL);
        }
        if changes && state.node.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        let opened = Arc::new(self.root.open_again(&state.node, flags)?);
        let stat = look(opened.as_fd())?;
        // Whatever the descriptor that was held could do, this one can do, too.
        state.node.fd = Arc::clone(&opened);
        state.opened = Some(match state.node.kind {
            FileType::Directory => Opened::Directory(Arc::new(Listing::new(opened, state.node.place))),
            _ => Opened::File(opened),
        });
        Ok((self.qids.qid(&stat), self.unit()))
    }

    /// Makes a file in the directory of a fid, which stands for the open file from then on.
    pub(super) fn create(
        &self,
        fid: Fid,
        name: Name<'_>,
        flags: u32,
        mode: u32,
    ) -> Result<(Qid, u32), Errno> {
        self.may_write()?;
        let exclusive = flags & bits::OPEN_EXCLUSIVE != 0;
        let flags = self.open_flags(flags & !bits::OPEN_DIRECTORY)?;
        let mode = plain_mode(mode)?;
        let fid = self.fids.get(fid)?;
        let mut state = lock(&fid);
        if state.opened.is_some() {
            return Err(Errno::INVAL);
        }
        let parent = Arc::clone(state.node.directory()?);
        let fresh = flags.difference(OFlags::TRUNC)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let mut attempts = ATTEMPTS;
        let file = loop {
            match beneath(parent.as_fd(), name, fresh, mode) {
                // It has come meanwhile, from the host or another process, and may be anything.
                Err(Errno::EXIST) if !exclusive => match self.step(&state.node, name) {
                    Ok((node, _)) if node.kind == FileType::Directory => return Err(Errno::ISDIR),
                    Ok((node, _)) => break self.root.open_again(&node, flags)?,
                    // And it has gone again.
                    Err(Errno::NOENT) if attempts > 0 => attempts -= 1,
                    Err(error) => return Err(error),
                },
                result => break result?,
            }
        };
        let stat = look(file.as_fd())?;
        let file = Arc::new(file);
        let node = Node {
            fd: Arc::clone(&file),
            kind: kind_of(&stat),
            place: Place::of(&stat),
            at: At::new(&parent, name),
        };
        *state = State { node, opened: Some(Opened::File(file)) };
        Ok((self.qids.qid(&stat), self.unit()))
    }

    /// Reads from an open file, by one system call, straight into the answer's buffer.
    pub(super) fn read(
        &self,
        fid: Fid,
        offset: u64,
        count: u32,
        tag: Tag,
        answer: &mut Answer,
    ) -> Result<(), Errno> {
        let state = self.fids.state(fid)?;
        let file = state.file()?;
        let count = count.min(self.most_data());
        let room = answer.buffer.room(usize::try_from(count).map_err(|_| Errno::INVAL)?);
        let read = again(|| pread(file, &mut *room, offset))?;
        answer.data = read;
        let begin = answer.head.len();
        start(&mut answer.head, READ_REPLY, tag);
        let read = u32::try_from(read).map_err(|_| Errno::OVERFLOW)?;
        answer.head.extend_from_slice(&read.to_le_bytes());
        finish(&mut answer.head, begin);
        // The data that follows counts, too.
        let size = u32::try_from(HEADER).map_err(|_| Errno::OVERFLOW)? + COUNT + read;
        answer.head[begin..begin + 4].copy_from_slice(&size.to_le_bytes());
        Ok(())
    }

    /// Writes to an open file, by one system call.
    pub(super) fn write(&self, fid: Fid, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.may_write()?;
        let state = self.fids.state(fid)?;
        let file = state.file()?;
        let written = again(|| pwrite(file, data, offset))?;
        u32::try_from(written).map_err(|_| Errno::OVERFLOW)
    }

    /// Has what was written reach the disk.
    pub(super) fn sync(&self, fid: Fid, data_only: bool) -> Result<(), Errno> {
        let state = self.fids.state(fid)?;
        match &state.opened {
            None => Err(Errno::BADF),
            Some(Opened::Directory(listing)) => fsync(listing.fd()),
            Some(Opened::File(file)) if data_only => fdatasync(file),
            Some(Opened::File(file)) => fsync(file),
        }
    }

    /// Most data of a reply.
    pub(super) fn most_data(&self) -> u32 {
        self.size().saturating_sub(IO_HEADER)
    }

    fn unit(&self) -> u32 {
        self.most_data()
    }

    /// The flags that have a meaning here. What only the guest's kernel acts on is left out, as is `O_DIRECT`, which would
    /// need aligned buffers.
    fn open_flags(&self, flags: u32) -> Result<OFlags, Errno> {
        let mut taken = match flags & bits::OPEN_ACCESS {
            bits::OPEN_READ => OFlags::RDONLY,
            bits::OPEN_WRITE => OFlags::WRONLY,
            bits::OPEN_BOTH => OFlags::RDWR,
            _ => return Err(Errno::INVAL),
        };
        for (bit, flag) in [
            (bits::OPEN_TRUNCATE, OFlags::TRUNC),
            (bits::OPEN_DATA_SYNC, OFlags::DSYNC),
            (bits::OPEN_DIRECTORY, OFlags::DIRECTORY),
            (bits::OPEN_SYNC, OFlags::SYNC),
        ] {
            if flags & bit != 0 {
                taken |= flag;
            }
        }
        if flags & bits::OPEN_APPEND != 0 && self.options.append_at_end {
            taken |= OFlags::APPEND;
        }
        Ok(taken)
    }
}

/// The mode of something new.
///
/// # Errors
/// EPERM when it is to run as somebody else.
pub(super) fn plain_mode(mode: u32) -> Result<Mode, Errno> {
    if mode & (bits::MODE_SETUID | bits::MODE_SETGID) != 0 {
        return Err(Errno::PERM);
    }
    Ok(Mode::from_raw_mode(mode & 0o1777))
}

/// Repeats what a signal has interrupted.
pub(super) fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
