//! Credentials: files of the host that sheds get, and give back when they change them (spec E).
//!
//! The boot has them copied before the project is cloned; while the machine runs, a task keeps the writable ones in step.
//! What comes back from a guest is not trusted: it lands beneath the credential's own source, or nowhere.
//!
//! `policy` says which content wins, `source` is the host's side of the files, `pull` and `push` move them, `follower` does
//! so for one credential of one shed, `attend` listens to the guest, and `host_watch` to the host.

mod attend;
mod follower;
mod host_watch;
mod mail;
mod policy;
mod pull;
mod push;
mod report;
mod source;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use camino::Utf8PathBuf;
use shed_backend::Vm;
use shed_types::{CredentialName, GuestPath, ShedName, error_chain};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{Phase, Progress, guest_channel::GuestChannel};

use attend::Attended;
use follower::{Follower, Followers};
use report::Reports;
use source::Entry;

/// How long a guest that is about to be stopped has to give back what it wrote last.
const FAREWELL: Duration = Duration::from_secs(2);

/// One entry of `credentials:` in server.yaml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// A directory or a file on the host; it may be missing.
    pub source: Utf8PathBuf,
    /// Where it is in each shed.
    pub target: GuestPath,
    /// Whether it is only copied at create and start; otherwise changes go both ways while a shed runs.
    pub read_only: bool,
    /// What is left out, with paths relative to the source: shell globs, where `dir/*` means `dir` and all below it.
    pub exclude: Vec<String>,
}

/// The credentials of a server, and the sheds that they are kept in step with.
#[derive(Debug)]
pub(crate) struct Credentials {
    configured: BTreeMap<CredentialName, Configured>,
    sheds: Mutex<BTreeMap<ShedName, Arc<Attended>>>,
    /// Counts how often a source became something else.
    kinds: watch::Sender<u64>,
    /// Begun with the first shed.
    watching: OnceLock<JoinSet<()>>,
}

#[derive(Debug)]
struct Configured {
    entry: Arc<Entry>,
    followers: Arc<Followers>,
}

/// A running shed whose credentials are kept in step; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Attending {
    task: AbortOnDropHandle<()>,
    attended: Arc<Attended>,
}

impl Credentials {
    /// Watches nothing yet.
    pub(crate) fn new(configured: BTreeMap<CredentialName, Credential>) -> Self {
        let configured = configured.into_iter().map(|(name, credential)| {
            let entry = Arc::new(Entry::new(name.clone(), credential));
            (name, Configured { entry, followers: Arc::default() })
        });
        Self {
            configured: configured.collect(),
            sheds: Mutex::default(),
            kinds: watch::Sender::new(0),
            watching: OnceLock::new(),
        }
    }

    /// Tells whether there is nothing to copy.
    pub(crate) fn is_empty(&self) -> bool {
        self.configured.is_empty()
    }

    /// Copies all of them into a guest. What fails is a warning in `progress` (spec C.2, step 11).
    pub(crate) async fn deliver(&self, shed: &ShedName, vm: &dyn Vm, progress: &Progress) {
        let (attended, is_new) = self.attended(shed.clone());
        // A boot that is given up in the middle leaves nothing of it here.
        let forget = is_new.then(|| Forget { credentials: self, attended: &attended });
        for (name, configured) in &self.configured {
            let send = push::push_all(vm, shed, &configured.entry);
            let sent = match attended.followers.get(name) {
                Some(follower) => follower.deliver(send).await,
                None => send.await,
            };
            let warnings = match sent {
                Ok(pushed) => pushed.warnings,
                Err(error) => vec![error_chain(&error)],
            };
            for warning in warnings {
                tracing::warn!(%shed, credential = %name, "{warning}");
                progress.warn(Phase::Credentials, format!("credential `{name}`: {warning}"));
            }
        }
        std::mem::forget(forget);
    }

