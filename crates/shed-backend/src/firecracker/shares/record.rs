//! Whether a launch's guest has mounted a directory: a file beside the machine's logs.
//!
//! The server writes it before the machine starts; the process that serves the directory overwrites it in place, by the same
//! number of bytes, when the guest first asks for something. So that needs no room on the disk, and no right but to the
//! open file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use camino::{Utf8Path, Utf8PathBuf};

/// What the file says. Both have the same length.
const OFFERED: &[u8] = b"offered\n";
const MOUNTED: &[u8] = b"mounted\n";

/// Whether the guest has mounted a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareState {
    /// Not yet: its stream can be offered again.
    Offered,
    /// It has; another stream would be of no use to it.
    Mounted,
}

/// The file of one share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRecord(Utf8PathBuf);

impl ShareRecord {
    /// Returns the record of the share `tag` of the machine whose VMM has this log.
    #[must_use]
    pub fn beside(vmm_log: &Utf8Path, tag: &str) -> Self {
        Self(vmm_log.with_extension(format!("share-{tag}")))
    }

    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.0
    }

    /// Notes that nothing is mounted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&self.0)?.write_all(OFFERED)
    }

    /// Opens it for [`Self::note_mounted`], which whoever serves may do as another user.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Utf8Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    /// Notes that the guest has mounted the directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note_mounted(file: &File) -> io::Result<()> {
        file.write_all_at(MOUNTED, 0)
    }

    /// Returns what it says. What is no record says nothing good: then a guest may hold a mount that is dead.
    #[must_use]
    pub fn state(&self) -> ShareState {
        let mut text = Vec::new();
        let limit = u64::try_from(OFFERED.len()).unwrap_or(u64::MAX) + 1;
        let read = File::open(&self.0).and_then(|file| file.take(limit).read_to_end(&mut text));
        match read {
            Ok(_) if text == OFFERED => ShareState::Offered,
            Ok(_) | Err(_) => ShareState::Mounted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_offered_until_it_is_mounted_and_nothing_else_is_an_offer() {
        let dir = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(dir.path()).unwrap().join("vmm.log");
        let record = ShareRecord::beside(&log, "workspace");
        assert_eq!(record.path().file_name(), Some("vmm.share-workspace"));
        assert_eq!(record.state(), ShareState::Mounted, "it is not there");
        record.begin().unwrap();
        assert_eq!(record.state(), ShareState::Offered);
        ShareRecord::note_mounted(&ShareRecord::open(record.path()).unwrap()).unwrap();
        assert_eq!(record.state(), ShareState::Mounted);
        assert_eq!(std::fs::read(record.path()).unwrap(), b"mounted\n");
        record.begin().unwrap();
        assert_eq!(record.state(), ShareState::Offered, "of another launch");
        for text in ["", "offered", "offered\n\n", "\0"] {
            std::fs::write(record.path(), text).unwrap();
            assert_eq!(record.state(), ShareState::Mounted, "{text:?}");
        }
    }
}
