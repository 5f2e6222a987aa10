//! The content of one file on its way into the file system: runs of zeros become holes.

use super::{
    Attributes, BLOCK, Ext4Writer, FileType, WriteError, Xattrs,
    extents::{Extents, MIN_HOLE},
    low32,
    writer::is_zero,
};

/// A file that is being written, from its beginning to its end.
pub(crate) struct FileContent<'w> {
    writer: &'w mut Ext4Writer,
    number: u32,
    attributes: Attributes,
    xattrs: &'w Xattrs,
    extents: Extents,
    /// The block of the file that comes next, the zeros not counted.
    next: u64,
    /// Blocks of zeros behind it, of which it is not yet known whether they become a hole.
    zeros: u64,
    /// The begun block behind them.
    partial: Vec<u8>,
}

impl<'w> FileContent<'w> {
    pub(super) fn new(
        writer: &'w mut Ext4Writer,
        number: u32,
        attributes: Attributes,
        xattrs: &'w Xattrs,
    ) -> Self {
        let (extents, partial) = (Extents::default(), Vec::new());
        Self { writer, number, attributes, xattrs, extents, next: 0, zeros: 0, partial }
    }

    /// Adds the next bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        if !self.partial.is_empty() {
            let (begin, rest) = bytes.split_at(bytes.len().min(BLOCK - self.partial.len()));
            self.partial.extend_from_slice(begin);
            bytes = rest;
            if self.partial.len() < BLOCK {
                return Ok(());
            }
            self.end_partial()?;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        for block in blocks {
            self.block(block)?;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Adds zeros.
    pub(crate) fn skip(&mut self, mut length: u64) -> Result<(), WriteError> {
        if !self.partial.is_empty() {
            let room = BLOCK - self.partial.len();
            let begin = usize::try_from(length).map_or(room, |length| length.min(room));
            self.partial.resize(self.partial.len() + begin, 0);
            length -= begin as u64;
            if self.partial.len() < BLOCK {
                return Ok(());
            }
            self.end_partial()?;
        }
        self.zeros += length / BLOCK as u64;
        let rest = usize::try_from(length % BLOCK as u64).expect("it is less than a block");
        self.partial.resize(rest, 0);
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<(), WriteError> {
        let size = (self.next + self.zeros) * BLOCK as u64 + self.partial.len() as u64;
        if !self.partial.is_empty() {
            self.partial.resize(BLOCK, 0);
            self.end_partial()?;
        }
        self.writer.mapped(
            self.number,
            FileType::Regular,
            &self.attributes,
            self.xattrs,
            (size, 0),
            &self.extents,
        )
    }

    fn end_partial(&mut self) -> Result<(), WriteError> {
        let mut block = std::mem::take(&mut self.partial);
        self.block(&block)?;
        block.clear();
        self.partial = block;
        Ok(())
    }

    fn block(&mut self, block: &[u8]) -> Result<(), WriteError> {
        if is_zero(block) {
            self.zeros += 1;
            return Ok(());
        }
        if self.zeros < MIN_HOLE {
            for _ in 0..self.zeros {
                self.put(&[0; BLOCK])?;
            }
        } else {
            self.next += self.zeros;
        }
        self.zeros = 0;
        self.put(block)
    }

    fn put(&mut self, block: &[u8]) -> Result<(), WriteError> {
        let physical = self.writer.append(block)?;
        // Whoever gives the content compared its length with the longest of ext4.
        self.extents.push(low32(self.next), physical);
        self.next += 1;
        Ok(())
    }
}
