//! Unpacks a tar stream beneath a directory, and nowhere else.
//!
//! The agent calls it as root, with names that came over a wire and links that the guest's users have made. So every
//! directory is opened beneath the target by the kernel's own rules (openat2(2), RESOLVE_BENEATH), and everything is made in
//! a directory that is open already. Files and links are made under another name and renamed: a reader sees the old one
//! or the new one. What was half-written when something goes wrong is removed; what was whole by then stays. What an agent
//! that died left half-written is removed by the next transfer to the same directory.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, lchown},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown,
        fstat, ftruncate, futimens, mkdirat, openat, symlinkat, utimensat,
    },
    io::Errno,
};

use crate::{
    CHUNK, Warnings,
    beneath::{LEADS_OUT, open_beneath},
    path::{EntryPath, ParseEntryPathError, shown},
    read::{Entry, EntryKind, TarError, TarReader, Time},
    temporary::{self, Temporary},
};

/// Bits of a mode that are taken over: no archive makes a program run as somebody else.
const MODE_BITS: u32 = 0o777;

/// Mode of a directory that the archive does not name.
const DEFAULT_DIRECTORY: u32 = 0o755;

/// Directories whose mode and time are set at the end; of more only the mode is kept. It bounds the memory of that, and of
/// which directories have been swept.
const MAX_LATER: usize = 100_000;

/// Whose everything becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Files.
    pub files: u64,
    /// Directories that the archive names.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Content of files, in bytes.
    pub bytes: u64,
    /// What was left out, and why.
    pub warnings: Warnings,
}

/// Why an archive was not unpacked, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Archive(#[from] TarError),
    #[error("the entry {name:?} cannot be unpacked: {source}")]
    Name { name: String, source: ParseEntryPathError },
    #[error("the entry {name:?} leads out of the target through a symbolic link")]
    Outside { name: String },
    #[error("the target {} cannot be used", .path.display())]
    Target {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{name:?} cannot be made: {what} is in the way")]
    InTheWay { name: String, what: &'static str },
    #[error("{name:?} cannot be written")]
    Write {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Whose fault it is that an archive was not unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The archive's, or of who sends it.
    Archive,
    /// The sender has gone.
    Source,
    /// The target's: it is read-only, or something is in the way.
    Target,
    /// The disk is full.
    NoSpace,
}

impl UnpackError {
    /// Returns whose fault it is.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let no_space = |error: &io::Error| {
            matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT))
        };
        match self {
            Self::Archive(TarError::Read(_)) => Failure::Source,
            Self::Archive(
                TarError::Truncated
                | TarError::NoArchive
                | TarError::Compressed(_)
                | TarError::Damaged { .. }
                | TarError::NameTooLong { .. }
                | TarError::Sparse { .. },
            )
            | Self::Name { .. }
            | Self::Outside { .. } => Failure::Archive,
            Self::Target { source, .. } | Self::Write { source, .. } if no_space(source) => Failure::NoSpace,
            Self::Target { .. } | Self::Write { .. } | Self::InTheWay { .. } => Failure::Target,
        }
    }
}

/// Unpacks the archive that `source` gives into the directory `target`, which is made with its parents when it is missing.
///
/// Nothing is made before the first entry has been read. Everything new belongs to `owner`, or to the process without one;
/// directories that are there already stay whose they are, and keep their mode unless they are `owner`'s. The stream is
/// read to its end.
///
/// # Errors
/// See [`UnpackError`]. What was unpacked before stays.
pub fn unpack(source: impl Read, target: &Path, owner: Option<Owner>) -> Result<Unpacked, UnpackError> {
    unpack_at(source, || Tree::open(target, owner))
}

/// Unpacks like [`unpack`] into the directory that has the path `below` in `anchor`. What others have put on that path does
/// not lead out of `anchor`: links are followed where they stay within (those with an absolute target do not). Directories
/// that are made belong to `owner`.
///
/// # Errors
/// See [`UnpackError`]. What was unpacked before stays.
pub fn unpack_below(
    source: impl Read,
    anchor: &Path,
    below: &Path,
    owner: Option<Owner>,
) -> Result<Unpacked, UnpackError> {
    unpack_at(source, || Tree::open_below(anchor, below, owner))
}

