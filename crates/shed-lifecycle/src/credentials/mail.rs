//! What is to be done for one credential of one shed; bounded, and gathered while something is being done.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Names that are kept apart. Beyond it everything is meant.
const MAX_NAMES: usize = 2000;

/// Names of files, or all there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// These, relative to the target.
    Some(BTreeSet<String>),
    /// All.
    All,
}

impl Default for Names {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Some(names) if names.is_empty())
    }

    pub(super) fn add(&mut self, name: String) {
        if let Self::Some(names) = self {
            let _new = names.insert(name);
            if names.len() > MAX_NAMES {
                *self = Self::All;
            }
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        match other {
            Self::All => *self = Self::All,
            Self::Some(names) => names.into_iter().for_each(|name| self.add(name)),
        }
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// What the guest has said it wrote.
    pub(super) pull: Names,
    /// The last message of the guest that is part of this.
    pub(super) serial: Option<u64>,
    /// Whether everything in the guest is to be compared, because something may have been missed.
    pub(super) survey: bool,
    /// What may have changed on the host.
    pub(super) push: Names,
    /// How often the channel had been opened when this was taken.
    pub(super) opening: u64,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.pull.is_empty() && self.serial.is_none() && !self.survey && self.push.is_empty()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.pull.merge(other.pull);
        self.push.merge(other.push);
        self.serial = self.serial.max(other.serial);
        self.survey |= other.survey;
    }
}

/// Where work is left for whoever does it.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Its opening is the present one.
    work: Mutex<Work>,
    arrived: Notify,
}

impl Mail {
    /// Leaves work.
    pub(super) fn leave(&self, work: Work) {
        self.lock().merge(work);
        self.arrived.notify_one();
    }

    /// Leaves what could not be done. The number of a message that came before the channel was opened anew means nothing to
    /// an agent that has started anew.
    pub(super) fn put_back(&self, mut work: Work) {
        let mut present = self.lock();
        if work.opening != present.opening {
            work.serial = None;
        }
        present.merge(work);
        drop(present);
        self.arrived.notify_one();
    }

    /// Forgets the number of the last message: the channel was opened anew, and the guest tells again what was not taken.
    pub(super) fn opened(&self) {
        let mut work = self.lock();
        work.serial = None;
        work.opening += 1;
    }

    /// Takes what is there, which may be nothing.
    pub(super) fn take(&self) -> Work {
        let mut work = self.lock();
        let opening = work.opening;
        mem::replace(&mut work, Work { opening, ..Work::default() })
    }

    /// Waits until there is work, and takes it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn wait(&self) -> Work {
        loop {
            let work = self.take();
            if !work.is_empty() {
                return work;
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // Work is whole at every point where a holder could die.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_gathered_and_bounded() {
        let mail = Mail::default();
        for number in 0..5 {
            let mut pull = Names::default();
            pull.add((number % 2).to_string());
            mail.leave(Work { pull, serial: Some(5 - number), ..Work::default() });
        }
        mail.leave(Work { survey: true, ..Work::default() });
        let work = mail.wait().await;
        assert_eq!((work.pull, work.serial), (Names::Some(["0", "1"].map(str::to_owned).into()), Some(5)));
        assert!(work.survey && work.push.is_empty() && mail.take().is_empty());
        mail.leave(Work { serial: Some(900), survey: true, ..Work::default() });
        let failed = mail.take();
        mail.leave(Work { serial: Some(901), ..Work::default() });
        mail.opened();
        mail.put_back(failed);
        mail.leave(Work { serial: Some(1), ..Work::default() });
        let work = mail.take();
        assert_eq!((work.serial, work.survey), (Some(1), true), "numbers of another opening are forgotten");
        let mut names = Names::default();
        (0..100_000).for_each(|number| names.add(number.to_string()));
        assert_eq!(names, Names::All);
        names.add("more".into());
        assert!(names == Names::All && !names.is_empty());
    }
}
