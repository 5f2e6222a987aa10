//! Writes an initramfs: a cpio archive in the "newc" form the kernel unpacks (kernel doc:
//! driver-api/early-userspace/buffer-format.rst).
//!
//! Called by the guest builder. The same entries always give the same bytes: paths are sorted, times are 0, everything
//! belongs to root, inode numbers are counted. The archive is not compressed, because unpacking costs more under software
//! emulation than reading a few more megabytes. Links between files and special files other than character devices are
//! not supported.

use std::{collections::BTreeMap, fs::File, io, io::Write};

use camino::{Utf8Path, Utf8PathBuf};

/// The longest path in bytes, its final NUL included: the kernel's PATH_MAX, past which it skips an entry silently.
const MAX_PATH: usize = 4096;

/// The archive's length is a multiple of this, as cpio writers do it.
const BLOCK: usize = 512;

/// File type bits of `mode` (inode(7)).
mod file_type {
    pub(super) const DIRECTORY: u32 = 0o040_000;
    pub(super) const REGULAR: u32 = 0o100_000;
    pub(super) const SYMLINK: u32 = 0o120_000;
    pub(super) const CHARACTER_DEVICE: u32 = 0o020_000;
}

/// Says why an initramfs could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error("{path:?} cannot be a path in an initramfs: {why}")]
    BadPath { path: String, why: &'static str },
    #[error("{path} is in the initramfs twice")]
    Duplicate { path: Utf8PathBuf },
    #[error("{path} cannot lie below {parent}, which is no directory")]
    ParentNotDirectory { path: Utf8PathBuf, parent: Utf8PathBuf },
    #[error("cannot read {path} for the initramfs")]
    ReadSource {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} has {len} bytes; a file in an initramfs has at most 4 GiB - 1")]
    TooLarge { path: Utf8PathBuf, len: u64 },
    #[error("cannot write the initramfs")]
    Write {
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Clone)]
enum Content {
    Directory,
    Bytes(Vec<u8>),
    FromFile(Utf8PathBuf),
    Symlink(String),
    CharacterDevice { major: u32, minor: u32 },
}

#[derive(Debug, Clone)]
struct Entry {
    permissions: u32,
    content: Content,
    /// Made only because something lies below it; an explicit entry of the same path replaces it.
    implied: bool,
}

/// The entries of an initramfs, by their path without the leading slash.
#[derive(Debug, Clone, Default)]
pub struct Initramfs {
    entries: BTreeMap<Utf8PathBuf, Entry>,
}

impl Initramfs {
    /// Returns an initramfs without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory. Directories above an entry are made by themselves, with mode 0755.
    ///
    /// # Errors
    /// As for every `add_…`: a path that is empty, relative-looking (`..`), too long or taken, or a parent that is a file.
    pub fn add_directory(
        &mut self,
        path: impl AsRef<Utf8Path>,
        permissions: u32,
    ) -> Result<(), InitramfsError> {
        self.add(path.as_ref(), permissions, Content::Directory)
    }

    /// Adds a regular file with the given content.
    ///
    /// # Errors
    /// See [`add_directory`](Self::add_directory).
    pub fn add_bytes(
        &mut self,
        path: impl AsRef<Utf8Path>,
        permissions: u32,
        content: impl Into<Vec<u8>>,
    ) -> Result<(), InitramfsError> {
        self.add(path.as_ref(), permissions, Content::Bytes(content.into()))
    }

    /// Adds a regular file whose content is read from `source` when the archive is written.
    ///
    /// # Errors
    /// See [`add_directory`](Self::add_directory).
    pub fn add_file(
        &mut self,
        path: impl AsRef<Utf8Path>,
        permissions: u32,
        source: impl Into<Utf8PathBuf>,
    ) -> Result<(), InitramfsError> {
        self.add(path.as_ref(), permissions, Content::FromFile(source.into()))
    }

    /// Adds a symbolic link; `target` is not checked.
    ///
    /// # Errors
    /// See [`add_directory`](Self::add_directory).
    pub fn add_symlink(
        &mut self,
        path: impl AsRef<Utf8Path>,
        target: impl Into<String>,
    ) -> Result<(), InitramfsError> {
        self.add(path.as_ref(), 0o777, Content::Symlink(target.into()))
    }