fn unpack_at(
    source: impl Read,
    open: impl FnOnce() -> Result<Tree, UnpackError>,
) -> Result<Unpacked, UnpackError> {
    let mut reader = TarReader::new(source);
    let mut entry = reader.next_entry()?;
    let mut tree = open()?;
    let mut unpacked = Unpacked::default();
    while let Some(present) = entry {
        tree.put(&present, &mut reader, &mut unpacked)?;
        entry = reader.next_entry()?;
    }
    tree.finish();
    reader.drain().map_err(TarError::Read)?;
    Ok(unpacked)
}

/// The target and what is remembered on the way.
struct Tree {
    root: OwnedFd,
    /// Whether the target was made for this archive.
    made: bool,
    owner: Option<Owner>,
    /// The directory that the last entry was made in, which is most often that of the next one.
    last: Option<(PathBuf, OwnedFd)>,
    /// Directories whose mode and time are set when nothing is made in them any more.
    later: Vec<(PathBuf, u32, Time)>,
    /// Directories that have no leftovers of an earlier agent any more.
    swept: HashSet<PathBuf>,
}

impl Tree {
    fn open(target: &Path, owner: Option<Owner>) -> Result<Self, UnpackError> {
        let cannot = |source: io::Error| UnpackError::Target { path: target.to_owned(), source };
        let made = make_target(target, owner)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, target, flags, Mode::empty()).map_err(|error| cannot(error.into()))?;
        Ok(Self { root, made, owner, last: None, later: Vec::new(), swept: HashSet::new() })
    }

    fn open_below(anchor: &Path, below: &Path, owner: Option<Owner>) -> Result<Self, UnpackError> {
        let tree = Self::open(anchor, owner)?;
        if below.as_os_str().is_empty() {
            return Ok(tree);
        }
        let name = anchor.join(below);
        let shown_name = shown(name.as_os_str().as_bytes());
        let opened = tree.make(below, DEFAULT_DIRECTORY, &shown_name);
        let opened = opened.and_then(|made| Ok((made, tree.open_beneath(below, &shown_name)?)));
        match opened {
            Ok((made, root)) => Ok(Self { root, made, ..tree }),
            // Not the archive's fault.
            Err(UnpackError::Outside { .. }) => {
                Err(UnpackError::Target { path: name, source: io::Error::other(LEADS_OUT) })
            }
            Err(error) => Err(error),
        }
    }

    fn put(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<impl Read>,
        unpacked: &mut Unpacked,
    ) -> Result<(), UnpackError> {
        let name = || shown(&entry.name);
        let path =
            EntryPath::parse(&entry.name).map_err(|source| UnpackError::Name { name: name(), source })?;
        let path = path.as_path();
        let mode = entry.mode & MODE_BITS;
        match &entry.kind {
            EntryKind::Other(what) => {
                unpacked.warnings.add(format!("{}: left out: it is {what}", name()));
                return Ok(());
            }
            EntryKind::Directory => {
                self.directory(path, mode, entry.modified, &name())?;
                unpacked.directories += 1;
                return Ok(());
            }
            EntryKind::File | EntryKind::Symlink(_) => {}
        }
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
            return Err(UnpackError::InTheWay { name: name(), what: "the target itself" });
        };
        let unswept = !self.swept.contains(parent);
        if unswept && self.swept.len() < MAX_LATER {
            self.swept.insert(parent.to_owned());
        }
        let (owner, parent) = (self.owner, self.parent(parent, &name())?);
        if unswept {
            temporary::sweep_if(parent, |_| true);
        }
        let cannot = |error: Errno| UnpackError::Write { name: name(), source: error.into() };
        match &entry.kind {
            EntryKind::Symlink(link) => {
                let temporary = Temporary::new(parent, |hidden| symlinkat(link.as_slice(), parent, hidden))
                    .map_err(cannot)?;
                if let Some(Owner { uid, gid }) = owner {
                    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                    chownat(parent, &temporary.0.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(cannot)?;
                }
                let times = times(entry.modified);
                utimensat(parent, &temporary.0.name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(cannot)?;
                temporary.0.rename(last).map_err(|error| in_the_way(error, name()))?;
                unpacked.links += 1;
            }
            EntryKind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let temporary =
                    Temporary::new(parent, |hidden| openat(parent, hidden, flags, Mode::RUSR | Mode::WUSR))
                        .map_err(cannot)?;
                let Temporary(guard, file) = temporary;
                let mut file = File::from(file);
                content(reader, &mut file, entry.size, &name())?;
                if let Some(Owner { uid, gid }) = owner {
                    fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(cannot)?;
                }
                // After the owner: a change of owner may take bits away.
                fchmod(&file, Mode::from_raw_mode(mode)).map_err(cannot)?;
                futimens(&file, &times(entry.modified)).map_err(cannot)?;
                guard.rename(last).map_err(|error| in_the_way(error, name()))?;
                unpacked.files += 1;
                unpacked.bytes += entry.size;
            }
            EntryKind::Directory | EntryKind::Other(_) => {}
        }
        Ok(())
    }

    /// Makes a directory that the archive names, or takes the one that is there.
    fn directory(&mut self, path: &Path, mode: u32, modified: Time, name: &str) -> Result<(), UnpackError> {
        let ours = if path.as_os_str().is_empty() {
            self.made
        } else {
            self.make(path, mode, name)? || self.is_owners(path, name)?
        };
        if ours && self.later.len() < MAX_LATER {
            self.later.push((path.to_owned(), mode, modified));
        }
        Ok(())
    }

    /// Whether a directory that was there belongs to the owner of what is unpacked. Those of root are left alone, whoever
    /// the owner is: among them are /etc and its like.
    fn is_owners(&self, path: &Path, name: &str) -> Result<bool, UnpackError> {
        let stat = fstat(self.open_beneath(path, name)?)
            .map_err(|error| UnpackError::Write { name: name.to_owned(), source: error.into() })?;
        let uid = self.owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
        Ok(stat.st_uid == uid && (uid != 0 || self.owner.is_none()))
    }

    /// Returns the directory at this path, and makes what is missing on the way.
    fn parent(&mut self, path: &Path, name: &str) -> Result<BorrowedFd<'_>, UnpackError> {
        if path.as_os_str().is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            self.last = None;
            let made = match self.try_open(path) {
                Err(Errno::NOENT) => {
                    let _made = self.make(path, DEFAULT_DIRECTORY, name)?;
                    self.open_beneath(path, name)?
                }
                result => result.map_err(|error| not_opened(error, name))?,
            };
            self.last = Some((path.to_owned(), made));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, directory)| directory.as_fd()))
    }

    /// Makes a directory and what is missing above it. Returns whether it was made; one that is there is fine.
    fn make(&self, path: &Path, mode: u32, name: &str) -> Result<bool, UnpackError> {
        let cannot = |error: Errno| UnpackError::Write { name: name.to_owned(), source: error.into() };
        let Some(last) = path.file_name() else { return Ok(false) };
        let above = path.parent().unwrap_or(Path::new(""));
        let opened;
        let parent = if above.as_os_str().is_empty() {
            self.root.as_fd()
        } else {
            opened = match self.try_open(above) {
                Err(Errno::NOENT) => {
                    let _made = self.make(above, DEFAULT_DIRECTORY, name)?;
                    self.open_beneath(above, name)?
                }
                result => result.map_err(|error| not_opened(error, name))?,
            };
            opened.as_fd()
        };
        // Ours until it is done, so that a process that is not root can fill a read-only directory.
        match mkdirat(parent, last, Mode::from_raw_mode(mode | 0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let _directory = self.open_beneath(path, name)?;
                return Ok(false);
            }
            Err(error) => return Err(cannot(error)),
        }
        let made = self.open_beneath(path, name)?;
        // The umask has taken its share.
        fchmod(&made, Mode::from_raw_mode(mode | 0o700)).map_err(cannot)?;
        if let Some(Owner { uid, gid }) = self.owner {
            fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(cannot)?;
        }
        Ok(true)
    }

    fn open_beneath(&self, path: &Path, name: &str) -> Result<OwnedFd, UnpackError> {
        self.try_open(path).map_err(|error| not_opened(error, name))
    }

    fn try_open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_beneath(self.root.as_fd(), path, flags)
    }

    /// Gives directories their modes and times. What does not work is no loss of content.
    fn finish(self) {
        for (path, mode, modified) in self.later.iter().rev() {
            let opened;
            let directory = if path.as_os_str().is_empty() {
                self.root.as_fd()
            } else {
                let Ok(fd) = self.try_open(path) else { continue };
                opened = fd;
                opened.as_fd()
            };
            let _mode = fchmod(directory, Mode::from_raw_mode(*mode));
            let _time = futimens(directory, &times(*modified));
        }
    }
}

