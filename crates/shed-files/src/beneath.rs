//! Single files beneath a directory, reached without following any link.
//!
//! The server puts what sheds give back into the source of a credential with it, and reads there what it sends; the agent
//! reads what the host asks for. Names are [`EntryPath`]-like: relative, without `..`. Every directory on the way is opened
//! from the one above it and must not be a link, so no name leads out, whoever renames things meanwhile. That needs nothing
//! of Linux alone, and servers run on macOS, too.

#[cfg(target_os = "linux")]
mod linux;

use std::{
    fs::{File, Metadata},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, Uid, fchmod, fchown, fstat, mkdirat,
        openat, statat,
    },
    io::Errno,
    process::geteuid,
};

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{LEADS_OUT, open_beneath};
use crate::{
    Warnings,
    path::shown,
    temporary::{Temporary, is_temporary, sweep_old},
};

/// Mode of directories that are made on the way to a file: what is in them is nobody else's business.
const NEW_DIRECTORY: Mode = Mode::RWXU;

/// Bits that a new file gets at most; what came from elsewhere makes nothing writable for others.
const NEW_FILE: Mode = Mode::from_raw_mode(0o755);

/// Bits that every file has that is written here: its owner must be able to go on with it.
const OWNER: Mode = Mode::from_raw_mode(0o600);

/// Half-written files of other processes are removed when they are this old. Writing one takes milliseconds.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// Directories below each other that are walked: each is an open descriptor.
const MAX_DEPTH: usize = 64;

/// Why a file cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error("it is not there")]
    Missing,
    #[error("{0} is in the way")]
    InTheWay(&'static str),
    #[error("its name leads elsewhere")]
    Name,
    #[error(transparent)]
    Io(io::Error),
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error("it could not be written")]
    Write(#[source] io::Error),
}

/// An open directory.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
}

