//! Directories: one block with their entries, or an index by the hash of names and blocks of entries below it.
//!
//! Without the index every look-up in a directory of 100,000 files would read all of it.

use super::{BLOCK, FileType, hash::half_md4, put16, put32, short};

/// Longest name in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// Length of an entry without its name, in bytes.
const ENTRY: usize = 8;

/// `.` and `..` before the index, and what describes the index, in bytes.
const DOTS: usize = 24;
const INFO: usize = 8;

/// Length of an entry of the index, in bytes.
const INDEX_ENTRY: usize = 8;

/// Entries in the first block of the index, and in the others.
const IN_ROOT: usize = (BLOCK - DOTS - INFO) / INDEX_ENTRY;
const IN_NODE: usize = (BLOCK - ENTRY) / INDEX_ENTRY;

/// Number of the hash in [`super::hash`], with the superblock saying that characters are unsigned.
pub(super) const HALF_MD4: u8 = 1;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Child<'a> {
    pub(crate) name: &'a [u8],
    /// The inode that it names.
    pub(crate) number: u32,
    pub(crate) file_type: FileType,
}

/// The content of a directory.
pub(super) struct Directory {
    /// A multiple of a block.
    pub(super) content: Vec<u8>,
    pub(super) indexed: bool,
}

/// What a name takes, in bytes.
pub(crate) const fn entry_length(name: usize) -> usize {
    (ENTRY + name).next_multiple_of(4)
}

/// Returns how many blocks a directory takes at most whose names take `bytes` together with their entries.
pub(crate) fn blocks_at_most(bytes: u64) -> u64 {
    let full = (BLOCK - entry_length(MAX_NAME)) as u64;
    let leaves = bytes.div_ceil(full);
    if bytes + DOTS as u64 <= BLOCK as u64 { 1 } else { leaves + leaves.div_ceil(IN_NODE as u64) + 2 }
}

/// Writes a directory. `None` when it has more names than an index of two levels can hold, some millions.
pub(super) fn store(number: u32, parent: u32, children: &[Child<'_>], seed: [u32; 4]) -> Option<Directory> {
    let length: usize = children.iter().map(|child| entry_length(child.name.len())).sum();
    if length + DOTS <= BLOCK {
        let mut content = vec![0; BLOCK];
        let dots = dots(number, parent);
        fill(&mut content, dots.iter().chain(children));
        return Some(Directory { content, indexed: false });
    }
    let mut hashed: Vec<(u32, &Child<'_>)> =
        children.iter().map(|child| (half_md4(child.name, seed), child)).collect();
    hashed.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.name.cmp(b.1.name)));
    let leaves = split(&hashed);

    let nodes = if leaves.len() <= IN_ROOT { 0 } else { leaves.len().div_ceil(IN_NODE) };
    if nodes > IN_ROOT {
        return None;
    }
    let first_leaf = 1 + nodes;
    let mut content = vec![0; (first_leaf + leaves.len()) * BLOCK];
    let mut index: Vec<(u32, u32)> = Vec::with_capacity(leaves.len());
    for (i, leaf) in leaves.iter().enumerate() {
        let begin = (first_leaf + i) * BLOCK;
        fill(&mut content[begin..begin + BLOCK], leaf.iter().map(|(_, child)| *child));
        // A set lowest bit says that names of this hash begin in the block before.
        let continued = i > 0 && leaves[i - 1].last().map(|(hash, _)| *hash) == Some(leaf[0].0);
        index.push((leaf[0].0 | u32::from(continued), block_number(first_leaf + i)));
    }
    if nodes > 0 {
        let mut above = Vec::with_capacity(nodes);
        for (i, entries) in index.chunks(IN_NODE).enumerate() {
            let node = &mut content[(1 + i) * BLOCK..(2 + i) * BLOCK];
            put16(node, 4, short(BLOCK));
            store_index(&mut node[ENTRY..], entries, IN_NODE);
            above.push((entries[0].0, block_number(1 + i)));
        }
        index = above;
    }
    let root = &mut content[..BLOCK];
    fill(root, dots(number, parent).iter());
    root[DOTS + 4] = HALF_MD4;
    root[DOTS + 5] = u8::try_from(INFO).expect("it is 8");
    root[DOTS + 6] = u8::from(nodes > 0);
    store_index(&mut root[DOTS + INFO..], &index, IN_ROOT);
    Some(Directory { content, indexed: true })
}

fn dots(number: u32, parent: u32) -> [Child<'static>; 2] {
    let dot = |name, number| Child { name, number, file_type: FileType::Directory };
    [dot(b".", number), dot(b"..", parent)]
}

fn block_number(block: usize) -> u32 {
    u32::try_from(block).expect("an index of two levels has less blocks")
}

/// Divides entries, sorted by hash, among blocks.
fn split<'c, 'a>(hashed: &'c [(u32, &'a Child<'a>)]) -> Vec<&'c [(u32, &'a Child<'a>)]> {
    let mut leaves = Vec::new();
    let (mut begin, mut used) = (0, 0);
    for (i, (_, child)) in hashed.iter().enumerate() {
        let length = entry_length(child.name.len());
        if used + length > BLOCK {
            leaves.push(&hashed[begin..i]);
            (begin, used) = (i, 0);
        }
        used += length;
    }
    leaves.push(&hashed[begin..]);
    leaves
}

/// Writes entries into a block; the last one takes what is left of it.
fn fill<'a>(block: &mut [u8], children: impl Iterator<Item = &'a Child<'a>>) {
    let (mut at, mut last) = (0, 0);
    for child in children {
        let length = entry_length(child.name.len());
        put32(block, at, child.number);
        put16(block, at + 4, short(length));
        block[at + 6] = u8::try_from(child.name.len()).expect("names are at most 255 bytes long");
        block[at + 7] = child.file_type.in_directory();
        block[at + ENTRY..at + ENTRY + child.name.len()].copy_from_slice(child.name);
        last = at;
        at += length;
    }
    put16(block, last + 4, short(BLOCK - last));
}

/// Writes entries of the index; the first one's hash gives way to the numbers of entries, possible and present.
fn store_index(node: &mut [u8], entries: &[(u32, u32)], room: usize) {
    for ((hash, block), at) in entries.iter().zip((0..).step_by(INDEX_ENTRY)) {
        put32(node, at, *hash);
        put32(node, at + 4, *block);
    }
    put16(node, 0, short(room));
    put16(node, 2, short(entries.len()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_directory_takes_no_more_than_was_planned(lengths in prop::collection::vec(1..=MAX_NAME, 0..600)) {
            let names: Vec<Vec<u8>> = lengths.iter().map(|length| vec![b'x'; *length]).collect();
            let children: Vec<Child<'_>> = names
                .iter()
                .map(|name| Child { name, number: 12, file_type: FileType::Regular })
                .collect();
            let bytes: usize = lengths.iter().map(|length| entry_length(*length)).sum();
            let stored = store(2, 2, &children, [1; 4]).unwrap().content.len() as u64;
            prop_assert!(stored <= blocks_at_most(bytes as u64) * BLOCK as u64);
        }
    }
}
