//! The directory the results go to: one builder at a time, work in progress out of sight, results replaced whole.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use shed_image::file_name;

use crate::ui;

/// Directories in the cache which begin with this belong to one run of a builder.
const WORK: &str = "work-";

/// The output directory, held for this builder until the value is dropped.
#[derive(Debug)]
pub(crate) struct OutDir {
    path: Utf8PathBuf,
    cache: Utf8PathBuf,
    _lock: File,
}

/// A directory for work in progress, removed when dropped.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: Utf8PathBuf,
    _guard: tempfile::TempDir,
}

impl WorkDir {
    /// Returns the directory.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }
}

impl OutDir {
    /// Makes the directory when needed and waits for other builders of it to end.
    pub(crate) fn open(path: &Utf8Path) -> Result<Self> {
        fs::create_dir_all(path.join(file_name::CACHE)).with_context(|| format!("cannot create {path}"))?;
        // Absolute, because tools run elsewhere.
        let path = path.canonicalize_utf8().with_context(|| format!("cannot find {path}"))?;
        let cache = path.join(file_name::CACHE);
        let lock = take_lock(&cache.join("builder.lock"))?;
        let out = Self { path, cache, _lock: lock };
        out.remove_leftovers()?;
        Ok(out)
    }

    /// Removes what a killed builder left; the lock says that none is at work.
    fn remove_leftovers(&self) -> Result<()> {
        for entry in self.cache.read_dir_utf8().with_context(|| format!("cannot read {}", self.cache))? {
            let entry = entry?;
            if entry.file_name().starts_with(WORK) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path()))?;
            }
        }
        Ok(())
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Returns where stamps and reusable intermediate results are.
    pub(crate) fn cache(&self) -> &Utf8Path {
        &self.cache
    }

    /// Makes a directory for work in progress, on the same file system as the results.
    pub(crate) fn work_dir(&self) -> Result<WorkDir> {
        let guard = tempfile::Builder::new()
            .prefix(WORK)
            .tempdir_in(&self.cache)
            .with_context(|| format!("cannot make a work directory in {}", self.cache))?;
        let path = Utf8PathBuf::from_path_buf(guard.path().to_owned())
            .map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))?;
        Ok(WorkDir { path, _guard: guard })
    }

    /// Replaces files by the finished ones of the same names in `from`, as much at once as a file system can: everything
    /// is on the disk before the first one is replaced, and between them nothing is waited for.
    pub(crate) fn place(&self, from: &Utf8Path, names: &[&str]) -> Result<()> {
        for name in names {
            let new = from.join(name);
            File::open(&new)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("cannot flush {new}"))?;
        }
        for name in names {
            let target = self.path.join(name);
            fs::rename(from.join(name), &target).with_context(|| format!("cannot put {target} in place"))?;
        }
        sync_dir(&self.path).with_context(|| format!("cannot flush {}", self.path))
    }
}

/// Writes `content` to `path` so that a reader, or the next start, sees the old or the new and nothing between.
pub(crate) fn write_whole(path: &Utf8Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().with_context(|| format!("{path} has no directory"))?;
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
        file.write_all(content)?;
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_dir(dir)
    };
    write().with_context(|| format!("cannot write {path}"))
}

fn sync_dir(dir: &Utf8Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn take_lock(path: &Utf8Path) -> Result<File> {
    let locked = || -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                ui::note("waiting for another shed-guest to end");
                file.lock()?;
                Ok(file)
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    };
    locked().with_context(|| format!("cannot lock {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_killed_builder_are_removed_and_results_stay() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        fs::create_dir_all(dir.join(".cache/work-abc/deep")).unwrap();
        fs::create_dir_all(dir.join(".cache/kernel-amd64")).unwrap();
        fs::write(dir.join("bzImage"), b"old").unwrap();
        let out = OutDir::open(&dir).unwrap();
        assert!(!dir.join(".cache/work-abc").exists());
        assert!(dir.join(".cache/kernel-amd64").exists());

        let work = out.work_dir().unwrap();
        for name in ["bzImage", "initrd.img"] {
            fs::write(work.path().join(name), b"newer").unwrap();
        }
        assert!(out.place(work.path(), &["bzImage", "vmlinux"]).is_err(), "one of them is missing");
        assert_eq!(fs::read(dir.join("bzImage")).unwrap(), b"old");
        out.place(work.path(), &["bzImage", "initrd.img"]).unwrap();
        assert_eq!(fs::read(dir.join("bzImage")).unwrap(), b"newer");
        assert!(dir.join("initrd.img").exists());
        let path = work.path().to_owned();
        drop(work);
        assert!(!path.exists());
    }
}
