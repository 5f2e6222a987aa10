//! An image's files, wherever they lie: in a directory, in a tar, or in a compressed tar.
//!
//! A tar is read once for where its files are. A compressed one is unpacked to a file without a name first, which
//! disappears however this ends. Links inside of a tar are followed as far as they stay in it; a layout that is a
//! directory has none.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Mode, OFlags};

use super::{INDEX, LAYOUT};
use crate::{
    ImageLimits, ImageWatch,
    convert::{Compression, decompress},
    tar::{EntryKind, Source, TarError, TarReader},
};

/// Files in a tar; more are no image.
const MAX_FILES: usize = 100_000;

/// Longest name and longest target of a link in a tar, in bytes, as the kernel's `PATH_MAX` has it: memory for all of them
/// is so bounded, too.
const MAX_NAME: usize = 4096;

/// Links that are followed to a file.
const MAX_LINKS: usize = 16;

/// How much is read at once, in bytes.
pub(super) const PIECE: usize = 1 << 18;

/// Says why an image's files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path} as an archive")]
    Archive {
        path: Utf8PathBuf,
        #[source]
        source: TarError,
    },
    #[error("{path} is compressed with {with}; only gzip and zstd can be read")]
    Compressed { path: Utf8PathBuf, with: &'static str },
    #[error("{path} unpacks to more than {limit} bytes")]
    TooLong { path: Utf8PathBuf, limit: u64 },
    #[error("{path} has {name:?} in it, which leads out of the archive")]
    Outside { path: Utf8PathBuf, name: String },
    #[error("{path} has {name:?} twice in it")]
    Twice { path: Utf8PathBuf, name: String },
    #[error("{path} has {name:?} in it, which an archive of images cannot have: {what}")]
    Strange { path: Utf8PathBuf, name: String, what: &'static str },
    #[error("{path} has more than {MAX_FILES} files and is no archive of images")]
    TooMany { path: Utf8PathBuf },
    #[error("{path} has no file {name}")]
    Missing { path: Utf8PathBuf, name: String },
    #[error("{name} in {path} has more than {limit} bytes")]
    LongFile { path: Utf8PathBuf, name: String, limit: u64 },
    #[error("import was cancelled")]
    Cancelled,
}

/// Where the files of an image are.
pub(super) enum Files {
    Directory(Utf8PathBuf),
    Tar { path: Utf8PathBuf, file: Arc<File>, entries: HashMap<String, Place> },
}

/// What a tar has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    File {
        at: u64,
        length: u64,
    },
    /// Another name in the tar.
    Link(String),
}

/// A file of an image, from its beginning.
#[derive(Debug)]
pub(super) struct Opened {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Opened {
    pub(super) const fn length(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Files {
    /// Finds the files of a directory or an archive. What an archive unpacks to lies in `scratch` meanwhile.
    pub(super) fn open(
        path: &Utf8Path,
        scratch: &Utf8Path,
        limits: &ImageLimits,
        watch: &dyn ImageWatch,
    ) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if !metadata.is_file() {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither file nor directory",
            )));
        }
        let mut file = File::open(path).map_err(failed)?;
        let mut begin = [0; 6];
        let there = read_some(&mut file, &mut begin).map_err(failed)?;
        let _start = file.seek(SeekFrom::Start(0)).map_err(failed)?;
        match Compression::of(&begin[..there]) {
            Compression::None => {}
            Compression::Gzip | Compression::Zstd => file = unpack(path, file, scratch, limits, watch)?,
            Compression::Other(with) => return Err(SourceError::Compressed { path: path.to_owned(), with }),
        }
        let entries = list(path, &file)?;
        Ok(Self::Tar { path: path.to_owned(), file: Arc::new(file), entries })
    }

    /// Returns what the files came from.
    pub(super) fn path(&self) -> &Utf8Path {
        match self {
            Self::Directory(path) | Self::Tar { path, .. } => path,
        }
    }

    /// Tells whether there is an OCI layout.
    pub(super) fn is_layout(&self) -> bool {
        self.open_file(INDEX).is_ok() && self.open_file(LAYOUT).is_ok()
    }

    /// Opens a file.
    pub(super) fn open_file(&self, name: &str) -> Result<Opened, SourceError> {
        match self {
            Self::Directory(dir) => open_below(dir, name),
            Self::Tar { path, file, entries } => {
                let (at, length) = find(path, entries, name)?;
                Ok(Opened { file: file.clone(), at, end: at + length })
            }
        }
    }

    /// Reads a file that is at most `limit` bytes long.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, SourceError> {
        let file = self.open_file(name)?;
        let path = self.path().to_owned();
        if file.length() > limit {
            return Err(SourceError::LongFile { path, name: name.to_owned(), limit });
        }
        let mut bytes = Vec::new();
        let read = file.take(limit).read_to_end(&mut bytes);
        read.map_err(|source| SourceError::Read { path, source })?;
        Ok(bytes)
    }
}

/// Opens a file of a layout; neither it nor a directory on the way is a symbolic link.
fn open_below(dir: &Utf8Path, name: &str) -> Result<Opened, SourceError> {
    let missing = || SourceError::Missing { path: dir.to_owned(), name: name.to_owned() };
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => missing(),
        error => SourceError::Read { path: dir.join(name), source: error.into() },
    };
    let on_the_way = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(dir.as_std_path(), on_the_way, Mode::empty()).map_err(failed)?;
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        // A pipe in place of a file must not be waited for.
        let flags = if parts.peek().is_some() { on_the_way } else { OFlags::NONBLOCK | OFlags::CLOEXEC };
        if matches!(part, "" | "." | "..") {
            return Err(SourceError::Outside { path: dir.to_owned(), name: name.to_owned() });
        }
        at = rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
    }
    let file = File::from(at);
    let metadata = file.metadata().map_err(|source| SourceError::Read { path: dir.join(name), source })?;
    if !metadata.is_file() {
        let what = "it is not a file";
        return Err(SourceError::Strange { path: dir.to_owned(), name: name.to_owned(), what });
    }
    Ok(Opened { file: Arc::new(file), at: 0, end: metadata.len() })
}

