//! From blobs to an image that sheds are made from: converts, and puts it in the place of what was there.

use std::{fs, io, sync::Arc};

use camino::Utf8PathBuf;
use shed_image::{
    BlobStore, ConvertError, DiskOptions, ImageLimits, ImageProgress, ImageStep, ImageWatch, convert,
};
use shed_types::{Digest, ImageName};

use super::{
    place::Place,
    watch::{Watch, blocking},
};
use crate::command_error::{CommandError, Kind};

/// Says why an image was not made; what was there before is there still.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("cannot lock the image")]
    Lock(#[source] io::Error),
    #[error("cannot remove {path}, which an earlier build has left")]
    Left {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("its blobs make no image")]
    Convert(#[from] ConvertError),
    #[error(
        "{count} of its blobs were damaged on the disk and are removed now; run the command again to get them anew"
    )]
    Damaged {
        count: usize,
        #[source]
        source: ConvertError,
    },
    #[error("cannot put it in place")]
    Install(#[source] io::Error),
}

/// Makes image `name` from a manifest in the store, and notes `source` beside it. Returns the length of its file in bytes.
///
/// # Errors
/// When the blobs make no image, or the directory cannot be written.
pub(crate) async fn make(
    place: &Place,
    name: &ImageName,
    manifest: &Digest,
    source: String,
    limits: ImageLimits,
    watch: Arc<Watch>,
) -> Result<u64, CommandError> {
    let (images, blobs) = (place.images.clone(), place.blobs.clone());
    let (image, manifest) = (name.clone(), manifest.clone());
    let made = blocking(move || {
        let lock = match images.try_lock(&image).map_err(MakeError::Lock)? {
            Some(lock) => lock,
            None => {
                watch.progress(ImageProgress {
                    step: ImageStep::Wait,
                    bytes_done: 0,
                    bytes_total: 0,
                    layers_done: 0,
                    layers_total: 0,
                });
                images.lock(&image).map_err(MakeError::Lock)?
            }
        };
        let new = images.temporary(&image);
        // Of a process that had this one's id and was killed; the lock is ours, so nobody writes there.
        remove(&new).map_err(|source| MakeError::Left { path: new.clone(), source })?;
        let converted = convert(&blobs, &manifest, &new, &DiskOptions::default(), &limits, &*watch);
        drop(converted.map_err(|error| without_damaged(&blobs, &manifest, error))?);
        let size = fs::metadata(&new).and_then(|metadata| {
            images.install(&lock, &image, &new, &source)?;
            Ok(metadata.len())
        });
        size.map_err(|error| {
            // When it cannot even be removed, a later build or a prune does.
            let _left = remove(&new);
            MakeError::Install(error)
        })
    })
    .await;
    made.map_err(|error| {
        CommandError::new(Kind::Failed, format!("could not make image {name}")).caused_by(error)
    })
}

/// Removes the blobs that are not what their digests say, should that be the reason: they would stand in the way for ever.
fn without_damaged(blobs: &BlobStore, manifest: &Digest, source: ConvertError) -> MakeError {
    if !source.may_be_damage() {
        return MakeError::Convert(source);
    }
    match blobs.discard_damaged(manifest) {
        Ok(gone) if !gone.is_empty() => MakeError::Damaged { count: gone.len(), source },
        // What cannot be looked at is no reason to hide why the image was not made.
        Ok(_) | Err(_) => MakeError::Convert(source),
    }
}

fn remove(path: &camino::Utf8Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
