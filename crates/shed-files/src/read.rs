//! Reads a tar stream entry by entry, as bytes from somebody who may mean ill.
//!
//! [`crate::unpack`] is the user. Headers are parsed by the `tar` crate; the loop around them is our own, because it bounds
//! what names and records may take, and refuses what two readers could understand in two ways. It writes nothing.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::path::MAX_PATH;

/// Size of a block, the unit of the format.
pub(crate) const BLOCK: usize = 512;

/// Longest long name or link, in bytes: a path and its zero byte.
const MAX_LONG: u64 = MAX_PATH as u64 + 1;

/// Longest list of pax records, in bytes; attributes of files may stand there, which are not taken over.
const MAX_PAX: u64 = 1 << 20;

/// Why a stream is no archive that can be taken.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the stream broke off")]
    Read(#[source] io::Error),
    #[error("the archive ends before its end mark: it was cut off")]
    Truncated,
    #[error("this is no tar archive")]
    NoArchive,
    #[error("the archive is compressed with {0}; send it uncompressed")]
    Compressed(&'static str),
    #[error("the archive is damaged at byte {offset}: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("an entry at byte {offset} has a name longer than {MAX_PATH} bytes")]
    NameTooLong { offset: u64 },
    #[error("an entry at byte {offset} is sparse; make the archive without --sparse")]
    Sparse { offset: u64 },
}

/// A time, as seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file; its content follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it points.
    Symlink(Vec<u8>),
    /// Something that is not unpacked, in words.
    Other(&'static str),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, unchecked.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Length of its content in bytes.
    pub size: u64,
    /// All mode bits that the archive has.
    pub mode: u32,
    /// When it was changed.
    pub modified: Time,
}

/// What extension headers say of the entry behind them.
#[derive(Debug, Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<Time>,
}

/// Reads an archive. Between two calls of [`Self::next_entry`] it is a `Read` of the entry's content.
#[derive(Debug)]
pub struct TarReader<R> {
    source: R,
    /// Bytes taken so far.
    offset: u64,
    /// Of the present entry's content.
    unread: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads from the beginning of an archive.
    pub const fn new(source: R) -> Self {
        Self { source, offset: 0, unread: 0, padding: 0, ended: false }
    }