impl Beneath {
    /// Opens the directory, and follows links to it: who names it means it.
    ///
    /// # Errors
    /// When it is none, or cannot be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Self::open_with(directory, OFlags::empty())
    }

    /// Opens the directory, which must not be a link itself.
    ///
    /// # Errors
    /// When it is none, or cannot be opened.
    pub fn open_no_link(directory: &Path) -> io::Result<Self> {
        Self::open_with(directory, OFlags::NOFOLLOW)
    }

    fn open_with(directory: &Path, flags: OFlags) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | flags;
        Ok(Self { root: openat(CWD, directory, flags, Mode::empty())? })
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is no file, or a link is on the way.
    pub fn file(&self, path: &Path) -> Result<(File, Metadata), ReachError> {
        let (parent, name) = self.parent(path, false)?;
        // What has come into its place must not be waited for, as a FIFO is.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(parent.as_fd(), name, flags, Mode::empty()).map_err(refused)?);
        let meta = file.metadata().map_err(ReachError::Io)?;
        if meta.is_file() { Ok((file, meta)) } else { Err(ReachError::InTheWay(what(&meta))) }
    }

    /// Writes a file whole: under another name first, then synced and renamed. Directories on the way are made.
    ///
    /// A new file gets the permission bits of `mode` that give nothing away; one that is there keeps at most those it
    /// has. The owner may always read and write it. What root writes belongs to the owner of what is replaced, else to that
    /// of the directory it is in.
    ///
    /// # Errors
    /// When something else than a file has the name, or a link is on the way, or it cannot be written. What was there
    /// stays then.
    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
        let (parent, name) = self.parent(path, true)?;
        let parent = parent.as_fd();
        let (allowed, like) = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => (NEW_FILE, fstat(parent).map_err(|error| WriteError::Write(error.into()))?),
            Err(error) => return Err(refused(error).into()),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => (Mode::from_raw_mode(stat.st_mode), stat),
                FileType::Symlink => return Err(ReachError::InTheWay("a symbolic link").into()),
                FileType::Directory => return Err(ReachError::InTheWay("a directory").into()),
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => return Err(ReachError::InTheWay("no file").into()),
            },
        };
        // How many bits a mode has is each system's own; these nine fit everywhere.
        let mode = (Mode::from_raw_mode((mode & 0o777) as RawMode) & allowed) | OWNER;
        sweep_old(parent, LEFT_OVER);
        let failed = |error: Errno| WriteError::Write(error.into());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let made = Temporary::new(parent, |hidden| openat(parent, hidden, flags, Mode::RUSR | Mode::WUSR));
        let Temporary(guard, file) = made.map_err(failed)?;
        let mut file = File::from(file);
        file.write_all(content).map_err(WriteError::Write)?;
        give_to(file.as_fd(), &like).map_err(failed)?;
        fchmod(&file, mode).map_err(failed)?;
        file.sync_all().map_err(WriteError::Write)?;
        // The directory is not synced: after a crash there is the old file or the new one, and each is whole.
        guard.rename(name).map_err(failed)
    }

    /// Lists the files, without following links, in the order of their names. What cannot be looked at is a warning.
    ///
    /// `leave_out` is asked for each name; `most` is how many are listed, and how many directories are looked into. What is
    /// beyond is a warning.
    pub fn files(
        &self,
        leave_out: &dyn Fn(&Path) -> bool,
        most: usize,
        warnings: &mut Warnings,
    ) -> Vec<PathBuf> {
        let mut found = Vec::new();
        // Names of directories only, so that a deep tree needs no more than one descriptor a level while it is opened.
        let mut pending = vec![PathBuf::new()];
        let mut directories = 0;
        while let Some(directory) = pending.pop() {
            let opened = match self.directory(&directory, false) {
                Ok(opened) => opened,
                Err(ReachError::Missing) => continue,
                Err(error) => {
                    warnings.add(format!("{}: left out: {error}", shown(directory.as_os_str().as_bytes())));
                    continue;
                }
            };
            let mut below = Vec::new();
            let Ok(entries) = Dir::read_from(opened.as_fd()) else { continue };
            for entry in entries.map_while(Result::ok) {
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") || is_temporary(name) {
                    continue;
                }
                let path = directory.join(std::ffi::OsStr::from_bytes(name));
                if leave_out(&path) {
                    continue;
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => statat(opened.as_fd(), entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                    known => known,
                };
                match kind {
                    FileType::RegularFile if found.len() >= most => {
                        warnings.add(format!("there are more than {most} files; the rest is left out"));
                        return found;
                    }
                    FileType::RegularFile => found.push(path),
                    FileType::Directory if directories >= most => {
                        warnings.add(format!("there are more than {most} directories; the rest is left out"));
                        return found;
                    }
                    FileType::Directory if path.components().count() < MAX_DEPTH => {
                        directories += 1;
                        below.push(path);
                    }
                    FileType::Directory => warnings
                        .add(format!("{}: left out: it is too deep", shown(path.as_os_str().as_bytes()))),
                    FileType::Symlink
                    | FileType::Fifo
                    | FileType::Socket
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
                    | FileType::Unknown => {}
                }
            }
            pending.append(&mut below);
        }
        found.sort_unstable();
        found
    }

    fn parent<'a>(
        &self,
        path: &'a Path,
        make: bool,
    ) -> Result<(Reached<'_>, &'a std::ffi::OsStr), ReachError> {
        match (path.parent(), path.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) => Ok((self.directory(parent, make)?, name)),
            _ => Err(ReachError::Name),
        }
    }

    /// Returns how many directories [`write`](Self::write) would make for a file.
    pub fn missing_directories(&self, path: &Path) -> u32 {
        let mut reached = Reached::Root(self.root.as_fd());
        let mut parts = path.parent().into_iter().flat_map(Path::components);
        while let Some(part) = parts.next() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(reached.as_fd(), part.as_os_str(), flags, Mode::empty()) {
                Ok(opened) => reached = Reached::Below(opened),
                Err(Errno::NOENT) => return u32::try_from(parts.count() + 1).unwrap_or(u32::MAX),
                // It will be refused.
                Err(_) => return 0,
            }
        }
        0
    }

    fn directory(&self, path: &Path, make: bool) -> Result<Reached<'_>, ReachError> {
        let mut reached = Reached::Root(self.root.as_fd());
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(ReachError::Name) };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut opened = openat(reached.as_fd(), name, flags, Mode::empty());
            if make && matches!(opened, Err(Errno::NOENT)) {
                let made = match mkdirat(reached.as_fd(), name, NEW_DIRECTORY) {
                    Ok(()) => true,
                    Err(Errno::EXIST) => false,
                    Err(error) => return Err(refused(error)),
                };
                opened = openat(reached.as_fd(), name, flags, Mode::empty());
                if let (true, Ok(directory)) = (made, &opened) {
                    give(directory.as_fd(), reached.as_fd()).map_err(refused)?;
                }
            }
            reached = Reached::Below(opened.map_err(refused)?);
        }
        Ok(reached)
    }
}

/// Gives what root has made to the owner of the directory that it is in: who owns that must be able to go on with it.
fn give(made: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> Result<(), Errno> {
    give_to(made, &fstat(parent)?)
}

/// Gives what root has made to the owner of something else. Nobody else can give anything away.
fn give_to(made: BorrowedFd<'_>, like: &Stat) -> Result<(), Errno> {
    if geteuid().is_root() {
        fchown(made, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))?;
    }
    Ok(())
}

enum Reached<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Reached<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Below(directory) => directory.as_fd(),
        }
    }
}

fn refused(error: Errno) -> ReachError {
    match error {
        Errno::NOENT => ReachError::Missing,
        Errno::LOOP => ReachError::InTheWay("a symbolic link"),
        // Linux says so of a link, too, when a directory was asked for.
        Errno::NOTDIR => ReachError::InTheWay("a link or a file"),
        Errno::ISDIR => ReachError::InTheWay("a directory"),
        // open(2) on a socket, or on a device without a driver.
        Errno::NXIO | Errno::NODEV | Errno::OPNOTSUPP => ReachError::InTheWay("no file"),
        error => ReachError::Io(error.into()),
    }
}

