//! The message channel of a running guest as the rest of this crate uses it: requests with their answers, and events.
//!
//! The keeper of the channel serves it for as long as it is open. When it breaks, what waits for an answer fails, and
//! users are told of the new one by [`GuestChannel::openings`], after which they tell the guest again what it may have
//! forgotten. Nothing here trusts the guest: answers nobody waits for are dropped, the queues are bounded, and what it says
//! of itself passes [`guest_events`](crate::guest_events) first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use shed_protocol::{
    Envelope, EnvelopeKind, GuestEvent, HealthRequest, SYSTEM_CREDENTIALS, SYSTEM_EVENT, SYSTEM_HEALTH,
    timeouts::HEALTH_EVENT,
};
use shed_types::{Namespace, ShedName};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::consume_budget,
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

use crate::{
    bus::{Bus, Connection},
    channel::{CLOCK_TOLERANCE, Channel, ChannelError, read_reply},
    guest_events::Recent,
};

/// Requests that wait to be sent; callers beyond it wait before they are queued.
const REQUESTS: usize = 32;

/// What happened in a guest that waits for a slow user, who then misses the oldest. Each has a few texts of bounded length.
const EVENTS: usize = 256;

/// Messages about credentials that wait for a slow user. Each may have 128 KiB; an agent sends one a credential at a time,
/// and of those that are missed all files are compared.
const CREDENTIAL_EVENTS: usize = 16;

/// How often a guest tells its health while somebody watches it.
const WATCHED_PACE: Duration = Duration::from_secs(2);

/// Shortest time between two words to a guest about its extensions: listeners may come and go as they like.
const EXTENSIONS_PAUSE: Duration = Duration::from_secs(1);

/// Shortest time between two words to a guest about its clock: what a guest says of its own may be a lie.
const CLOCK_PAUSE: Duration = Duration::from_secs(10);

/// Longest time between two reports of a guest whose channel works: four that it leaves out.
const SILENCE: Duration = Duration::from_secs(4 * HEALTH_EVENT.as_secs());

/// How long a guest in which an agent has come up anew has for an answer by the channel as it is, which may lead to a former
/// boot. Where it leads to nothing at all, the kernel of the guest says so at once.
const ANSWER: Duration = Duration::from_secs(10);

/// A running guest's message channel. Cheap to clone; it outlives breaks of the channel, and ends with the machine.
#[derive(Debug, Clone)]
pub(crate) struct GuestChannel(Arc<Ends>);

/// The users' ends of what the keeper serves.
#[derive(Debug)]
struct Ends {
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<Arc<Envelope>>,
    guest_events: broadcast::Sender<GuestEvent>,
    recent: Arc<Mutex<Recent>>,
    openings: watch::Receiver<u64>,
    open: watch::Receiver<bool>,
    watchers: watch::Sender<usize>,
}

/// Somebody who watches a guest; while there is one, the guest tells its health more often.
#[derive(Debug)]
pub(crate) struct Watching(watch::Sender<usize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.send_modify(|watchers| *watchers -= 1);
    }
}

/// The keeper's end.
#[derive(Debug)]
pub(crate) struct Users {
    bus: Arc<Bus>,
    shed: ShedName,
    asks: mpsc::Receiver<Ask>,
    events: broadcast::Sender<Arc<Envelope>>,
    guest_events: broadcast::Sender<GuestEvent>,
    recent: Arc<Mutex<Recent>>,
    openings: watch::Sender<u64>,
    open: watch::Sender<bool>,
    watchers: watch::Receiver<usize>,
}

/// A request on its way, and where its answer goes; dropped when the channel breaks.
#[derive(Debug)]
struct Ask {
    request: Envelope,
    reply: oneshot::Sender<Envelope>,
}

/// Makes both ends, for one machine. What its guest says to listeners goes to the bus.
pub(crate) fn pair(bus: Arc<Bus>, shed: ShedName) -> (GuestChannel, Users) {
    let (ask, asks) = mpsc::channel(REQUESTS);
    let events = broadcast::Sender::new(CREDENTIAL_EVENTS);
    let guest_events = broadcast::Sender::new(EVENTS);
    let recent: Arc<Mutex<Recent>> = Arc::default();
    let (openings, open) = (watch::Sender::new(0), watch::Sender::new(false));
    let watchers = watch::Sender::new(0);
    let users = Users {
        bus,
        shed,
        asks,
        events: events.clone(),
        guest_events: guest_events.clone(),
        recent: Arc::clone(&recent),
        openings,
        open,
        watchers: watchers.subscribe(),
    };
    let ends = Ends {
        asks: ask,
        events,
        guest_events,
        recent,
        openings: users.openings.subscribe(),
        open: users.open.subscribe(),
        watchers,
    };
    (GuestChannel(Arc::new(ends)), users)
}