    /// Keeps the writable ones in step with a guest until the machine ends or what is returned is dropped.
    pub(crate) fn attend(
        self: &Arc<Self>,
        shed: ShedName,
        vm: Arc<dyn Vm>,
        channel: GuestChannel,
    ) -> Attending {
        let credentials = Arc::clone(self);
        let (attended, _) = self.attended(shed);
        let kept = Arc::clone(&attended);
        let task = async move {
            let _forget = Forget { credentials: &credentials, attended: &attended };
            if !attended.followers.is_empty() {
                credentials.watch_sources();
                let kinds = credentials.kinds.subscribe();
                Arc::clone(&attended).run(vm, channel, kinds).await;
            }
        };
        Attending { task: AbortOnDropHandle::new(tokio::spawn(task)), attended: kept }
    }

    /// Takes what a guest that is about to be stopped has written last, for a moment at most.
    pub(crate) async fn farewell(attending: Attending, vm: &dyn Vm, channel: &GuestChannel) {
        let Attending { task, attended } = attending;
        if attended.followers.is_empty() {
            return;
        }
        // Two would take each other's mail. What it was doing is told once more.
        task.abort();
        let _aborted = task.await;
        let shed = &attended.shed;
        let take = async {
            // The answer has everything that is not taken, what was written a moment ago included.
            if let Err(error) = attended.watch(channel).await {
                return attended.reports.add(shed, None, &format!("its last changes are not known: {error}"));
            }
            for follower in attended.followers.values() {
                let mut work = follower.mail.take();
                (work.survey, work.push) = (false, mail::Names::default());
                let _left = follower.work(work, vm, channel).await;
            }
        };
        if timeout(FAREWELL, take).await.is_err() {
            attended.reports.add(shed, None, "its last changes were not all taken before it was stopped");
        }
    }

    /// Returns what was reported of a running shed, the oldest first: what it sent that was not taken, and what failed.
    pub(crate) fn reports(&self, shed: &ShedName) -> Vec<String> {
        self.sheds().get(shed).map(|attended| attended.reports.recent()).unwrap_or_default()
    }

    /// Returns what is kept of a running shed, and whether it was made just now.
    fn attended(&self, shed: ShedName) -> (Arc<Attended>, bool) {
        let mut sheds = self.sheds();
        let is_new = !sheds.contains_key(&shed);
        let attended = sheds.entry(shed.clone()).or_insert_with(|| {
            let turns = follower::turns();
            let reports = Arc::new(Reports::default());
            let writable = self.configured.iter().filter(|(_, one)| !one.entry.credential.read_only);
            let followers = writable.map(|(name, Configured { entry, followers })| {
                let follower = Follower::new(
                    shed.clone(),
                    Arc::clone(entry),
                    followers,
                    Arc::clone(&reports),
                    Arc::clone(&turns),
                );
                (name.clone(), follower)
            });
            let followers = followers.collect();
            Arc::new(Attended { shed, followers, reports })
        });
        (Arc::clone(attended), is_new)
    }

    fn watch_sources(&self) {
        let _watching = self.watching.get_or_init(|| {
            let mut watching = JoinSet::new();
            for Configured { entry, followers } in self.configured.values() {
                if !entry.credential.read_only {
                    let watch = host_watch::watch_source(
                        Arc::clone(entry),
                        Arc::clone(followers),
                        self.kinds.clone(),
                    );
                    let _task = watching.spawn(watch);
                }
            }
            watching
        });
    }

    fn sheds(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShedName, Arc<Attended>>> {
        // The table is whole at every point where a holder could die.
        self.sheds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a shed out of the table when its machine has ended, unless another one has come.
struct Forget<'a> {
    credentials: &'a Credentials,
    attended: &'a Arc<Attended>,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut sheds = self.credentials.sheds();
        if sheds.get(&self.attended.shed).is_some_and(|present| Arc::ptr_eq(present, self.attended)) {
            let _gone = sheds.remove(&self.attended.shed);
        }
    }
}

// Their guest unpacks as the agent does, which is Linux's way.
#[cfg(all(test, target_os = "linux"))]
mod tests;
