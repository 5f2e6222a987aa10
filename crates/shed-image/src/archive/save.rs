//! Writes an image as an archive that other tools and [`import`](super::import()) read: an OCI layout in a tar.
//!
//! The same image under the same name gives the same bytes. An existing file is never overwritten.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read, Write as _},
};

use camino::{Utf8Path, Utf8PathBuf};
use oci_spec::{
    OciSpecError,
    image::{DescriptorBuilder, Digest as OciDigest, ImageIndexBuilder, MediaType},
};
use shed_types::{Digest, ImageReference};

use super::{CONTAINERD_NAME, INDEX, LAYOUT, LAYOUT_CONTENT, REF_NAME, index::blob_name};
use crate::{
    BlobError, BlobStore, ImageProgress, ImageStep, ImageWatch,
    document::{Document, DocumentError, reachable, read_document},
};

/// What `docker pull` takes where no tag is given.
const DEFAULT_TAG: &str = "latest";

/// Says why an image was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("saving was cancelled")]
    Cancelled,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("cannot read what the image consists of")]
    Document(#[from] DocumentError),
    #[error("cannot keep blobs from being removed")]
    Hold(#[source] io::Error),
    #[error("the image's blob {0} is no longer there; pull or build the image again")]
    Missing(Digest),
    #[error("cannot write {path}")]
    Write {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write an index for the image")]
    Spec(#[from] OciSpecError),
}

/// Writes an image as an OCI layout in a tar (`oci-archive`) to the new file `out`, under the name `reference`.
///
/// # Errors
/// When blobs are missing, or the file exists or cannot be written; there is nothing of it then.
pub fn save(
    blobs: &BlobStore,
    manifest: &Digest,
    reference: &str,
    out: &Utf8Path,
    watch: &dyn ImageWatch,
) -> Result<(), SaveError> {
    let _used = blobs.hold().map_err(SaveError::Hold)?;
    let mut total = 0;
    let mut contents = Vec::new();
    for digest in reachable(blobs, manifest)? {
        let size = blobs.size_of(&digest).ok_or_else(|| SaveError::Missing(digest.clone()))?;
        total += size;
        contents.push((digest, size));
    }
    let index = index(blobs, manifest, reference)?;
    let failed = |source| SaveError::Write { path: out.to_owned(), source };
    let file = File::options().write(true).create_new(true).open(out).map_err(failed)?;
    let mut task = Save { watch, done: 0, total, cancelled: false };
    let result = write(&file, &index, &contents, blobs, &mut task)
        .and_then(|()| file.sync_all())
        .map_err(|source| if task.cancelled { SaveError::Cancelled } else { failed(source) });
    if result.is_err() {
        // The first error is the one to report.
        let _ignored: io::Result<()> = std::fs::remove_file(out);
    }
    result
}

/// Returns the layout's index: the one image, under its tag and its whole name.
fn index(blobs: &BlobStore, manifest: &Digest, reference: &str) -> Result<String, SaveError> {
    let media_type = match read_document(blobs, manifest)? {
        Document::Manifest(document) => document.media_type().clone().unwrap_or(MediaType::ImageManifest),
        Document::Index(document) => document.media_type().clone().unwrap_or(MediaType::ImageIndex),
    };
    let parsed = reference.parse::<ImageReference>().ok();
    let tag = parsed.as_ref().and_then(ImageReference::tag).unwrap_or(DEFAULT_TAG);
    let size = blobs.size_of(manifest).ok_or_else(|| SaveError::Missing(manifest.clone()))?;
    let digest: OciDigest = manifest.as_str().parse()?;
    let descriptor = DescriptorBuilder::default().media_type(media_type).digest(digest).size(size).build()?;
    // A map would have its two entries in any order.
    let annotations = HashMap::from([(REF_NAME.to_owned(), tag.to_owned())]);
    let mut descriptor = descriptor;
    descriptor.set_annotations(Some(annotations));
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![descriptor])
        .build()?;
    let mut index: serde_json::Value =
        serde_json::from_str(&index.to_string()?).map_err(|error| SaveError::Spec(error.into()))?;
    index["manifests"][0]["annotations"][CONTAINERD_NAME] = reference.into();
    Ok(index.to_string())
}

struct Save<'a> {
    watch: &'a dyn ImageWatch,
    done: u64,
    total: u64,
    cancelled: bool,
}

fn write(
    file: &File,
    index: &str,
    contents: &[(Digest, u64)],
    blobs: &BlobStore,
    task: &mut Save<'_>,
) -> io::Result<()> {
    let mut tar = ::tar::Builder::new(BufWriter::with_capacity(1 << 18, file));
    // Names of more than 100 characters, which SHA-512 makes, get an entry of their own before their file's.
    tar.append_data(&mut header(LAYOUT_CONTENT.len() as u64), LAYOUT, LAYOUT_CONTENT.as_bytes())?;
    tar.append_data(&mut header(index.len() as u64), INDEX, index.as_bytes())?;
    for (digest, size) in contents {
        let blob = blobs.open(digest).map_err(io::Error::other)?;
        let content = Watched { blob: blob.take(*size), task };
        tar.append_data(&mut header(*size), blob_name(digest), content)?;
    }
    tar.into_inner()?.flush()
}

/// A file that anybody may read, of no time and nobody, yet without its name.
fn header(size: u64) -> ::tar::Header {
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Tells how far a blob is, and ends when nobody wants it.
struct Watched<'t, 'w, R> {
    blob: R,
    task: &'t mut Save<'w>,
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.task.watch.is_cancelled() {
            self.task.cancelled = true;
            return Err(io::Error::other("cancelled"));
        }
        let count = self.blob.read(buffer)?;
        self.task.done += count as u64;
        self.task.watch.progress(ImageProgress {
            step: ImageStep::Write,
            bytes_done: self.task.done,
            bytes_total: self.task.total,
            layers_done: 0,
            layers_total: 0,
        });
        Ok(count)
    }
}
