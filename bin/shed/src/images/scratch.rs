//! A directory for what is between a tool and the store: removed when it is dropped, and by the next command when this
//! process is killed before.

use std::{
    fs::{self, File, TryLockError},
    io,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{ImageStore, file_name};

use crate::command_error::{CommandError, Kind};

/// Begins the names of these directories; the process id follows.
const PREFIX: &str = "build-";

/// Locked for as long as somebody uses the directory.
const LOCK: &str = "lock";

/// Locked while such directories are made or looked at.
const MAKING: &str = "builds.lock";

/// A directory of this process's own.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: Utf8PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes one on the file system of the images, having removed those of processes that were killed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(images: &ImageStore) -> Result<Self, CommandError> {
        let parent = images.dir().join(file_name::CACHE);
        Self::below(&parent).map_err(|error| {
            CommandError::new(Kind::Failed, format!("could not make a directory in {parent}"))
                .caused_by(error)
        })
    }

    fn below(parent: &Utf8Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        // So that nobody takes a directory for left that is only being made.
        let making = File::create(parent.join(MAKING))?;
        making.lock()?;
        for entry in parent.read_dir_utf8()?.flatten() {
            if entry.file_name().starts_with(PREFIX) {
                sweep(entry.path())?;
            }
        }
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next command.
        let _left = fs::remove_dir_all(&self.path);
    }
}

/// Removes a directory that nobody uses.
fn sweep(path: &Utf8Path) -> io::Result<()> {
    let lock = match File::open(path.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::remove_dir_all(path),
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) => fs::remove_dir_all(path),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_user_and_that_of_a_dead_one_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let parent = Utf8Path::from_path(dir.path()).unwrap();
        let names = || {
            let mut names: Vec<_> =
                parent.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
            names.sort();
            names
        };
        let used = parent.join("build-used");
        fs::create_dir(&used).unwrap();
        let lock = File::create(used.join(LOCK)).unwrap();
        lock.lock().unwrap();
        fs::create_dir(parent.join("build-unlocked")).unwrap();
        let dead = parent.join("build-dead");
        fs::create_dir_all(dead.join("out/blobs")).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        fs::write(parent.join("upper-20g.v1.ext4"), "").unwrap();
        let scratch = Scratch::below(parent).unwrap();
        let own = scratch.path().file_name().unwrap().to_owned();
        let mut expected = ["build-used", &own, MAKING, "upper-20g.v1.ext4"].map(str::to_owned);
        expected.sort();
        assert_eq!(names(), expected);
        drop(scratch);
        assert_eq!(names(), ["build-used", MAKING, "upper-20g.v1.ext4"]);
    }
}
