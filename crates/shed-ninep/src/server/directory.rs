//! Lists of directories, some entries at a time.
//!
//! The offsets that the guest gets are the kernel's own cookies, so that they mean the same later, whoever has listed what
//! meanwhile. What does not fit into an answer is asked of the kernel once more; nothing is kept between two answers.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{FileType, RawDir, SeekFrom, seek},
    io::Errno,
};

use super::{
    fids::Opened,
    lock,
    qids::{Place, kind_of, qid_kind},
    root::look_at,
    session::{Answer, Session},
};
use crate::proto::{Bytes, Entry, Fid, Qid, Tag, finish, start};

/// Type of the reply to a list (`P9_RREADDIR`).
const LIST_REPLY: u8 = 41;

/// Most that the kernel is asked for at once, and the least that holds any entry (struct `linux_dirent64` with a name of 255
/// bytes).
const MOST: usize = 64 * 1024;
const LEAST: usize = 512;

/// An open directory.
#[derive(Debug)]
pub(super) struct Listing {
    fd: Arc<OwnedFd>,
    place: Place,
    /// Where the descriptor is, as far as that is known. Whoever lists holds it.
    position: Mutex<Option<u64>>,
}

impl Listing {
    pub(super) fn new(fd: Arc<OwnedFd>, place: Place) -> Self {
        Self { fd, place, position: Mutex::new(Some(0)) }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Session {
    /// Lists entries from an offset on; none says that there are no more.
    pub(super) fn read_directory(
        &self,
        fid: Fid,
        offset: u64,
        count: u32,
        tag: Tag,
        answer: &mut Answer,
    ) -> Result<(), Errno> {
        let state = self.fids.state(fid)?;
        let listing = match &state.opened {
            Some(Opened::Directory(listing)) => listing,
            Some(Opened::File(_)) => return Err(Errno::NOTDIR),
            None => return Err(Errno::BADF),
        };
        let count = usize::try_from(count.min(self.most_data())).map_err(|_| Errno::INVAL)?;
        let begin = answer.head.len();
        start(&mut answer.head, LIST_REPLY, tag);
        let data = answer.head.len();
        answer.head.extend_from_slice(&[0; 4]);

        let mut position = lock(&listing.position);
        // The beginning is gone to even when it is there: that is how what was made meanwhile gets listed.
        if offset == 0 || *position != Some(offset) {
            *position = None;
            // An offset that no kernel gives is none.
            i64::try_from(offset).map_err(|_| Errno::INVAL)?;
            seek(&*listing.fd, SeekFrom::Start(offset))?;
        }
        *position = None;
        let room = count.clamp(LEAST, MOST);
        answer.listing.reserve(room);
        let mut entries = RawDir::new(&*listing.fd, &mut answer.listing.spare_capacity_mut()[..room]);
        let mut last = None;
        let mut left = count;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let size = Entry::BESIDE_NAME + name.len();
            if size > left {
                if last.is_none() {
                    return Err(Errno::INVAL);
                }
                finish_list(&mut answer.head, begin, data);
                return Ok(());
            }
            left -= size;
            let (kind, place) =
                self.place_of(listing, state.node.at.is_none(), name, entry.file_type(), entry.ino());
            let entry = Entry {
                qid: Qid { kind: qid_kind(kind), version: 0, path: self.qids.path(place) },
                offset: entry.next_entry_cookie(),
                kind: raw_kind(kind),
                name: Bytes(name),
            };
            entry.put(&mut answer.head);
            last = Some(entry.offset);
            // Another round would need room for what it brings.
            if entries.is_buffer_empty() {
                *position = last;
                break;
            }
        }
        finish_list(&mut answer.head, begin, data);
        Ok(())
    }

    /// Type and place of an entry. Nothing is said of what is above the root.
    fn place_of(
        &self,
        listing: &Listing,
        is_root: bool,
        name: &[u8],
        kind: FileType,
        inode: u64,
    ) -> (FileType, Place) {
        let place = match name {
            b"." => listing.place,
            b".." if is_root => listing.place,
            _ => Place { device: listing.place.device, inode },
        };
        let kind = match kind {
            // Some file systems do not say.
            FileType::Unknown => look_at(listing.fd(), name).map_or(kind, |stat| kind_of(&stat)),
            known => known,
        };
        (kind, place)
    }
}

fn finish_list(head: &mut [u8], begin: usize, data: usize) {
    let length = u32::try_from(head.len() - data - 4).unwrap_or(u32::MAX);
    head[data..data + 4].copy_from_slice(&length.to_le_bytes());
    finish(head, begin);
}

/// `DT_*` of readdir(3), which are the types of modes without their zeros.
fn raw_kind(kind: FileType) -> u8 {
    match kind {
        FileType::Unknown => 0,
        known => u8::try_from(known.as_raw_mode() >> 12).unwrap_or(0),
    }
}
