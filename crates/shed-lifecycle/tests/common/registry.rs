//! A registry in this process, which a test holds up, lets go on and has fail.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use futures::future::BoxFuture;
use shed_image::{ImageLimits, ImageProgress, ImageStep, ImageStore, ImageWatch};
use shed_lifecycle::{FetchFailed, FetchImage};
use shed_types::{ImageName, ImageReference};
use tokio::sync::watch;

/// Clones are the same registry.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeRegistry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fetches: Mutex<Vec<String>>,
    ended_early: AtomicUsize,
    fails: AtomicBool,
    vanishes: AtomicBool,
    held: watch::Sender<bool>,
}

/// Notes that a fetch was dropped before its end.
struct Early<'a>(&'a Inner, bool);

impl Drop for Early<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.ended_early.fetch_add(1, SeqCst);
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the registry has gone for a walk")]
struct Gone;

#[derive(Debug, thiserror::Error)]
#[error("cannot pull {0}")]
struct CannotPull(String, #[source] Gone);

impl FakeRegistry {
    /// Lets fetches wait in the middle of their download.
    pub(crate) fn hold(&self) {
        self.0.held.send_replace(true);
    }

    /// Lets them go on.
    pub(crate) fn release(&self) {
        self.0.held.send_replace(false);
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.0.fails.store(fails, SeqCst);
    }

    /// Has each image removed as soon as it is made, as somebody outside this server would.
    pub(crate) fn vanish(&self) {
        self.0.vanishes.store(true, SeqCst);
    }

    /// Returns `name reference` of each fetch so far.
    pub(crate) fn fetches(&self) -> Vec<String> {
        self.0.fetches.lock().unwrap().clone()
    }

    pub(crate) fn ended_early(&self) -> usize {
        self.0.ended_early.load(SeqCst)
    }

    /// Waits until so many fetches have begun.
    pub(crate) async fn reached(&self, count: usize) {
        super::until(|| self.fetches().len() >= count).await;
    }
}

impl FetchImage for FakeRegistry {
    fn fetch<'a>(
        &'a self,
        reference: &'a ImageReference,
        store: &'a ImageStore,
        name: &'a ImageName,
        _limits: ImageLimits,
        watch: Arc<dyn ImageWatch>,
    ) -> BoxFuture<'a, Result<bool, FetchFailed>> {
        Box::pin(async move {
            let inner = &*self.0;
            let mut early = Early(inner, false);
            let lock = {
                let (store, name) = (store.clone(), name.clone());
                tokio::task::spawn_blocking(move || store.lock(&name)).await.unwrap()?
            };
            let at = |bytes_done| ImageProgress {
                step: ImageStep::Download,
                bytes_done,
                bytes_total: 100,
                layers_done: 0,
                layers_total: 1,
            };
            watch.progress(ImageProgress { step: ImageStep::Resolve, ..at(0) });
            watch.progress(at(50));
            let new = store.temporary(name);
            fs::write(&new, "half")?;
            let unfinished = Unfinished(&new);
            inner.fetches.lock().unwrap().push(format!("{name} {reference}"));
            let mut held = inner.held.subscribe();
            held.wait_for(|held| !held).await?;
            early.1 = true;
            if inner.fails.load(SeqCst) {
                return Err(CannotPull(reference.to_string(), Gone).into());
            }
            fs::write(&new, reference.as_str())?;
            store.install(&lock, name, &new, reference.as_str())?;
            drop(unfinished);
            if inner.vanishes.load(SeqCst) {
                fs::remove_file(store.rootfs(name))?;
            }
            Ok(true)
        })
    }
}

/// Removed with whoever made it.
struct Unfinished<'a>(&'a camino::Utf8Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _installed = fs::remove_file(self.0);
    }
}
