//! The extensions that the server enables (spec J.5): their units run, tools find them, and health reports say how they are.
//!
//! The host names them in a health request, and this does it in a task of its own: no report waits for systemd or for the
//! bus. Which unit belongs to a namespace is in manifests; see `manifests`. What was enabled and is not any more is taken
//! back. Nothing of what goes over the bus is seen here, but whether somebody answers a ping.

mod docker;
mod files;
mod manifests;
mod record;
mod supervisor;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use serde_json::json;
use shed_protocol::{ExtensionInGuest, ExtensionOnHost, ExtensionReport};
use shed_types::Namespace;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use self::{
    manifests::Unit,
    record::Record,
    supervisor::Supervisor,
    units::{Units, note},
};
use crate::{
    apart::apart, exec::users::User, files as agent_files, log, messages::outbox::Outbox,
    publish::desk::Desk, state::State,
};

/// Time between two looks at the units.
const LOOK: Duration = Duration::from_secs(10);

/// Time between two pings of each extension: a heartbeat's (spec B.5).
const PING: Duration = Duration::from_secs(30);

/// How long the answer to a ping may take (spec J.5).
const PING_LIMIT: Duration = Duration::from_secs(2);

/// How long reading manifests and writing files may take: homes may be on a share that does not answer.
const FILES: Duration = Duration::from_secs(10);

/// Where the services keep sockets and status files, below the root.
const RUN_DIR: &str = "run/shed-extensions";

/// Asks over the bus whether an extension's host side is there.
pub(crate) trait BusPing: Send + Sync {
    /// Sends a ping. Any response in this namespace means that somebody is there.
    fn ping(&self, namespace: &Namespace) -> impl Future<Output = ExtensionOnHost> + Send;
}

impl BusPing for Desk {
    async fn ping(&self, namespace: &Namespace) -> ExtensionOnHost {
        match self.request(namespace, &json!({"operation": "ping"}), PING_LIMIT).await {
            Ok(_response) => ExtensionOnHost::Connected,
            Err(_nobody) => ExtensionOnHost::Unreachable,
        }
    }
}

/// What is wanted, and how it is.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    wanted: watch::Sender<Option<BTreeSet<Namespace>>>,
    seen: Mutex<BTreeMap<Namespace, ExtensionReport>>,
    /// Where the host is told of a change without waiting for the next heartbeat.
    outbox: Arc<Outbox>,
}

impl Extensions {
    /// Nothing is wanted yet.
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox, ..Self::default() }
    }

    /// Has these extensions enabled, and no others; and their host sides asked anew whether they are there.
    pub(crate) fn want(&self, namespaces: BTreeSet<Namespace>) {
        let _nobody_yet = self.wanted.send_replace(Some(namespaces));
    }

    /// Returns how they were at the last look.
    pub(crate) fn report(&self) -> BTreeMap<Namespace, ExtensionReport> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the host has said last.
    #[cfg(test)]
    pub(crate) fn wanted(&self) -> Option<BTreeSet<Namespace>> {
        self.wanted.borrow().clone()
    }

    fn saw(&self, seen: BTreeMap<Namespace, ExtensionReport>) {
        let mut before = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *before != seen;
        *before = seen;
        drop(before);
        if has_changed {
            self.outbox.health_has_changed();
        }
    }
}

/// Keeps the wanted extensions enabled for as long as the agent runs.
pub(crate) async fn keep(state: &State, bus: &impl BusPing) {
    // Whose files are to be written is known with the identity.
    if state.name().is_none() {
        state.identified.cancelled().await;
    }
    let owner = || agent_files::owner(state);
    let supervisor = Supervisor::new(files::PROGRAM.into(), Path::new("/").join(RUN_DIR), owner());
    let units = Units::of(Path::new("/"), supervisor);
    Keeper::new("/".into(), units, &state.extensions, bus).run(owner).await;
}

/// What does it.
struct Keeper<'a, B> {
    root: PathBuf,
    units: Units,
    extensions: &'a Extensions,
    bus: &'a B,
    /// The enabled ones with their units; nothing for one that the guest does not have.
    enabled: BTreeMap<Namespace, Option<Option<Unit>>>,
    /// What is still to be started or stopped, because it could not be.
    owed: Owed,
    hosts: BTreeMap<Namespace, ExtensionOnHost>,
    pinged: Option<Instant>,
}

#[derive(Debug, Default)]
struct Owed {
    start: BTreeSet<Unit>,
    stop: BTreeSet<Unit>,
}

impl<'a, B: BusPing> Keeper<'a, B> {
    fn new(root: PathBuf, units: Units, extensions: &'a Extensions, bus: &'a B) -> Self {
        Self {
            root,
            units,
            extensions,
            bus,
            enabled: BTreeMap::new(),
            owed: Owed::default(),
            hosts: BTreeMap::new(),
            pinged: None,
        }
    }

