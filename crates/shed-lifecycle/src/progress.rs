//! Tells whoever waits for a create or start how far it is.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use shed_image::ImageProgress;
use tokio::sync::{mpsc, watch};

use crate::guest_text::Cleaner;

/// Most output that waits for a slow listener, in bytes; what comes beyond it is lost to them.
const OUTPUT_QUEUE: usize = 256 << 10;

/// Longest piece of output that is told at once, in bytes. Clients take events of at most 1 MiB, in which a character may
/// be six.
const OUTPUT_PIECE: usize = 16 << 10;

/// What a waiting piece of output costs besides its text, so that a guest that writes byte by byte fills the queue, too.
const OUTPUT_COST: usize = 256;

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
    /// The hooks of the project run, if it has any.
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
            Self::Provision => "Looking for the project's hooks",
        }
    }
}

/// Sent when a phase begins or comes to something new, with a warning inside one, with output of what runs, or while an
/// image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressUpdate {
    /// The phase.
    pub phase: Phase,
    /// For people; empty beside output.
    pub message: String,
    /// Time since the request.
    pub elapsed: Duration,
    /// Whether this reports a failure that does not fail the whole.
    pub warning: bool,
    /// How far the image is, in [`Phase::Image`].
    pub image: Option<ImageProgress>,
    /// What a program in the guest has written since: fit for a terminal, with line feeds, tabs and carriage returns.
    pub output: Option<String>,
}

/// Where updates arrive. What is told of an image replaces what was told of it before and has not been read yet, and of
/// output only so much waits, so however long a create takes and however slowly somebody reads, little waits here.
#[derive(Debug)]
pub struct Updates {
    phases: mpsc::UnboundedReceiver<ProgressUpdate>,
    image: Option<watch::Receiver<Option<ProgressUpdate>>>,
    /// Output in the queue, in bytes.
    waiting: Arc<AtomicUsize>,
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
            update = self.phases.recv() => update.map(|update| self.taken(update)),
            update = next_image(&mut self.image) => Some(update),
        }
    }

    /// Returns an update that is there already, apart from how far an image is.
    pub fn try_recv(&mut self) -> Option<ProgressUpdate> {
        self.phases.try_recv().ok().map(|update| self.taken(update))
    }

    fn taken(&self, update: ProgressUpdate) -> ProgressUpdate {
        if let Some(text) = &update.output {
            let _before = self.waiting.fetch_sub(cost(text), Ordering::Relaxed);
        }
        update
    }
}

/// What a piece of output takes in the queue.
const fn cost(text: &str) -> usize {
    text.len() + OUTPUT_COST
}

impl From<mpsc::UnboundedReceiver<ProgressUpdate>> for Updates {
    fn from(phases: mpsc::UnboundedReceiver<ProgressUpdate>) -> Self {
        Self { phases, image: None, waiting: Arc::default() }
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
/// The listener's queue is unbounded, and a create sends some dozens of updates, so a slow listener delays nothing. How far
/// an image is goes another way, which holds the last word only; output that the listener is too slow for is left out.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    image: watch::Sender<Option<ProgressUpdate>>,
    listener: Option<mpsc::UnboundedSender<ProgressUpdate>>,
    phases: Mutex<Vec<(Phase, Duration)>>,
    warnings: Mutex<Vec<String>>,
    output: Mutex<Output>,
    waiting: Arc<AtomicUsize>,
}

/// What has been done with the output of the program that runs.
#[derive(Debug, Default)]
struct Output {
    cleaner: Cleaner,
    /// Bytes that were left out since the listener was last told of that.
    lost: u64,
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
            output: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// Begins now and returns the listener's end.
    #[must_use]
    pub fn channel() -> (Self, Updates) {
        let (sender, phases) = mpsc::unbounded_channel();
        let progress = Self { listener: Some(sender), ..Self::silent() };
        let image = Some(progress.image.subscribe());
        let waiting = Arc::clone(&progress.waiting);
        (progress, Updates { phases, image, waiting })
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
        self.tell(phase, phase.message().to_owned());
    }

    /// Says what is done now, within a phase.
    pub(crate) fn tell(&self, phase: Phase, message: String) {
        self.end_output(phase);
        self.send(ProgressUpdate { message, ..self.update(phase) });
    }

    /// Tells how far the image is.
    pub(crate) fn image(&self, message: String, image: ImageProgress) {
        let update = ProgressUpdate { message, image: Some(image), ..self.update(Phase::Image) };
        let _unread = self.image.send_replace(Some(update));
    }

    /// Tells of something that went wrong without failing the whole, and keeps it for the end. The log gets it with the
    /// span that this is called in.
    pub(crate) fn warn(&self, phase: Phase, message: String) {
        tracing::warn!(phase = phase.as_str(), warning = %message, "a step failed that does not fail the whole");
        self.end_output(phase);
        self.warnings.lock().expect("no code panics while it holds this lock").push(message.clone());
        self.send(ProgressUpdate { message, warning: true, ..self.update(phase) });
    }