fn what(meta: &Metadata) -> &'static str {
    if meta.is_dir() { "a directory" } else { "no file" }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_are_written_whole_with_no_more_rights_than_they_had() {
        let dir = tempfile::tempdir().unwrap();
        let root = Beneath::open(dir.path()).unwrap();
        root.write(Path::new("a/b/new"), b"1", 0o4777).unwrap();
        assert_eq!((mode(&dir.path().join("a/b/new")), mode(&dir.path().join("a"))), (0o755, 0o700));
        root.write(Path::new("plain"), b"1", 0).unwrap();
        assert_eq!(mode(&dir.path().join("plain")), 0o600);
        for (before, asked, after) in
            [(0o600, 0o644, 0o600), (0o644, 0o600, 0o600), (0o640, 0o777, 0o640), (0o755, 0o711, 0o711)]
        {
            let path = dir.path().join("file");
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            root.write(Path::new("file"), b"new", asked).unwrap();
            assert_eq!(
                (fs::read(&path).unwrap(), mode(&path)),
                (b"new".to_vec(), after),
                "{before:o} {asked:o}"
            );
        }
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[test]
    fn what_root_writes_stays_its_owners() {
        if !geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::{MetadataExt, chown};
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(1234), Some(1235)).unwrap();
        fs::write(dir.path().join("old"), "1").unwrap();
        chown(dir.path().join("old"), Some(77), Some(78)).unwrap();
        let root = Beneath::open(dir.path()).unwrap();
        assert_eq!(root.missing_directories(Path::new("a/b/new")), 2);
        for path in ["old", "a/b/new", "new"] {
            root.write(Path::new(path), b"2", 0o644).unwrap();
        }
        assert_eq!(root.missing_directories(Path::new("a/b/new")), 0);
        let owner = |path: &str| {
            let meta = fs::metadata(dir.path().join(path)).unwrap();
            (meta.uid(), meta.gid())
        };
        assert_eq!(owner("old"), (77, 78));
        for path in ["a", "a/b", "a/b/new", "new"] {
            assert_eq!(owner(path), (1234, 1235), "{path}");
        }
    }

    #[test]
    fn nothing_leads_out_or_replaces_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for path in [&inside, &outside, &inside.join("dir"), &outside.join("sub")] {
            fs::create_dir(path).unwrap();
        }
        fs::write(outside.join("secret"), "kept").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("secret"), inside.join("file")).unwrap();
        symlink("nowhere", inside.join("dangling")).unwrap();
        symlink("dir", inside.join("inner")).unwrap();
        let root = Beneath::open(&inside).unwrap();
        for path in [
            "../out/secret",
            "/etc/passwd",
            "..",
            "",
            ".",
            "link/secret",
            "link/new",
            "link/sub/new",
            "link",
            "file",
            "file/x",
            "dangling",
            "inner/x",
            "dir",
        ] {
            assert!(root.write(Path::new(path), b"evil", 0o644).is_err(), "{path:?}");
            assert!(root.file(Path::new(path)).is_err(), "{path:?}");
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
        assert_eq!(fs::read_dir(inside.join("dir")).unwrap().count(), 0);
        assert!(Beneath::open_no_link(&inside.join("link")).is_err());
        assert!(Beneath::open(&inside.join("link")).is_ok());
    }

    #[test]
    fn files_are_listed_without_links_and_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b", "c"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for path in ["a/b/x", "a/y", "c/z", "top", ".shed-0123456789abcdef-7"] {
            fs::write(dir.path().join(path), path).unwrap();
        }
        symlink("/etc", dir.path().join("etc")).unwrap();
        symlink("top", dir.path().join("again")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
        assert!(fifo.success());
        let root = Beneath::open(dir.path()).unwrap();
        let mut warnings = Warnings::default();
        let found = root.files(&|path| path == Path::new("c"), 100, &mut warnings);
        assert_eq!(found, ["a/b/x", "a/y", "top"].map(PathBuf::from));
        assert!(warnings.clone().into_texts().is_empty());
        assert_eq!(root.files(&|_| false, 3, &mut warnings).len(), 3);
        assert!(warnings.into_texts()[0].contains("more than 3 files"));
        let deep = tempfile::tempdir().unwrap();
        for number in 0..10 {
            fs::create_dir(deep.path().join(number.to_string())).unwrap();
        }
        let mut warnings = Warnings::default();
        assert!(Beneath::open(deep.path()).unwrap().files(&|_| false, 9, &mut warnings).is_empty());
        assert!(warnings.into_texts()[0].contains("more than 9 directories"));
        assert!(root.file(Path::new("fifo")).is_err(), "and nobody waits for its writer");
        let mut text = String::new();
        root.file(Path::new("a/b/x")).unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a/b/x");
    }
}