    /// Adds a character device node.
    ///
    /// # Errors
    /// See [`add_directory`](Self::add_directory).
    pub fn add_character_device(
        &mut self,
        path: impl AsRef<Utf8Path>,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), InitramfsError> {
        self.add(path.as_ref(), permissions, Content::CharacterDevice { major, minor })
    }

    fn add(&mut self, path: &Utf8Path, permissions: u32, content: Content) -> Result<(), InitramfsError> {
        let path = checked_path(path)?;
        let parents = || path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty());
        // Everything is checked before anything is added: a refused entry leaves no directories behind.
        let is_file = |parent: &&Utf8Path| {
            self.entries.get(*parent).is_some_and(|entry| !matches!(entry.content, Content::Directory))
        };
        if let Some(parent) = parents().find(is_file) {
            return Err(InitramfsError::ParentNotDirectory { parent: parent.to_owned(), path });
        }
        if let Some(present) = self.entries.get(&path)
            && !(present.implied && matches!(content, Content::Directory))
        {
            return Err(InitramfsError::Duplicate { path });
        }
        for parent in parents() {
            let implied = Entry { permissions: 0o755, content: Content::Directory, implied: true };
            self.entries.entry(parent.to_owned()).or_insert(implied);
        }
        self.entries.insert(path, Entry { permissions: permissions & 0o7777, content, implied: false });
        Ok(())
    }

    /// Writes the archive and returns its length in bytes. The same entries give the same bytes.
    ///
    /// # Errors
    /// When a source file cannot be read or is too large, or when `out` refuses.
    pub fn write(&self, out: impl Write) -> Result<u64, InitramfsError> {
        let mut archive = Archive { out, written: 0, inode: 0 };
        // A directory sorts before what is in it, because its path is a prefix.
        for (path, entry) in &self.entries {
            archive.entry(path, entry)?;
        }
        archive.finish()
    }
}

/// Returns the path without its leading slash, after checking that the kernel would unpack it where it says.
fn checked_path(path: &Utf8Path) -> Result<Utf8PathBuf, InitramfsError> {
    let bad = |why| InitramfsError::BadPath { path: path.as_str().chars().take(200).collect(), why };
    let relative = path.as_str().strip_prefix('/').unwrap_or(path.as_str());
    if relative.is_empty() {
        return Err(bad("it is empty"));
    }
    if relative.len() + 1 > MAX_PATH {
        return Err(bad("it is longer than 4095 bytes"));
    }
    if relative.contains('\0') {
        return Err(bad("it contains a zero byte"));
    }
    if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(bad("it has an empty part, . or .."));
    }
    if relative == "TRAILER!!!" {
        return Err(bad("it is the mark of the archive's end"));
    }
    Ok(Utf8PathBuf::from(relative))
}

struct Archive<W> {
    out: W,
    written: usize,
    inode: u32,
}

/// The fields of a newc header which differ between entries.
#[derive(Default)]
struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    size: u32,
    device: (u32, u32),
}

impl<W: Write> Archive<W> {
    fn entry(&mut self, path: &Utf8Path, entry: &Entry) -> Result<(), InitramfsError> {
        self.inode += 1;
        let header = |kind: u32, links, size| Header {
            inode: self.inode,
            mode: kind | entry.permissions,
            links,
            size,
            device: (0, 0),
        };
        match &entry.content {
            Content::Directory => self.header(path.as_str(), &header(file_type::DIRECTORY, 2, 0)),
            Content::CharacterDevice { major, minor } => {
                let header = Header { device: (*major, *minor), ..header(file_type::CHARACTER_DEVICE, 1, 0) };
                self.header(path.as_str(), &header)
            }
            Content::Symlink(target) => {
                let header = header(file_type::SYMLINK, 1, size_of(path, target.len() as u64)?);
                self.header(path.as_str(), &header)?;
                self.data(target.as_bytes())
            }
            Content::Bytes(bytes) => {
                let header = header(file_type::REGULAR, 1, size_of(path, bytes.len() as u64)?);
                self.header(path.as_str(), &header)?;
                self.data(bytes)
            }
            Content::FromFile(source_path) => {
                let read_error = |source| InitramfsError::ReadSource { path: source_path.clone(), source };
                let mut file = File::open(source_path).map_err(read_error)?;
                let len = file.metadata().map_err(read_error)?.len();
                let header = header(file_type::REGULAR, 1, size_of(path, len)?);
                self.header(path.as_str(), &header)?;
                self.copy(&mut file, len).map_err(|error| match error {
                    CopyError::Read(source) => read_error(source),
                    CopyError::Write(source) => InitramfsError::Write { source },
                })
            }
        }
    }

