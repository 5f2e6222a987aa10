//! Writes a tar stream: headers with exactly as many bytes behind them as they say, whatever the source does.

use std::io::{self, Write};

use tar::{EntryType, Header};

use crate::{
    CHUNK,
    read::{BLOCK, Time},
};

/// Longest name that fits a header; a longer one gets an entry of its own before it (GNU tar manual, "Basic Tar Format").
const SHORT: usize = 100;

/// Name of such an entry.
const LONG_LINK: &[u8] = b"././@LongLink";

/// Writes an archive.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
}

/// What a header says besides the kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) modified: Time,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive.
    pub const fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a directory. An empty name is the directory itself.
    pub(crate) fn directory(&mut self, name: &[u8], attributes: Attributes) -> io::Result<()> {
        let mut name = if name.is_empty() { b".".to_vec() } else { name.to_vec() };
        name.push(b'/');
        self.header(&name, b"", EntryType::Directory, 0, attributes)
    }

    /// Writes a symbolic link.
    pub(crate) fn symlink(&mut self, name: &[u8], target: &[u8], attributes: Attributes) -> io::Result<()> {
        self.header(name, target, EntryType::Symlink, 0, attributes)
    }

    /// Writes a file of `size` bytes whose content `read` gives piece by piece, 0 bytes at its end.
    ///
    /// What it gives too little is filled with zeros, and the number of those is returned; what it could give beyond the
    /// size is not asked for. So the archive stays whole.
    pub(crate) fn file(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        size: u64,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Missing> {
        self.header(name, b"", EntryType::Regular, size, attributes)?;
        let mut left = size;
        let mut failed = None;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            match read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(length) => {
                    self.out.write_all(&buffer[..length])?;
                    left -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let missing = left;
        buffer.fill(0);
        left += size.next_multiple_of(BLOCK as u64) - size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            self.out.write_all(&buffer[..length])?;
            left -= length as u64;
        }
        Ok(Missing { bytes: missing, failed })
    }

    /// Writes the end mark and returns where all went.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(
        &mut self,
        name: &[u8],
        link: &[u8],
        kind: EntryType,
        size: u64,
        attributes: Attributes,
    ) -> io::Result<()> {
        if name.len() > SHORT {
            self.long(EntryType::GNULongName, name)?;
        }
        if link.len() > SHORT {
            self.long(EntryType::GNULongLink, link)?;
        }
        self.block(name, link, kind, size, attributes)
    }

    fn long(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        let attributes = Attributes { mode: 0o644, modified: Time::default() };
        let size = text.len() as u64 + 1;
        self.block(LONG_LINK, b"", kind, size, attributes)?;
        self.out.write_all(text)?;
        let padding = size.next_multiple_of(BLOCK as u64) - text.len() as u64;
        self.out.write_all(&vec![0; usize::try_from(padding).expect("it is no more than a block")])
    }

    fn block(
        &mut self,
        name: &[u8],
        link: &[u8],
        kind: EntryType,
        size: u64,
        attributes: Attributes,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        let (name, link) = (&name[..name.len().min(SHORT)], &link[..link.len().min(SHORT)]);
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(attributes.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(attributes.modified.seconds).unwrap_or(0));
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }
}

/// What a file gave less than it was announced with.
#[derive(Debug)]
pub(crate) struct Missing {
    /// Bytes that were filled with zeros.
    pub(crate) bytes: u64,
    /// Why, when a read failed.
    pub(crate) failed: Option<io::Error>,
}
