//! Removing the blobs that no image needs.
//!
//! Called by a prune, which asks [`crate::reachable`] for what each image needs. Only files that are blobs by their
//! place and name are touched; whatever else lies in the store stays.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::Digest;

use super::{BlobError, BlobStore, BlobSweep};

/// What a sweep removed, or would remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Blobs, partial ones included.
    pub files: u64,
    /// What they took on the host's disk, in bytes.
    pub bytes: u64,
}

impl BlobStore {
    /// Removes every blob that is not in `keep`, and every partial one: nobody is writing any while `sweep` lives.
    ///
    /// # Errors
    /// When the store cannot be read, or a blob cannot be removed. What was removed before stays removed.
    pub fn sweep(&self, _sweep: &BlobSweep, keep: &BTreeSet<Digest>) -> Result<SweepReport, BlobError> {
        let mut report = SweepReport::default();
        for (path, bytes) in self.unneeded(keep)? {
            fs::remove_file(&path).map_err(|source| BlobError::Write { path, source })?;
            report.files += 1;
            report.bytes += bytes;
        }
        Ok(report)
    }

    /// Tells what [`Self::sweep`] would remove, at this moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn would_sweep(&self, keep: &BTreeSet<Digest>) -> Result<SweepReport, BlobError> {
        let unneeded = self.unneeded(keep)?;
        Ok(SweepReport { files: unneeded.len() as u64, bytes: unneeded.iter().map(|(_, bytes)| bytes).sum() })
    }

    fn unneeded(&self, keep: &BTreeSet<Digest>) -> Result<Vec<(Utf8PathBuf, u64)>, BlobError> {
        let mut unneeded = Vec::new();
        for algorithm in files_of(&self.dir.join("blobs"))? {
            let name = algorithm.file_name().unwrap_or_default().to_owned();
            for path in files_of(&algorithm)? {
                let digest = format!("{name}:{}", path.file_name().unwrap_or_default()).parse::<Digest>();
                if digest.is_ok_and(|digest| !keep.contains(&digest)) {
                    unneeded.push(path);
                }
            }
        }
        for path in files_of(&self.dir.join("partial"))? {
            let name = path.file_name().unwrap_or_default().replacen('-', ":", 1);
            if name.parse::<Digest>().is_ok() {
                unneeded.push(path);
            }
        }
        unneeded
            .into_iter()
            .map(|path| match fs::symlink_metadata(&path) {
                Ok(metadata) => Ok((path, metadata.blocks() * 512)),
                Err(source) => Err(BlobError::Read { path, source }),
            })
            .collect()
    }
}

/// What lies in a directory, in order; nothing when it is no directory, or its names are not text and so not ours.
fn files_of(dir: &Utf8Path) -> Result<Vec<Utf8PathBuf>, BlobError> {
    let failed = |source| BlobError::Read { path: dir.to_owned(), source };
    let entries = match dir.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.into_path()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(failed(error)),
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BeginBlob, BlobId, DigestHasher, ImageStore};

    #[test]
    fn a_sweep_removes_what_is_not_needed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let blobs = BlobStore::of(&ImageStore::new(dir));
        let sweep = blobs.try_sweep().unwrap().unwrap();
        assert_eq!(blobs.sweep(&sweep, &BTreeSet::new()).unwrap(), SweepReport::default());

        let needed = blobs.insert(b"needed").unwrap();
        let other = blobs.insert(&[1; 5000]).unwrap();
        let id = BlobId { digest: DigestHasher::sha256_of(b"half"), size: 4 };
        let BeginBlob::Write(mut half) = blobs.begin(&id).unwrap() else { panic!("it is not there") };
        half.write(b"ha").unwrap();
        drop(half);
        let strange = blobs.path(&needed.digest).with_file_name("README");
        fs::write(&strange, "not a blob").unwrap();

        let keep = BTreeSet::from([needed.digest.clone()]);
        let told = blobs.would_sweep(&keep).unwrap();
        assert_eq!(told.files, 2);
        assert!(told.bytes >= 5000);
        assert_eq!(blobs.sweep(&sweep, &keep).unwrap(), told);
        assert_eq!(blobs.size_of(&needed.digest), Some(6));
        assert_eq!(blobs.size_of(&other.digest), None);
        assert!(strange.exists());
        assert_eq!(blobs.sweep(&sweep, &keep).unwrap(), SweepReport::default());
    }
}
