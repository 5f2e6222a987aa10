//! Tells whoever waits for a create or start how far it is.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use shed_image::ImageProgress;
use tokio::sync::{mpsc, watch};

/// The phases of a create, in order. Only one whose image is not cached has [`Phase::Image`]; a start has neither that nor
/// [`Phase::Disk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The image is pulled and converted.
    Image,
    /// The record is written, so that a crash from here on is repaired.
    Record,
    /// The image is linked and the shed's own disk cloned.
    Disk,
    /// The VMM process is started.
    Vm,
    /// The guest boots until its agent answers.
    Boot,
    /// The machine is told which shed it is.
    Identify,
    /// The record says `running`.
    Commit,
    /// The host's credentials are copied into the guest.
    Credentials,
    /// The repository is cloned.
    Repo,
    /// The hooks of the project run.
    Provision,
}

impl Phase {
    /// Every phase in order.
    pub const ALL: [Self; 10] = [
        Self::Image,
        Self::Record,
        Self::Disk,
        Self::Vm,
        Self::Boot,
        Self::Identify,
        Self::Commit,
        Self::Credentials,
        Self::Repo,
        Self::Provision,
    ];

    /// Returns the phase's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Record => "record",
            Self::Disk => "disk",
            Self::Vm => "vm",
            Self::Boot => "boot",
            Self::Identify => "identify",
            Self::Commit => "commit",
            Self::Credentials => "credentials",
            Self::Repo => "repo",
            Self::Provision => "provision",
        }
    }

    /// Returns what happens in it, for people.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Image => "Getting the image",
            Self::Record => "Recording the shed",
            Self::Disk => "Preparing the disk",
            Self::Vm => "Starting the machine",
            Self::Boot => "Booting the guest",
            Self::Identify => "Telling the guest who it is",
            Self::Commit => "Saving the state",
            Self::Credentials => "Copying credentials",
            Self::Repo => "Cloning the repository",
            Self::Provision => "Running the project's hooks",
        }
    }
}

/// Sent when a phase begins, with a warning inside one, or while an image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressUpdate {
    /// The phase.
    pub phase: Phase,
    /// For people.
    pub message: String,
    /// Time since the request.
    pub elapsed: Duration,
    /// Whether this reports a failure that does not fail the whole.
    pub warning: bool,
    /// How far the image is, in [`Phase::Image`].
    pub image: Option<ImageProgress>,
}

/// Where updates arrive. What is told of an image replaces what was told of it before and has not been read yet, so
/// however long a pull takes and however slowly somebody reads, little waits here.
#[derive(Debug)]
pub struct Updates {
    phases: mpsc::UnboundedReceiver<ProgressUpdate>,
    image: Option<watch::Receiver<Option<ProgressUpdate>>>,
}

impl Updates {
    /// Waits for the next update; `None` when there will be no more.
    ///
    /// # Cancel safety
    /// No update is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<ProgressUpdate> {
        tokio::select! {
            // The begin of a phase comes before what is told inside it, and ends what was told of the one before.
            biased;
            update = self.phases.recv() => update,
            update = next_image(&mut self.image) => Some(update),
        }
    }

    /// Returns an update that is there already, apart from how far an image is.
    pub fn try_recv(&mut self) -> Option<ProgressUpdate> {
        self.phases.try_recv().ok()
    }
}

impl From<mpsc::UnboundedReceiver<ProgressUpdate>> for Updates {
    fn from(phases: mpsc::UnboundedReceiver<ProgressUpdate>) -> Self {
        Self { phases, image: None }
    }
}

/// Waits for news of an image; for ever when there will be none.
async fn next_image(slot: &mut Option<watch::Receiver<Option<ProgressUpdate>>>) -> ProgressUpdate {
    if let Some(image) = slot {
        while image.changed().await.is_ok() {
            if let Some(update) = image.borrow_and_update().clone() {
                return update;
            }
        }
    }
    std::future::pending().await
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseTiming {
    /// The phase.
    pub phase: Phase,
    /// From the request to the phase's begin.
    pub start: Duration,
    /// From its begin to its end.
    pub took: Duration,
}

/// Records the phases of one create or start, and passes them on to whoever listens.
///
/// The listener's queue is unbounded, and a create sends about a dozen updates, so a slow listener delays nothing. How far
/// an image is goes another way, which holds the last word only.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    image: watch::Sender<Option<ProgressUpdate>>,
    listener: Option<mpsc::UnboundedSender<ProgressUpdate>>,
    phases: Mutex<Vec<(Phase, Duration)>>,
    warnings: Mutex<Vec<String>>,
}

