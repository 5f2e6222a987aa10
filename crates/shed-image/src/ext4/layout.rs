//! Where everything is in the file system, and the blocks that say so: superblock, descriptors, bitmaps.
//!
//! Made from the numbers of inodes and blocks before anything is written. Blocks and inodes are used from the first on
//! without a gap, so a bitmap is known from how many there are.

use uuid::Uuid;

use super::{BLOCK, FIRST_INODE, INODE, directory::HALF_MD4, low16, low32, put16, put32};

/// Blocks of a group: as many as a block has bits.
const GROUP: u64 = 8 * BLOCK as u64;

/// Length of a group's descriptor, in bytes.
const DESCRIPTOR: usize = 32;

/// Inodes in a block.
pub(super) const INODES: u64 = (BLOCK / INODE) as u64;

/// The number of groups is kept from having a last one with less blocks than this.
const MIN_LAST_GROUP: u64 = 64;

/// Where the superblock begins in the file, in bytes.
const SUPERBLOCK_AT: usize = 1024;

/// Attributes, indexed directories, and backups of the superblock in none but two groups, which are none here.
const COMPATIBLE: u32 = 0x8 | 0x20 | 0x200;

/// Types in directories, extents, and metadata outside of its group.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x200;

/// Files above 2 GiB and above 2 TiB, more than 65,000 subdirectories, and inodes with more than 128 bytes.
const READ_ONLY: u32 = 0x2 | 0x8 | 0x20 | 0x40;

/// Says that a file system cannot be so large: blocks and inodes have 32 bits.
#[derive(Debug, thiserror::Error)]
#[error("the image needs a file system of more than 16 TiB or four billion files")]
pub(crate) struct TooLarge;

/// The plan of a file system.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    blocks: u32,
    groups: u32,
    inodes_per_group: u32,
    descriptor_blocks: u32,
    /// Inodes in use, the reserved ones included.
    used_inodes: u32,
    /// Blocks that content may take.
    data: u32,
}

/// What a file system is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) label: &'a [u8],
    pub(super) uuid: Uuid,
    pub(super) seed: [u32; 4],
}

impl Layout {
    /// Plans for the root directory, `files` further inodes, and `data` blocks of content.
    pub(crate) fn new(files: u64, data: u64) -> Result<Self, TooLarge> {
        let used_inodes = u64::from(FIRST_INODE) - 1 + files;
        if used_inodes > u64::from(u32::MAX) || data > u64::from(u32::MAX) {
            return Err(TooLarge);
        }
        let mut groups = used_inodes.div_ceil(GROUP).max(data.div_ceil(GROUP)).max(1);
        loop {
            let inodes_per_group = used_inodes.div_ceil(groups).next_multiple_of(INODES);
            let descriptors = (groups * DESCRIPTOR as u64).div_ceil(BLOCK as u64);
            let blocks = 1 + descriptors + groups * (2 + inodes_per_group / INODES) + data;
            if blocks <= groups * GROUP {
                let blocks = blocks.max((groups - 1) * GROUP + MIN_LAST_GROUP);
                let number = |value: u64| u32::try_from(value).map_err(|_| TooLarge);
                return Ok(Self {
                    blocks: number(blocks)?,
                    groups: number(groups)?,
                    inodes_per_group: number(inodes_per_group)?,
                    descriptor_blocks: number(descriptors)?,
                    used_inodes: number(used_inodes)?,
                    data: number(data)?,
                });
            }
            groups = blocks.div_ceil(GROUP);
        }
    }

    /// Returns the length of the file system in bytes.
    pub(super) const fn length(&self) -> u64 {
        self.blocks as u64 * BLOCK as u64
    }

    /// Returns what the file takes at most, in bytes; it can be longer, with a hole at its end.
    pub(crate) fn needed(&self) -> u64 {
        (u64::from(self.first_data()) + u64::from(self.data)) * BLOCK as u64
    }

    /// Returns the number of blocks.
    pub(super) const fn blocks(&self) -> u32 {
        self.blocks
    }

    const fn block_bitmaps(&self) -> u32 {
        1 + self.descriptor_blocks
    }

    const fn inode_bitmaps(&self) -> u32 {
        self.block_bitmaps() + self.groups
    }

    const fn inode_tables(&self) -> u32 {
        self.inode_bitmaps() + self.groups
    }

    fn table_blocks(&self) -> u32 {
        self.inodes_per_group / low32(INODES)
    }

    /// Returns the first block that is not metadata.
    pub(super) fn first_data(&self) -> u32 {
        self.inode_tables() + self.groups * self.table_blocks()
    }

    /// Returns where an inode is, in bytes: tables follow each other without a gap.
    pub(super) const fn inode_at(&self, number: u32) -> u64 {
        self.inode_tables() as u64 * BLOCK as u64 + (number as u64 - 1) * INODE as u64
    }

