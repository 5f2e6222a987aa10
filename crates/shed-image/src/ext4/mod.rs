//! Writes an ext4 file system that is only ever read: the root of an image.
//!
//! Conversion calls it with a tree whose sizes it knows, and streams the content of files in any order. No journal, no
//! free room, no backups of the superblock; every inode is written once, every block in the order in which it comes, so
//! that memory does not grow with the image. `mke2fs -d` is not used for this: from a tar it drops extended attributes
//! other than file capabilities and the fraction of times, and needs time quadratic in the entries of a directory.
//!
//! Layout: superblock, group descriptors, all bitmaps, all inode tables, then data to the end (`flex_bg` lets metadata
//! lie outside of its group). Field offsets are those of the kernel's Documentation/filesystems/ext4.

mod directory;
mod extents;
mod file;
mod hash;
mod inode;
mod layout;
mod writer;
mod xattr;

pub(crate) use directory::{Child, MAX_NAME, blocks_at_most as directory_blocks_at_most, entry_length};
pub(crate) use extents::blocks_at_most as file_blocks_at_most;
pub(crate) use inode::{Attributes, FileType, MAX_LINKS, Special};
pub(crate) use layout::Layout;
pub(crate) use writer::{Ext4Writer, MAX_SHORT_SYMLINK, WriteError};
pub(crate) use xattr::{XattrError, Xattrs, keeps_xattr};

/// Length of a block in bytes.
pub(crate) const BLOCK: usize = 4096;

/// Length of an inode in bytes.
const INODE: usize = 256;

/// Inode of the root directory.
pub(crate) const ROOT: u32 = 2;

/// First inode that is not reserved.
pub(crate) const FIRST_INODE: u32 = 11;

/// Longest file in bytes: blocks are counted by 32 bits, and the last is not used (ext4 "Blocks").
pub(crate) const MAX_FILE: u64 = ((1 << 32) - 1) * BLOCK as u64;

/// Longest target of a symbolic link in bytes: one less than a block, as the kernel's `PATH_MAX` has it.
pub(crate) const MAX_SYMLINK: usize = BLOCK - 1;

/// Puts a little-endian number into a block.
fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Puts a little-endian number into a block.
fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Returns the lower 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "the upper part is stored elsewhere")]
const fn low16(value: u32) -> u16 {
    value as u16
}

/// Returns the lower 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "the upper part is stored elsewhere")]
const fn low32(value: u64) -> u32 {
    value as u32
}

/// Returns a length inside of a block as ext4 stores it.
fn short(value: usize) -> u16 {
    u16::try_from(value).expect("it is inside of a block")
}
