//! Looks at what is to be sent, without reading any content: names, kinds, sizes.
//!
//! A scan comes before a pack, so that the user can be told what would be sent, and how much of it there is. Nothing is
//! followed but the source itself: a tree's links are sent as links.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use crate::{
    Warnings,
    path::{EntryPath, MAX_PATH, shown},
    read::Time,
    write::Attributes,
};

/// Most entries of one scan: each takes some hundred bytes of memory.
const MAX_ITEMS: usize = 2_000_000;

/// Why a source cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("could not look at {}", .path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is neither a file nor a directory", .path.display())]
    Kind { path: PathBuf },
    #[error("{} holds more than {most} files", .path.display())]
    TooMany { path: PathBuf, most: usize },
    #[error("{} holds more than {most} bytes", .path.display())]
    TooLarge { path: PathBuf, most: u64 },
    #[error("{name:?} is no name that a file can be sent as")]
    Name { name: String },
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it points.
    Symlink(Vec<u8>),
}

/// One thing to be sent.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it is on this machine.
    pub(crate) source: PathBuf,
    /// Its name in the archive; empty for the directory itself.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: ItemKind,
    pub(crate) attributes: Attributes,
    /// Length of its content when it was looked at, in bytes.
    pub(crate) size: u64,
}

/// What is to be sent.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Directories come before what is in them.
    pub(crate) items: Vec<Item>,
    /// What was left out, and why.
    pub warnings: Warnings,
}

impl Scan {
    /// Returns how many files and links there are.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.items.iter().filter(|item| item.kind != ItemKind::Directory).count() as u64
    }

    /// Returns the length of all files together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.size).sum()
    }

    /// Returns the names of the files, without those of links.
    pub fn file_names(&self) -> impl Iterator<Item = &Path> {
        let files = self.items.iter().filter(|item| item.kind == ItemKind::File);
        files.map(|item| Path::new(OsStr::from_bytes(&item.name)))
    }

    /// Returns whether there is nothing to send, not even a directory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Looks at a file that is to be sent under this name.
///
/// # Errors
/// When it is none, or the name is no name.
pub fn scan_file(source: &Path, name: &str) -> Result<Scan, ScanError> {
    let bad_name = || ScanError::Name { name: name.to_owned() };
    let checked = EntryPath::parse(name.as_bytes()).map_err(|_| bad_name())?;
    if checked.as_path().as_os_str().is_empty() {
        return Err(bad_name());
    }
    let look = |error| ScanError::Look { path: source.to_owned(), source: error };
    // The user names the file, whatever it is a link to; a tree of dotfiles is full of such links.
    let path = fs::canonicalize(source).map_err(look)?;
    let meta = fs::metadata(&path).map_err(look)?;
    if !meta.is_file() {
        return Err(ScanError::Kind { path: source.to_owned() });
    }
    let item = item(path, checked.into_bytes(), ItemKind::File, &meta);
    Ok(Scan { items: vec![item], warnings: Warnings::default() })
}

/// What is to be done with something in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// It is sent; a directory with everything in it.
    Take,
    /// It is sent; what is in it is chosen one by one.
    TakeSome,
    /// It is not sent for its own sake, but something in it may be.
    Within,
    /// Neither it nor anything in it is sent; it is not even looked at.
    Leave,
}

/// How much a scan may find. It ends at once when there is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Files, links and directories.
    pub items: usize,
    /// Length of all files together, in bytes.
    pub bytes: u64,
}

/// Looks at what `choose` takes of a directory; it is asked with paths relative to the directory, the first of them empty.
/// What is in a chosen directory is chosen. The directories on the way to what is chosen come along.
///
/// # Errors
/// When the directory itself cannot be read. What cannot be looked at within it is a warning.
pub fn scan_directory(source: &Path, choose: &dyn Fn(&Path) -> Choice) -> Result<Scan, ScanError> {
    scan_directory_within(source, choose, ScanLimits { items: MAX_ITEMS, bytes: u64::MAX })
}

/// The same, of no more than the limits allow.
///
/// # Errors
/// Also when there is more.
pub fn scan_directory_within(
    source: &Path,
    choose: &dyn Fn(&Path) -> Choice,
    limits: ScanLimits,
) -> Result<Scan, ScanError> {
    let look = |error| ScanError::Look { path: source.to_owned(), source: error };
    let meta = fs::metadata(source).map_err(look)?;
    if !meta.is_dir() {
        return Err(ScanError::Kind { path: source.to_owned() });
    }
    let entries = fs::read_dir(source).map_err(look)?;
    let mut walk =
        Walk { root: source, choose, scan: Scan::default(), pending: Vec::new(), limits, bytes: 0 };
    let choice = choose(Path::new(""));
    if choice == Choice::Leave {
        return Ok(walk.scan);
    }
    walk.pending.push(item(source.to_owned(), Vec::new(), ItemKind::Directory, &meta));
    let all = choice == Choice::Take;
    if all || choice == Choice::TakeSome {
        walk.take_pending();
    }
    walk.directory(Path::new(""), entries, all);
    if walk.scan.items.len() > limits.items {
        return Err(ScanError::TooMany { path: source.to_owned(), most: limits.items });
    }
    if walk.bytes > limits.bytes {
        return Err(ScanError::TooLarge { path: source.to_owned(), most: limits.bytes });
    }
    Ok(walk.scan)
}

