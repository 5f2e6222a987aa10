//! The store of blobs: manifests, configs and layers as registries have them, each named by its digest.
//!
//! It is an OCI image layout without an index, below the images directory. Pulling and importing fill it, conversion
//! reads it, saving and pushing read it again, and a prune removes what no image was made from. What is in `blobs/` is
//! whole, was checked against its digest and never changes; what is in `partial/` waits to be continued. Which image
//! needs which blob is not known here: the trailer of the image says it, see [`crate::Trailer`].

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
};

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256, Sha512};
use shed_types::{Digest, DigestAlgorithm};

use crate::ImageStore;

mod sweep;
mod verify;

pub use sweep::SweepReport;

/// Directory of the store in the images directory.
const DIRECTORY: &str = ".oci";

/// How much is read at once to check a file again, in bytes.
const PIECE: usize = 1 << 17;

/// A digest and a length: all that must be known of a blob before it is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Says why a blob is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("cannot write {path}")]
    Write {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("blob {expected} has other content: its digest is {found}")]
    OtherContent { expected: Digest, found: Digest },
    #[error("blob {digest} has more than the {size} bytes that it should have")]
    TooLong { digest: Digest, size: u64 },
    #[error("blob {digest} ends after {found} of {size} bytes")]
    TooShort { digest: Digest, size: u64, found: u64 },
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub struct DigestHasher(Hasher);

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl DigestHasher {
    /// Begins a digest.
    #[must_use]
    pub fn new(algorithm: DigestAlgorithm) -> Self {
        Self(match algorithm {
            DigestAlgorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            DigestAlgorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        })
    }

    /// Returns the SHA-256 digest of bytes that are all there.
    #[must_use]
    pub fn sha256_of(bytes: &[u8]) -> Digest {
        let mut hasher = Self::new(DigestAlgorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of all that was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        let text = match self.0 {
            Hasher::Sha256(hasher) => format!("sha256:{}", hex::encode(hasher.finalize())),
            Hasher::Sha512(hasher) => format!("sha512:{}", hex::encode(hasher.finalize())),
        };
        text.parse().expect("a computed digest has the form of one")
    }
}

impl fmt::Debug for DigestHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestHasher")
    }
}

/// The blobs below an images directory.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: Utf8PathBuf,
}

/// Held by whoever reads or fills the store, so that nothing is removed from it meanwhile.
#[derive(Debug)]
#[must_use = "blobs are protected only while this value lives"]
pub struct BlobUse {
    _file: File,
}

/// Held by whoever removes blobs: nobody reads or fills the store meanwhile.
#[derive(Debug)]
#[must_use = "others stay away only while this value lives"]
pub struct BlobSweep {
    _file: File,
}

/// A blob on its way into the store. Dropped without [`BlobWriter::commit`], it stays as far as it got and is continued
/// by whoever next begins it.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    hasher: DigestHasher,
    written: u64,
    id: BlobId,
    partial: Utf8PathBuf,
    target: Utf8PathBuf,
}

/// What [`BlobStore::begin`] finds.
#[derive(Debug)]
pub enum BeginBlob {
    /// It is there, whole.
    Present,
    /// It is to be written from [`BlobWriter::written`] on.
    Write(Box<BlobWriter>),
}

impl BlobStore {
    /// Returns the store of an images directory, which need not exist.
    #[must_use]
    pub fn of(images: &ImageStore) -> Self {
        Self { dir: images.dir().join(DIRECTORY) }
    }

    /// Returns the store's directory.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Returns where a blob is or will be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Utf8PathBuf {
        self.dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn partial(&self, digest: &Digest) -> Utf8PathBuf {
        self.dir.join("partial").join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
    }

