//! Copies an image from an archive of another tool into the store of blobs.
//!
//! What it is shows in its content: an OCI layout has an index, and what `docker save` writes has a list of images. Newer
//! archives have both; then the index counts, because its digests are those of the registry. Every blob is compared with
//! its digest on the way. After an error there is at most a whole blob more than before, which the next prune removes.

use std::{cell::Cell, io};

use camino::{Utf8Path, Utf8PathBuf};
use oci_spec::{OciSpecError, image::Descriptor};
use shed_types::Digest;

use super::{
    INDEX, Platform, docker,
    index::{Choice, blob_name, choose, is_index},
    source::{Files, Opened, PIECE, SourceError, read_some},
};
use crate::{
    BeginBlob, BlobError, BlobId, BlobStore, ImageConfig, ImageLimits, ImageProgress, ImageStep, ImageWatch,
    document::{Document, DocumentError, MAX_DOCUMENT, blob_id, parse_document, read_config},
};

/// How deep indexes lie in each other at most.
const MAX_NESTING: usize = 8;

/// How many indexes are searched for a name at most, in all of an archive.
const MAX_SEARCHED: usize = 100;

/// Says why an archive was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("import was cancelled")]
    Cancelled,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Source(SourceError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("cannot keep blobs from being removed")]
    Hold(#[source] io::Error),
    #[error(
        "{0} is neither an OCI layout nor an archive of `docker save`: it has no index.json and no manifest.json"
    )]
    Unknown(Utf8PathBuf),
    #[error("{name} in {path} cannot be read")]
    Parse {
        path: Utf8PathBuf,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} has no such image; it has: {names}")]
    NoSuch { path: Utf8PathBuf, names: String },
    #[error("{path} has several images that could be meant; name one: {names}")]
    Several { path: Utf8PathBuf, names: String },
    #[error("{path} has no image for {wanted}, but for: {found}")]
    Platform { path: Utf8PathBuf, wanted: String, found: String },
    #[error("the indexes in {path} lie more than {MAX_NESTING} deep in each other, or are too many")]
    Nested { path: Utf8PathBuf },
    #[error("the image has {layers} layers, and its config has {diff_ids}, or more than 1000")]
    Layers { layers: usize, diff_ids: usize },
    #[error("layer {name} in {path} is compressed with {with}; only gzip and zstd can be read")]
    Compressed { path: Utf8PathBuf, name: String, with: &'static str },
    #[error("the image's blobs have more than {0} bytes; see the limits of images in the server's config")]
    TooLarge(u64),
    #[error("{name} in {path} has {found} bytes, and {expected} are announced")]
    Size { path: Utf8PathBuf, name: String, found: u64, expected: u64 },
    #[error("cannot write a manifest for the image")]
    Spec(#[from] OciSpecError),
}

impl From<SourceError> for ImportError {
    fn from(error: SourceError) -> Self {
        if matches!(error, SourceError::Cancelled) { Self::Cancelled } else { Self::Source(error) }
    }
}

/// Copies an image from `source` into the store and returns its manifest: an OCI layout as a directory or a tar, or what
/// `docker save` writes; a tar can be compressed with gzip or zstd. `name` chooses among several images (tag, reference
/// or digest); with none there must be one only.
///
/// # Errors
/// When it is none of these, has no such image or none for the platform, or content that its digests deny.
pub fn import(
    source: &Utf8Path,
    name: Option<&str>,
    platform: &Platform,
    blobs: &BlobStore,
    limits: &ImageLimits,
    watch: &dyn ImageWatch,
) -> Result<Digest, ImportError> {
    let _used = blobs.hold().map_err(ImportError::Hold)?;
    let files = Files::open(source, blobs.dir(), limits, watch)?;
    let task = Import {
        files: &files,
        blobs,
        platform,
        limits,
        watch,
        copied: Cell::new(0),
        total: Cell::new(0),
        layers_done: Cell::new(0),
        layers_total: Cell::new(0),
    };
    if files.is_layout() || (files.open_file(INDEX).is_ok() && files.open_file(docker::LIST).is_err()) {
        return task.layout(name);
    }
    if files.open_file(docker::LIST).is_ok() {
        return docker::import(&task, name);
    }
    Err(ImportError::Unknown(source.to_owned()))
}

/// An import at work.
pub(super) struct Import<'a> {
    pub(super) files: &'a Files,
    blobs: &'a BlobStore,
    platform: &'a Platform,
    pub(super) limits: &'a ImageLimits,
    watch: &'a dyn ImageWatch,
    copied: Cell<u64>,
    total: Cell<u64>,
    layers_done: Cell<u32>,
    layers_total: Cell<u32>,
}

