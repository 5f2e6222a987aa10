//! Goes through an archive entry by entry.

use super::{
    MAX_EXTENSIONS, RECORD, Source, TarError,
    fields::Header,
    pax::{records, time, unsigned},
    sparse::{self, Map},
};
use crate::ext4::keeps_xattr;

/// Longest piece of a name in an error, in bytes.
const MAX_SHOWN: usize = 200;

/// Extended attributes of one entry, and how long their names and values are together, in bytes. Linux takes no list of
/// names that is longer (`XATTR_LIST_MAX`), and ext4 has a block for all.
const MAX_XATTRS: usize = 256;
const MAX_XATTR_BYTES: usize = 64 << 10;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A file; of `size` bytes the archive has `stored`, in so many pieces.
    File {
        size: u64,
        stored: u64,
        pieces: u64,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Another name of the file with this one.
    HardLink(Vec<u8>),
    Character {
        major: i64,
        minor: i64,
    },
    Block {
        major: i64,
        minor: i64,
    },
    Fifo,
}

/// One entry. Numbers are as the archive has them; what makes no sense for a file is for the caller to refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name, unchecked.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: i64,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    /// Seconds since 1970, rounded down, and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// Names and values of those extended attributes that an image can keep.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Returns about what its names and attributes take in memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let link = match &self.kind {
            EntryKind::Symlink(target) | EntryKind::HardLink(target) => target.len(),
            EntryKind::File { .. }
            | EntryKind::Directory
            | EntryKind::Character { .. }
            | EntryKind::Block { .. }
            | EntryKind::Fifo => 0,
        };
        let xattrs = length_of(&self.xattrs) + size_of_val(&self.xattrs[..]);
        self.name.len() + link + xattrs
    }
}