impl GuestChannel {
    /// Sends a request and waits for its answer, at most `patience`, in which the channel may have to be opened first.
    ///
    /// # Errors
    /// When the channel is away or breaks, the guest does not answer or refuses, or its answer is no `R`.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the answer; the guest may have acted.
    pub(crate) async fn request<T, R>(
        &self,
        namespace: &'static str,
        payload: &T,
        patience: Duration,
    ) -> Result<R, ChannelError>
    where
        T: Serialize + Sync,
        R: DeserializeOwned,
    {
        let request = Envelope::request(namespace, payload);
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.0.asks.send(Ask { request, reply }).await.map_err(|_| ChannelError::Closed)?;
            answer.await.map_err(|_| ChannelError::Closed)
        };
        let late = |_| ChannelError::NoReply { namespace, waited: patience };
        let reply = timeout(patience, exchange).await.map_err(late)??;
        read_reply(namespace, &reply)
    }

    /// Returns what the guest says of credentials from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Arc<Envelope>> {
        self.0.events.subscribe()
    }

    /// Returns what happens in the guest from now on, fit to be shown, and each thing once.
    pub(crate) fn guest_events(&self) -> broadcast::Receiver<GuestEvent> {
        self.0.guest_events.subscribe()
    }

    /// Returns what happened in the guest of late, the oldest first.
    pub(crate) fn recent_events(&self) -> Vec<GuestEvent> {
        lock(&self.0.recent).list()
    }

    /// Returns whether the channel is open, now and from now on.
    pub(crate) fn open(&self) -> watch::Receiver<bool> {
        self.0.open.clone()
    }

    /// Has the guest tell its health every other second until the result is dropped.
    pub(crate) fn watching(&self) -> Watching {
        self.0.watchers.send_modify(|watchers| *watchers += 1);
        Watching(self.0.watchers.clone())
    }

    /// Returns how often the channel has been opened; 0 before the first time. It changes with each opening, and its
    /// sender goes with the machine.
    pub(crate) fn openings(&self) -> watch::Receiver<u64> {
        self.0.openings.clone()
    }
}

impl Users {
    /// Returns the extensions whose states are looked at.
    pub(crate) fn extensions(&self) -> Arc<BTreeSet<Namespace>> {
        Arc::clone(self.bus.enabled())
    }

    /// Serves the users of an open channel until it breaks, and returns why. `came` changes when an agent comes up.
    pub(crate) async fn serve(&mut self, channel: &mut Channel, came: watch::Receiver<u64>) -> ChannelError {
        self.openings.send_modify(|times| *times += 1);
        let _was = self.open.send_replace(true);
        let error = self.serve_open(channel, came).await;
        let _was = self.open.send_replace(false);
        error
    }

