//! Writes inodes and data one after the other.
//!
//! Whoever uses it gives every inode once, with numbers from [`FIRST_INODE`](super::FIRST_INODE) on without a gap, and no
//! more blocks than planned. Nothing is flushed to the disk here.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use uuid::Uuid;

use super::{
    BLOCK, INODE, Layout, ROOT, Special,
    directory::{self, Child},
    extents::{Extents, MAP},
    file::FileContent,
    inode::{Attributes, EXTENTS_FLAG, FileType, INDEX_FLAG, Inode},
    layout::Identity,
    low32,
    xattr::Xattrs,
};

/// Data is written in pieces of this length, in bytes.
const PIECE: usize = 1 << 20;

/// Longest target of a symbolic link that stands in the inode, in bytes; one byte ends it.
pub(crate) const MAX_SHORT_SYMLINK: usize = MAP - 1;

/// Says why a file system cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the content is more than was planned for it")]
    Planned,
    #[error("a directory has more names than ext4 can index")]
    Directory,
}

/// A file system that is being written.
#[derive(Debug)]
pub(crate) struct Ext4Writer {
    file: File,
    layout: Layout,
    /// The block at which `pending` begins.
    pending_at: u32,
    /// Whole blocks that are not yet written.
    pending: Vec<u8>,
    /// The block of inodes that was touched last, and where it is.
    inodes: Box<[u8; BLOCK]>,
    inodes_at: Option<u64>,
    /// Directories of each group.
    directories: Vec<u32>,
    seed: [u32; 4],
}

impl Ext4Writer {
    /// Begins a file system in an empty file.
    pub(crate) fn new(file: File, layout: Layout, uuid: Uuid) -> io::Result<Self> {
        file.set_len(layout.length())?;
        let mut seed = [0; 4];
        for (word, bytes) in seed.iter_mut().zip(uuid.as_bytes().chunks(4)) {
            *word = u32::from_le_bytes(bytes.try_into().expect("a UUID is four times four bytes"));
        }
        Ok(Self {
            file,
            pending_at: layout.first_data(),
            pending: Vec::with_capacity(PIECE),
            inodes: Box::new([0; BLOCK]),
            inodes_at: None,
            directories: vec![0; layout.groups()],
            layout,
            seed,
        })
    }