    async fn run(mut self, owner: impl Fn() -> User) {
        let mut wanted = self.extensions.wanted.subscribe();
        // What was wanted before this began has not been seen.
        wanted.mark_changed();
        let mut next_look = Instant::now();
        loop {
            let idle = self.enabled.is_empty() && self.owed.is_empty();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = wanted.borrow_and_update().clone();
                    // Nothing is wanted yet, and nothing unwanted.
                    let Some(now) = now else { continue };
                    if self.has_enabled(&now) {
                        self.pinged = None;
                    } else {
                        self.enable(now, owner()).await;
                    }
                }
                () = sleep_until(next_look), if !idle => {}
            }
            self.pay().await;
            self.look().await;
            next_look = Instant::now() + LOOK;
        }
    }

    /// Whether these are what is enabled already, each with its manifest, and nothing is owed.
    fn has_enabled(&self, wanted: &BTreeSet<Namespace>) -> bool {
        self.owed.is_empty()
            && !wanted.is_empty()
            && self.enabled.keys().eq(wanted)
            && self.enabled.values().all(Option::is_some)
    }

    /// Puts files in place and notes what is to be started and stopped.
    async fn enable(&mut self, wanted: BTreeSet<Namespace>, owner: User) {
        let root = self.root.clone();
        let namespaces = wanted.clone();
        let files = apart(FILES, move || put_files(&root, &namespaces, &owner), drop).await;
        let (manifests, before) = match files {
            Ok(done) => done,
            Err(error) => {
                // The next request tries again; what is enabled stays.
                return log::info(&format!("extensions: {}", shed_types::error_chain(&error)));
            }
        };
        let units: BTreeSet<_> =
            wanted.iter().filter_map(|name| manifests.units.get(name)?.clone()).collect();
        let mut stop: BTreeSet<_> = before.units.difference(&units).cloned().collect();
        // An image may have one enabled by itself; it is asked only when there is one.
        let known: BTreeSet<_> = manifests.units.values().flatten().cloned().collect();
        let others = known.difference(&units).filter(|unit| !stop.contains(*unit)).cloned().collect();
        match self.units.look(&others).await {
            Ok(states) => {
                let runs = |state| state != ExtensionInGuest::Stopped;
                stop.extend(states.into_iter().filter(|(_, state)| runs(*state)).map(|(unit, _)| unit));
            }
            Err(error) => log::info(&format!("extensions: {error}")),
        }
        let record = Record::new(&wanted, units.union(&stop).cloned().collect());
        note(&record.write(&self.root));
        self.owed = Owed { start: units, stop };
        self.hosts.retain(|namespace, _| wanted.contains(namespace));
        self.pinged = None;
        self.enabled =
            wanted.into_iter().map(|name| (name.clone(), manifests.units.get(&name).cloned())).collect();
    }

    /// Starts and stops what is to be; what fails is tried again with the next look.
    async fn pay(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let Owed { start, stop } = &self.owed;
        let stopped = note(&self.units.disable(stop).await);
        let started = note(&self.units.enable(start).await);
        if stopped {
            self.owed.stop.clear();
            let wanted = self.enabled.keys().cloned().collect();
            let units = self.enabled.values().flatten().flatten().cloned().collect();
            note(&Record::new(&wanted, units).write(&self.root));
        }
        if started {
            self.owed.start.clear();
        }
    }

    /// Looks at units and pings, and has the next report say what was seen.
    async fn look(&mut self) {
        let units = self.enabled.values().flatten().flatten().cloned().collect();
        let states = self.units.look(&units).await.unwrap_or_else(|error| {
            log::info(&format!("extensions: {error}"));
            BTreeMap::new()
        });
        let before = self.extensions.report();
        let in_guest = |namespace: &Namespace, unit: &Option<Option<Unit>>| match unit {
            None => ExtensionInGuest::Stopped,
            Some(None) => ExtensionInGuest::Running,
            // A look that failed says nothing new.
            Some(Some(unit)) => states.get(unit).copied().unwrap_or_else(|| {
                before.get(namespace).map_or(ExtensionInGuest::Stopped, |report| report.guest)
            }),
        };
        let in_guest: BTreeMap<_, _> =
            self.enabled.iter().map(|(name, unit)| (name.clone(), in_guest(name, unit))).collect();
        // How the guest is does not wait for the host.
        self.tell(&in_guest);
        if self.pinged.is_none_or(|pinged| pinged.elapsed() >= PING) {
            self.pinged = Some(Instant::now());
            let ping = async |namespace: &Namespace| {
                let answer = timeout(PING_LIMIT, self.bus.ping(namespace)).await;
                (namespace.clone(), answer.unwrap_or(ExtensionOnHost::Unreachable))
            };
            self.hosts = join_all(self.enabled.keys().map(ping)).await.into_iter().collect();
            self.tell(&in_guest);
        }
    }

    fn tell(&self, in_guest: &BTreeMap<Namespace, ExtensionInGuest>) {
        let host = |name| self.hosts.get(name).copied().unwrap_or(ExtensionOnHost::Unknown);
        let report = |name, guest| ExtensionReport { guest, host: host(name) };
        let seen = in_guest.iter().map(|(name, guest)| (name.clone(), report(name, *guest)));
        self.extensions.saw(seen.collect());
    }
}

impl Owed {
    fn is_empty(&self) -> bool {
        self.start.is_empty() && self.stop.is_empty()
    }
}

/// Reads manifests and the record, and puts in place what tools need.
fn put_files(root: &Path, wanted: &BTreeSet<Namespace>, owner: &User) -> (manifests::Manifests, Record) {
    let found = manifests::read(root);
    let mut problems = found.warnings.clone();
    problems.extend(
        wanted
            .iter()
            .filter(|name| !found.units.contains_key(name))
            .map(|name| format!("no manifest of this guest has the namespace {name}")),
    );
    problems.extend(files::apply(root, wanted, owner));
    let docker = wanted.iter().any(|name| name.as_str() == "docker-credentials");
    let home = root.join(owner.home.trim_start_matches('/'));
    problems.extend(docker::apply(&home, docker).err());
    for problem in &problems {
        log::info(&format!("extensions: {problem}"));
    }
    (found, Record::read(root))
}

#[cfg(test)]
mod tests;
