//! From a reference to an image that boots, in its place in the images directory.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{
    BlobStore, BlobUse, ConvertError, DiskOptions, ImageLimits, ImageLock, ImageProgress, ImageStep,
    ImageStore, ImageWatch, Platform, convert,
};
use shed_types::{Digest, ImageName, ImageReference};
use tokio::time::sleep;

use crate::{PullError, blocking::blocking, progress::Progress, pull::Pull, session::Shared};

/// How long to wait before looking again whether an image's lock is free.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Says why there is no image of a reference. What was there before is there still.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("cannot lock the image {name} in {dir}")]
    Lock {
        name: ImageName,
        dir: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make an image of {reference}")]
    Convert {
        reference: Box<ImageReference>,
        #[source]
        source: ConvertError,
    },
    #[error("cannot put the image {path} in place")]
    Install {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One way from a reference to an image.
pub(crate) struct Fetch<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) reference: &'a ImageReference,
    pub(crate) store: &'a ImageStore,
    pub(crate) name: &'a ImageName,
    pub(crate) limits: ImageLimits,
}

impl Fetch<'_> {
    /// Does it all; returns whether there was anything to do.
    pub(crate) async fn run(&self, watch: Arc<dyn ImageWatch>) -> Result<bool, FetchError> {
        let lock = self.lock(&*watch).await?;
        // Whoever had the lock may have made it.
        let source = self.reference.to_string();
        let (store, name) = (self.store.clone(), self.name.clone());
        let is_there = {
            let source = source.clone();
            move || store.rootfs(&name).is_file() && store.read_source(&name) == Some(source)
        };
        if blocking(is_there).await {
            return Ok(false);
        }
        let blobs = BlobStore::of(self.store);
        // Over both halves, so that nobody removes in between what was pulled.
        let held = blobs.clone();
        let hold = blocking(move || held.hold()).await.map_err(|error| self.no_lock(error))?;
        let platform = Platform::of_host();
        let pull = Pull {
            shared: self.shared,
            reference: self.reference,
            platform: &platform,
            blobs: &blobs,
            max_bytes: self.limits.max_bytes,
        };
        let abandoned = Arc::new(AtomicBool::new(false));
        let mut made = Made {
            store: self.store.clone(),
            name: self.name.clone(),
            reference: self.reference.clone(),
            limits: self.limits,
            blobs: blobs.clone(),
            watch: Wanted { watch: Arc::clone(&watch), abandoned: Arc::clone(&abandoned) },
            _hold: hold,
            lock,
        };
        let _leaving = SetOnDrop(abandoned);
        let manifest = pull.run(&*watch).await?;
        let repaired = blocking(move || match made.make(&manifest) {
            Err(error) if made.discard_damaged(&manifest, &error) => Ok(Some(made)),
            done => done.map(|()| None),
        });
        if let Some(again) = repaired.await? {
            made = again;
            // Its blobs are good now, so a second failure is the image's own.
            let manifest = pull.run(&*watch).await?;
            blocking(move || made.make(&manifest)).await?;
        }
        Ok(true)
    }

    /// Waits for the lock of the image.
    async fn lock(&self, watch: &dyn ImageWatch) -> Result<ImageLock, FetchError> {
        let store = self.store.clone();
        let made = blocking(move || fs::create_dir_all(store.dir())).await;
        made.map_err(|error| self.no_lock(error))?;
        if let Some(lock) = self.try_lock().await? {
            return Ok(lock);
        }
        let progress = Progress::at(ImageStep::Wait);
        let waiting = async {
            loop {
                // A flock has no event, and a thread that waits in it cannot be called off.
                sleep(LOCK_PAUSE).await;
                if let Some(lock) = self.try_lock().await? {
                    return Ok(lock);
                }
            }
        };
        progress.watched(watch, waiting).await.ok_or(PullError::Cancelled)?
    }

    async fn try_lock(&self) -> Result<Option<ImageLock>, FetchError> {
        let (store, name) = (self.store.clone(), self.name.clone());
        blocking(move || store.try_lock(&name)).await.map_err(|error| self.no_lock(error))
    }

    fn no_lock(&self, source: io::Error) -> FetchError {
        FetchError::Lock { name: self.name.clone(), dir: self.store.dir().to_owned(), source }
    }
}

/// What the second half needs: it runs in a thread of its own and has the lock with it, which so is held to its end even
/// when nobody waits for it any more.
struct Made {
    store: ImageStore,
    name: ImageName,
    reference: ImageReference,
    limits: ImageLimits,
    blobs: BlobStore,
    watch: Wanted,
    _hold: BlobUse,
    lock: ImageLock,
}

impl Made {
    fn make(&self, manifest: &Digest) -> Result<(), FetchError> {
        let out = self.store.temporary(&self.name);
        let install = |source| FetchError::Install { path: self.store.rootfs(&self.name), source };
        // Left by a process of the same number that was killed here.
        remove(&out).map_err(install)?;
        let result = self.convert(manifest, &out).and_then(|()| {
            let source = self.reference.to_string();
            self.store.install(&self.lock, &self.name, &out, &source).map_err(install)
        });
        if result.is_err()
            && let Err(error) = remove(&out)
        {
            tracing::warn!(path = %out, %error, "an unfinished image stays behind");
        }
        result
    }

    fn convert(&self, manifest: &Digest, out: &Utf8Path) -> Result<(), FetchError> {
        let options = DiskOptions::default();
        let made = convert(&self.blobs, manifest, out, &options, &self.limits, &self.watch);
        let failed = |source| FetchError::Convert { reference: Box::new(self.reference.clone()), source };
        let _trailer = made.map_err(failed)?;
        Ok(())
    }

    /// Removes blobs whose damage may be the reason of an error; returns whether there is something to fetch again.
    fn discard_damaged(&self, manifest: &Digest, error: &FetchError) -> bool {
        let FetchError::Convert { source, .. } = error else { return false };
        if !source.may_be_damage() {
            return false;
        }
        match self.blobs.discard_damaged(manifest) {
            Ok(absent) => {
                for digest in &absent {
                    tracing::warn!(%digest, "a blob was damaged in the store and is fetched again");
                }
                !absent.is_empty()
            }
            Err(problem) => {
                let problem = shed_types::error_chain(&problem);
                tracing::warn!(%problem, "cannot look for damaged blobs");
                false
            }
        }
    }
}

/// Removes a file that may not be there.
fn remove(path: &Utf8Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The watch, and whether anybody still waits for the result.
struct Wanted {
    watch: Arc<dyn ImageWatch>,
    abandoned: Arc<AtomicBool>,
}

impl ImageWatch for Wanted {
    fn progress(&self, progress: ImageProgress) {
        self.watch.progress(progress);
    }

    fn is_cancelled(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || self.watch.is_cancelled()
    }
}

/// Tells the thread that the future it works for is gone.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
