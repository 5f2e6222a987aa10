//! The plugin bus: messages of guests on their way to whoever listens to their namespace, and the responses back (spec A.9).
//!
//! The keeper of each message channel has a [`Connection`], the HTTP server a [`Listening`] for each listener, and calls what
//! [`Sheds`](crate::Sheds) offers (`door.rs`). What goes where is decided by [`board`], without I/O; this file puts a lock, wakers,
//! counts and log lines around it. Nothing here reads a payload or waits for a listener, and no payload is in a log.

mod board;
mod door;
mod queue;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use shed_protocol::{Envelope, EnvelopeKind, Frame, Origin};
use shed_types::{BackendKind, Namespace, ShedName};
use tokio::sync::{Notify, watch};

use self::{
    board::{Board, Offered, Refused, Response, Taken},
    queue::Message,
};

pub use self::door::{ListenError, PluginResponse, RespondError};

/// Shortest time between two log lines on messages that were dropped.
const DROPS_LOG: Duration = Duration::from_secs(1);

/// What the server's configuration says of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusSettings {
    /// Whether there is one.
    pub on: bool,
    /// What the server calls itself.
    pub server: String,
    /// The extensions that guests shall run.
    pub enabled: BTreeSet<Namespace>,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self { on: true, server: "shed-server".to_owned(), enabled: BTreeSet::new() }
    }
}

/// What became of a message of the bus, for those who count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginOutcome {
    /// A message of a guest was given to its listener.
    Delivered,
    /// Nobody listens to its namespace.
    NoListener,
    /// Its listener, or the server while it opened the channel, had too much waiting.
    QueueFull,
    /// Its guest has too many requests pending.
    TooMany,
    /// Its guest has a request with its id pending.
    Repeated,
    /// Nobody waited for it any more when its listener came to it, or its listener went before.
    Expired,
    /// The configuration has turned the bus off.
    Off,
    /// A response was put on its way to a guest.
    Answered,
    /// A response nobody waits for.
    NotPending,
    /// A response to a shed whose channel is not open.
    NotConnected,
    /// A response to a guest that has not read those before it.
    GuestFull,
}

impl PluginOutcome {
    /// Every outcome, for tables.
    pub const ALL: [Self; 11] = [
        Self::Delivered,
        Self::NoListener,
        Self::QueueFull,
        Self::TooMany,
        Self::Repeated,
        Self::Expired,
        Self::Off,
        Self::Answered,
        Self::NotPending,
        Self::NotConnected,
        Self::GuestFull,
    ];

    /// Returns the outcome as metrics and log name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::NoListener => "no_listener",
            Self::QueueFull => "queue_full",
            Self::TooMany => "too_many",
            Self::Repeated => "repeated",
            Self::Expired => "expired",
            Self::Off => "off",
            Self::Answered => "answered",
            Self::NotPending => "not_pending",
            Self::NotConnected => "not_connected",
            Self::GuestFull => "guest_full",
        }
    }
}

type Count = Box<dyn Fn(PluginOutcome, u64) + Send + Sync>;

/// The bus of one server.
pub(crate) struct Bus {
    settings: BusSettings,
    enabled: Arc<BTreeSet<Namespace>>,
    backend: BackendKind,
    inner: Mutex<Inner>,
    drops: Mutex<Drops>,
    count: OnceLock<Count>,
    /// How often a listener has come or left.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    board: Board,
    /// Who waits for what, by the number that names the listener or the connection.
    wakers: HashMap<u64, Arc<Notify>>,
}

