//! The blobs of a prune: what pulls, imports and builds have brought, as far as no image was made from it.
//!
//! Called by the prune of images when those are gone that nobody needs. In doubt everything stays: when somebody fills or
//! reads the store, when an image's file cannot be read, when a manifest makes no sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{
    BlobError, BlobStore, DocumentError, FileId, ImageStore, ListImagesError, SweepReport, Trailer, reachable,
};
use shed_types::{Digest, ImageName, error_chain};

/// What became of the blobs that no image needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BlobPrune {
    /// There is no store.
    #[default]
    None,
    /// They went or, in a dry run, would.
    Removed {
        /// Where they were.
        store: Utf8PathBuf,
        /// How many there were, and what they took.
        report: SweepReport,
    },
    /// They stay, for this reason.
    Kept {
        /// Where they are.
        store: Utf8PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why it cannot be told which blobs are needed, or they cannot be removed.
#[derive(Debug, thiserror::Error)]
enum PruneBlobsError {
    #[error("the store cannot be locked")]
    Lock(#[source] io::Error),
    #[error("it cannot be told which images there are")]
    List(#[from] ListImagesError),
    #[error("it cannot be told what {path} was made from")]
    Trailer {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "it cannot be told which blobs {path} was made from; pull or build that image again, or delete it"
    )]
    Manifest {
        path: Utf8PathBuf,
        #[source]
        source: DocumentError,
    },
    #[error("not all could be removed")]
    Sweep(#[source] BlobError),
}

/// Removes the blobs that no image needs, or foretells it. `going` are images to be treated as removed already,
/// `configured` files of images that the config names.
pub(crate) fn prune(
    store: &ImageStore,
    going: &BTreeSet<ImageName>,
    configured: &BTreeMap<FileId, Utf8PathBuf>,
    dry_run: bool,
) -> BlobPrune {
    let blobs = BlobStore::of(store);
    let at = blobs.dir().to_owned();
    // A look would make it.
    if fs::symlink_metadata(&at).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return BlobPrune::None;
    }
    match try_prune(&blobs, store, going, configured, dry_run) {
        Ok(Some(report)) => {
            if report.files > 0 && !dry_run {
                tracing::info!(store = %at, files = report.files, bytes = report.bytes, "pruned blobs");
            }
            BlobPrune::Removed { store: at, report }
        }
        Ok(None) => {
            let reason = "in use (an image is being pulled, converted, saved or pushed)".to_owned();
            BlobPrune::Kept { store: at, reason }
        }
        Err(error) => {
            let reason = error_chain(&error);
            tracing::warn!(store = %at, %reason, "no blobs were pruned");
            BlobPrune::Kept { store: at, reason }
        }
    }
}

/// Returns nothing when somebody is at the store.
fn try_prune(
    blobs: &BlobStore,
    store: &ImageStore,
    going: &BTreeSet<ImageName>,
    configured: &BTreeMap<FileId, Utf8PathBuf>,
    dry_run: bool,
) -> Result<Option<SweepReport>, PruneBlobsError> {
    // First: whoever made an image held the store until the image was there.
    let Some(sweep) = blobs.try_sweep().map_err(PruneBlobsError::Lock)? else { return Ok(None) };
    let records = store.list()?;
    let images = records.into_iter().filter(|record| !going.contains(&record.name));
    let mut files: BTreeMap<FileId, Utf8PathBuf> = configured.clone();
    files.extend(images.map(|record| (record.file, record.path)));
    let mut keep = BTreeSet::new();
    for path in files.values() {
        keep.extend(needed(blobs, path)?);
    }
    let report = if dry_run { blobs.would_sweep(&keep) } else { blobs.sweep(&sweep, &keep) };
    report.map(Some).map_err(PruneBlobsError::Sweep)
}

/// Returns the blobs that an image was made from; of one without a trailer, or that has gone meanwhile, none.
fn needed(blobs: &BlobStore, path: &Utf8Path) -> Result<BTreeSet<Digest>, PruneBlobsError> {
    let trailer = match Trailer::read(path) {
        Ok(trailer) => trailer,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(PruneBlobsError::Trailer { path: path.to_owned(), source }),
    };
    match trailer.and_then(|trailer| trailer.manifest) {
        None => Ok(BTreeSet::new()),
        Some(manifest) => reachable(blobs, &manifest)
            .map_err(|source| PruneBlobsError::Manifest { path: path.to_owned(), source }),
    }
}