impl Progress {
    /// Begins now, with no listener.
    #[must_use]
    pub fn silent() -> Self {
        let image = watch::Sender::new(None);
        Self {
            begun: Instant::now(),
            image,
            listener: None,
            phases: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    /// Begins now and returns the listener's end.
    #[must_use]
    pub fn channel() -> (Self, Updates) {
        let (sender, phases) = mpsc::unbounded_channel();
        let progress = Self { listener: Some(sender), ..Self::silent() };
        let image = Some(progress.image.subscribe());
        (progress, Updates { phases, image })
    }

    /// Notes that a phase begins; one that is tried again has begun already.
    pub(crate) fn enter(&self, phase: Phase) {
        let elapsed = self.begun.elapsed();
        {
            let mut phases = self.phases.lock().expect("no code panics while it holds this lock");
            if phases.iter().any(|&(entered, _)| entered == phase) {
                return;
            }
            // What comes before the first phase, the choice of an image, belongs to it: a timeline has no gaps.
            let start = if phases.is_empty() { Duration::ZERO } else { elapsed };
            phases.push((phase, start));
        }
        // What was said of the image and not read yet is no news any more.
        let _old = self.image.send_replace(None);
        let message = phase.message().to_owned();
        self.send(ProgressUpdate { phase, message, elapsed, warning: false, image: None });
    }

    /// Tells how far the image is.
    pub(crate) fn image(&self, message: String, image: ImageProgress) {
        let (phase, elapsed) = (Phase::Image, self.begun.elapsed());
        let update = ProgressUpdate { phase, message, elapsed, warning: false, image: Some(image) };
        let _unread = self.image.send_replace(Some(update));
    }

    /// Tells of something that went wrong without failing the whole, and keeps it for the end.
    pub(crate) fn warn(&self, phase: Phase, message: String) {
        let elapsed = self.begun.elapsed();
        self.warnings.lock().expect("no code panics while it holds this lock").push(message.clone());
        self.send(ProgressUpdate { phase, message, elapsed, warning: true, image: None });
    }

    /// Returns everything that went wrong.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().expect("no code panics while it holds this lock").clone()
    }

    /// Returns how long each phase took; the last one ends now.
    pub(crate) fn timeline(&self) -> Vec<PhaseTiming> {
        let now = self.begun.elapsed();
        let phases = self.phases.lock().expect("no code panics while it holds this lock");
        let ends = phases.iter().skip(1).map(|&(_, start)| start).chain([now]);
        phases
            .iter()
            .zip(ends)
            .map(|(&(phase, start), end)| PhaseTiming { phase, start, took: end.saturating_sub(start) })
            .collect()
    }

    fn send(&self, update: ProgressUpdate) {
        if let Some(listener) = &self.listener {
            // A listener that has gone away is no reason to stop: the HTTP layer decides about cancelling.
            let _gone = listener.send(update);
        }
    }
}

#[cfg(test)]
mod tests {
    use shed_image::ImageStep;

    use super::*;

    fn at(bytes_done: u64) -> ImageProgress {
        ImageProgress {
            step: ImageStep::Download,
            bytes_done,
            bytes_total: 9,
            layers_done: 0,
            layers_total: 1,
        }
    }

    #[tokio::test]
    async fn of_an_image_only_the_last_word_waits_and_none_after_the_next_phase() {
        let (progress, mut updates) = Progress::channel();
        progress.enter(Phase::Image);
        for bytes in 0..1000 {
            progress.image("pulling".to_owned(), at(bytes));
        }
        assert_eq!(updates.recv().await.unwrap().image, None, "first the phase begins");
        assert_eq!(updates.recv().await.unwrap().image, Some(at(999)));
        progress.image("pulling".to_owned(), at(1000));
        progress.enter(Phase::Record);
        assert_eq!(updates.recv().await.unwrap().phase, Phase::Record);
        drop(progress);
        assert_eq!(updates.recv().await, None);
    }
}