    /// Tells whether a blob is there, and its length.
    #[must_use]
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn open(&self, digest: &Digest) -> Result<File, BlobError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| BlobError::Read { path, source })
    }

    /// Reads a small blob, such as a manifest, and checks it once more.
    ///
    /// # Errors
    /// When it is not there, has more than `limit` bytes or other content than its name says.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read = self.open(digest)?.take(limit + 1).read_to_end(&mut bytes);
        let _length = read.map_err(|source| BlobError::Read { path, source })?;
        if bytes.len() as u64 > limit {
            return Err(BlobError::TooLong { digest: digest.clone(), size: limit });
        }
        let mut hasher = DigestHasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found == *digest {
            Ok(bytes)
        } else {
            Err(BlobError::OtherContent { expected: digest.clone(), found })
        }
    }

    /// Begins or continues a blob. Waits while another thread or process writes the same one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn begin(&self, id: &BlobId) -> Result<BeginBlob, BlobError> {
        let (target, partial) = (self.path(&id.digest), self.partial(&id.digest));
        let failed = |source| BlobError::Write { path: partial.clone(), source };
        for path in [&target, &partial] {
            let parent = path.parent().expect("a blob is in a directory");
            fs::create_dir_all(parent).map_err(failed)?;
        }
        loop {
            // It was put there whole, so its length says enough.
            if self.size_of(&id.digest) == Some(id.size) {
                return Ok(BeginBlob::Present);
            }
            let mut options = File::options();
            let file =
                options.read(true).write(true).create(true).truncate(false).open(&partial).map_err(failed)?;
            file.lock().map_err(failed)?;
            // Whoever had the lock may have put it in place; then this is no longer the file of that name.
            if !same_file(&file, &partial) {
                continue;
            }
            let mut writer = Box::new(BlobWriter {
                hasher: DigestHasher::new(id.digest.algorithm()),
                written: 0,
                id: id.clone(),
                partial: partial.clone(),
                target,
                file,
            });
            writer.take_over().map_err(failed)?;
            return Ok(BeginBlob::Write(writer));
        }
    }

    /// Puts bytes that are all there into the store and returns their digest.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn insert(&self, bytes: &[u8]) -> Result<BlobId, BlobError> {
        let id = BlobId { digest: DigestHasher::sha256_of(bytes), size: bytes.len() as u64 };
        match self.begin(&id)? {
            BeginBlob::Present => {}
            BeginBlob::Write(mut writer) => {
                writer.restart()?;
                writer.write(bytes)?;
                writer.commit()?;
            }
        }
        Ok(id)
    }

    /// Keeps blobs from being removed until the result is dropped. Waits while somebody removes some.
    ///
    /// # Errors
    /// When the lock cannot be made or taken.
    pub fn hold(&self) -> io::Result<BlobUse> {
        let file = self.lock_file()?;
        file.lock_shared()?;
        Ok(BlobUse { _file: file })
    }

    /// Keeps everybody else away to remove blobs; `None` when somebody holds the store.
    ///
    /// # Errors
    /// When the lock cannot be made or taken.
    pub fn try_sweep(&self) -> io::Result<Option<BlobSweep>> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(BlobSweep { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        fs::create_dir_all(&self.dir)?;
        File::options().create(true).truncate(false).write(true).open(self.dir.join("lock"))
    }
}

impl BlobWriter {
    /// Reads what an earlier writer left, as far as it can belong to this blob.
    fn take_over(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.id.size {
            self.file.set_len(0)?;
        }
        let mut buffer = vec![0; PIECE];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..count]);
            self.written += count as u64;
        }
    }

    /// Returns how many bytes are there already.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Returns what is being written.
    #[must_use]
    pub const fn id(&self) -> &BlobId {
        &self.id
    }

    /// Throws away what is there and begins anew, for a sender that cannot continue.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn restart(&mut self) -> Result<(), BlobError> {
        let restart = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        let _start = restart.map_err(|source| BlobError::Write { path: self.partial.clone(), source })?;
        self.hasher = DigestHasher::new(self.id.digest.algorithm());
        self.written = 0;
        Ok(())
    }

    /// Adds the next bytes. If they cannot be written, all that is there is thrown away: on a full disk it would keep the
    /// disk full.
    ///
    /// # Errors
    /// When they are more than the blob has, or the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if self.written + bytes.len() as u64 > self.id.size {
            return Err(BlobError::TooLong { digest: self.id.digest.clone(), size: self.id.size });
        }
        self.file.write_all(bytes).map_err(|source| self.given_up(&self.partial, source))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Removes what cannot be completed, and returns the error of the write that failed.
    fn given_up(&self, path: &Utf8Path, source: io::Error) -> BlobError {
        // The first error is the one to report; what stays is continued or swept.
        let _ignored: io::Result<()> = fs::remove_file(&self.partial);
        BlobError::Write { path: path.to_owned(), source }
    }

    /// Gives the blob up, and leaves nothing to continue.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn discard(self) -> Result<(), BlobError> {
        fs::remove_file(&self.partial).map_err(|source| BlobError::Write { path: self.partial, source })
    }

    /// Checks the blob and puts it into the store. One with other content is removed, so that nobody continues it, and so
    /// is one that the disk does not take.
    ///
    /// # Errors
    /// When it is too short, has another digest, or the system refuses.
    pub fn commit(self) -> Result<(), BlobError> {
        let BlobId { digest, size } = self.id.clone();
        if self.written < size {
            return Err(BlobError::TooShort { digest, size, found: self.written });
        }
        let found = self.hasher.clone().finish();
        if found != digest {
            let removed = fs::remove_file(&self.partial);
            removed.map_err(|source| BlobError::Write { path: self.partial.clone(), source })?;
            return Err(BlobError::OtherContent { expected: digest, found });
        }
        let parent = self.target.parent().expect("a blob is in a directory");
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.partial, &self.target))
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(|source| self.given_up(&self.target, source))
    }
}

