//! Watches the making of an image: shows how far it is, and ends it when the user wants it to end.

use std::{future::Future, sync::Arc};

use shed_image::{ImageProgress, ImageWatch};
use tokio::sync::watch;

use crate::{
    command_error::{CommandError, Kind},
    commands::work::EndSignals,
    progress::Task,
};

/// What the work tells and is told; both from any thread.
#[derive(Debug)]
pub(crate) struct Watch {
    progress: watch::Sender<Option<ImageProgress>>,
    cancelled: watch::Sender<bool>,
}

impl Watch {
    fn new() -> Self {
        Self { progress: watch::Sender::new(None), cancelled: watch::Sender::new(false) }
    }

    /// Waits until nobody wants the work any more.
    pub(crate) async fn cancelled(&self) {
        let mut cancelled = self.cancelled.subscribe();
        // The sender is this value's own, so it is there for as long as anybody waits.
        let _there = cancelled.wait_for(|cancelled| *cancelled).await;
    }
}

impl ImageWatch for Watch {
    fn progress(&self, progress: ImageProgress) {
        let _before = self.progress.send_replace(Some(progress));
    }

    fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}

/// Does the work and shows how far it is. A signal asks it to end, and it is waited for, so that it leaves nothing behind;
/// a second one ends the wait.
///
/// # Errors
/// What the work fails with, or that it was interrupted.
pub(crate) async fn follow<T, F: Future<Output = Result<T, CommandError>>>(
    task: &Task<'_>,
    what: &str,
    work: impl FnOnce(Arc<Watch>) -> F,
) -> Result<T, CommandError> {
    let mut signals = EndSignals::listen()?;
    let watch = Arc::new(Watch::new());
    let mut progress = watch.progress.subscribe();
    let mut work = std::pin::pin!(work(Arc::clone(&watch)));
    let mut interrupted = None;
    loop {
        tokio::select! {
            biased;
            result = &mut work => return match interrupted {
                // What was finished all the same is finished.
                Some(signal) => result.map_err(|_| interruption(signal, what)),
                None => result,
            },
            signal = signals.next() => match interrupted.replace(signal) {
                None => {
                    task.say("ending");
                    let _before = watch.cancelled.send_replace(true);
                }
                Some(_) => return Err(interruption(signal, what)),
            },
            Ok(()) = progress.changed() => {
                if let (None, Some(progress)) = (interrupted, *progress.borrow_and_update()) {
                    task.image(&progress.into());
                }
            }
        }
    }
}

fn interruption(signal: u8, what: &str) -> CommandError {
    CommandError::new(Kind::Interrupted { signal }, format!("{what} was interrupted"))
}

/// Runs work that blocks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // Nothing cancels it, so it has panicked, and that goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