    /// Passes on what a program in the guest writes, cleaned, to whoever listens. Nothing waits for a slow listener: they
    /// are told how much they have missed.
    pub(crate) fn output(&self, phase: Phase, bytes: &[u8]) {
        if self.listener.as_ref().is_none_or(mpsc::UnboundedSender::is_closed) {
            return;
        }
        let mut output = self.lock_output();
        for piece in bytes.chunks(OUTPUT_PIECE) {
            if self.waiting.load(Ordering::Relaxed) + piece.len() > OUTPUT_QUEUE {
                output.lost += piece.len() as u64;
                output.cleaner.reset();
                continue;
            }
            self.tell_loss(phase, &mut output);
            let text = output.cleaner.clean(piece);
            if !text.is_empty() {
                self.send_output(phase, text);
            }
        }
    }

    /// What comes next is no output of the program before.
    fn end_output(&self, phase: Phase) {
        let mut output = self.lock_output();
        output.cleaner.reset();
        self.tell_loss(phase, &mut output);
    }

    fn tell_loss(&self, phase: Phase, output: &mut Output) {
        let lost = std::mem::take(&mut output.lost);
        if lost > 0 {
            self.send_output(
                phase,
                format!("\n[{lost} bytes of output are not shown: they came too fast]\n"),
            );
        }
    }

    fn send_output(&self, phase: Phase, text: String) {
        let _before = self.waiting.fetch_add(cost(&text), Ordering::Relaxed);
        self.send(ProgressUpdate { output: Some(text), ..self.update(phase) });
    }

    fn lock_output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().expect("no code panics while it holds this lock")
    }

    /// An update that says nothing yet.
    fn update(&self, phase: Phase) -> ProgressUpdate {
        let (message, elapsed) = (String::new(), self.begun.elapsed());
        ProgressUpdate { phase, message, elapsed, warning: false, image: None, output: None }
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

    #[tokio::test]
    async fn output_comes_in_its_place_and_clean() {
        let (progress, mut updates) = Progress::channel();
        progress.enter(Phase::Repo);
        progress.output(Phase::Repo, "Receiving\r\u{1b}[31mgr\u{f6}".as_bytes().split_at(18).0);
        progress.output(Phase::Repo, b"\xb6ssen\n");
        progress.tell(Phase::Provision, "Running the install hook".to_owned());
        progress.output(Phase::Provision, &vec![b'x'; OUTPUT_PIECE + 1]);
        progress.warn(Phase::Provision, "it failed".to_owned());
        drop(progress);
        let mut seen = Vec::new();
        while let Some(update) = updates.recv().await {
            seen.push((update.phase, update.message, update.output.map(|text| (text.len(), text))));
        }
        let (message, output): (Vec<_>, Vec<_>) =
            seen.iter().map(|(_, message, output)| (message.as_str(), output.as_ref())).unzip();
        assert_eq!(
            message,
            ["Cloning the repository", "", "", "Running the install hook", "", "", "it failed"]
        );
        assert_eq!(output[1].unwrap().1, "Receiving\rgr");
        assert_eq!(output[2].unwrap().1, "\u{f6}ssen\n");
        assert_eq!((output[4].unwrap().0, output[5].unwrap().0), (OUTPUT_PIECE, 1));
    }

    #[tokio::test]
    async fn a_slow_listener_misses_output_and_nothing_else() {
        let (progress, mut updates) = Progress::channel();
        progress.enter(Phase::Provision);
        for number in 0..50_000 {
            progress.output(Phase::Provision, format!("line {number}\n").as_bytes());
        }
        progress.output(Phase::Provision, &vec![b'x'; 4 << 20]);
        let waiting = progress.waiting.load(Ordering::Relaxed);
        assert!(waiting <= OUTPUT_QUEUE + OUTPUT_PIECE, "{waiting} bytes wait");
        progress.warn(Phase::Provision, "it failed".to_owned());
        let mut output = String::new();
        let mut others = Vec::new();
        while let Some(update) = updates.try_recv() {
            match update.output {
                Some(text) => output.push_str(&text),
                None => others.push(update.message),
            }
        }
        assert_eq!(others, ["Looking for the project's hooks", "it failed"]);
        let (shown, marker) = output.split_once("\n[").unwrap();
        let lost: usize = marker.split(' ').next().unwrap().parse().unwrap();
        let all: usize =
            (0..50_000).map(|number| format!("line {number}\n").len()).sum::<usize>() + (4 << 20);
        assert_eq!(shown.len() + lost, all, "every byte is shown or counted");
        // Whoever has caught up is shown what comes then.
        progress.output(Phase::Provision, b"again\n");
        assert_eq!(updates.recv().await.unwrap().output.unwrap(), "again\n");
        assert_eq!(progress.waiting.load(Ordering::Relaxed), 0);
    }
}
