//! The images that are being pulled for creates: one pull an image, however many creates wait for it.
//!
//! Called at the beginning of a create, which holds the [`Pull`] until its shed is in the table: the pull goes on while
//! anybody holds it, and the image is safe from deletion and prune so long. Each pull is a task of its own, because the
//! create that began it may go away while others wait. Other processes are kept away by the lock of the image.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::{Duration, Instant},
};

use shed_image::{ImageLimits, ImageProgress, ImageStep, ImageStore, ImageWatch};
use shed_types::{ImageName, ImageReference, error_chain};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    image_choice::ToMake,
    image_make::{FetchFailed, FetchImage, Made, make_image},
};

/// Time between two words on how far a pull is, but for those on a new step: five a second are plenty for people.
const NEWS: Duration = Duration::from_millis(200);

/// Why a pull brought nothing. Everybody who waited for it gets the same.
pub(crate) type PullFailed = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("the pull ended without a result; the server's log says why")]
struct NoResult;

/// How a pull ended, for those who count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullResult {
    /// The image is there.
    Ok,
    /// It is not.
    Failed,
    /// Nobody waited for it any more, or the server ended.
    Cancelled,
}

/// A pull that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullEnd {
    /// How.
    pub result: PullResult,
    /// Bytes that came from the registry, as far as they were told.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

pub(crate) type Hook = Box<dyn Fn(PullEnd) + Send + Sync>;

/// All pulls in progress.
pub(crate) struct Pulls {
    from: Arc<dyn FetchImage>,
    running: Mutex<Table>,
    hook: Arc<OnceLock<Hook>>,
}

type Table = BTreeMap<(ImageName, ImageReference), Weak<Pull>>;

/// A pull, held by whoever waits for it; the last who lets go of it ends it.
#[derive(Debug)]
pub(crate) struct Pull {
    state: watch::Receiver<State>,
    cancel: CancellationToken,
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    progress: Option<ImageProgress>,
    /// Most bytes that were told of a download.
    bytes: u64,
    told: Option<(Instant, ImageStep)>,
    end: Option<Result<(), PullFailed>>,
}

/// Passes on what the work tells, and tells it when nobody wants it any more.
#[derive(Debug)]
struct Watch {
    state: watch::Sender<State>,
    cancel: CancellationToken,
}

