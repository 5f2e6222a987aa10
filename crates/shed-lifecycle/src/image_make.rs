//! Makes an image of the images directory from a reference: by a link to one that was made from the same, else by a pull.
//!
//! Called for creates, by [`crate::pulls`], and by `shed-server pull-images`. Both may run at once, and in several
//! processes: the lock of the image decides.

use std::{error::Error, fmt, fs, io, sync::Arc};

use futures::future::BoxFuture;
use shed_image::{ImageLimits, ImageStore, ImageWatch};
use shed_registry::Registry;
use shed_types::{ImageName, ImageReference};

use crate::context::blocking;

/// Why an image was not fetched.
pub type FetchFailed = Box<dyn Error + Send + Sync>;

/// Where images come from that are not here.
pub trait FetchImage: fmt::Debug + Send + Sync {
    /// Makes the image `name` from a reference, unless it is there and was made from it; see [`Registry::fetch`], which
    /// promises the same.
    fn fetch<'a>(
        &'a self,
        reference: &'a ImageReference,
        store: &'a ImageStore,
        name: &'a ImageName,
        limits: ImageLimits,
        watch: Arc<dyn ImageWatch>,
    ) -> BoxFuture<'a, Result<bool, FetchFailed>>;
}

impl FetchImage for Registry {
    fn fetch<'a>(
        &'a self,
        reference: &'a ImageReference,
        store: &'a ImageStore,
        name: &'a ImageName,
        limits: ImageLimits,
        watch: Arc<dyn ImageWatch>,
    ) -> BoxFuture<'a, Result<bool, FetchFailed>> {
        Box::pin(async move { Ok(Self::fetch(self, reference, store, name, limits, watch).await?) })
    }
}

/// How an image came to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It was there.
    Cached,
    /// It is another name of this one.
    Linked(ImageName),
    /// It was pulled.
    Pulled,
}

/// Sees to it that the image `name` is there and was made from `reference`.
///
/// # Errors
/// When it cannot be fetched; what was there before is there still.
///
/// # Cancel safety
/// Dropping the future ends the work soon; the image's lock is free when it has ended.
pub async fn make_image(
    from: &dyn FetchImage,
    reference: &ImageReference,
    store: &ImageStore,
    name: &ImageName,
    limits: ImageLimits,
    watch: Arc<dyn ImageWatch>,
) -> Result<Made, FetchFailed> {
    let link = {
        let (reference, store, name) = (reference.clone(), store.clone(), name.clone());
        blocking(move || link_twin(&reference, &store, &name)).await
    };
    match link {
        Ok(Some(made)) => return Ok(made),
        Ok(None) => {}
        // A pull does as well, and says what is wrong if something is.
        Err(error) => {
            tracing::warn!(image = %name, %error, "an image of the same reference could not be linked");
        }
    }
    let pulled = from.fetch(reference, store, name, limits, watch).await?;
    Ok(if pulled { Made::Pulled } else { Made::Cached })
}

/// Gives another image that was made from the same reference this name as well. Nothing is done, and nobody waited for,
/// when there is none, or either is just being made.
fn link_twin(reference: &ImageReference, store: &ImageStore, name: &ImageName) -> io::Result<Option<Made>> {
    let is_it = |name: &ImageName| store.read_source(name).as_deref() == Some(reference.as_str());
    fs::create_dir_all(store.dir())?;
    let records = store.list().map_err(io::Error::other)?;
    let twins = records.into_iter().filter(|record| record.source.as_deref() == Some(reference.as_str()));
    let twins: Vec<_> = twins.map(|record| record.name).collect();
    if twins.contains(name) {
        return Ok(Some(Made::Cached));
    }
    let Some(twin) = twins.into_iter().next() else { return Ok(None) };
    // Neither waits, so two that do this the other way round do not wait for each other.
    let (Some(_theirs), Some(lock)) = (store.try_lock(&twin)?, store.try_lock(name)?) else {
        return Ok(None);
    };
    // What a symbolic link leads to belongs to somebody else, who may write to it.
    if !is_it(&twin) || !store.rootfs(&twin).symlink_metadata()?.is_file() {
        return Ok(None);
    }
    let new = store.temporary(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Left by a process of the same number that was killed here; the lock is ours, so nobody writes to it.
        Ok(()) | Err(_) => {}
    }
    fs::hard_link(store.rootfs(&twin), &new)?;
    if let Err(error) = store.install(&lock, name, &new, reference.as_str()) {
        let _left = fs::remove_file(&new);
        return Err(error);
    }
    Ok(Some(Made::Linked(twin)))
}
