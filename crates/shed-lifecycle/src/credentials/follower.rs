//! Keeps one writable credential in step with one running shed.
//!
//! One operation at a time: a pull of what the guest has written, then a push of what it is not known to have. What comes
//! meanwhile is gathered in its mail, so that a guest that writes without end costs a bounded share of the host.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use shed_backend::Vm;
use shed_files::shown;
use shed_protocol::{CredentialTaken, SYSTEM_CREDENTIALS_TAKEN, timeouts};
use shed_types::{ShedName, error_chain};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};

use super::{
    mail::{Mail, Names, Work},
    pull::{Asked, Memory, PullError, Pulled, pull},
    push::{PushError, Pushed, push_some, wanted_of},
    report::Reports,
    source::{Entry, Kind},
};
use crate::{context::blocking, guest_channel::GuestChannel};

/// Shortest pause between two operations; a longer operation is followed by as long a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// First and longest pause before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Operations with one shed at a time; each holds some pieces of files, and at most one file whole.
const AT_ONCE: usize = 2;

/// Files that are sent one by one when all together are refused.
const SINGLY: usize = 200;

/// Bounds the operations with one shed.
pub(super) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

/// The followers of one credential: a change that one of them brings is news for the others.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<Vec<Weak<Follower>>>);

impl Followers {
    fn add(&self, follower: &Arc<Follower>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|one| one.strong_count() > 0);
        list.push(Arc::downgrade(follower));
    }

    /// Says that files of the source may have changed.
    pub(super) fn tell(&self, names: &Names) {
        let followers: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        for follower in followers {
            follower.mail.leave(Work { push: names.clone(), ..Work::default() });
        }
    }
}

/// One writable credential of one shed.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) shed: ShedName,
    pub(super) entry: Arc<Entry>,
    pub(super) mail: Mail,
    /// Held during an operation.
    memory: Arc<tokio::sync::Mutex<Memory>>,
    /// Whether the guest has told what it had not told yet: before that nothing is sent, which could be in its place.
    ready: watch::Sender<bool>,
    others: Arc<Followers>,
    reports: Arc<Reports>,
    turns: Arc<Semaphore>,
}

impl Follower {
    pub(super) fn new(
        shed: ShedName,
        entry: Arc<Entry>,
        others: &Arc<Followers>,
        reports: Arc<Reports>,
        turns: Arc<Semaphore>,
    ) -> Arc<Self> {
        let follower = Arc::new(Self {
            shed,
            entry,
            mail: Mail::default(),
            memory: Arc::default(),
            ready: watch::Sender::new(false),
            others: Arc::clone(others),
            reports,
            turns,
        });
        others.add(&follower);
        follower
    }

    /// Remembers what was sent at create or start; `send` sends it, while nothing else is done.
    pub(super) async fn deliver<E>(
        &self,
        send: impl Future<Output = Result<Pushed, E>>,
    ) -> Result<Pushed, E> {
        let mut memory = self.memory.lock().await;
        let mut pushed = send.await?;
        memory.known.extend(mem::take(&mut pushed.known));
        let again = mem::take(&mut pushed.again);
        if !again.is_empty() {
            let push = Names::Some(again.into_iter().collect());
            self.mail.leave(Work { push, ..Work::default() });
        }
        Ok(pushed)
    }

    /// Says that the guest watches from now on, and has told what it had not told yet. What was written before is found
    /// by a comparison of everything.
    pub(super) fn watched(&self) {
        self.mail.leave(Work { survey: true, ..Work::default() });
        let _before = self.ready.send_replace(true);
    }

    /// Works until it is dropped.
    pub(super) async fn run(self: Arc<Self>, vm: Arc<dyn Vm>, channel: GuestChannel) {
        if self.ready.subscribe().wait_for(|ready| *ready).await.is_err() {
            return;
        }
        let mut retry = RETRY.0;
        loop {
            let work = self.mail.wait().await;
            let Ok(turn) = self.turns.acquire().await else { return };
            let begun = Instant::now();
            let left = self.work(work, &*vm, &channel).await;
            drop(turn);
            let took = begun.elapsed();
            if left.is_empty() {
                retry = RETRY.0;
                sleep(took.max(PAUSE)).await;
            } else {
                self.mail.put_back(left);
                sleep(retry).await;
                retry = (retry * 2).min(RETRY.1);
            }
        }
    }

    /// Does what is to be done, and returns what could not be done now.
    pub(super) async fn work(&self, mut work: Work, vm: &dyn Vm, channel: &GuestChannel) -> Work {
        if work.survey || !work.pull.is_empty() || work.serial.is_some() {
            match self.pull(&mut work, vm).await {
                Ok(()) => self.say_taken(work.serial.take(), channel),
                // It has nothing to give; what it may get is another matter. It tells again what it has not been thanked for.
                Err(error @ PullError::Refused(_)) => {
                    self.failed(&error, vm);
                    work.serial = None;
                }
                Err(error) => {
                    self.failed(&error, vm);
                    return work;
                }
            }
            work.pull = Names::default();
            work.survey = false;
        }
        if !work.push.is_empty() {
            match self.push(mem::take(&mut work.push), vm).await {
                Ok(again) => work.push = again,
                Err((names, error)) => {
                    self.failed(&error, vm);
                    work.push = names;
                }
            }
        }
        work
    }