/// Makes the target with its parents, like `mkdir -p`; returns whether it was missing. New parents belong to the owner
/// where what they are in does, and the target always.
fn make_target(target: &Path, owner: Option<Owner>) -> Result<bool, UnpackError> {
    let cannot = |source: io::Error| UnpackError::Target { path: target.to_owned(), source };
    let mut made = false;
    let mut above_is_owners = false;
    for path in target.ancestors().collect::<Vec<_>>().into_iter().rev() {
        match fs::metadata(path) {
            Ok(meta) => {
                above_is_owners = owner.is_some_and(|owner| owner.uid == meta.uid());
                made = false;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir(path) {
                Ok(()) => {
                    if let Some(Owner { uid, gid }) = owner.filter(|_| above_is_owners || path == target) {
                        lchown(path, Some(uid), Some(gid)).map_err(cannot)?;
                    }
                    made = true;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let meta = is_there(path, error, cannot)?;
                    above_is_owners = owner.is_some_and(|owner| owner.uid == meta.uid());
                    made = false;
                }
                Err(error) => return Err(cannot(error)),
            },
            Err(error) => return Err(cannot(error)),
        }
    }
    Ok(made)
}

/// Looks again at what was missing and then could not be made, because it was there: a directory that somebody else has made
/// meanwhile is fine.
fn is_there(
    path: &Path,
    exists: io::Error,
    cannot: impl Fn(io::Error) -> UnpackError,
) -> Result<Metadata, UnpackError> {
    let what = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(meta),
        Ok(meta) if meta.is_file() => "a file",
        Ok(_) => "something that is no directory",
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => "a link to nothing",
        // It has gone again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(cannot(exists)),
        Err(error) => return Err(cannot(error)),
    };
    Err(UnpackError::InTheWay { name: shown(path.as_os_str().as_bytes()), what })
}