struct Walk<'a> {
    root: &'a Path,
    choose: &'a dyn Fn(&Path) -> Choice,
    scan: Scan,
    /// Directories from the root to the present one that nothing has been chosen from yet.
    pending: Vec<Item>,
    limits: ScanLimits,
    bytes: u64,
}

impl Walk<'_> {
    fn directory(&mut self, relative: &Path, entries: fs::ReadDir, all: bool) {
        let mut names = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => names.push(entry.file_name()),
                Err(error) => self.warn(relative, &format!("could not be read to its end: {error}")),
            }
        }
        // The same tree makes the same archive.
        names.sort_unstable();
        for name in names {
            if self.scan.items.len() > self.limits.items || self.bytes > self.limits.bytes {
                return;
            }
            self.entry(&relative.join(name), all);
        }
    }

    fn entry(&mut self, relative: &Path, all: bool) {
        let (chosen, all) = match if all { Choice::Take } else { (self.choose)(relative) } {
            Choice::Take => (true, true),
            Choice::TakeSome => (true, false),
            Choice::Within => (false, false),
            Choice::Leave => return,
        };
        let path = self.root.join(relative);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) => {
                if chosen {
                    self.warn(relative, &format!("left out: {error}"));
                }
                return;
            }
        };
        let kind = meta.file_type();
        if !chosen && !kind.is_dir() {
            return;
        }
        let name = relative.as_os_str().as_bytes().to_vec();
        if let Some(why) = unsendable(&name) {
            return self.warn(relative, &format!("left out: {why}"));
        }
        if kind.is_file() {
            self.take(item(path, name, ItemKind::File, &meta));
        } else if kind.is_symlink() {
            match fs::read_link(&path) {
                Ok(target) => {
                    let target = target.into_os_string().into_vec();
                    self.take(item(path, name, ItemKind::Symlink(target), &meta));
                }
                Err(error) => self.warn(relative, &format!("left out: {error}")),
            }
        } else if kind.is_dir() {
            match fs::read_dir(&path) {
                Ok(entries) => {
                    self.pending.push(item(path, name, ItemKind::Directory, &meta));
                    let depth = self.pending.len();
                    if chosen {
                        self.take_pending();
                    }
                    self.directory(relative, entries, all);
                    // Nothing in it was chosen.
                    if self.pending.len() == depth {
                        let _unused = self.pending.pop();
                    }
                }
                Err(error) => self.warn(relative, &format!("left out: {error}")),
            }
        } else {
            let what = if kind.is_socket() {
                "a socket"
            } else if kind.is_fifo() {
                "a FIFO"
            } else {
                "a device"
            };
            self.warn(relative, &format!("left out: it is {what}"));
        }
    }

    fn take(&mut self, item: Item) {
        self.take_pending();
        self.bytes = self.bytes.saturating_add(item.size);
        self.scan.items.push(item);
    }

    fn take_pending(&mut self) {
        self.scan.items.append(&mut self.pending);
    }

    fn warn(&mut self, relative: &Path, text: &str) {
        let path = self.root.join(relative);
        self.scan.warnings.add(format!("{}: {text}", shown(path.as_os_str().as_bytes())));
    }
}

/// Says why the other end would refuse an archive with this name in it. Not every file system has Linux's limits.
fn unsendable(name: &[u8]) -> Option<String> {
    // A directory's name gets a slash.
    if name.len() >= MAX_PATH {
        return Some("its path is too long".to_owned());
    }
    EntryPath::parse(name).err().map(|error| error.to_string())
}

fn item(source: PathBuf, name: Vec<u8>, kind: ItemKind, meta: &Metadata) -> Item {
    let size = if kind == ItemKind::File { meta.len() } else { 0 };
    Item { source, name, kind, attributes: attributes(meta), size }
}

pub(crate) fn attributes(meta: &Metadata) -> Attributes {
    let modified = Time { seconds: meta.mtime(), nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0) };
    Attributes { mode: meta.mode() & 0o777, modified }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_other_end_refuses_is_found_here() {
        assert_eq!(unsendable(&b"a".repeat(255)), None);
        for (name, why) in [
            (b"a".repeat(256), "longer than 255"),
            (b"a/".repeat(2048), "its path is too long"),
            (b"a/../b".to_vec(), "`..`"),
        ] {
            assert!(unsendable(&name).is_some_and(|text| text.contains(why)), "{}", shown(&name));
        }
    }
}
