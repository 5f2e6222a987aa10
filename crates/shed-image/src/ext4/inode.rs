//! What an inode says of a file, and how it is stored.

use super::{BLOCK, INODE, extents::MAP, low16, low32, put16, put32};

/// The map of the inode is one of extents.
pub(super) const EXTENTS_FLAG: u32 = 0x8_0000;

/// The directory has an index.
pub(super) const INDEX_FLAG: u32 = 0x1000;

/// Bytes of an inode behind the old 128 that have a meaning of their own; attributes follow.
const EXTRA: u16 = 32;

/// Where attributes begin in an inode.
pub(super) const XATTRS_AT: usize = 128 + EXTRA as usize;

/// Room for attributes in an inode, in bytes.
pub(super) const XATTRS_ROOM: usize = INODE - XATTRS_AT;

/// Most links of a file (the kernel's `EXT4_LINK_MAX`); a directory that has more says 1.
pub(crate) const MAX_LINKS: u32 = 65_000;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    Regular,
    Directory,
    Symlink,
    Character,
    Block,
    Fifo,
}

impl FileType {
    /// Returns the type as a directory's entry has it.
    pub(super) const fn in_directory(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Character => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }

    /// Returns the type as the mode has it.
    const fn in_mode(self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::Character => 0o020_000,
            Self::Directory => 0o040_000,
            Self::Block => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// A file without content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

impl Special {
    pub(super) const fn file_type(self) -> FileType {
        match self {
            Self::Character { .. } => FileType::Character,
            Self::Block { .. } => FileType::Block,
            Self::Fifo => FileType::Fifo,
        }
    }

    /// Returns the map of its inode: the number of the device, in the old form where that can hold it.
    pub(super) fn map(self) -> [u8; MAP] {
        let mut map = [0; MAP];
        match self {
            Self::Character { major, minor } | Self::Block { major, minor } => {
                if major < 256 && minor < 256 {
                    put32(&mut map, 0, major << 8 | minor);
                } else {
                    put32(&mut map, 4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
                }
            }
            Self::Fifo => {}
        }
        map
    }
}

/// What every file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permissions, setuid, setgid and sticky: the lower 12 bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970; what ext4 cannot say (before 1901, after 2446) becomes the nearest that it can.
    pub(crate) seconds: i64,
    /// 0 to 999,999,999.
    pub(crate) nanoseconds: u32,
    /// Names of the file; of a directory its subdirectories and 2.
    pub(crate) links: u32,
}

/// An inode before it is stored.
pub(super) struct Inode<'a> {
    pub(super) file_type: FileType,
    pub(super) attributes: &'a Attributes,
    pub(super) size: u64,
    /// Blocks of content, map and attributes.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    pub(super) map: [u8; MAP],
    pub(super) xattrs: [u8; XATTRS_ROOM],
    /// Where the attributes are that have no room in the inode; 0 for none.
    pub(super) xattr_block: u32,
}

impl Inode<'_> {
    pub(super) fn encode(&self) -> [u8; INODE] {
        let Attributes { mode, uid, gid, seconds, nanoseconds, links } = *self.attributes;
        let mut bytes = [0; INODE];
        put16(&mut bytes, 0, self.file_type.in_mode() | mode & 0o7777);
        put16(&mut bytes, 2, low16(uid));
        put32(&mut bytes, 4, low32(self.size));
        put16(&mut bytes, 24, low16(gid));
        // The writer counts directories' links by 32 bits; others are refused above 65,000.
        put16(&mut bytes, 26, if links > MAX_LINKS { 1 } else { low16(links) });
        let sectors = self.blocks * (BLOCK as u64 / 512);
        put32(&mut bytes, 28, low32(sectors));
        put32(&mut bytes, 32, self.flags);
        bytes[40..100].copy_from_slice(&self.map);
        put32(&mut bytes, 104, self.xattr_block);
        put32(&mut bytes, 108, low32(self.size >> 32));
        put16(&mut bytes, 116, low16(low32(sectors >> 32)));
        put16(&mut bytes, 120, low16(uid >> 16));
        put16(&mut bytes, 122, low16(gid >> 16));
        put16(&mut bytes, 128, EXTRA);
        let (time, extra) = time(seconds, nanoseconds);
        // Change, access, modification and birth: an archive knows of one only.
        for (low, high) in [(12, 132), (8, 140), (16, 136), (144, 148)] {
            put32(&mut bytes, low, time);
            put32(&mut bytes, high, extra);
        }
        bytes[XATTRS_AT..].copy_from_slice(&self.xattrs);
        bytes
    }
}

/// Splits a time into 32 bits of seconds and a word with their next two bits and the nanoseconds (ext4 "Inode
/// Timestamps").
fn time(seconds: i64, nanoseconds: u32) -> (u32, u32) {
    const FIRST: i64 = -(1 << 31);
    const LAST: i64 = FIRST + (4 << 32) - 1;
    let seconds = seconds.clamp(FIRST, LAST);
    let low = low32(seconds.cast_unsigned());
    // The lower part counts as signed, the upper one is what is missing then.
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    (low, low32(epoch.cast_unsigned()) & 3 | nanoseconds << 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_stored_as_the_kernel_reads_them() {
        // The table in the kernel's documentation of ext4.
        assert_eq!(time(-1, 0), (0xffff_ffff, 0));
        assert_eq!(time(0, 5), (0, 20));
        assert_eq!(time(0x7fff_ffff, 0), (0x7fff_ffff, 0));
        assert_eq!(time(0x8000_0000, 0), (0x8000_0000, 1));
        assert_eq!(time(0x1_0000_0000, 0), (0, 1));
        assert_eq!(time(0x1_8000_0000, 999_999_999), (0x8000_0000, 2 | 999_999_999 << 2));
        assert_eq!(time(i64::MIN, 0), (0x8000_0000, 0));
        assert_eq!(time(i64::MAX, 0), (0x7fff_ffff, 3));
    }
}