    async fn pull(&self, work: &mut Work, vm: &dyn Vm) -> Result<(), PullError> {
        let entry = Arc::clone(&self.entry);
        let file = match blocking(move || entry.kind()).await {
            Kind::Directory => false,
            Kind::File => true,
            // Nothing can be put there; when the source is back all is compared.
            Kind::Missing => return Ok(()),
        };
        let told = match &work.pull {
            Names::Some(names) => Some(names.clone()),
            Names::All => None,
        };
        // These first, and by their names: among everything that a guest has there may be no room for them.
        let mut only = told.clone().unwrap_or_default();
        while !only.is_empty() {
            let asked = Asked { only: mem::take(&mut only), told: told.clone(), file };
            let (unsent, result) = self.pull_once(asked, &mut work.push, vm).await;
            only = unsent;
            match result {
                // What it says to a request for everything decides.
                Err(PullError::Refused(_)) if work.survey => only.clear(),
                result => result?,
            }
        }
        if work.survey || told.is_none() {
            let asked = Asked { only, told, file };
            let (_nothing_was_named, result) = self.pull_once(asked, &mut work.push, vm).await;
            if work.survey && matches!(result, Ok(()) | Err(PullError::Refused(_))) {
                work.push = Names::All;
            }
            result?;
        }
        Ok(())
    }

    /// Pulls once. What is newer here is added to what is to be pushed; returned are the files to be asked for once more.
    async fn pull_once(
        &self,
        asked: Asked,
        push: &mut Names,
        vm: &dyn Vm,
    ) -> (BTreeSet<String>, Result<(), PullError>) {
        let memory = Arc::clone(&self.memory).lock_owned().await;
        let (memory, pulled, result) = pull(vm, &self.entry, asked, memory).await;
        drop(memory);
        let Pulled { taken, outdated, unsent, reports } = pulled;
        reports.into_texts().for_each(|text| self.report(&text));
        if !taken.is_empty() {
            tracing::debug!(shed = %self.shed, credential = %self.entry.name, files = taken.len(), "took files of a credential from a shed");
            self.others.tell(&Names::Some(taken));
        }
        push.merge(Names::Some(outdated));
        (unsent, result)
    }

    async fn push(&self, names: Names, vm: &dyn Vm) -> Result<Names, (Names, PushError)> {
        let mut memory = self.memory.lock().await;
        let result = push_some(vm, &self.shed, &self.entry, names.clone(), &memory.known).await;
        let mut pushed = match result {
            Ok(pushed) => pushed,
            Err(error) if error.is_refusal() => self.push_singly(names, vm, &memory).await?,
            Err(error) => return Err((names, error)),
        };
        if !pushed.known.is_empty() {
            tracing::debug!(shed = %self.shed, credential = %self.entry.name, files = pushed.known.len(), "sent files of a credential to a shed");
        }
        memory.known.extend(mem::take(&mut pushed.known));
        pushed.warnings.iter().for_each(|warning| self.report(warning));
        Ok(Names::Some(pushed.again.into_iter().collect()))
    }

    /// Sends each file by itself, because something in the guest is in the way of one of them. Those that are refused are
    /// tried again when they change.
    async fn push_singly(
        &self,
        names: Names,
        vm: &dyn Vm,
        memory: &Memory,
    ) -> Result<Pushed, (Names, PushError)> {
        let mut all = Pushed::default();
        let wanted = wanted_of(&self.entry, names.clone(), &memory.known).await;
        if wanted.len() > SINGLY {
            self.report(&format!(
                "{} files were not sent: something in the shed is in the way",
                wanted.len() - SINGLY
            ));
        }
        for name in wanted.into_iter().take(SINGLY) {
            let one = Names::Some([name.clone()].into());
            match push_some(vm, &self.shed, &self.entry, one, &memory.known).await {
                Ok(Pushed { known, again, warnings }) => {
                    all.known.extend(known);
                    all.again.extend(again);
                    all.warnings.extend(warnings);
                }
                Err(error) if error.is_refusal() => {
                    self.report(&format!("{} was not sent: {}", shown(name.as_bytes()), error_chain(&error)));
                }
                // All are looked at again, those that were sent by now as well.
                Err(error) => return Err((names, error)),
            }
        }
        Ok(all)
    }

    /// Lets the guest forget what the host has. When it does not hear it, it tells of these files once more.
    fn say_taken(&self, serial: Option<u64>, channel: &GuestChannel) {
        let Some(serial) = serial else { return };
        let taken = CredentialTaken { credential: self.entry.name.to_string(), serial };
        let channel = channel.clone();
        let shed = self.shed.clone();
        // Nothing waits for the answer, and the task ends with it.
        let _task = tokio::spawn(async move {
            let told = channel
                .request::<_, serde_json::Value>(SYSTEM_CREDENTIALS_TAKEN, &taken, timeouts::SYSTEM_REPLY)
                .await;
            if let Err(error) = told {
                tracing::debug!(%shed, error = %error_chain(&error), "the guest was not told what was taken");
            }
        });
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static), vm: &dyn Vm) {
        if !vm.has_ended() {
            self.report(&error_chain(error));
        }
    }

    fn report(&self, text: &str) {
        self.reports.add(&self.shed, Some(&self.entry.name), text);
    }
}