/// Copies the content of a file; long runs of zeros take no room on the disk.
fn content(
    reader: &mut TarReader<impl Read>,
    file: &mut File,
    size: u64,
    name: &str,
) -> Result<(), UnpackError> {
    let cannot = |source| UnpackError::Write { name: name.to_owned(), source };
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut left = size;
    while left > 0 {
        let length = reader.read_content(&mut buffer)?;
        let piece = &buffer[..length];
        left -= length as u64;
        if length == CHUNK && piece.iter().all(|byte| *byte == 0) {
            let _position = file.seek(SeekFrom::Current(length as i64)).map_err(cannot)?;
        } else {
            file.write_all(piece).map_err(cannot)?;
        }
    }
    // A file that ends with zeros has not got its length yet.
    ftruncate(&*file, size).map_err(|error| cannot(error.into()))
}

fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() },
    }
}

fn not_opened(error: Errno, name: &str) -> UnpackError {
    let name = name.to_owned();
    match error {
        // openat2(2): a link leads out, or links go round in circles.
        Errno::XDEV | Errno::LOOP => UnpackError::Outside { name },
        Errno::NOTDIR => UnpackError::InTheWay { name, what: "something that is no directory" },
        // mkdirat(2) has found something there, and nothing is behind it.
        Errno::NOENT => UnpackError::InTheWay { name, what: "a link to nothing" },
        error => UnpackError::Write { name, source: error.into() },
    }
}

fn in_the_way(error: Errno, name: String) -> UnpackError {
    match error {
        Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => UnpackError::InTheWay { name, what: "a directory" },
        error => UnpackError::Write { name, source: error.into() },
    }
}

#[cfg(test)]
mod tests;
