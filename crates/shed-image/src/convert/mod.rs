//! From a manifest in the store of blobs to an ext4 that boots.
//!
//! Called by pull, import and the builder of Shed's own images, in a blocking thread. It needs no root, no mount, no
//! container and no other program, and memory for the names of the files only, however large they are. Layers are read
//! twice: first for what they consist of and whether that is right, then for the content that is left. What is wrong
//! with them is so found before anything is written at the target.

mod apply;
#[cfg(test)]
mod bounds_tests;
mod image;
#[cfg(test)]
mod model_tests;
mod problem;
mod stream;
mod tree;
mod unpack;
mod write;

use std::{fs::File, io};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::Digest;
use uuid::Uuid;

pub use problem::{ConvertError, EntryProblem};
pub(crate) use stream::{Compression, decompress};

use crate::{BlobStore, ImageWatch, Trailer};

/// What a new image's file system is called.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// Volume label; ext4 keeps the first 16 bytes.
    pub label: Option<String>,
    /// The file system's UUID, also the seed of its directory hashes; random when absent.
    pub uuid: Option<String>,
}

/// What an image may take at most; more is refused, so that a small archive cannot fill the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Uncompressed layers together, in bytes.
    pub max_bytes: u64,
    /// Entries of all layers; and inodes of all layers, with directories that no layer describes.
    pub max_entries: u64,
}

impl Default for ImageLimits {
    /// 64 GiB and 20 million entries.
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_entries: 20_000_000 }
    }
}

/// Writes the image that `manifest` describes to the new file `out`: the file system, just large enough, and its trailer.
/// The same image with the same options, UUID included, gives the same bytes.
///
/// # Errors
/// When blobs are missing or damaged, layers cannot be applied, a limit is reached, or `out` exists or cannot be
/// written.
pub fn convert(
    blobs: &BlobStore,
    manifest: &Digest,
    out: &Utf8Path,
    disk: &DiskOptions,
    limits: &ImageLimits,
    watch: &dyn ImageWatch,
) -> Result<Trailer, ConvertError> {
    let uuid = match &disk.uuid {
        Some(uuid) => uuid.parse().map_err(|source| ConvertError::Uuid { uuid: uuid.clone(), source })?,
        None => Uuid::new_v4(),
    };
    let _used = blobs.hold().map_err(ConvertError::Hold)?;
    let image = image::read(blobs, manifest)?;
    let planned = write::plan(unpack::unpack(blobs, &image, limits, watch)?)?;
    check_space(out, planned.needed())?;

    let failed = |source| ConvertError::Write { path: out.to_owned(), source };
    let file = File::options().read(true).write(true).create_new(true).open(out).map_err(failed)?;
    let unfinished = Unfinished(out.to_owned());
    let mut file = planned.write(blobs, &image, (out, file), (disk, uuid), limits, watch)?;
    image.trailer.append(&mut file).and_then(|()| file.sync_all()).map_err(failed)?;
    unfinished.keep();
    Ok(image.trailer)
}

/// Compares what the file system takes at most with what its disk has.
fn check_space(out: &Utf8Path, needed: u64) -> Result<(), ConvertError> {
    let dir = out.parent().filter(|dir| !dir.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let space = rustix::fs::statvfs(dir.as_std_path())
        .map_err(|error| ConvertError::Write { path: out.to_owned(), source: error.into() })?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if needed > free { Err(ConvertError::NoSpace { path: out.to_owned(), needed, free }) } else { Ok(()) }
}

/// Removes a file that is not finished.
struct Unfinished(Utf8PathBuf);

impl Unfinished {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // The error that brought us here is the one to report; what stays has a name that says what it is.
        let _ignored: io::Result<()> = std::fs::remove_file(&self.0);
    }
}
