//! Where the blocks of a file are: extents, in the inode where there are few, else in a tree of blocks.
//!
//! The writer of files adds runs in order; a tree of two levels holds more than the longest file can have.

use super::{BLOCK, put16, put32};

/// Longest extent in blocks; a larger number means one that was never written.
const MAX_LENGTH: u32 = 32_768;

/// Room for the map in an inode, in bytes.
pub(super) const MAP: usize = 60;

/// Length of the head of a node, of an extent and of an index entry, in bytes.
const HEAD: usize = 12;
const ENTRY: usize = 12;

/// Entries in an inode, and in a block.
const IN_INODE: usize = (MAP - HEAD) / ENTRY;
const IN_BLOCK: usize = (BLOCK - HEAD) / ENTRY;

/// A run of zeros becomes a hole when it has at least this many blocks: less is not worth an extent, and a file full of
/// short holes would need more memory than its name.
pub(super) const MIN_HOLE: u64 = 16;

/// Returns how many blocks a file of `size` bytes takes at most, whose content comes in `pieces` of together `stored`
/// bytes.
pub(crate) fn blocks_at_most(size: u64, stored: u64, pieces: u64) -> u64 {
    // A piece may begin and end inside of a block, and what is no hole before it is stored as zeros.
    let data = stored.div_ceil(BLOCK as u64) + pieces.saturating_sub(1) * (MIN_HOLE + 1) + 1;
    let data = data.min(size.div_ceil(BLOCK as u64));
    let extents = data / u64::from(MAX_LENGTH) + pieces;
    // Holes that the content itself has save more blocks than their extents take.
    if extents < IN_INODE as u64 { data } else { data + extents / IN_BLOCK as u64 + 3 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// First block in the file.
    logical: u32,
    length: u32,
    /// First block in the file system.
    physical: u32,
}

/// The map of one file.
#[derive(Debug, Default)]
pub(super) struct Extents(Vec<Extent>);

impl Extents {
    /// Adds a block; both numbers grow from call to call.
    pub(super) fn push(&mut self, logical: u32, physical: u32) {
        match self.0.last_mut() {
            Some(last)
                if last.logical + last.length == logical
                    && last.physical + last.length == physical
                    && last.length < MAX_LENGTH =>
            {
                last.length += 1;
            }
            Some(_) | None => self.0.push(Extent { logical, length: 1, physical }),
        }
    }

    /// Returns how many blocks there are.
    pub(super) fn blocks(&self) -> u64 {
        self.0.iter().map(|extent| u64::from(extent.length)).sum()
    }

    /// Returns the map as it stands in the inode; `allocate` stores a block of the tree and says where.
    pub(super) fn store<E>(
        &self,
        mut allocate: impl FnMut(&[u8; BLOCK]) -> Result<u32, E>,
    ) -> Result<[u8; MAP], E> {
        let mut map = [0; MAP];
        if self.0.len() <= IN_INODE {
            head(&mut map, self.0.len(), IN_INODE, 0);
            leaf(&mut map, &self.0);
            return Ok(map);
        }
        let mut level: Vec<(u32, u32)> = Vec::new();
        for extents in self.0.chunks(IN_BLOCK) {
            let mut block = [0; BLOCK];
            head(&mut block, extents.len(), IN_BLOCK, 0);
            leaf(&mut block, extents);
            level.push((extents[0].logical, allocate(&block)?));
        }
        let mut depth = 1;
        while level.len() > IN_INODE {
            let mut above = Vec::new();
            for nodes in level.chunks(IN_BLOCK) {
                let mut block = [0; BLOCK];
                head(&mut block, nodes.len(), IN_BLOCK, depth);
                index(&mut block, nodes);
                above.push((nodes[0].0, allocate(&block)?));
            }
            level = above;
            depth += 1;
        }
        head(&mut map, level.len(), IN_INODE, depth);
        index(&mut map, &level);
        Ok(map)
    }
}

fn head(node: &mut [u8], entries: usize, room: usize, depth: u16) {
    put16(node, 0, 0xf30a);
    put16(node, 2, super::short(entries));
    put16(node, 4, super::short(room));
    put16(node, 6, depth);
}

fn leaf(node: &mut [u8], extents: &[Extent]) {
    for (extent, at) in extents.iter().zip((HEAD..).step_by(ENTRY)) {
        put32(node, at, extent.logical);
        put16(node, at + 4, super::low16(extent.length));
        put32(node, at + 8, extent.physical);
    }
}

fn index(node: &mut [u8], below: &[(u32, u32)]) {
    for ((logical, block), at) in below.iter().zip((HEAD..).step_by(ENTRY)) {
        put32(node, at, *logical);
        put32(node, at + 4, *block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_ends_at_a_gap_and_at_its_longest() {
        let mut extents = Extents::default();
        for block in 0..MAX_LENGTH + 5 {
            extents.push(block, 100 + block);
        }
        extents.push(50_000, 105 + MAX_LENGTH);
        let expected = [
            Extent { logical: 0, length: MAX_LENGTH, physical: 100 },
            Extent { logical: MAX_LENGTH, length: 5, physical: 100 + MAX_LENGTH },
            Extent { logical: 50_000, length: 1, physical: 105 + MAX_LENGTH },
        ];
        assert_eq!(extents.0, expected);
        assert_eq!(extents.blocks(), u64::from(MAX_LENGTH) + 6);
    }
}
