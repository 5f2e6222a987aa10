//! How far a pull or push is: counted where bytes move, told about ten times a second, and the place where both are ended.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use shed_image::{ImageProgress, ImageStep, ImageWatch};
use tokio::time::{MissedTickBehavior, interval};

/// How often the watch hears how far it is, and is asked whether anybody still wants it.
const BEAT: Duration = Duration::from_millis(100);

/// The count of one pull or push.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<ImageProgress>);

impl Progress {
    /// Begins with a step of which nothing can be counted.
    pub(crate) fn at(step: ImageStep) -> Arc<Self> {
        Arc::new(Self(Mutex::new(ImageProgress {
            step,
            bytes_done: 0,
            bytes_total: 0,
            layers_done: 0,
            layers_total: 0,
        })))
    }

    /// Begins the transfer of all blobs.
    pub(crate) fn begin(&self, bytes_total: u64, layers_total: usize) {
        self.change(|now| {
            now.step = ImageStep::Download;
            now.bytes_total = bytes_total;
            now.layers_total = u32::try_from(layers_total).unwrap_or(u32::MAX);
        });
    }

    /// Returns the count of one blob.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { progress: Arc::clone(self), counted: 0 }
    }

    /// Counts layers that are done.
    pub(crate) fn layers(&self, count: usize) {
        self.change(|now| now.layers_done += u32::try_from(count).unwrap_or(0));
    }

    fn change(&self, change: impl FnOnce(&mut ImageProgress)) {
        change(&mut self.0.lock().expect("nothing panics while it is held"));
    }

    fn now(&self) -> ImageProgress {
        *self.0.lock().expect("nothing panics while it is held")
    }

    /// Does the work while the watch hears of it; `None` when nobody wants it any more.
    pub(crate) async fn watched<T>(
        &self,
        watch: &dyn ImageWatch,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        let mut work = std::pin::pin!(work);
        let mut tell = || {
            let now = self.now();
            if told != Some(now) {
                told = Some(now);
                watch.progress(now);
            }
        };
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    if watch.is_cancelled() {
                        return None;
                    }
                    tell();
                }
                result = &mut work => {
                    tell();
                    return Some(result);
                }
            }
        }
    }
}

/// How far one blob is.
#[derive(Debug)]
pub(crate) struct Share {
    progress: Arc<Progress>,
    counted: u64,
}

impl Share {
    /// Sets how many of the blob's bytes are done; fewer than before when it begins anew.
    pub(crate) fn set(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.counted, bytes);
        self.progress.change(|now| now.bytes_done = now.bytes_done - before + bytes);
    }

    /// Returns how many of the blob's bytes are done.
    pub(crate) const fn counted(&self) -> u64 {
        self.counted
    }
}
