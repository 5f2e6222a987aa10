//! Directories beneath another by the kernel's own rules, which only Linux has (openat2(2), RESOLVE_BENEATH): links are followed
//! where they stay within. The agent reaches with it what a guest's user may have linked; unpacking goes through it as well.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use super::Beneath;

/// What is said of a link on the way that leads out of where one must stay.
pub(crate) const LEADS_OUT: &str = "a symbolic link on the way leads elsewhere";

/// How often a directory is opened again when the kernel says that somebody renames things on the way.
const ATTEMPTS: usize = 16;

/// Opens a directory beneath another.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        result = openat2(root, path, flags, Mode::empty(), resolve);
        // Somebody renames things on the way, so that the kernel cannot tell whether this leads out.
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

impl Beneath {
    /// Opens a directory below `anchor`, by a path that no link on the way may lead out of it; the directory must not be a
    /// link itself.
    ///
    /// # Errors
    /// When it is none, or cannot be opened, or a link leads out.
    pub fn open_below(anchor: &Path, path: &Path) -> io::Result<Self> {
        let anchor = openat(CWD, anchor, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open_beneath(anchor.as_fd(), path, flags) {
            Ok(root) => Ok(Self { root }),
            Err(Errno::XDEV) => Err(io::Error::other(LEADS_OUT)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_on_the_way_may_lead_within_and_not_out() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for path in [&inside.join("dir/deep"), &outside.join("sub")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(inside.join("file"), "").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink("dir", inside.join("inner")).unwrap();
        let below = |path: &str| Beneath::open_below(&inside, Path::new(path));
        for path in ["", "dir", "dir/deep", "inner/deep"] {
            assert!(below(path).is_ok(), "{path:?}");
        }
        for path in ["link", "link/sub", "inner", "file", "none", "..", "/etc"] {
            assert!(below(path).is_err(), "{path:?}");
        }
        assert_eq!(below("link/sub").unwrap_err().to_string(), LEADS_OUT);
    }
}