    /// Moves on to the next entry; none at the end mark. What is left of the entry before is skipped.
    ///
    /// # Errors
    /// When the stream breaks, or is no archive that can be taken. Nothing more can be read then.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            if self.ended {
                return Ok(None);
            }
            let offset = self.offset;
            let mut block = [0; BLOCK];
            if let Err(error) = self.fill(&mut block) {
                // What is shorter than a block was never an archive.
                return Err(match error {
                    TarError::Truncated if offset == 0 && self.offset > 0 => {
                        check(&block, 0).map_or_else(|error| error, |_| TarError::Truncated)
                    }
                    error => error,
                });
            }
            if block.iter().all(|byte| *byte == 0) {
                if extended {
                    return Err(TarError::Damaged { offset, what: "an extension belongs to no entry" });
                }
                self.ended = true;
                return Ok(None);
            }
            let header = check(&block, offset)?;
            let size = header
                .entry_size()
                .map_err(|_| TarError::Damaged { offset, what: "a size cannot be read" })?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.name = Some(self.long(size, offset)?),
                EntryType::GNULongLink => extensions.link = Some(self.long(size, offset)?),
                EntryType::XHeader => self.pax(size, offset, &mut extensions)?,
                EntryType::XGlobalHeader => {
                    let _comments = self.record(size, MAX_PAX, offset)?;
                }
                EntryType::GNUSparse => return Err(TarError::Sparse { offset }),
                _ => return self.entry(header, size, extensions, offset).map(Some),
            }
            extended = true;
        }
    }

    /// Reads what comes behind the end mark: archives are padded.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while read_some(&mut self.source, &mut buffer)? > 0 {}
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extensions: Extensions,
        offset: u64,
    ) -> Result<Entry, TarError> {
        let damaged = |what| TarError::Damaged { offset, what };
        let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            let link = extensions.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            link.filter(|link| !link.is_empty() && link.len() < MAX_PATH && !link.contains(&0))
                .ok_or(damaged("a symbolic link has no target, or one that is too long"))
        };
        let kind = match header.entry_type() {
            // Archives older than POSIX mark a directory by its name alone.
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink(link()?),
            EntryType::Link => EntryKind::Other("a hard link"),
            EntryType::Char | EntryType::Block => EntryKind::Other("a device"),
            EntryType::Fifo => EntryKind::Other("a FIFO"),
            _ => EntryKind::Other("of an unknown kind"),
        };
        let size = extensions.size.unwrap_or(size);
        let has_content = !matches!(
            header.entry_type(),
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Directory
                | EntryType::Fifo
        );
        // Some readers take such a size for content and others do not: the two would see different archives.
        if size > 0 && (!has_content || kind == EntryKind::Directory) {
            return Err(damaged("an entry that has no content says how long it is"));
        }
        let padded = size.checked_next_multiple_of(BLOCK as u64).ok_or(damaged("a size is too large"))?;
        (self.unread, self.padding) = (size, padded - size);
        let mode = header.mode().map_err(|_| damaged("a mode cannot be read"))?;
        let modified = extensions.modified.unwrap_or_else(|| Time {
            seconds: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0),
            nanoseconds: 0,
        });
        Ok(Entry { name, kind, size, mode, modified })
    }

    /// Reads the content of an extension header.
    fn record(&mut self, size: u64, limit: u64, offset: u64) -> Result<Vec<u8>, TarError> {
        let length = usize::try_from(size.min(limit + 1)).expect("the limits are far below 4 GiB");
        if size > limit {
            return Err(TarError::Damaged { offset, what: "an extension is too long" });
        }
        let mut bytes = vec![0; length.next_multiple_of(BLOCK)];
        self.fill(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    fn long(&mut self, size: u64, offset: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_LONG {
            return Err(TarError::NameTooLong { offset });
        }
        let mut name = self.record(size, MAX_LONG, offset)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn pax(&mut self, size: u64, offset: u64, extensions: &mut Extensions) -> Result<(), TarError> {
        let records = self.record(size, MAX_PAX, offset)?;
        let damaged = TarError::Damaged { offset, what: "a pax record cannot be read" };
        let Some(records) = split_pax(&records) else { return Err(damaged) };
        for (key, value) in records {
            match key {
                b"path" if value.len() > MAX_PATH => return Err(TarError::NameTooLong { offset }),
                b"path" => extensions.name = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => {
                    let unreadable = TarError::Damaged { offset, what: "a pax size cannot be read" };
                    extensions.size = Some(number(value).ok_or(unreadable)?);
                }
                b"mtime" => extensions.modified = time(value),
                key if key.starts_with(b"GNU.sparse.") => return Err(TarError::Sparse { offset }),
                _ => {}
            }
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut left = self.unread + self.padding;
        let mut buffer = [0; 16 * BLOCK];
        while left > 0 {
            let length = usize::try_from(left.min(buffer.len() as u64)).expect("it is no more than a buffer");
            self.fill(&mut buffer[..length])?;
            left -= length as u64;
        }
        (self.unread, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            match read_some(&mut self.source, buffer).map_err(TarError::Read)? {
                0 => return Err(TarError::Truncated),
                length => {
                    self.offset += length as u64;
                    buffer = &mut buffer[length..];
                }
            }
        }
        Ok(())
    }

    /// Reads content of the present entry; 0 at its end.
    ///
    /// # Errors
    /// When the stream breaks, or ends before the content does.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let length = buffer.len().min(usize::try_from(self.unread).unwrap_or(usize::MAX));
        self.fill(&mut buffer[..length])?;
        self.unread -= length as u64;
        Ok(length)
    }
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Holds a block against its checksum. The first one of a stream says what the stream is instead.
fn check(block: &[u8; BLOCK], offset: u64) -> Result<&Header, TarError> {
    let header = Header::from_byte_slice(block);
    let field = 148..156;
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u32::from(if field.contains(&at) { b' ' } else { *byte }))
        .sum();
    if header.cksum().is_ok_and(|stated| stated == sum) {
        return Ok(header);
    }
    if offset > 0 {
        return Err(TarError::Damaged { offset, what: "a header does not match its checksum" });
    }
    let magics = [
        (&[0x1f, 0x8b][..], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
        (b"BZh", "bzip2"),
    ];
    match magics.iter().find(|(magic, _)| block.starts_with(magic)) {
        Some((_, name)) => Err(TarError::Compressed(name)),
        None => Err(TarError::NoArchive),
    }
}

/// Takes pax records apart, each `LENGTH KEY=VALUE\n` with a length that counts all of it (POSIX pax, "pax Header Block").
fn split_pax(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let digits = bytes.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(number(&bytes[..digits])?).ok()?;
        let record = bytes.get(digits + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(records)
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// Reads seconds with a fraction; nothing when they are none.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let nanoseconds = if fraction.is_empty() {
        0
    } else {
        let _checked = number(&fraction[..fraction.len().min(18)])?;
        (0..9).fold(0, |sum, at| sum * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0')))
    };
    match (negative, nanoseconds) {
        (false, nanoseconds) => Some(Time { seconds, nanoseconds }),
        (true, 0) => Some(Time { seconds: -seconds, nanoseconds: 0 }),
        (true, part) => Some(Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - part }),
    }
}

#[cfg(test)]
mod tests;
