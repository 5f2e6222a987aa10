//! Finding blobs that were damaged on the disk after they were checked, and removing them.
//!
//! A blob that is there is taken for whole by its length, because hashing it every time would cost more than to fetch it.
//! So whoever finds that something is wrong with an image calls [`BlobStore::discard_damaged`], after which what was
//! damaged is fetched or imported again.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
};

use shed_types::Digest;

use super::{BlobError, BlobStore, DigestHasher, PIECE, same_file};
use crate::{DocumentError, reachable};

impl BlobStore {
    /// Reads a blob again and tells whether it still is what its digest says. Takes as long as reading it does.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn verify(&self, digest: &Digest) -> Result<bool, BlobError> {
        self.is_good(&self.open(digest)?, digest)
    }

    /// Removes a blob if its content is not what its digest says; returns whether it was removed.
    ///
    /// # Errors
    /// When it is there and cannot be read or removed.
    pub fn discard_if_damaged(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.path(digest);
        let file = match self.open(digest) {
            Ok(file) => file,
            Err(BlobError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        // By now somebody else may have replaced it by a good one, which stays.
        if self.is_good(&file, digest)? || !same_file(&file, &path) {
            return Ok(false);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true).map_err(|source| BlobError::Write { path, source }),
        }
    }

    /// Hashes all blobs of an image again, removes the damaged ones, and returns those that are not there now: whoever
    /// brings them again has a good image. Called when an image's content turns out to be wrong.
    ///
    /// # Errors
    /// When a blob cannot be read or removed, or the manifest, though undamaged, names nothing that can be fetched.
    pub fn discard_damaged(&self, manifest: &Digest) -> Result<BTreeSet<Digest>, DocumentError> {
        // First, because what it consists of is not known otherwise.
        self.discard_if_damaged(manifest)?;
        let mut absent = BTreeSet::new();
        for digest in reachable(self, manifest)? {
            self.discard_if_damaged(&digest)?;
            if self.size_of(&digest).is_none() {
                absent.insert(digest);
            }
        }
        Ok(absent)
    }

    fn is_good(&self, mut file: &File, digest: &Digest) -> Result<bool, BlobError> {
        let mut hasher = DigestHasher::new(digest.algorithm());
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(BlobError::Read { path: self.path(digest), source }),
            };
            if count == 0 {
                return Ok(hasher.finish() == *digest);
            }
            hasher.update(&buffer[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use serde_json::json;

    use super::*;
    use crate::{BlobId, ImageStore};

    #[test]
    fn of_an_image_what_is_damaged_goes_and_what_is_good_stays() {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageStore::new(Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap());
        let blobs = BlobStore::of(&images);
        let descriptor = |id: &BlobId| json!({"mediaType": "a/b", "digest": id.digest, "size": id.size});
        let [config, one, two] =
            ["config", "one", "two"].map(|content| blobs.insert(content.as_bytes()).unwrap());
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&one), descriptor(&two)],
        });
        let manifest_bytes = manifest.to_string();
        let manifest = blobs.insert(manifest_bytes.as_bytes()).unwrap().digest;
        assert!(blobs.verify(&one.digest).unwrap());
        assert_eq!(blobs.discard_damaged(&manifest).unwrap(), BTreeSet::new());

        fs::write(blobs.path(&one.digest), "onf").unwrap();
        fs::remove_file(blobs.path(&two.digest)).unwrap();
        assert!(!blobs.verify(&one.digest).unwrap());
        assert!(matches!(blobs.verify(&two.digest), Err(BlobError::Read { .. })));
        let absent = BTreeSet::from([one.digest.clone(), two.digest.clone()]);
        assert_eq!(blobs.discard_damaged(&manifest).unwrap(), absent);
        assert_eq!(blobs.size_of(&one.digest), None);
        assert_eq!(blobs.size_of(&config.digest), Some(6));
        assert_eq!(blobs.insert(b"one").unwrap(), one);

        fs::write(blobs.path(&manifest), manifest_bytes.replace("a/b", "a/c")).unwrap();
        assert_eq!(blobs.discard_damaged(&manifest).unwrap(), BTreeSet::from([manifest.clone()]));
        assert_eq!(blobs.size_of(&manifest), None);
    }
}