    /// Returns the group that an inode belongs to.
    pub(super) fn group_of(&self, number: u32) -> usize {
        ((number - 1) / self.inodes_per_group) as usize
    }

    /// Returns how many groups there are.
    pub(super) const fn groups(&self) -> usize {
        self.groups as usize
    }

    /// Returns the blocks from the first one up to the inode tables, when `used_blocks` are in use and each group has so
    /// many directories.
    pub(super) fn metadata(&self, used_blocks: u32, directories: &[u32], identity: &Identity<'_>) -> Vec<u8> {
        let mut bytes = vec![0; self.inode_tables() as usize * BLOCK];
        self.superblock(&mut bytes[SUPERBLOCK_AT..BLOCK], used_blocks, identity);
        let mut blocks_before = 0;
        let mut inodes_before = 0;
        for group in 0..self.groups {
            let blocks = (self.blocks - blocks_before).min(low32(GROUP));
            let used = used_blocks.saturating_sub(blocks_before).min(blocks);
            let inodes = self.used_inodes.saturating_sub(inodes_before).min(self.inodes_per_group);
            let bitmap_of = |first: u32| (first + group) as usize * BLOCK;
            bitmap(&mut bytes[bitmap_of(self.block_bitmaps())..][..BLOCK], used, blocks);
            bitmap(&mut bytes[bitmap_of(self.inode_bitmaps())..][..BLOCK], inodes, self.inodes_per_group);

            let descriptor = &mut bytes[BLOCK + group as usize * DESCRIPTOR..];
            put32(descriptor, 0, self.block_bitmaps() + group);
            put32(descriptor, 4, self.inode_bitmaps() + group);
            put32(descriptor, 8, self.inode_tables() + group * self.table_blocks());
            put16(descriptor, 12, low16(blocks - used));
            put16(descriptor, 14, low16(self.inodes_per_group - inodes));
            put16(descriptor, 16, low16(directories[group as usize]));
            blocks_before += blocks;
            inodes_before += self.inodes_per_group;
        }
        bytes
    }

    fn superblock(&self, block: &mut [u8], used_blocks: u32, identity: &Identity<'_>) {
        let inodes = self.groups * self.inodes_per_group;
        put32(block, 0, inodes);
        put32(block, 4, self.blocks);
        put32(block, 12, self.blocks - used_blocks);
        put32(block, 16, inodes - self.used_inodes);
        // Blocks are 1024 bytes shifted by 2.
        put32(block, 24, 2);
        put32(block, 28, 2);
        put32(block, 32, low32(GROUP));
        put32(block, 36, low32(GROUP));
        put32(block, 40, self.inodes_per_group);
        put16(block, 54, u16::MAX);
        put16(block, 56, 0xef53);
        // Unmounted cleanly; errors are passed over.
        put16(block, 58, 1);
        put16(block, 60, 1);
        put32(block, 76, 1);
        put32(block, 84, FIRST_INODE);
        put16(block, 88, super::short(INODE));
        put32(block, 92, COMPATIBLE);
        put32(block, 96, INCOMPATIBLE);
        put32(block, 100, READ_ONLY);
        block[104..120].copy_from_slice(identity.uuid.as_bytes());
        let label = &identity.label[..identity.label.len().min(16)];
        block[120..120 + label.len()].copy_from_slice(label);
        for (word, at) in identity.seed.into_iter().zip((236..).step_by(4)) {
            put32(block, at, word);
        }
        block[252] = HALF_MD4;
        // Attributes and access control lists are honoured by default.
        put32(block, 256, 0xc);
        put16(block, 348, 32);
        put16(block, 350, 32);
        // Hashes take characters as unsigned.
        put32(block, 352, 2);
    }
}

/// Sets the bits of what is used, and those behind the end.
fn bitmap(block: &mut [u8], used: u32, total: u32) {
    let mut set = |bits: std::ops::Range<usize>| {
        for bit in bits {
            block[bit / 8] |= 1 << (bit % 8);
        }
    };
    set(0..used as usize);
    set(total as usize..8 * BLOCK);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_has_room_for_what_was_asked(files in 0_u64..100_000_000, data in 0_u64..1 << 31) {
            let layout = Layout::new(files, data).unwrap();
            prop_assert!(u64::from(layout.blocks - layout.first_data()) >= data);
            prop_assert!(u64::from(layout.groups) * u64::from(layout.inodes_per_group) >= files + 10);
            prop_assert!(u64::from(layout.inodes_per_group) <= GROUP);
            prop_assert_eq!(u64::from(layout.groups), u64::from(layout.blocks).div_ceil(GROUP));
        }
    }

    #[test]
    fn what_needs_more_than_32_bits_is_refused() {
        assert!(Layout::new(1 << 32, 1).is_err());
        assert!(Layout::new(1, u64::from(u32::MAX)).is_err());
        assert!(Layout::new(1, u64::MAX).is_err());
    }
}