impl ImageWatch for Watch {
    fn progress(&self, progress: ImageProgress) {
        let _told = self.state.send_if_modified(|state| {
            state.progress = Some(progress);
            if progress.step == ImageStep::Download {
                state.bytes = state.bytes.max(progress.bytes_done);
            }
            let is_news = state.told.is_none_or(|(at, step)| progress.step > step || at.elapsed() >= NEWS);
            if is_news {
                state.told = Some((Instant::now(), progress.step));
            }
            is_news
        });
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl Pulls {
    /// Returns the table of a server that gets its images there.
    pub(crate) fn new(from: Arc<dyn FetchImage>) -> Self {
        Self { from, running: Mutex::default(), hook: Arc::default() }
    }

    /// Has somebody told of the end of each pull; only the first is.
    pub(crate) fn when_ended(&self, hook: Hook) {
        let _second = self.hook.set(hook);
    }

    /// Begins to make an image, or joins whoever makes it.
    pub(crate) fn join(
        &self,
        image: &ToMake,
        store: ImageStore,
        limits: ImageLimits,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Arc<Pull> {
        let key = (image.name.clone(), image.reference.clone());
        let mut running = lock(&self.running);
        // One that has ended is not begun again for those who join it: what it made is gone by now.
        let is_going = |pull: &Arc<Pull>| pull.state.borrow().end.is_none();
        if let Some(pull) = running.get(&key).and_then(Weak::upgrade).filter(is_going) {
            return pull;
        }
        let cancel = shutdown.child_token();
        let sender = watch::Sender::new(State::default());
        let pull = Arc::new(Pull { state: sender.subscribe(), cancel: cancel.clone() });
        running.retain(|_, pull| pull.strong_count() > 0);
        let _old = running.insert(key.clone(), Arc::downgrade(&pull));
        drop(running);
        let task = Task {
            key,
            store,
            limits,
            from: Arc::clone(&self.from),
            watch: Arc::new(Watch { state: sender, cancel }),
            begun: Instant::now(),
            hook: Arc::clone(&self.hook),
        };
        drop(tasks.spawn(task.run()));
        pull
    }

    /// Returns what an image is being made from for a create, if it is.
    pub(crate) fn reference_of(&self, name: &ImageName) -> Option<ImageReference> {
        let running = lock(&self.running);
        let mut held = running.iter().filter(|(_, pull)| pull.strong_count() > 0);
        held.find(|((of, _), _)| of == name).map(|((_, reference), _)| reference.clone())
    }

    /// Returns the images that are being made at this moment.
    pub(crate) fn going(&self) -> BTreeSet<(ImageName, ImageReference)> {
        let running = lock(&self.running);
        let held = running.iter().filter(|(_, pull)| pull.strong_count() > 0);
        held.map(|(key, _)| key.clone()).collect()
    }
}

impl fmt::Debug for Pulls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulls").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Pull {
    /// Waits for the end and tells how far it is, a few times a second.
    ///
    /// # Errors
    /// When there is no image.
    ///
    /// # Cancel safety
    /// Others go on waiting when the future is dropped; so does this pull, as long as it is held.
    pub(crate) async fn wait(&self, mut tell: impl FnMut(ImageProgress)) -> Result<(), PullFailed> {
        let mut state = self.state.clone();
        loop {
            let (progress, end) = {
                let state = state.borrow_and_update();
                (state.progress, state.end.clone())
            };
            if let Some(end) = end {
                return end;
            }
            if let Some(progress) = progress {
                tell(progress);
            }
            if state.changed().await.is_err() {
                return state.borrow().end.clone().unwrap_or_else(|| Err(Arc::new(NoResult)));
            }
        }
    }
}

/// The work of a pull.
struct Task {
    key: (ImageName, ImageReference),
    store: ImageStore,
    limits: ImageLimits,
    from: Arc<dyn FetchImage>,
    watch: Arc<Watch>,
    begun: Instant,
    hook: Arc<OnceLock<Hook>>,
}

impl Task {
    async fn run(self) {
        let (image, reference) = (&self.key.0, &self.key.1);
        tracing::info!(%image, %reference, "getting an image for a create");
        let watch = Arc::clone(&self.watch);
        let made = tokio::select! {
            biased;
            () = self.watch.cancel.cancelled() => None,
            made = make_image(&*self.from, reference, &self.store, image, self.limits, watch) => Some(made),
        };
        let bytes = self.watch.state.borrow().bytes;
        let took = self.begun.elapsed();
        let (result, end): (_, Result<(), PullFailed>) = match made {
            Some(Ok(made)) => {
                let how = match &made {
                    Made::Cached => "it was there by then".to_owned(),
                    Made::Linked(other) => format!("linked to {other}"),
                    Made::Pulled => "pulled".to_owned(),
                };
                tracing::info!(%image, %reference, how, bytes, ?took, "got an image");
                (PullResult::Ok, Ok(()))
            }
            Some(Err(error)) => {
                let error: FetchFailed = error;
                tracing::warn!(%image, %reference, error = %error_chain(&*error), bytes, ?took, "an image could not be got");
                (PullResult::Failed, Err(error.into()))
            }
            None => {
                tracing::info!(%image, %reference, bytes, ?took, "nobody wants an image any more; its pull ends");
                (PullResult::Cancelled, Err(Arc::new(NoResult)))
            }
        };
        if let Some(hook) = self.hook.get() {
            hook(PullEnd { result, bytes, took });
        }
        self.watch.state.send_modify(|state| state.end = Some(end));
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().expect("no code panics while it holds this lock")
}