    /// Writes a directory with its content.
    pub(crate) fn directory(
        &mut self,
        number: u32,
        parent: u32,
        attributes: &Attributes,
        xattrs: &Xattrs,
        children: &[Child<'_>],
    ) -> Result<(), WriteError> {
        let directory = directory::store(number, parent, children, self.seed).ok_or(WriteError::Directory)?;
        let mut extents = Extents::default();
        for (logical, block) in (0..).zip(directory.content.chunks(BLOCK)) {
            extents.push(logical, self.append(block)?);
        }
        let flags = if directory.indexed { INDEX_FLAG } else { 0 };
        let group = self.layout.group_of(number);
        self.directories[group] += 1;
        let size = directory.content.len() as u64;
        self.mapped(number, FileType::Directory, attributes, xattrs, (size, flags), &extents)
    }

    /// Writes a symbolic link.
    pub(crate) fn symlink(
        &mut self,
        number: u32,
        attributes: &Attributes,
        xattrs: &Xattrs,
        target: &[u8],
    ) -> Result<(), WriteError> {
        let size = target.len() as u64;
        if target.len() <= MAX_SHORT_SYMLINK {
            let mut map = [0; MAP];
            map[..target.len()].copy_from_slice(target);
            return self.inode(number, FileType::Symlink, attributes, xattrs, (size, 0, 0), map);
        }
        let mut block = [0; BLOCK];
        block[..target.len()].copy_from_slice(target);
        let mut extents = Extents::default();
        extents.push(0, self.append(&block)?);
        self.mapped(number, FileType::Symlink, attributes, xattrs, (size, 0), &extents)
    }

    /// Writes a device or a pipe.
    pub(crate) fn special(
        &mut self,
        number: u32,
        attributes: &Attributes,
        xattrs: &Xattrs,
        special: Special,
    ) -> Result<(), WriteError> {
        self.inode(number, special.file_type(), attributes, xattrs, (0, 0, 0), special.map())
    }

    /// Begins a file, whose content is given to the result.
    pub(crate) fn file<'w>(
        &'w mut self,
        number: u32,
        attributes: Attributes,
        xattrs: &'w Xattrs,
    ) -> FileContent<'w> {
        FileContent::new(self, number, attributes, xattrs)
    }

    /// Writes an inode whose content is in extents; `shape` is its size and flags.
    pub(super) fn mapped(
        &mut self,
        number: u32,
        file_type: FileType,
        attributes: &Attributes,
        xattrs: &Xattrs,
        (size, flags): (u64, u32),
        extents: &Extents,
    ) -> Result<(), WriteError> {
        let mut tree = 0;
        let map = extents.store(|block| {
            tree += 1;
            self.append(block)
        })?;
        let blocks = extents.blocks() + tree;
        self.inode(number, file_type, attributes, xattrs, (size, blocks, flags | EXTENTS_FLAG), map)
    }

    /// Writes an inode; `shape` is its size, its blocks, and its flags.
    fn inode(
        &mut self,
        number: u32,
        file_type: FileType,
        attributes: &Attributes,
        xattrs: &Xattrs,
        (size, blocks, flags): (u64, u64, u32),
        map: [u8; MAP],
    ) -> Result<(), WriteError> {
        let xattr_block = match xattrs.block() {
            Some(block) => self.append(&*block)?,
            None => 0,
        };
        let inode = Inode {
            file_type,
            attributes,
            size,
            blocks: blocks + u64::from(xattr_block != 0),
            flags,
            map,
            xattrs: xattrs.in_inode(),
            xattr_block,
        };
        self.put_inode(number, &inode.encode())
    }

    fn put_inode(&mut self, number: u32, bytes: &[u8; INODE]) -> Result<(), WriteError> {
        let at = self.layout.inode_at(number);
        let within = usize::try_from(at % BLOCK as u64).expect("it is less than a block");
        let block = at - at % BLOCK as u64;
        if self.inodes_at != Some(block) {
            self.flush_inodes()?;
            self.file.read_exact_at(&mut *self.inodes, block)?;
            self.inodes_at = Some(block);
        }
        self.inodes[within..within + INODE].copy_from_slice(bytes);
        Ok(())
    }

    fn flush_inodes(&mut self) -> io::Result<()> {
        match self.inodes_at.take() {
            Some(at) => self.file.write_all_at(&*self.inodes, at),
            None => Ok(()),
        }
    }

    /// Adds a block of data, and returns its number.
    pub(super) fn append(&mut self, block: &[u8]) -> Result<u32, WriteError> {
        let number = self.pending_at + low32((self.pending.len() / BLOCK) as u64);
        if number >= self.layout.blocks() {
            return Err(WriteError::Planned);
        }
        self.pending.extend_from_slice(block);
        if self.pending.len() >= PIECE {
            self.flush_data()?;
        }
        Ok(number)
    }

    fn flush_data(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.pending, u64::from(self.pending_at) * BLOCK as u64)?;
        self.pending_at += low32((self.pending.len() / BLOCK) as u64);
        self.pending.clear();
        Ok(())
    }

    /// Writes what makes it a file system, and returns the file.
    pub(crate) fn finish(mut self, label: Option<&str>, uuid: Uuid) -> Result<File, WriteError> {
        self.flush_data()?;
        self.flush_inodes()?;
        // The root is among the reserved inodes.
        debug_assert!(self.directories[self.layout.group_of(ROOT)] > 0);
        let identity = Identity { label: label.unwrap_or_default().as_bytes(), uuid, seed: self.seed };
        let metadata = self.layout.metadata(self.pending_at, &self.directories, &identity);
        self.file.write_all_at(&metadata, 0)?;
        Ok(self.file)
    }
}

/// Tells whether a block is all zeros.
pub(super) fn is_zero(block: &[u8]) -> bool {
    // Most blocks end at the first piece; a piece is compared at once.
    block.chunks(64).all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
}
