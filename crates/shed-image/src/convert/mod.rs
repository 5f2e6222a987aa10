//! From a manifest in the store of blobs to an ext4 that boots.
//!
//! Called by pull, import and the builder of Shed's own images, in a blocking thread. It needs no root, no mount and no
//! container, and memory for the names of the files only, however large they are. What is wrong with the layers is
//! found before anything is written at the target.

use camino::Utf8Path;
use shed_types::Digest;

use crate::{BlobStore, DiskOptions, ImageWatch, Trailer};

/// What an image may take at most; more is refused, so that a small archive cannot fill the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Content of all files in all layers, in bytes.
    pub max_bytes: u64,
    /// Entries of all layers.
    pub max_entries: u64,
}

impl Default for ImageLimits {
    /// 64 GiB and 20 million entries.
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_entries: 20_000_000 }
    }
}

/// Says why an image was not converted. There is nothing at the target then.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("conversion was cancelled")]
    Cancelled,
}

/// Writes the image that `manifest` describes to the new file `out`: the file system, just large enough, and its trailer.
///
/// # Errors
/// When blobs are missing or damaged, layers cannot be applied, a limit is reached, or mke2fs fails.
pub fn convert(
    _blobs: &BlobStore,
    _manifest: &Digest,
    _out: &Utf8Path,
    _disk: &DiskOptions,
    _limits: &ImageLimits,
    _watch: &dyn ImageWatch,
) -> Result<Trailer, ConvertError> {
    Err(ConvertError::Cancelled)
}
