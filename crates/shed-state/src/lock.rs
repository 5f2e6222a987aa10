//! Keeps two servers off one state directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
};

use camino::{Utf8Path, Utf8PathBuf};

/// File that carries the lock; it is never removed, because a process may hold the old inode.
const LOCK_FILE: &str = ".lock";

/// Why a directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{path} is locked by another process")]
    Held { path: Utf8PathBuf },
    #[error("could not lock {path}")]
    Io {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Holds a directory for this process, until it is dropped or the process ends in whatever way.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, or fails at once.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it.
    pub fn take(directory: &Utf8Path) -> Result<Self, LockError> {
        Self::take_named(directory, LOCK_FILE)
    }

    /// Takes one of several locks of a directory that different programs keep things in, or fails at once.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it.
    pub fn take_named(directory: &Utf8Path, name: &str) -> Result<Self, LockError> {
        let path = directory.join(name);
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path }),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_and_free_after_it() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(guard.path()).unwrap();
        let held = DirectoryLock::take(dir).unwrap();
        assert!(matches!(DirectoryLock::take(dir), Err(LockError::Held { .. })));
        let _other = DirectoryLock::take_named(dir, "other.lock").unwrap();
        assert!(matches!(DirectoryLock::take_named(dir, "other.lock"), Err(LockError::Held { .. })));
        drop(held);
        DirectoryLock::take(dir).unwrap();
    }
}
