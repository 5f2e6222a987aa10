//! The directory that is served, and the only ways by which something in it is opened.

use std::{
    fmt::Display,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Statx, StatxFlags, fstatfs,
        open, openat, openat2, statx,
    },
    io::Errno,
    path::DecInt,
};

use super::{
    fids::Node,
    identity::Identity,
    qids::{Place, kind_of},
};
use crate::proto::Name;

/// Where the process's descriptors have names (proc_pid_fd(5)).
const DESCRIPTORS: &str = "/proc/self/fd";

/// What is asked of every file.
const ASKED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Nothing of a name may be a link, nor lead out of the directory that it is in (openat2(2)).
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory to be served.
#[derive(Debug)]
pub struct Root {
    directory: Arc<OwnedFd>,
    /// A descriptor of the place where descriptors have names: to open again what is held.
    descriptors: OwnedFd,
    place: Place,
    identity: Identity,
}

impl Root {
    /// Opens the directory; links in its path are followed, because whoever names it means it.
    ///
    /// # Errors
    /// When it is no directory or cannot be reached, or the kernel lacks openat2 (Linux 5.6), or /proc is not mounted.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| failed(format_args!("cannot open the directory {}", path.display()), error))?;
        Self::from_descriptor(directory)
    }

    /// Takes the descriptor of a directory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_descriptor(directory: OwnedFd) -> io::Result<Self> {
        let stat =
            look(directory.as_fd()).map_err(|error| failed("cannot look at the shared directory", error))?;
        if kind_of(&stat) != FileType::Directory {
            return Err(failed("cannot share it", Errno::NOTDIR));
        }
        // A system without it would refuse every name.
        openat2(&directory, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
            .map_err(|error| failed("cannot open anything beneath a directory with openat2", error))?;
        let descriptors =
            open(DESCRIPTORS, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed(format_args!("cannot open {DESCRIPTORS}; mount /proc"), error))?;
        if fstatfs(&descriptors)?.f_type != PROC_SUPER_MAGIC {
            return Err(io::Error::other(format!("{DESCRIPTORS} is none of procfs; mount /proc")));
        }
        Ok(Self {
            directory: Arc::new(directory),
            descriptors,
            place: Place::of(&stat),
            identity: Identity::of(stat.stx_uid, stat.stx_gid),
        })
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn node(&self) -> Node {
        Node { fd: Arc::clone(&self.directory), kind: FileType::Directory, place: self.place, at: None }
    }

    /// Opens a held file or directory again, for reading or writing. Everything else may do something when it is opened,
    /// and is refused.
    pub(super) fn open_again(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        match node.kind {
            FileType::Directory => {
                openat(&node.fd, ".", flags | OFlags::NOFOLLOW | OFlags::DIRECTORY, Mode::empty())
            }
            FileType::RegularFile if flags.contains(OFlags::DIRECTORY) => Err(Errno::NOTDIR),
            // The descriptor holds the very file whose type this is.
            FileType::RegularFile => openat(&self.descriptors, name_of(node), flags, Mode::empty()),
            FileType::Symlink => Err(Errno::LOOP),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Err(Errno::ACCESS),
        }
    }

    /// A directory and a name in it that stand for a held file, for calls that take no descriptor. The last part is the
    /// kernel's own link to the file itself; callers have the call follow that one.
    pub(super) fn name_of(&self, node: &Node) -> (BorrowedFd<'_>, DecInt) {
        (self.descriptors.as_fd(), name_of(node))
    }
}

fn name_of(node: &Node) -> DecInt {
    DecInt::new(node.fd.as_raw_fd())
}

fn failed(what: impl Display, error: Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{what}: {error}"))
}

/// Holds what a name in a directory stands for, without opening it.
pub(super) fn hold(directory: BorrowedFd<'_>, name: Name<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    beneath(directory, name, flags, Mode::empty())
}

/// Opens a name in a directory, by rules that no name gets around.
pub(super) fn beneath(
    directory: BorrowedFd<'_>,
    name: Name<'_>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    loop {
        match openat2(directory, name.as_bytes(), flags, mode, RESOLVE) {
            // EAGAIN: the kernel could not tell, because something was renamed meanwhile.
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// Attributes of what is held.
pub(super) fn look(held: BorrowedFd<'_>) -> Result<Statx, Errno> {
    statx(held, "", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, ASKED)
}

/// Attributes of what a name in a directory stands for.
pub(super) fn look_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Statx, Errno> {
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, ASKED)
}
