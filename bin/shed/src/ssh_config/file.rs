//! The user's `~/.ssh/config` with our block in it.

use std::{fs, io};

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;

use super::block::{self, BlockError, Entries, Outcome};
use crate::config::ConfigError;

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshFileError {
    #[error("the home directory is unknown: HOME is not set")]
    NoHome,
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is a link to a file that is not there")]
    DanglingLink { path: Utf8PathBuf },
    #[error("{path} is left as it is")]
    Block {
        path: Utf8PathBuf,
        #[source]
        source: BlockError,
    },
    #[error("could not create the directory {path}")]
    CreateDirectory {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Lock(#[from] ConfigError),
    #[error(transparent)]
    Write(#[from] shed_state::WriteFileError),
}

/// What a change did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    /// Entries that were not there, by name.
    pub(crate) added: Entries,
    /// Those that say something else now.
    pub(crate) updated: Entries,
    /// Those that are gone, as they were.
    pub(crate) removed: Entries,
    /// Whether the file is another one: the form of the block may be all that changes.
    pub(crate) is_written: bool,
}

/// Whether to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Do it.
    Write,
    /// Only find out.
    Look,
}

/// The file.
#[derive(Debug)]
pub(crate) struct SshFile {
    path: Utf8PathBuf,
}

impl SshFile {
    /// Finds the file.
    ///
    /// # Errors
    /// [`SshFileError::NoHome`].
    pub(crate) fn locate() -> Result<Self, SshFileError> {
        let home = std::env::var("HOME").ok().filter(|home| !home.is_empty()).ok_or(SshFileError::NoHome)?;
        Ok(Self { path: Utf8PathBuf::from(home).join(".ssh/config") })
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Reads the file, lets `change` change the entries of the block, and writes it when it is another one then. The
    /// caller holds a lock.
    ///
    /// # Errors
    /// When it cannot be read or written, or the block cannot be told from the rest; it is as it was then.
    pub(crate) fn update(
        &self,
        intent: Intent,
        change: impl FnOnce(&mut Entries),
    ) -> Result<Changes, SshFileError> {
        let target = self.target()?;
        let file = match fs::read(&target) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(SshFileError::Read { path: self.path.clone(), source }),
        };
        let parts =
            block::split(&file).map_err(|source| SshFileError::Block { path: self.path.clone(), source })?;
        let before = parts.block.map(block::entries).unwrap_or_default();
        let mut after = before.clone();
        change(&mut after);
        let mut changes = compare(&before, &after);
        if let Outcome::Written(bytes) = block::put(&parts, &after, Timestamp::now()) {
            changes.is_written = true;
            if intent == Intent::Write {
                self.create_directory()?;
                shed_state::atomic::write_for_owner(&target, &bytes, 0o600)?;
            }
        }
        Ok(changes)
    }

    /// Returns the file itself where `~/.ssh/config` is a link: a rename would put a plain file in its place.
    fn target(&self) -> Result<Utf8PathBuf, SshFileError> {
        match self.path.canonicalize_utf8() {
            Ok(path) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(&self.path).is_ok() {
                    Err(SshFileError::DanglingLink { path: self.path.clone() })
                } else {
                    Ok(self.path.clone())
                }
            }
            Err(source) => Err(SshFileError::Read { path: self.path.clone(), source }),
        }
    }

    fn create_directory(&self) -> Result<(), SshFileError> {
        let Some(directory) = self.path.parent().filter(|path| !path.exists()) else { return Ok(()) };
        shed_state::atomic::create_directory_for_owner(directory, 0o700)
            .map_err(|source| SshFileError::CreateDirectory { path: directory.to_owned(), source })
    }
}

fn compare(before: &Entries, after: &Entries) -> Changes {
    let mut changes = Changes::default();
    for (alias, entry) in after {
        match before.get(alias) {
            None => drop(changes.added.insert(alias.clone(), entry.clone())),
            Some(old) if old != entry => drop(changes.updated.insert(alias.clone(), entry.clone())),
            Some(_) => {}
        }
    }
    changes.removed = before
        .iter()
        .filter(|(alias, _)| !after.contains_key(*alias))
        .map(|(a, e)| (a.clone(), e.clone()))
        .collect();
    changes
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
