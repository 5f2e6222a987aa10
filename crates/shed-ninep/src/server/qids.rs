//! Which file is which, for the guest: device and inode in 64 bits.

use std::{collections::HashMap, sync::Mutex};

use rustix::fs::{FileType, Statx};

use super::lock;
use crate::proto::{Qid, bits};

/// Bits of a path that are the inode's; the rest say which device it is on.
const INODE_BITS: u32 = 56;

/// Stands for inodes and devices that do not fit, whose bits are mixed instead.
const MIXED: u64 = 0xff;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Place {
    pub(super) fn of(stat: &Statx) -> Self {
        let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
        Self { device, inode: stat.stx_ino }
    }
}

/// The file's type.
pub(super) fn kind_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// The devices that were seen, in this order. The first is the directory's own.
#[derive(Debug)]
pub(super) struct QidMap {
    own: u64,
    /// Versions are said.
    versions: bool,
    others: Mutex<HashMap<u64, u64>>,
}

impl QidMap {
    pub(super) fn new(own: u64, versions: bool) -> Self {
        Self { own, versions, others: Mutex::default() }
    }

    /// The qid of a file.
    pub(super) fn qid(&self, stat: &Statx) -> Qid {
        let version = if self.versions { version(stat) } else { 0 };
        Qid { kind: qid_kind(kind_of(stat)), version, path: self.path(Place::of(stat)) }
    }

    /// Its path: stable as long as the server runs, and different for different files. On the directory's own device it is
    /// the inode's number.
    pub(super) fn path(&self, place: Place) -> u64 {
        let index = if place.device == self.own {
            0
        } else {
            let mut others = lock(&self.others);
            let next = others.len() as u64 + 1;
            // Devices are the host's mounts below the directory; a guest makes none.
            *others.entry(place.device).or_insert(next)
        };
        if index < MIXED && place.inode >> INODE_BITS == 0 {
            index << INODE_BITS | place.inode
        } else {
            MIXED << INODE_BITS | mixed(place.inode ^ mixed(place.device)) >> (64 - INODE_BITS)
        }
    }
}

pub(super) fn qid_kind(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => bits::QID_DIRECTORY,
        FileType::Symlink => bits::QID_LINK,
        FileType::RegularFile
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => 0,
    }
}

/// Another one after each change. Never 0, which tells Linux to cache nothing of the file.
fn version(stat: &Statx) -> u32 {
    let seconds = (stat.stx_ctime.tv_sec ^ stat.stx_mtime.tv_sec.rotate_left(20)).cast_unsigned();
    let fractions = u64::from(stat.stx_ctime.tv_nsec) << 32 | u64::from(stat.stx_mtime.tv_nsec);
    let high = mixed(seconds ^ mixed(fractions)) >> 32;
    u32::try_from(high).unwrap_or(u32::MAX).max(1)
}

/// The finalizer of splitmix64: each bit of the input changes half of the output's (Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators", 2014).
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_files_have_different_paths() {
        let map = QidMap::new(7, true);
        let inodes = [1, 2, 1 << 55, 1 << 56, (1 << 56) | 1, u64::MAX];
        let mut seen = HashSet::new();
        for device in [7].into_iter().chain(1000..1400) {
            for inode in inodes {
                assert!(seen.insert(map.path(Place { device, inode })), "{device} {inode}");
            }
        }
        // The same ones again.
        for device in [7, 1000, 1399] {
            assert!(!seen.insert(map.path(Place { device, inode: 1 << 56 })));
            assert!(!seen.insert(map.path(Place { device, inode: 2 })));
        }
        assert_eq!(map.path(Place { device: 7, inode: 4711 }), 4711);
    }
}