    async fn serve_open(&mut self, channel: &mut Channel, mut came: watch::Receiver<u64>) -> ChannelError {
        // Whoever has come so far may be the one that answered.
        came.mark_unchanged();
        let mut report_by = (Instant::now() + SILENCE, SILENCE);
        let mut waiting: HashMap<Uuid, oneshot::Sender<Envelope>> = HashMap::new();
        let connection = self.bus.connect(&self.shed);
        let early = channel.take_early();
        for envelope in early.events.into_iter().chain(early.messages) {
            self.take(envelope, &mut waiting, &connection);
        }
        connection.lost_early(early.lost);
        // Also after each change of listeners, whereupon the guest asks them anew whether they are there.
        let mut listeners = self.bus.listener_changes();
        let mut must_tell = true;
        let mut tell_at = Instant::now();
        // Every report bears the guest's time, so the first one after the host slept shows how long it was.
        let mut reports = channel.reports();
        let mut clock_told_at: Option<Instant> = None;
        // A new channel has the guest's own pace.
        let mut watched = false;
        loop {
            let wanted = *self.watchers.borrow_and_update() > 0;
            if wanted != watched {
                watched = wanted;
                let pace = if watched { WATCHED_PACE } else { HEALTH_EVENT };
                let every_ms = u64::try_from(pace.as_millis()).ok();
                // The answer is noted by the channel itself, like every health report.
                let request =
                    Envelope::request(SYSTEM_HEALTH, &HealthRequest { every_ms, ..Default::default() });
                if let Err(error) = channel.send(&request).await {
                    return error;
                }
            }
            tokio::select! {
                received = channel.receive() => match received {
                    Ok(envelope) => {
                        self.take(envelope, &mut waiting, &connection);
                        // A guest may send without end, and what has come already is read without a pause.
                        consume_budget().await;
                    }
                    Err(error) => return error,
                },
                response = connection.response() => {
                    if let Err(error) = channel.send_frame(response).await {
                        return error;
                    }
                }
                // The sender's half is held by the keeper itself, so there is always one; of the watchers as well.
                Some(Ask { request, reply }) = self.asks.recv() => {
                    // Whoever has gone meanwhile waits for nothing; their places are given up here.
                    waiting.retain(|_, waits| !waits.is_closed());
                    if reply.is_closed() {
                        continue;
                    }
                    let id = request.id;
                    if let Err(error) = channel.send(&request).await {
                        return error;
                    }
                    let _none = waiting.insert(id, reply);
                }
                Ok(()) = self.watchers.changed() => {}
                // A backend that has no such news has dropped its sender.
                Ok(()) = came.changed() => {
                    report_by = report_by.min((Instant::now() + ANSWER, ANSWER));
                    let request = Envelope::request(SYSTEM_HEALTH, &HealthRequest::default());
                    if let Err(error) = channel.send(&request).await {
                        return error;
                    }
                }
                () = sleep_until(report_by.0) => return ChannelError::Silent { waited: report_by.1 },
                // The channel itself holds their sender.
                Ok(()) = reports.changed() => {
                    report_by = (Instant::now() + SILENCE, SILENCE);
                    let off = reports.borrow_and_update().clock_off;
                    let soon = clock_told_at.is_some_and(|told| told.elapsed() < CLOCK_PAUSE);
                    if off.abs() <= CLOCK_TOLERANCE || soon {
                        continue;
                    }
                    clock_told_at = Some(Instant::now());
                    tracing::info!(shed = %self.shed, ?off, "the guest's clock is wrong; telling it the time");
                    let told = HealthRequest { now: Some(Timestamp::now()), ..Default::default() };
                    if let Err(error) = channel.send(&Envelope::request(SYSTEM_HEALTH, &told)).await {
                        return error;
                    }
                }
                Ok(()) = listeners.changed(), if !must_tell => must_tell = !self.extensions().is_empty(),
                () = sleep_until(tell_at), if must_tell => {
                    must_tell = false;
                    tell_at = Instant::now() + EXTENSIONS_PAUSE;
                    if let Some(extensions) = self.bus.extensions_to_tell() {
                        let told = HealthRequest { extensions: Some(extensions), ..Default::default() };
                        if let Err(error) = channel.send(&Envelope::request(SYSTEM_HEALTH, &told)).await {
                            return error;
                        }
                    }
                }
            }
        }
    }

    fn take(
        &self,
        envelope: Envelope,
        waiting: &mut HashMap<Uuid, oneshot::Sender<Envelope>>,
        connection: &Connection,
    ) {
        match envelope.kind {
            EnvelopeKind::Response => {
                if let Some(reply) = envelope.in_reply_to.and_then(|id| waiting.remove(&id)) {
                    let _gone = reply.send(envelope);
                }
            }
            EnvelopeKind::Event if envelope.namespace == SYSTEM_EVENT => {
                // Newer agents may tell of what is not known here.
                let Ok(event) = envelope.parse() else { return };
                let Some(event) = lock(&self.recent).take(event, Instant::now().into_std()) else { return };
                // Nobody may listen.
                let _listeners = self.guest_events.send(event);
            }
            EnvelopeKind::Event if envelope.namespace == SYSTEM_CREDENTIALS => {
                let _listeners = self.events.send(Arc::new(envelope));
            }
            // Health is noted by the channel itself, and what nobody knows ends there.
            EnvelopeKind::Event | EnvelopeKind::Request => connection.offer(envelope),
        }
    }
}

/// What happened is whole at every point where a holder of the lock could die.
fn lock(recent: &Mutex<Recent>) -> std::sync::MutexGuard<'_, Recent> {
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}