/// Tells whether an open file is what a path leads to.
fn same_file(file: &File, path: &Utf8Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => id(open) == id(named),
        (Ok(_), Err(_)) | (Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageStore::new(Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap());
        (dir, BlobStore::of(&images))
    }

    fn id_of(bytes: &[u8]) -> BlobId {
        BlobId { digest: DigestHasher::sha256_of(bytes), size: bytes.len() as u64 }
    }

    fn writer(store: &BlobStore, id: &BlobId) -> BlobWriter {
        match store.begin(id).unwrap() {
            BeginBlob::Write(writer) => *writer,
            BeginBlob::Present => panic!("{id:?} is there"),
        }
    }

    #[test]
    fn a_blob_that_was_interrupted_is_continued_and_is_whole() {
        let (_guard, store) = store();
        let content = vec![7; 300_000];
        let id = id_of(&content);
        let mut first = writer(&store, &id);
        first.write(&content[..200_000]).unwrap();
        drop(first);
        assert_eq!(store.size_of(&id.digest), None);

        let mut second = writer(&store, &id);
        assert_eq!(second.written(), 200_000);
        second.write(&content[200_000..]).unwrap();
        second.commit().unwrap();
        assert_eq!(store.read(&id.digest, 300_000).unwrap(), content);
        assert!(matches!(store.begin(&id).unwrap(), BeginBlob::Present));
    }

    #[test]
    fn other_content_never_gets_in_and_is_not_continued() {
        let (_guard, store) = store();
        let id = id_of(b"good");
        let mut liar = writer(&store, &id);
        liar.write(b"evil").unwrap();
        assert!(matches!(liar.commit(), Err(BlobError::OtherContent { .. })));
        assert_eq!(store.size_of(&id.digest), None);
        let mut long = writer(&store, &id);
        assert_eq!(long.written(), 0);
        assert!(matches!(long.write(b"goodness"), Err(BlobError::TooLong { .. })));
        long.write(b"go").unwrap();
        assert!(matches!(long.commit(), Err(BlobError::TooShort { found: 2, .. })));
        let mut honest = writer(&store, &id);
        honest.write(b"od").unwrap();
        honest.commit().unwrap();
        assert_eq!(store.read(&id.digest, 10).unwrap(), b"good");
    }

    #[test]
    fn what_the_disk_does_not_take_leaves_nothing_and_other_interruptions_leave_what_they_had() {
        let (_guard, store) = store();
        let id = id_of(b"content");
        let mut interrupted = writer(&store, &id);
        interrupted.write(b"con").unwrap();
        drop(interrupted);
        let mut refused = writer(&store, &id);
        assert_eq!(refused.written(), 3);
        // A file that cannot be written stands for a disk that is full.
        refused.file = File::open(store.partial(&id.digest)).unwrap();
        assert!(matches!(refused.write(b"tent"), Err(BlobError::Write { .. })));
        drop(refused);
        assert!(!store.partial(&id.digest).exists());

        // Nor does one stay that cannot be put in place.
        fs::create_dir(store.path(&id.digest)).unwrap();
        let mut whole = writer(&store, &id);
        whole.write(b"content").unwrap();
        assert!(matches!(whole.commit(), Err(BlobError::Write { .. })));
        assert!(!store.partial(&id.digest).exists());
    }

    #[test]
    fn what_was_damaged_on_the_disk_is_not_read_as_if_it_were_good() {
        let (_guard, store) = store();
        let id = store.insert(b"manifest").unwrap();
        assert_eq!(store.read(&id.digest, 8).unwrap(), b"manifest");
        assert!(matches!(store.read(&id.digest, 7), Err(BlobError::TooLong { .. })));
        fs::write(store.path(&id.digest), b"manifast").unwrap();
        assert!(matches!(store.read(&id.digest, 8), Err(BlobError::OtherContent { .. })));
        assert!(matches!(store.read(&id_of(b"none").digest, 8), Err(BlobError::Read { .. })));
    }

    #[test]
    fn of_many_writers_of_one_blob_one_writes_and_all_find_it() {
        let (_guard, store) = store();
        let content = vec![1; 100_000];
        let id = id_of(&content);
        let wrote: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| match store.begin(&id).unwrap() {
                        BeginBlob::Present => 0,
                        BeginBlob::Write(mut writer) => {
                            let from = usize::try_from(writer.written()).unwrap();
                            writer.write(&content[from..]).unwrap();
                            writer.commit().unwrap();
                            1
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(wrote, 1);
        assert_eq!(store.read(&id.digest, 100_000).unwrap(), content);
    }

    #[test]
    fn nobody_sweeps_while_the_store_is_held() {
        let (_guard, store) = store();
        let held = store.hold().unwrap();
        let _also = store.hold().unwrap();
        assert!(store.try_sweep().unwrap().is_none());
        drop((held, _also));
        assert!(store.try_sweep().unwrap().is_some());
    }
}
