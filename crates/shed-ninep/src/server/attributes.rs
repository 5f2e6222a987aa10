//! Attributes: what is said of a file, and what of it can be changed.

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat,
        ftruncate, readlinkat_raw, utimensat,
    },
    io::Errno,
};

use super::{
    fids::{Node, State},
    files::again,
    root::look,
    session::{Answer, Session},
};
use crate::proto::{Attributes, Bytes, Fid, Reply, SetAttributes, Tag, bits};

/// What programs are told to read at once. Each read is a request, so more than a page.
const BLOCK: u32 = 64 * 1024;

/// Longest target of a link (`PATH_MAX`).
const LONGEST_TARGET: usize = 4096;

const NANOSECONDS: u64 = 1_000_000_000;

impl Session {
    pub(super) fn attributes(&self, fid: Fid) -> Result<Attributes, Errno> {
        let node = self.fids.node(fid)?;
        let stat = look(node.fd())?;
        let (uid, gid) = self.root.identity().seen(stat.stx_uid, stat.stx_gid);
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let seconds = |time: rustix::fs::StatxTimestamp| time.tv_sec.cast_unsigned();
        Ok(Attributes {
            valid: bits::GOT_BASIC | if has_birth { bits::GOT_BIRTH } else { 0 },
            qid: self.qids.qid(&stat),
            mode: stat.stx_mode.into(),
            uid,
            gid,
            links: stat.stx_nlink.into(),
            // A device of the host's is not one of the guest's, whatever numbers it has.
            device: 0,
            size: stat.stx_size,
            block_size: stat.stx_blksize.max(BLOCK.min(self.most_data())).into(),
            blocks: stat.stx_blocks,
            atime_seconds: seconds(stat.stx_atime),
            atime_nanoseconds: stat.stx_atime.tv_nsec.into(),
            mtime_seconds: seconds(stat.stx_mtime),
            mtime_nanoseconds: stat.stx_mtime.tv_nsec.into(),
            ctime_seconds: seconds(stat.stx_ctime),
            ctime_nanoseconds: stat.stx_ctime.tv_nsec.into(),
            birth_seconds: if has_birth { seconds(stat.stx_btime) } else { 0 },
            birth_nanoseconds: if has_birth { stat.stx_btime.tv_nsec.into() } else { 0 },
            generation: 0,
            data_version: 0,
        })
    }

    /// Changes what is asked for, in an order in which nothing undoes anything: times are last.
    pub(super) fn set_attributes(&self, fid: Fid, wanted: &SetAttributes) -> Result<(), Errno> {
        self.may_write()?;
        let state = self.fids.state(fid)?;
        let has = |bit: u32| wanted.valid & bit != 0;
        let access = time(
            wanted,
            (bits::SET_ATIME, bits::SET_ATIME_GIVEN),
            wanted.atime_seconds,
            wanted.atime_nanoseconds,
        )?;
        let modified = time(
            wanted,
            (bits::SET_MTIME, bits::SET_MTIME_GIVEN),
            wanted.mtime_seconds,
            wanted.mtime_nanoseconds,
        )?;
        if has(bits::SET_UID | bits::SET_GID) {
            self.keep_owner(&state.node)?;
        }
        if has(bits::SET_SIZE) {
            self.truncate(&state, wanted.size)?;
        }
        if has(bits::SET_MODE) {
            self.set_mode(&state.node, wanted.mode)?;
        }
        if has(bits::SET_ATIME | bits::SET_MTIME) {
            let times = Timestamps { last_access: access, last_modification: modified };
            utimensat(state.node.fd(), "", &times, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// A chown changes nothing; of what is somebody else's it is refused, as by the kernel.
    fn keep_owner(&self, node: &Node) -> Result<(), Errno> {
        if self.root.identity().is_owner(look(node.fd())?.stx_uid) { Ok(()) } else { Err(Errno::PERM) }
    }

    fn truncate(&self, state: &State, size: u64) -> Result<(), Errno> {
        match state.node.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        // A file that is open for writing may be cut even when its mode says that nobody may write it by now.
        if let Ok(file) = state.file() {
            match again(|| ftruncate(file, size)) {
                Err(Errno::INVAL | Errno::BADF) => {}
                result => return result,
            }
        }
        let file = self.root.open_again(&state.node, OFlags::WRONLY)?;
        again(|| ftruncate(&file, size))
    }

    fn set_mode(&self, node: &Node, mode: u32) -> Result<(), Errno> {
        if node.kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let special = mode & (bits::MODE_SETUID | bits::MODE_SETGID);
        // What the host has set may stay.
        if special != 0 && special & !u32::from(look(node.fd())?.stx_mode) != 0 {
            return Err(Errno::PERM);
        }
        let (descriptors, name) = self.root.name_of(node);
        chmodat(descriptors, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
    }

    /// The target of a link, which nobody here follows.
    pub(super) fn read_link(&self, fid: Fid, tag: Tag, answer: &mut Answer) -> Result<(), Errno> {
        let node = self.fids.node(fid)?;
        if node.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let room = answer.buffer.room(LONGEST_TARGET);
        let length = readlinkat_raw(node.fd(), "", &mut *room)?;
        Reply::ReadLink { target: Bytes(&room[..length]) }.put(tag, &mut answer.head);
        Ok(())
    }
}

/// A time that is to be set: the one given, now, or none.
fn time(wanted: &SetAttributes, bits: (u32, u32), seconds: u64, nanoseconds: u64) -> Result<Timespec, Errno> {
    if wanted.valid & bits.0 == 0 {
        return Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT });
    }
    if wanted.valid & bits.1 == 0 {
        return Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW });
    }
    // Beyond a second are the two marks above.
    if nanoseconds >= NANOSECONDS {
        return Err(Errno::INVAL);
    }
    let tv_nsec = nanoseconds.try_into().map_err(|_| Errno::INVAL)?;
    Ok(Timespec { tv_sec: seconds.cast_signed(), tv_nsec })
}
