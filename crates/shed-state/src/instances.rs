//! The instance directory: one directory a shed, and every file name in it.
//!
//! ```text
//! <instance_dir>/.lock                    held by the server that uses this directory
//! <instance_dir>/<shed>/metadata.json     the record; the shed exists exactly as long as this file does
//! <instance_dir>/<shed>/image.ext4        hardlink to the image, the guest's read-only lower
//! <instance_dir>/<shed>/rootfs.ext4       the shed's own disk, the guest's upper: all that is the user's
//! <instance_dir>/<shed>/console.log       what the guest writes to its console
//! <instance_dir>/<shed>/vmm.log           what the VMM itself prints
//! ```

use std::{collections::BTreeMap, fs, io, time::SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ShedName;

use crate::{ShedRecord, WriteFileError, atomic};

/// What the guest writes to its console.
pub const CONSOLE_LOG: &str = "console.log";

/// Holds the record.
const METADATA: &str = "metadata.json";

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteRecordError {
    #[error("could not make the directory {path}")]
    MakeDirectory {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Write(#[from] WriteFileError),
}

/// Why the record of a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadInstanceError {
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a shed's record")]
    Parse {
        path: Utf8PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} was written by a newer version (record version {version})")]
    Newer { path: Utf8PathBuf, version: u32 },
    #[error("{path} is the record of `{named}`, not of `{shed}`")]
    OtherName { path: Utf8PathBuf, shed: ShedName, named: ShedName },
    #[error("{path} has a disk but no record")]
    DiskWithoutRecord { path: Utf8PathBuf },
}

/// Why the instance directory cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("could not list {path}")]
pub struct ScanError {
    /// The directory.
    pub path: Utf8PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// What a scan finds in one subdirectory.
#[derive(Debug)]
pub enum Entry {
    /// A shed.
    Shed(Box<ShedRecord>),
    /// The beginning of a create that was killed before its record was written, or the end of a delete after it
    /// was removed. Nothing of a user's is in it.
    Husk(ShedName),
    /// Something with a shed's name that cannot be used. It stays, and its name stays taken.
    Unreadable(ShedName, ReadInstanceError),
}

/// The directory that holds all sheds of one backend.
#[derive(Debug, Clone)]
pub struct InstanceDir {
    path: Utf8PathBuf,
}

/// The paths of one shed's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFiles {
    /// The shed's directory.
    pub directory: Utf8PathBuf,
    /// The guest's lower disk.
    pub image: Utf8PathBuf,
    /// The guest's upper disk.
    pub rootfs: Utf8PathBuf,
    /// The guest's console.
    pub console_log: Utf8PathBuf,
    /// The VMM's own output.
    pub vmm_log: Utf8PathBuf,
}

impl InstanceDir {
    /// Uses `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<Utf8PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the directory itself.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Returns the paths of one shed's files.
    #[must_use]
    pub fn files(&self, shed: &ShedName) -> InstanceFiles {
        let directory = self.path.join(shed.as_str());
        InstanceFiles {
            image: directory.join("image.ext4"),
            rootfs: directory.join("rootfs.ext4"),
            console_log: directory.join(CONSOLE_LOG),
            vmm_log: directory.join("vmm.log"),
            directory,
        }
    }

    /// Writes a shed's record, making its directory first when it is new.
    ///
    /// # Errors
    /// When either fails; an older record is untouched then.
    pub fn write(&self, record: &ShedRecord) -> Result<(), WriteRecordError> {
        let directory = self.files(&record.name).directory;
        match fs::create_dir(&directory) {
            Ok(()) => atomic::sync_directory(&self.path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|source| WriteRecordError::MakeDirectory { path: directory.clone(), source })?;
        let mut json = serde_json::to_vec_pretty(record).expect("a record serialises without error");
        json.push(b'\n');
        Ok(atomic::write(&directory.join(METADATA), &json, 0o644)?)
    }

    /// Reads a shed's record.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn read(&self, shed: &ShedName) -> Result<ShedRecord, ReadInstanceError> {
        let path = self.record_path(shed);
        let bytes =
            read_regular(&path).map_err(|source| ReadInstanceError::Read { path: path.clone(), source })?;
        let parse = |source| ReadInstanceError::Parse { path: path.clone(), source };
        // The version is read by itself first: a newer record may not parse, and then this is the true reason.
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(parse)?;
        let version = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or_default();
        if version > u64::from(crate::RECORD_VERSION) {
            let version = u32::try_from(version).unwrap_or(u32::MAX);
            return Err(ReadInstanceError::Newer { path, version });
        }
        let record: ShedRecord = serde_json::from_value(value).map_err(parse)?;
        if record.name != *shed {
            return Err(ReadInstanceError::OtherName { path, shed: shed.clone(), named: record.name });
        }
        Ok(record)
    }

    /// Returns where a shed's record is.
    #[must_use]
    pub fn record_path(&self, shed: &ShedName) -> Utf8PathBuf {
        self.files(shed).directory.join(METADATA)
    }

    /// Returns when a shed's record was last written; nothing when it has none.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub fn record_modified(&self, shed: &ShedName) -> io::Result<Option<SystemTime>> {
        match fs::symlink_metadata(self.record_path(shed)).and_then(|metadata| metadata.modified()) {
            Ok(modified) => Ok(Some(modified)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when each shed's record was last written; what has none is left out.
    ///
    /// # Errors
    /// When the directory cannot be listed, or a record not be looked at.
    pub fn records_modified(&self) -> Result<BTreeMap<ShedName, SystemTime>, ScanError> {
        let mut times = BTreeMap::new();
        for shed in self.directories()? {
            let modified = self
                .record_modified(&shed)
                .map_err(|source| ScanError { path: self.record_path(&shed), source })?;
            if let Some(modified) = modified {
                let _new = times.insert(shed, modified);
            }
        }
        Ok(times)
    }

    /// Lists everything that has a shed's name. Other files are none of ours and left alone.
    ///
    /// # Errors
    /// When the directory itself cannot be listed.
    pub fn scan(&self) -> Result<Vec<Entry>, ScanError> {
        Ok(self.directories()?.into_iter().map(|shed| self.classify(shed)).collect())
    }

    /// Lists the directories that have a shed's name; links to directories are none.
    fn directories(&self) -> Result<Vec<ShedName>, ScanError> {
        let failed = |source| ScanError { path: self.path.clone(), source };
        let mut sheds = Vec::new();
        for entry in self.path.read_dir_utf8().map_err(failed)? {
            let entry = match entry {
                Ok(entry) => entry,
                // A name that is no UTF-8 cannot be a shed's.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) => return Err(failed(error)),
            };
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            if let (true, Ok(shed)) = (is_directory, entry.file_name().parse::<ShedName>()) {
                sheds.push(shed);
            }
        }
        Ok(sheds)
    }

    fn classify(&self, shed: ShedName) -> Entry {
        match self.read(&shed) {
            Ok(record) => Entry::Shed(Box::new(record)),
            Err(ReadInstanceError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let files = self.files(&shed);
                // A disk is only ever made after the record, and removed before it. One without a record is a
                // sign of damage, and may be all that is left of somebody's work.
                if files.rootfs.exists() {
                    Entry::Unreadable(shed, ReadInstanceError::DiskWithoutRecord { path: files.directory })
                } else {
                    Entry::Husk(shed)
                }
            }
            Err(error) => Entry::Unreadable(shed, error),
        }
    }

    /// Removes what a write of a shed's record has left that was killed half-way. Only the server that holds the
    /// directory's lock may, since nobody else writes then.
    ///
    /// # Errors
    /// With the path that could not be removed or listed.
    pub fn sweep(&self, shed: &ShedName) -> Result<(), (Utf8PathBuf, io::Error)> {
        let directory = self.files(shed).directory;
        let failed = |error| (directory.clone(), error);
        for entry in directory.read_dir_utf8().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if atomic::is_temporary(entry.file_name()) {
                fs::remove_file(entry.path()).map_err(|error| (entry.path().to_owned(), error))?;
            }
        }
        Ok(())
    }

    /// Removes a shed's directory, its record last but for the directory itself. Idempotent.
    ///
    /// # Errors
    /// With the path that could not be removed; calling again continues.
    pub fn remove(&self, shed: &ShedName) -> Result<(), (Utf8PathBuf, io::Error)> {
        remove_shed_files(&self.files(shed).directory)?;
        atomic::sync_directory(&self.path).map_err(|source| (self.path.clone(), source))
    }
}

/// Reads a file, but no pipe, which would make the reader wait for a writer for ever.
fn read_regular(path: &Utf8Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() {
        fs::read(path)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

/// Removes a shed's directory and all in it, the record after everything else: while the record is there, a
/// killed delete is continued; after it nothing of value is left.
///
/// # Errors
/// With the path that could not be removed.
pub fn remove_shed_files(directory: &Utf8Path) -> Result<(), (Utf8PathBuf, io::Error)> {
    let ignore_missing = |path: &Utf8Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((path.to_owned(), error)),
        Ok(()) | Err(_) => Ok(()),
    };
    let entries = match directory.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err((directory.to_owned(), error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| (directory.to_owned(), error))?;
        if entry.file_name() == METADATA {
            continue;
        }
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        ignore_missing(path, if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) })?;
    }
    let metadata = directory.join(METADATA);
    ignore_missing(&metadata, fs::remove_file(&metadata))?;
    ignore_missing(directory, fs::remove_dir(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordStatus;

    fn scratch() -> (tempfile::TempDir, InstanceDir) {
        let guard = tempfile::tempdir().unwrap();
        let dir = InstanceDir::new(Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap());
        (guard, dir)
    }

    fn record(name: &str) -> ShedRecord {
        let mut record: ShedRecord =
            serde_json::from_str(include_str!("../fixtures/metadata-v1.json")).unwrap();
        record.name = name.parse().unwrap();
        record
    }

    #[test]
    fn a_written_record_is_found_by_a_scan() {
        let (_guard, dir) = scratch();
        dir.write(&record("api")).unwrap();
        let mut changed = record("api");
        changed.status = RecordStatus::Stopped;
        dir.write(&changed).unwrap();
        let entries = dir.scan().unwrap();
        assert!(matches!(&entries[..], [Entry::Shed(found)] if **found == changed), "{entries:?}");
    }

    #[test]
    fn a_directory_without_record_and_disk_is_a_husk_and_one_with_a_disk_is_kept() {
        let (_guard, dir) = scratch();
        let husk = dir.files(&"husk".parse().unwrap());
        fs::create_dir(&husk.directory).unwrap();
        fs::write(husk.directory.join(".metadata.json.x.tmp"), b"{").unwrap();
        assert!(matches!(&dir.scan().unwrap()[..], [Entry::Husk(name)] if name.as_str() == "husk"));
        fs::write(&husk.rootfs, b"somebody's work").unwrap();
        assert!(matches!(
            &dir.scan().unwrap()[..],
            [Entry::Unreadable(_, ReadInstanceError::DiskWithoutRecord { .. })]
        ));
    }

    #[test]
    fn a_sweep_removes_what_a_killed_write_left_and_nothing_else() {
        let (_guard, dir) = scratch();
        let written = record("api");
        dir.write(&written).unwrap();
        let files = dir.files(&written.name);
        fs::write(&files.rootfs, b"somebody's work").unwrap();
        fs::write(files.directory.join(".metadata.json.02gzEG.tmp"), b"{").unwrap();
        dir.sweep(&written.name).unwrap();
        assert_eq!(files.directory.read_dir_utf8().unwrap().count(), 2);
        assert_eq!(dir.read(&written.name).unwrap(), written);
    }

    #[test]
    fn damaged_foreign_and_newer_records_are_unreadable_but_stay() {
        let (_guard, dir) = scratch();
        let files = dir.files(&"api".parse().unwrap());
        fs::create_dir(&files.directory).unwrap();
        let metadata = files.directory.join(METADATA);
        for content in [
            "",
            "{",
            "[]",
            "null",
            r#"{"version":99,"new":true}"#,
            include_str!("../fixtures/metadata-v1.json"),
        ] {
            fs::write(&metadata, content).unwrap();
            assert!(matches!(&dir.scan().unwrap()[..], [Entry::Unreadable(..)]), "{content}");
        }
        assert!(metadata.exists());
    }

    #[test]
    fn files_that_are_not_sheds_are_left_alone() {
        let (_guard, dir) = scratch();
        fs::write(dir.path().join("notes"), b"").unwrap();
        fs::create_dir(dir.path().join("Not-A-Shed")).unwrap();
        assert!(dir.scan().unwrap().is_empty());
    }

    #[test]
    fn names_that_are_no_text_do_not_hide_sheds_and_a_record_that_is_a_directory_is_unreadable() {
        use std::os::unix::ffi::OsStrExt;
        let (_guard, dir) = scratch();
        dir.write(&record("api")).unwrap();
        fs::create_dir(dir.path().as_std_path().join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap();
        fs::create_dir_all(dir.record_path(&"odd".parse().unwrap())).unwrap();
        let entries = dir.scan().unwrap();
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert!(
            entries.iter().any(|entry| matches!(entry, Entry::Unreadable(name, _) if name.as_str() == "odd"))
        );
    }

    #[test]
    fn the_time_of_a_record_is_that_of_its_last_write() {
        let (_guard, dir) = scratch();
        let shed = record("api").name;
        assert_eq!(dir.record_modified(&shed).unwrap(), None);
        dir.write(&record("api")).unwrap();
        fs::create_dir(dir.path().join("husk")).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(dir.record_path(&shed)).unwrap().set_modified(time).unwrap();
        assert_eq!(dir.record_modified(&shed).unwrap(), Some(time));
        assert_eq!(dir.records_modified().unwrap(), BTreeMap::from([(shed.clone(), time)]));
        dir.write(&record("api")).unwrap();
        assert_ne!(dir.record_modified(&shed).unwrap(), Some(time));
    }

    #[test]
    fn remove_takes_everything_and_may_be_repeated() {
        let (_guard, dir) = scratch();
        let shed = record("api").name;
        dir.write(&record("api")).unwrap();
        fs::write(dir.files(&shed).rootfs, b"x").unwrap();
        fs::create_dir(dir.files(&shed).directory.join("sub")).unwrap();
        dir.remove(&shed).unwrap();
        dir.remove(&shed).unwrap();
        assert!(dir.scan().unwrap().is_empty());
    }
}