impl Import<'_> {
    pub(super) fn path(&self) -> Utf8PathBuf {
        self.files.path().to_owned()
    }

    pub(super) fn read_error(&self, source: io::Error) -> ImportError {
        ImportError::Source(SourceError::Read { path: self.path(), source })
    }

    /// Copies an image of an OCI layout.
    fn layout(&self, name: Option<&str>) -> Result<Digest, ImportError> {
        let bytes = self.files.read(INDEX, MAX_DOCUMENT)?;
        let index: oci_spec::image::ImageIndex = serde_json::from_slice(&bytes)
            .map_err(|source| ImportError::Parse { path: self.path(), name: INDEX.to_owned(), source })?;
        let top = crate::DigestHasher::sha256_of(&bytes);
        let mut searched = 0;
        let mut descriptor = self.find(index.manifests(), &top, name, &mut searched)?;
        for _ in 0..MAX_NESTING {
            let (id, bytes) = self.document(&descriptor, &top)?;
            match parse_document(&bytes, &id.digest)? {
                Document::Index(index) => descriptor = self.choose(index.manifests(), None)?,
                Document::Manifest(manifest) => {
                    let config = blob_id(manifest.config(), &id.digest)?;
                    let layers: Result<Vec<BlobId>, DocumentError> =
                        manifest.layers().iter().map(|layer| blob_id(layer, &id.digest)).collect();
                    let layers = layers?;
                    if config.size > MAX_DOCUMENT {
                        return Err(BlobError::TooLong { digest: config.digest, size: MAX_DOCUMENT }.into());
                    }
                    let total = layers.iter().try_fold(config.size, |sum, layer| sum.checked_add(layer.size));
                    let total = total.filter(|total| *total <= self.limits.max_bytes);
                    let total = total.ok_or(ImportError::TooLarge(self.limits.max_bytes))?;
                    // Nothing is written before it is known that all of it is there.
                    for blob in std::iter::once(&config).chain(&layers) {
                        self.check_size(blob)?;
                    }
                    self.expect(total, layers.len());
                    // It is read at once, and small: if the store's is damaged, the archive has a good one.
                    self.blobs.discard_if_damaged(&config.digest)?;
                    self.copy(&config, &blob_name(&config.digest))?;
                    let config = read_config(self.blobs, &config.digest)?;
                    self.check_platform(&config)?;
                    if config.diff_ids.len() != layers.len() {
                        let (layers, diff_ids) = (layers.len(), config.diff_ids.len());
                        return Err(ImportError::Layers { layers, diff_ids });
                    }
                    for layer in &layers {
                        self.copy_layer(layer, &blob_name(&layer.digest))?;
                    }
                    self.insert_as(&id, &bytes)?;
                    return Ok(id.digest);
                }
            }
        }
        Err(ImportError::Nested { path: self.path() })
    }

    /// Reads a manifest or an index and compares it with what names it; that is in the document `of`.
    fn document(&self, descriptor: &Descriptor, of: &Digest) -> Result<(BlobId, Vec<u8>), ImportError> {
        let id = blob_id(descriptor, of)?;
        let bytes = self.files.read(&blob_name(&id.digest), MAX_DOCUMENT)?;
        if bytes.len() as u64 != id.size {
            let (name, found) = (blob_name(&id.digest), bytes.len() as u64);
            return Err(ImportError::Size { path: self.path(), name, found, expected: id.size });
        }
        let mut hasher = crate::DigestHasher::new(id.digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != id.digest {
            return Err(BlobError::OtherContent { expected: id.digest, found }.into());
        }
        Ok((id, bytes))
    }

    /// Chooses among what an index names. What has a name that is not there may have it in an index below, and this is
    /// then where an error's digest is found again.
    fn find(
        &self,
        descriptors: &[Descriptor],
        of: &Digest,
        name: Option<&str>,
        searched: &mut usize,
    ) -> Result<Descriptor, ImportError> {
        let chosen = self.choose(descriptors, name);
        if name.is_none() || !matches!(chosen, Err(ImportError::NoSuch { .. })) {
            return chosen;
        }
        for descriptor in descriptors.iter().filter(|descriptor| is_index(descriptor)) {
            // Also bounds how deep it goes.
            *searched += 1;
            if *searched > MAX_SEARCHED {
                return Err(ImportError::Nested { path: self.path() });
            }
            let (id, bytes) = match self.document(descriptor, of) {
                Ok(found) => found,
                // Archives need not have all that their indexes name.
                Err(ImportError::Source(_)) => continue,
                Err(error) => return Err(error),
            };
            let Document::Index(index) = parse_document(&bytes, &id.digest)? else { continue };
            match self.find(index.manifests(), &id.digest, name, searched) {
                Err(ImportError::NoSuch { .. }) => {}
                found => return found,
            }
        }
        chosen
    }

    fn choose(&self, descriptors: &[Descriptor], name: Option<&str>) -> Result<Descriptor, ImportError> {
        let path = self.path();
        choose(descriptors, name, self.platform).map_err(|choice| match choice {
            Choice::NoSuch(names) => ImportError::NoSuch { path, names },
            Choice::Several(names) => ImportError::Several { path, names },
            Choice::Platform(found) => ImportError::Platform { path, wanted: self.wanted(), found },
        })
    }

    fn wanted(&self) -> String {
        format!("{}/{}", self.platform.os, self.platform.architecture)
    }

    /// Compares what a config says with the platform that is wanted.
    pub(super) fn check_platform(&self, config: &ImageConfig) -> Result<(), ImportError> {
        if config.is_for(self.platform) {
            return Ok(());
        }
        let found = format!("{}/{}", config.platform.os, config.platform.architecture);
        Err(ImportError::Platform { path: self.path(), wanted: self.wanted(), found })
    }

    fn check_size(&self, id: &BlobId) -> Result<(), ImportError> {
        let name = blob_name(&id.digest);
        let found = self.files.open_file(&name)?.length();
        if found == id.size {
            return Ok(());
        }
        Err(ImportError::Size { path: self.path(), name, found, expected: id.size })
    }

    /// Learns how much there is to do.
    pub(super) fn expect(&self, bytes: u64, layers: usize) {
        self.total.set(bytes);
        self.layers_total.set(u32::try_from(layers).unwrap_or(u32::MAX));
        self.tell();
    }

    fn tell(&self) {
        self.watch.progress(ImageProgress {
            step: ImageStep::Download,
            bytes_done: self.copied.get().min(self.total.get()),
            bytes_total: self.total.get(),
            layers_done: self.layers_done.get(),
            layers_total: self.layers_total.get(),
        });
    }

    /// Gives a file to `take`, piece by piece, while the image is wanted.
    pub(super) fn read(
        &self,
        file: &mut Opened,
        mut take: impl FnMut(&[u8]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let mut buffer = vec![0; PIECE];
        loop {
            if self.watch.is_cancelled() {
                return Err(ImportError::Cancelled);
            }
            match read_some(file, &mut buffer).map_err(|source| self.read_error(source))? {
                0 => return Ok(()),
                count => take(&buffer[..count])?,
            }
        }
    }

    /// Copies a layer; see [`Self::copy`].
    pub(super) fn copy_layer(&self, id: &BlobId, name: &str) -> Result<(), ImportError> {
        self.copy(id, name)?;
        self.layers_done.set(self.layers_done.get() + 1);
        self.tell();
        Ok(())
    }

    /// Copies a file of the archive into the store, where it has to be this blob.
    fn copy(&self, id: &BlobId, name: &str) -> Result<(), ImportError> {
        let mut file = self.files.open_file(name)?;
        let mut writer = match self.blobs.begin(id)? {
            BeginBlob::Present => {
                self.copied.set(self.copied.get() + id.size);
                self.tell();
                return Ok(());
            }
            BeginBlob::Write(writer) => writer,
        };
        // Another one may have begun it with other content; here all of it is at hand.
        let written = writer.restart().map_err(ImportError::from).and_then(|()| {
            self.read(&mut file, |bytes| {
                writer.write(bytes)?;
                self.copied.set(self.copied.get() + bytes.len() as u64);
                self.tell();
                Ok(())
            })
        });
        match written {
            Ok(()) if writer.written() == id.size => Ok(writer.commit()?),
            Ok(()) => {
                let (digest, size, found) = (id.digest.clone(), id.size, writer.written());
                writer.discard()?;
                Err(BlobError::TooShort { digest, size, found }.into())
            }
            Err(error) => {
                // The first error is the one to report; what stays is continued or swept.
                let _ignored = writer.discard();
                Err(error)
            }
        }
    }

    /// Puts bytes into the store.
    pub(super) fn insert(&self, bytes: &[u8]) -> Result<BlobId, ImportError> {
        Ok(self.blobs.insert(bytes)?)
    }

    /// Puts bytes whose digest was compared into the store.
    fn insert_as(&self, id: &BlobId, bytes: &[u8]) -> Result<(), ImportError> {
        self.blobs.discard_if_damaged(&id.digest)?;
        if let BeginBlob::Write(mut writer) = self.blobs.begin(id)? {
            writer.restart()?;
            writer.write(bytes)?;
            writer.commit()?;
        }
        Ok(())
    }
}