/// Finds a file in a tar, through links.
fn find(path: &Utf8Path, entries: &HashMap<String, Place>, name: &str) -> Result<(u64, u64), SourceError> {
    let missing = || SourceError::Missing { path: path.to_owned(), name: name.to_owned() };
    let outside = || SourceError::Outside { path: path.to_owned(), name: name.to_owned() };
    let mut name = normal(name).ok_or_else(outside)?;
    for _ in 0..MAX_LINKS {
        match entries.get(&name).ok_or_else(missing)? {
            Place::File { at, length } => return Ok((*at, *length)),
            Place::Link(target) => name.clone_from(target),
        }
    }
    Err(missing())
}

/// Unpacks a compressed archive to a file without a name.
fn unpack(
    path: &Utf8Path,
    file: File,
    scratch: &Utf8Path,
    limits: &ImageLimits,
    watch: &dyn ImageWatch,
) -> Result<File, SourceError> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    let spoil = |source| SourceError::Read { path: scratch.to_owned(), source };
    let mut source = decompress(file).map_err(failed)?;
    let mut target = nameless(scratch).map_err(spoil)?;
    let mut buffer = vec![0; PIECE];
    let mut length = 0;
    loop {
        let count = read_some(&mut source, &mut buffer).map_err(failed)?;
        if count == 0 {
            let _start = target.seek(SeekFrom::Start(0)).map_err(spoil)?;
            return Ok(target);
        }
        length += count as u64;
        if watch.is_cancelled() {
            return Err(SourceError::Cancelled);
        }
        if length > limits.max_bytes {
            return Err(SourceError::TooLong { path: path.to_owned(), limit: limits.max_bytes });
        }
        target.write_all(&buffer[..count]).map_err(spoil)?;
    }
}

/// Makes a file that nobody can find, and that is gone when it is closed.
fn nameless(dir: &Utf8Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!(".unpacking.{}", uuid::Uuid::new_v4()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Lists the files of a tar.
fn list(path: &Utf8Path, file: &File) -> Result<HashMap<String, Place>, SourceError> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    let end = file.metadata().map_err(failed)?.len();
    let mut file = file.try_clone().map_err(failed)?;
    let _start = file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut reader = TarReader::new(Seeking { file: BufReader::with_capacity(4096, file), at: 0, end });
    let mut entries = HashMap::new();
    loop {
        let entry = reader.next_entry();
        let entry = entry.map_err(|source| SourceError::Archive { path: path.to_owned(), source })?;
        let Some(entry) = entry else { return Ok(entries) };
        let shown = || String::from_utf8_lossy(&entry.name).chars().take(300).collect::<String>();
        let strange = |what| SourceError::Strange { path: path.to_owned(), name: shown(), what };
        let outside = || SourceError::Outside { path: path.to_owned(), name: shown() };
        if entry.name.len() > MAX_NAME {
            return Err(strange("its name has more than 4096 bytes"));
        }
        let name = std::str::from_utf8(&entry.name).map_err(|_| strange("its name is no text"))?;
        let name = normal(name).ok_or_else(outside)?;
        let target = |target: &[u8]| {
            std::str::from_utf8(target).ok().filter(|target| !target.starts_with('/')).map(str::to_owned)
        };
        let place = match &entry.kind {
            EntryKind::HardLink(to) | EntryKind::Symlink(to) if to.len() > MAX_NAME => {
                return Err(strange("the target of its link has more than 4096 bytes"));
            }
            EntryKind::Directory => continue,
            EntryKind::File { size, stored, .. } if size == stored => {
                Place::File { at: reader.offset(), length: *size }
            }
            EntryKind::File { .. } => return Err(strange("it is sparse")),
            EntryKind::HardLink(to) => {
                let to = target(to).and_then(|to| normal(&to)).ok_or_else(outside)?;
                Place::Link(to)
            }
            EntryKind::Symlink(to) => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let to = target(to).and_then(|to| beside(directory, &to)).ok_or_else(outside)?;
                Place::Link(to)
            }
            EntryKind::Character { .. } | EntryKind::Block { .. } | EntryKind::Fifo => {
                return Err(strange("it is a device or a pipe"));
            }
        };
        if entries.len() == MAX_FILES {
            return Err(SourceError::TooMany { path: path.to_owned() });
        }
        if entries.insert(name, place).is_some() {
            return Err(SourceError::Twice { path: path.to_owned(), name: shown() });
        }
    }
}

/// Writes a name without what means nothing; `None` when it leads out.
fn normal(name: &str) -> Option<String> {
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return None;
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Some(parts.join("/"))
}

/// Resolves a symbolic link's target; `None` when it leads out.
fn beside(directory: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                let _left = parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A tar in a file: content is passed over without reading it.
struct Seeking {
    file: BufReader<File>,
    at: u64,
    end: u64,
}

impl Source for Seeking {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_some(&mut self.file, buffer)?;
        self.at += count as u64;
        Ok(count)
    }

    fn skip(&mut self, length: u64) -> io::Result<bool> {
        if length > self.end.saturating_sub(self.at) {
            return Ok(false);
        }
        self.at += length;
        let length = i64::try_from(length).map_err(io::Error::other)?;
        self.file.seek_relative(length)?;
        Ok(true)
    }
}

/// Fills a buffer as far as there is something.
pub(super) fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