fn length_of(xattrs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// What headers say of the entry behind them.
#[derive(Debug, Default)]
struct Extensions {
    /// From GNU headers.
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// From pax records.
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    modified: Option<(i64, u32)>,
    device: (Option<i64>, Option<i64>),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
    /// What all of them took, in bytes.
    length: u64,
    any: bool,
}

/// What pax records say of a sparse file.
#[derive(Debug, Default)]
struct PaxSparse {
    /// Form 1.0, whose map precedes the content.
    in_content: bool,
    name: Option<Vec<u8>>,
    length: Option<u64>,
    map: Option<Vec<(u64, u64)>>,
    /// The offset of a piece whose length is yet to come (form 0.0).
    offset: Option<u64>,
}

/// Reads an archive.
#[derive(Debug)]
pub(crate) struct TarReader<S> {
    source: S,
    /// Bytes taken so far.
    offset: u64,
    /// Bytes of the present entry's content that are not taken, and of the padding behind them: less than a record.
    unread: u64,
    padding: usize,
    /// The map of the present entry; none when it has no holes.
    map: Option<Map>,
}

impl<S: Source> TarReader<S> {
    pub(crate) const fn new(source: S) -> Self {
        Self { source, offset: 0, unread: 0, padding: 0, map: None }
    }

    /// Returns how many bytes were taken: where the present entry's content begins, when none of it was.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the source.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// Goes on to the next entry, over what is left of the one before; `None` at the end of the archive, behind which
    /// there are only zeros. An archive without end mark counts as whole when it ends behind an entry's content, even
    /// without padding: `umoci insert` writes such layers, and digests tell what was cut off.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.map = None;
        let rest = std::mem::take(&mut self.unread);
        self.skip(rest)?;
        if !self.skip_padding()? {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        let begin = self.offset;
        loop {
            let offset = self.offset;
            let damaged = |what| TarError::Damaged { offset, what };
            let mut record = [0; RECORD];
            let there = self.source.fill(&mut record).map_err(TarError::Read)?;
            self.offset += there as u64;
            if there < RECORD {
                let at_end = there == 0 && !extensions.any;
                return if at_end { Ok(None) } else { Err(TarError::CutOff { offset: self.offset }) };
            }
            if record == [0; RECORD] {
                if extensions.any {
                    return Err(damaged("it belongs to no entry"));
                }
                return self.end().map(|()| None);
            }
            let header = Header::new(&record).ok_or(if offset == 0 {
                TarError::NoArchive
            } else {
                damaged("its checksum is wrong")
            })?;
            let size = header.size().ok_or(damaged("its size cannot be read"))?;
            match header.kind() {
                b'L' => extensions.long_name = Some(self.long(size, &mut extensions, begin)?),
                b'K' => extensions.long_link = Some(self.long(size, &mut extensions, begin)?),
                b'x' => {
                    let bytes = self.extension(size, &mut extensions, begin)?;
                    extensions.pax(&bytes).map_err(damaged)?;
                }
                // What holds for the whole archive are comments; readers differ in what else they would believe.
                b'g' => {
                    let _comments = self.extension(size, &mut Extensions::default(), begin)?;
                    continue;
                }
                _ => return self.entry(&header, size, extensions, (begin, offset)).map(Some),
            }
            extensions.any = true;
        }
    }

    /// Gives the present entry's content to `take`, as lengths of holes and pieces of data, in order.
    pub(crate) fn content<E: From<TarError>>(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(Content<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let whole = || Map { pieces: vec![(0, self.unread)], length: self.unread };
        let map = self.map.take().unwrap_or_else(whole);
        let mut at = 0;
        for (offset, length) in map.pieces {
            if offset > at {
                take(Content::Hole(offset - at))?;
            }
            at = offset + length;
            let mut left = length;
            while left > 0 {
                let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                self.fill(&mut buffer[..count])?;
                self.unread -= count as u64;
                take(Content::Data(&buffer[..count]))?;
                left -= count as u64;
            }
        }
        if map.length > at { take(Content::Hole(map.length - at)) } else { Ok(()) }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        size: u64,
        extensions: Extensions,
        (begin, offset): (u64, u64),
    ) -> Result<Entry, TarError> {
        let damaged = |what| TarError::Damaged { offset, what };
        let one_of = |long: Option<Vec<u8>>, pax: Option<Vec<u8>>, old: Vec<u8>| match (long, pax) {
            (Some(long), Some(pax)) if long != pax => Err(damaged("it has two names")),
            (Some(name), _) | (None, Some(name)) => Ok(name),
            (None, None) => Ok(old),
        };
        let name = extensions.sparse.name.clone().or(extensions.name);
        let name = one_of(extensions.long_name, name, header.name())?;
        let link = one_of(extensions.long_link, extensions.link, header.link())?;
        let stored = extensions.size.unwrap_or(size);
        let device = || {
            let (major, minor) = header.device().unwrap_or_default();
            (extensions.device.0.unwrap_or(major), extensions.device.1.unwrap_or(minor))
        };
        let sparse = extensions.sparse;
        let is_sparse = sparse.in_content || sparse.map.is_some();
        let mut spent = extensions.length;
        let kind = match header.kind() {
            b'S' => {
                self.expect_content(stored, offset)?;
                let map = self.gnu_map(header, &mut spent, (begin, offset))?;
                self.mapped(map, offset)?
            }
            // Archives older than POSIX mark a directory by its name alone.
            b'0' | 0 | b'7' if name.ends_with(b"/") && !is_sparse => EntryKind::Directory,
            b'0' | 0 | b'7' => {
                self.expect_content(stored, offset)?;
                if is_sparse {
                    let map = self.pax_map(sparse, &mut spent, (begin, offset))?;
                    self.mapped(map, offset)?
                } else {
                    EntryKind::File { size: stored, stored, pieces: 1 }
                }
            }
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => {
                let (major, minor) = device();
                EntryKind::Character { major, minor }
            }
            b'4' => {
                let (major, minor) = device();
                EntryKind::Block { major, minor }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let name = String::from_utf8_lossy(&name[..name.len().min(MAX_SHOWN)]).into_owned();
                return Err(TarError::Unknown { offset, name, kind: char::from(other) });
            }
        };
        // What the types 1 to 6 say of a size means nothing, to Go's reader, too. A file whose name is a directory's has
        // content to some readers and none to others: the two would see different archives.
        let by_name = kind == EntryKind::Directory && header.kind() != b'5';
        if by_name && stored > 0 {
            return Err(damaged("it says how long its content is, and can have none"));
        }
        let unreadable = || damaged("a number in it cannot be read");
        Ok(Entry {
            name,
            kind,
            mode: header.mode().ok_or_else(unreadable)?,
            uid: extensions.uid.or_else(|| header.uid()).ok_or_else(unreadable)?,
            gid: extensions.gid.or_else(|| header.gid()).ok_or_else(unreadable)?,
            modified: extensions
                .modified
                .or_else(|| header.modified().map(|seconds| (seconds, 0)))
                .ok_or_else(unreadable)?,
            xattrs: extensions.xattrs,
        })
    }

    fn expect_content(&mut self, stored: u64, offset: u64) -> Result<(), TarError> {
        let padded = stored.checked_next_multiple_of(RECORD as u64).filter(|padded| *padded < 1 << 62);
        let padded = padded.ok_or(TarError::Damaged { offset, what: "its size is too large" })?;
        let padding = usize::try_from(padded - stored).expect("it is less than a record");
        (self.unread, self.padding) = (stored, padding);
        Ok(())
    }

    /// Reads the map of an old GNU sparse file, which continues in records behind the header.
    fn gnu_map(
        &mut self,
        header: &Header<'_>,
        spent: &mut u64,
        (begin, offset): (u64, u64),
    ) -> Result<Map, TarError> {
        let damaged = || TarError::Damaged { offset, what: "its map of a sparse file cannot be read" };
        let (first, mut more, length) = header.gnu_sparse().ok_or_else(damaged)?;
        let mut pieces = Vec::new();
        sparse::gnu(first, &mut pieces).ok_or_else(damaged)?;
        while more {
            spend(spent, RECORD as u64, begin)?;
            let mut record = [0; RECORD];
            self.fill(&mut record)?;
            sparse::gnu(&record[..504], &mut pieces).ok_or_else(damaged)?;
            more = record[504] != 0;
        }
        Ok(Map { pieces, length })
    }

    /// Takes the map of a pax sparse file from its records or, in form 1.0, from before its content.
    fn pax_map(
        &mut self,
        sparse: PaxSparse,
        spent: &mut u64,
        (begin, offset): (u64, u64),
    ) -> Result<Map, TarError> {
        let damaged = || TarError::Damaged { offset, what: "its map of a sparse file cannot be read" };
        let length = sparse.length.ok_or_else(damaged)?;
        if !sparse.in_content {
            return Ok(Map { pieces: sparse.map.unwrap_or_default(), length });
        }
        // Lines of a number each, the first saying how many pairs follow, padded to whole records.
        let (mut numbers, mut line) = (Vec::new(), Vec::new());
        loop {
            spend(spent, RECORD as u64, begin)?;
            self.unread = self.unread.checked_sub(RECORD as u64).ok_or_else(damaged)?;
            let mut record = [0; RECORD];
            self.fill(&mut record)?;
            for byte in record {
                if byte == b'\n' {
                    numbers.push(unsigned(&line).ok_or_else(damaged)?);
                    line.clear();
                    let wanted = numbers[0].checked_mul(2).and_then(|twice| twice.checked_add(1));
                    if wanted.ok_or_else(damaged)? == numbers.len() as u64 {
                        let pieces = sparse::pairs(&numbers[1..]).ok_or_else(damaged)?;
                        return Ok(Map { pieces, length });
                    }
                } else if line.len() < 20 {
                    line.push(byte);
                } else {
                    return Err(damaged());
                }
            }
        }
    }

    fn mapped(&mut self, map: Map, offset: u64) -> Result<EntryKind, TarError> {
        let what = "its map of a sparse file makes no sense";
        let map = map.checked(self.unread).ok_or(TarError::Damaged { offset, what })?;
        let kind = EntryKind::File { size: map.length, stored: self.unread, pieces: map.pieces.len() as u64 };
        self.map = Some(map);
        Ok(kind)
    }

    fn long(&mut self, size: u64, extensions: &mut Extensions, begin: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(size, extensions, begin)?;
        // It ends at its zero byte, as a text in a header does.
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn extension(&mut self, size: u64, extensions: &mut Extensions, begin: u64) -> Result<Vec<u8>, TarError> {
        spend(&mut extensions.length, size, begin)?;
        let length = usize::try_from(size).expect("it was compared with 1 MiB");
        let mut bytes = vec![0; length.next_multiple_of(RECORD)];
        self.fill(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    fn end(&mut self) -> Result<(), TarError> {
        loop {
            let mut record = [0; RECORD];
            let there = self.source.fill(&mut record).map_err(TarError::Read)?;
            if record[..there].iter().any(|byte| *byte != 0) {
                return Err(TarError::Garbage { offset: self.offset });
            }
            self.offset += there as u64;
            if there < RECORD {
                return Ok(());
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        let there = self.source.fill(buffer).map_err(TarError::Read)?;
        self.offset += there as u64;
        if there == buffer.len() { Ok(()) } else { Err(TarError::CutOff { offset: self.offset }) }
    }

    /// Passes over the padding; tells whether all of it was there.
    fn skip_padding(&mut self) -> Result<bool, TarError> {
        let mut record = [0; RECORD];
        let padding = &mut record[..std::mem::take(&mut self.padding)];
        let there = self.source.fill(padding).map_err(TarError::Read)?;
        self.offset += there as u64;
        Ok(there == padding.len())
    }

    fn skip(&mut self, length: u64) -> Result<(), TarError> {
        let all = length == 0 || self.source.skip(length).map_err(TarError::Read)?;
        if !all {
            return Err(TarError::CutOff { offset: self.offset });
        }
        self.offset += length;
        Ok(())
    }
}

/// A part of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Data(&'a [u8]),
    /// As many zeros.
    Hole(u64),
}

/// Counts what belongs to one entry's headers.
fn spend(spent: &mut u64, length: u64, begin: u64) -> Result<(), TarError> {
    *spent = spent.saturating_add(length);
    if *spent > MAX_EXTENSIONS { Err(TarError::Extensions { offset: begin }) } else { Ok(()) }
}

impl Extensions {
    /// Takes pax records over; later ones replace earlier ones, and an empty one takes back. Says what is wrong with them
    /// if something is.
    fn pax(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let unreadable = "its pax records cannot be read";
        for (key, value) in records(bytes).ok_or(unreadable)? {
            match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) => self.xattr(name, value)?,
                None => self.record(key, value).ok_or(unreadable)?,
            }
        }
        Ok(())
    }

    /// Takes an extended attribute over, if an image can keep it.
    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if !keeps_xattr(name) {
            return Ok(());
        }
        self.xattrs.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.xattrs.push((name.to_vec(), value.to_vec()));
        }
        if self.xattrs.len() > MAX_XATTRS {
            return Err("it has more than 256 extended attributes");
        }
        if length_of(&self.xattrs) > MAX_XATTR_BYTES {
            return Err("its extended attributes have more than 64 KiB");
        }
        Ok(())
    }

    /// Takes one other record over. `None` when it cannot be read.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.name = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = optional(value, unsigned)?,
            b"uid" => self.uid = optional(value, signed)?,
            b"gid" => self.gid = optional(value, signed)?,
            b"mtime" => self.modified = optional(value, time)?,
            b"SCHILY.devmajor" => self.device.0 = optional(value, signed)?,
            b"SCHILY.devminor" => self.device.1 = optional(value, signed)?,
            b"GNU.sparse.major" => self.sparse.in_content = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.length = Some(unsigned(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(sparse::list(value)?),
            b"GNU.sparse.numblocks" => self.sparse.map = Some(Vec::new()),
            b"GNU.sparse.offset" => self.sparse.offset = Some(unsigned(value)?),
            b"GNU.sparse.numbytes" => {
                let piece = (self.sparse.offset.take()?, unsigned(value)?);
                self.sparse.map.get_or_insert_default().push(piece);
            }
            _ => {}
        }
        Some(())
    }
}

/// Reads a value; an empty one is none. The outer `None` says that it cannot be read.
#[expect(clippy::option_option, reason = "the two mean different things")]
fn optional<T>(value: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { read(value).map(Some) }
}

fn signed(text: &[u8]) -> Option<i64> {
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let value = i64::try_from(unsigned(digits)?).ok()?;
    Some(if negative { -value } else { value })
}