/// Messages that were dropped since the last log line.
#[derive(Debug, Default)]
struct Drops {
    logged: Option<Instant>,
    unlogged: u64,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Bus {
    /// Makes the bus of a server whose sheds this backend runs.
    pub(crate) fn new(settings: BusSettings, backend: BackendKind) -> Self {
        let enabled = if settings.on { settings.enabled.clone() } else { BTreeSet::new() };
        Self {
            settings,
            enabled: Arc::new(enabled),
            backend,
            inner: Mutex::default(),
            drops: Mutex::default(),
            count: OnceLock::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// Returns what guests are to be told of extensions; nothing when the bus is off.
    pub(crate) fn extensions_to_tell(&self) -> Option<BTreeSet<Namespace>> {
        self.settings.on.then(|| BTreeSet::clone(&self.enabled))
    }

    /// Returns the extensions whose states are shown; none when the bus is off.
    pub(crate) fn enabled(&self) -> &Arc<BTreeSet<Namespace>> {
        &self.enabled
    }

    /// Returns how often a listener has come or left; it changes with each.
    pub(crate) fn listener_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Notes that a shed's channel is open, until the result is dropped.
    pub(crate) fn connect(self: &Arc<Self>, shed: &ShedName) -> Connection {
        let wake = Arc::new(Notify::new());
        let mut inner = self.lock();
        let serial = inner.board.connect(shed);
        let _none = inner.wakers.insert(serial, Arc::clone(&wake));
        drop(inner);
        Connection { bus: Arc::clone(self), shed: shed.clone(), serial, wake }
    }

    fn listen(self: &Arc<Self>, namespace: &Namespace) -> Option<Listening> {
        let wake = Arc::new(Notify::new());
        let mut inner = self.lock();
        let serial = inner.board.listen(namespace, Timestamp::now())?;
        let _none = inner.wakers.insert(serial, Arc::clone(&wake));
        drop(inner);
        self.changes.send_modify(|times| *times += 1);
        tracing::info!(%namespace, "a listener has come to the plugin bus");
        Some(Listening { bus: Arc::clone(self), namespace: namespace.clone(), serial, wake })
    }

    fn respond(&self, shed: &ShedName, namespace: &Namespace, response: Response) -> Result<(), Refused> {
        let mut inner = self.lock();
        let result = inner.board.respond(shed, namespace, response, Instant::now());
        let wake = inner.board.connection(shed).and_then(|serial| inner.wakers.get(&serial).cloned());
        drop(inner);
        if let Some(wake) = wake {
            wake.notify_one();
        }
        self.counted(
            match result {
                Ok(()) => PluginOutcome::Answered,
                Err(Refused::NotConnected) => PluginOutcome::NotConnected,
                Err(Refused::NotPending) => PluginOutcome::NotPending,
                Err(Refused::Full) => PluginOutcome::GuestFull,
            },
            1,
        );
        result
    }

    /// Takes a message of a guest whose channel is the one that `serial` names.
    fn offer(&self, shed: &ShedName, serial: u64, envelope: Envelope) {
        let Ok(namespace) = envelope.namespace.parse::<Namespace>() else { return };
        if !self.settings.on {
            return self.counted(PluginOutcome::Off, 1);
        }
        let message = self.message(shed, envelope);
        let mut inner = self.lock();
        let offered = inner.board.offer(shed, serial, &namespace, message, Instant::now());
        let wake = inner.board.listener(&namespace).and_then(|serial| inner.wakers.get(&serial).cloned());
        drop(inner);
        let dropped = match offered {
            Offered::Queued { gone } => {
                if let Some(wake) = wake {
                    wake.notify_one();
                }
                (gone > 0).then_some((PluginOutcome::QueueFull, gone as u64))
            }
            Offered::NoListener { tell } => {
                if tell {
                    tracing::info!(
                        %shed,
                        %namespace,
                        "nobody listens to what the shed asks for or tells; it gets no answer. Does shed-host-agent run?"
                    );
                }
                return self.counted(PluginOutcome::NoListener, 1);
            }
            Offered::Full => Some((PluginOutcome::QueueFull, 1)),
            Offered::TooMany => Some((PluginOutcome::TooMany, 1)),
            Offered::Repeated => Some((PluginOutcome::Repeated, 1)),
            Offered::Disconnected => Some((PluginOutcome::Expired, 1)),
        };
        if let Some((outcome, times)) = dropped {
            self.dropped(shed, &namespace, outcome, times);
        }
    }

    /// Makes what the listener gets: what the guest says of where it comes from is not read.
    fn message(&self, shed: &ShedName, envelope: Envelope) -> Message {
        let origin = Origin {
            name: shed.to_string(),
            backend: self.backend.to_string(),
            server: self.settings.server.clone(),
        };
        let is_request = envelope.kind == EnvelopeKind::Request;
        let told = Envelope { in_reply_to: None, is_final: true, shed: Some(origin), ..envelope };
        let text = serde_json::to_string(&told).expect("protocol types serialise without error");
        Message { id: told.id, is_request, text }
    }

    /// Counts messages of guests that were dropped, and logs now and then how many.
    fn dropped(&self, shed: &ShedName, namespace: &Namespace, outcome: PluginOutcome, times: u64) {
        self.counted(outcome, times);
        let now = Instant::now();
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.unlogged += times;
        if drops.logged.is_some_and(|logged| now.duration_since(logged) < DROPS_LOG) {
            return;
        }
        let count = std::mem::take(&mut drops.unlogged);
        drops.logged = Some(now);
        drop(drops);
        let reason = outcome.as_str();
        tracing::warn!(%shed, %namespace, reason, count, "messages of sheds were dropped; the last one is named");
    }

    fn counted(&self, outcome: PluginOutcome, times: u64) {
        if let Some(count) = self.count.get().filter(|_| times > 0) {
            count(outcome, times);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The board is whole at every point where a holder could die.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open message channel, as the bus knows it. Dropping it closes it there.
pub(crate) struct Connection {
    bus: Arc<Bus>,
    shed: ShedName,
    serial: u64,
    wake: Arc<Notify>,
}

impl Connection {
    /// Takes a request or an event of the guest. It never waits; what nobody can take is dropped and counted.
    pub(crate) fn offer(&self, envelope: Envelope) {
        self.bus.offer(&self.shed, self.serial, envelope);
    }

    /// Counts messages that had no room while the channel was opened.
    pub(crate) fn lost_early(&self, messages: u64) {
        self.bus.counted(PluginOutcome::QueueFull, messages);
    }

    /// Waits for the next response that the guest is to get.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn response(&self) -> Frame {
        loop {
            // One that came between the look and the wait has left its mark there.
            if let Some(frame) = self.bus.lock().board.next_response(&self.shed, self.serial) {
                return frame;
            }
            self.wake.notified().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut inner = self.bus.lock();
        let _waker = inner.wakers.remove(&self.serial);
        let forgotten = inner.board.disconnect(&self.shed, self.serial);
        drop(inner);
        self.bus.counted(PluginOutcome::Expired, forgotten as u64);
    }
}

/// The one listener of a namespace. Dropping it gives the namespace up.
pub struct Listening {
    bus: Arc<Bus>,
    namespace: Namespace,
    serial: u64,
    wake: Arc<Notify>,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Listening {
    /// Waits for the next message: JSON on one line, with the shed that it comes from. Sheds take turns.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> String {
        loop {
            let taken = self.bus.lock().board.take(&self.namespace, self.serial, Instant::now());
            let (text, expired) = match taken {
                Taken::Message { text, expired } => (Some(text), expired),
                Taken::Nothing { expired } => (None, expired),
            };
            self.bus.counted(PluginOutcome::Expired, expired as u64);
            if let Some(text) = text {
                self.bus.counted(PluginOutcome::Delivered, 1);
                return text;
            }
            self.wake.notified().await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut inner = self.bus.lock();
        let _waker = inner.wakers.remove(&self.serial);
        let lost = inner.board.leave(&self.namespace, self.serial);
        drop(inner);
        self.bus.counted(PluginOutcome::Expired, lost as u64);
        self.bus.changes.send_modify(|times| *times += 1);
        tracing::info!(namespace = %self.namespace, lost, "a listener has left the plugin bus");
    }
}