    fn finish(mut self) -> Result<u64, InitramfsError> {
        self.header("TRAILER!!!", &Header { links: 1, ..Header::default() })?;
        let rest = self.written.next_multiple_of(BLOCK) - self.written;
        self.put(&[0; BLOCK][..rest])
            .and_then(|()| self.out.flush())
            .map_err(|source| InitramfsError::Write { source })?;
        Ok(self.written as u64)
    }

    /// Writes header and name, padded to four bytes.
    fn header(&mut self, name: &str, header: &Header) -> Result<(), InitramfsError> {
        let fields = [
            header.inode,
            header.mode,
            0, // uid
            0, // gid
            header.links,
            0, // mtime
            header.size,
            0, // device that holds the file
            0,
            header.device.0,
            header.device.1,
            // `checked_path` keeps names below 4096 bytes.
            u32::try_from(name.len() + 1).unwrap_or(u32::MAX),
            0, // checksum, of the "crc" form only
        ];
        let mut text = String::with_capacity(110 + name.len() + 4);
        text.push_str("070701");
        for field in fields {
            text.push_str(&format!("{field:08x}"));
        }
        text.push_str(name);
        text.push('\0');
        self.data(text.as_bytes())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), InitramfsError> {
        self.put(bytes).and_then(|()| self.pad()).map_err(|source| InitramfsError::Write { source })
    }

