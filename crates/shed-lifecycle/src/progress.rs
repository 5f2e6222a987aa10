//! Tells whoever waits for a create or start how far it is.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

/// The phases of a create, in order; a start has all but [`Phase::Disk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
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
}

impl Phase {
    /// Every phase in order.
    pub const ALL: [Self; 6] = [Self::Record, Self::Disk, Self::Vm, Self::Boot, Self::Identify, Self::Commit];

    /// Returns the phase's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Disk => "disk",
            Self::Vm => "vm",
            Self::Boot => "boot",
            Self::Identify => "identify",
            Self::Commit => "commit",
        }
    }

    /// Returns what happens in it, for people.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Record => "Recording the shed",
            Self::Disk => "Preparing the disk",
            Self::Vm => "Starting the machine",
            Self::Boot => "Booting the guest",
            Self::Identify => "Telling the guest who it is",
            Self::Commit => "Saving the state",
        }
    }
}

/// Sent when a phase begins, or with a warning inside one.
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
/// The listener's queue is unbounded, and a create sends about a dozen updates, so a slow listener delays nothing.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    listener: Option<mpsc::UnboundedSender<ProgressUpdate>>,
    phases: Mutex<Vec<(Phase, Duration)>>,
}

impl Progress {
    /// Begins now, with no listener.
    #[must_use]
    pub fn silent() -> Self {
        Self { begun: Instant::now(), listener: None, phases: Mutex::default() }
    }

    /// Begins now and returns the listener's end.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<ProgressUpdate>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { listener: Some(sender), ..Self::silent() }, receiver)
    }

    /// Notes that a phase begins; one that is tried again has begun already.
    pub(crate) fn enter(&self, phase: Phase) {
        let elapsed = self.begun.elapsed();
        {
            let mut phases = self.phases.lock().expect("no code panics while it holds this lock");
            if phases.iter().any(|&(entered, _)| entered == phase) {
                return;
            }
            phases.push((phase, elapsed));
        }
        self.send(ProgressUpdate { phase, message: phase.message().to_owned(), elapsed, warning: false });
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