    /// Copies exactly `len` bytes: a file that grew meanwhile is cut, one that shrank is an error.
    fn copy(&mut self, from: &mut File, len: u64) -> Result<(), CopyError> {
        use io::Read as _;
        let mut left = len;
        let mut buffer = vec![0; 128 * 1024];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = from.read(&mut buffer[..want]).map_err(CopyError::Read)?;
            if got == 0 {
                return Err(CopyError::Read(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            self.put(&buffer[..got]).map_err(CopyError::Write)?;
            left -= got as u64;
        }
        self.pad().map_err(CopyError::Write)
    }

    /// Fills up to a multiple of four bytes, where the next header or content begins.
    fn pad(&mut self) -> io::Result<()> {
        let rest = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 4][..rest])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        Ok(())
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn size_of(path: &Utf8Path, len: u64) -> Result<u32, InitramfsError> {
    u32::try_from(len).map_err(|_| InitramfsError::TooLarge { path: path.to_owned(), len })
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _};

    use proptest::prelude::*;

    use super::*;

    struct Seen {
        name: String,
        mode: u32,
        inode: u32,
        rdev: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive with a reader that is not ours.
    fn read_back(archive: &[u8]) -> Vec<Seen> {
        let mut input = Cursor::new(archive.to_vec());
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(input).unwrap();
            if reader.entry().is_trailer() {
                return seen;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let entry = reader.entry();
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            seen.push(Seen {
                name: entry.name().to_owned(),
                mode: entry.mode(),
                inode: entry.ino(),
                rdev: (entry.rdev_major(), entry.rdev_minor()),
                content,
            });
            input = reader.finish().unwrap();
        }
    }

    fn written(initramfs: &Initramfs) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = initramfs.write(&mut bytes).unwrap();
        assert_eq!(len, bytes.len() as u64);
        bytes
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let source = Utf8PathBuf::from_path_buf(dir.path().join("agent")).unwrap();
        std::fs::write(&source, b"agent!").unwrap();

        let mut initramfs = Initramfs::new();
        initramfs.add_file("/shed/bin/agent", 0o755, &source).unwrap();
        initramfs.add_bytes("/init", 0o755, *b"#!").unwrap();
        initramfs.add_symlink("/lib", "usr/lib").unwrap();
        initramfs.add_character_device("/dev/console", 0o600, 5, 1).unwrap();
        initramfs.add_directory("/shed", 0o700).unwrap();
        let archive = written(&initramfs);
        assert_eq!(archive.len() % 512, 0);

        let seen: Vec<_> =
            read_back(&archive).into_iter().map(|e| (e.name, e.mode, e.rdev, e.content)).collect();
        let expected = [
            ("dev", 0o040_755, (0, 0), ""),
            ("dev/console", 0o020_600, (5, 1), ""),
            ("init", 0o100_755, (0, 0), "#!"),
            ("lib", 0o120_777, (0, 0), "usr/lib"),
            ("shed", 0o040_700, (0, 0), ""),
            ("shed/bin", 0o040_755, (0, 0), ""),
            ("shed/bin/agent", 0o100_755, (0, 0), "agent!"),
        ];
        let expected =
            expected.map(|(name, mode, rdev, content)| (name.to_owned(), mode, rdev, content.into()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut one = Initramfs::new();
        one.add_bytes("/a/b", 0o644, *b"x").unwrap();
        one.add_bytes("/c", 0o644, *b"y").unwrap();
        let mut two = Initramfs::new();
        two.add_bytes("c", 0o644, *b"y").unwrap();
        two.add_bytes("a/b", 0o644, *b"x").unwrap();
        assert_eq!(written(&one), written(&two));
    }

    #[test]
    fn bad_paths_are_refused() {
        let mut initramfs = Initramfs::new();
        for path in
            ["", "/", "..", "/../x", "a/../b", "a//b", "a/", "a/./b", "//a", "x\0", &"a/".repeat(3000)]
        {
            let result = initramfs.add_bytes(path, 0o644, *b"");
            assert!(matches!(result, Err(InitramfsError::BadPath { .. })), "{path:?}: {result:?}");
        }
    }

    #[test]
    fn a_path_is_taken_once_and_files_have_no_children() {
        let mut initramfs = Initramfs::new();
        initramfs.add_bytes("/init", 0o755, *b"").unwrap();
        assert!(matches!(initramfs.add_bytes("/init", 0o755, *b""), Err(InitramfsError::Duplicate { .. })));
        assert!(matches!(
            initramfs.add_bytes("/init/x", 0o755, *b""),
            Err(InitramfsError::ParentNotDirectory { .. })
        ));
        initramfs.add_bytes("/dir/file", 0o644, *b"").unwrap();
        assert!(matches!(initramfs.add_symlink("/dir", "x"), Err(InitramfsError::Duplicate { .. })));
    }

    #[test]
    fn a_missing_source_is_named() {
        let mut initramfs = Initramfs::new();
        initramfs.add_file("/x", 0o644, "/nonexistent/agent").unwrap();
        let error = initramfs.write(io::sink()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/agent for the initramfs");
    }

    proptest! {
        #[test]
        fn whatever_is_written_comes_back(
            files in proptest::collection::btree_map("[a-z]{1,8}(/[a-z.-]{0,3}[a-z]){0,3}",
                (proptest::collection::vec(any::<u8>(), 0..300), 0u32..0o7777), 0..20)
        ) {
            let mut initramfs = Initramfs::new();
            let mut added = BTreeMap::new();
            for (path, (content, mode)) in files {
                if initramfs.add_bytes(&path, mode, content.clone()).is_ok() {
                    added.insert(path, (content, mode));
                }
            }
            let seen = read_back(&written(&initramfs));
            let mut inodes: Vec<_> = seen.iter().map(|entry| entry.inode).collect();
            inodes.dedup();
            prop_assert_eq!(inodes.len(), seen.len());
            let mut known = std::collections::BTreeSet::new();
            let mut back = BTreeMap::new();
            for entry in seen {
                if let Some((parent, _)) = entry.name.rsplit_once('/') {
                    prop_assert!(known.contains(parent), "{} comes before its directory", entry.name);
                }
                if entry.mode & 0o170_000 == file_type::DIRECTORY {
                    known.insert(entry.name);
                } else {
                    back.insert(entry.name, (entry.content, entry.mode & 0o7777));
                }
            }
            prop_assert_eq!(back, added);
        }
    }
}
