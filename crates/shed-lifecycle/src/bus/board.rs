//! Who listens, which sheds are connected, and what each of them waits for. Pure: the time is an argument, nothing waits.
//!
//! The bus holds one behind a lock. Nothing here trusts a guest: what it may have pending is bounded, and a response reaches
//! it only when it asked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use shed_protocol::{
    Frame,
    publish::{MAX_IN_FLIGHT, WAIT},
};
use shed_types::{Namespace, ShedName};
use uuid::Uuid;

use super::queue::{Bounds, FairQueue, Message};

/// How long a request is pending: the guest's own wait, and some time for what is on its way.
pub(super) const PENDING: Duration = WAIT.saturating_add(Duration::from_secs(5));

/// Most responses that wait for a guest that reads slowly.
const RESPONSES: Bounds = Bounds { messages: 64, bytes: 4 << 20 };

/// How often it is told at most that nobody listens to a namespace that a shed wants.
const NO_LISTENER_LOG: Duration = Duration::from_secs(60);

/// Most namespaces of a shed that it is told of in that time: they are the guest's to make up.
const NO_LISTENER_NAMES: usize = 8;

/// Listeners and sheds.
#[derive(Default)]
pub(super) struct Board {
    listeners: BTreeMap<Namespace, Seat>,
    sheds: BTreeMap<ShedName, Connected>,
    last: u64,
}

/// The one listener of a namespace.
struct Seat {
    serial: u64,
    since: Timestamp,
    queue: FairQueue,
}

/// A shed whose message channel is open.
struct Connected {
    serial: u64,
    pending: HashMap<Uuid, Pending>,
    responses: VecDeque<Frame>,
    response_bytes: usize,
    /// When it was last told that nobody listens.
    told: BTreeMap<Namespace, Instant>,
}

/// A request that may be answered.
struct Pending {
    namespace: Namespace,
    until: Instant,
}

/// What became of a message of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It waits for its listener. So many others had to go for it.
    Queued { gone: usize },
    /// Nobody listens; whether that is to be logged.
    NoListener { tell: bool },
    /// It does not fit into the listener's queue.
    Full,
    /// The shed has as many requests pending as it may have.
    TooMany,
    /// The shed has a request with this id already.
    Repeated,
    /// The channel that it came by is closed.
    Disconnected,
}

/// Why a response reaches no guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The shed's channel is not open.
    NotConnected,
    /// The shed waits for no such response.
    NotPending,
    /// The guest has not read those before it.
    Full,
}

/// What a listener finds.
#[derive(PartialEq, Eq)]
pub(super) enum Taken {
    /// A message, after so many that nobody waits for any more.
    Message { text: String, expired: usize },
    /// Nothing now.
    Nothing { expired: usize },
}

impl Board {
    /// Notes that a shed's channel is open, in place of one before. Returns what names this opening.
    pub(super) fn connect(&mut self, shed: &ShedName) -> u64 {
        self.disconnect_any(shed);
        let serial = self.next_serial();
        let connected = Connected {
            serial,
            pending: HashMap::new(),
            responses: VecDeque::new(),
            response_bytes: 0,
            told: BTreeMap::new(),
        };
        let _none = self.sheds.insert(shed.clone(), connected);
        serial
    }

    /// Notes that a channel is closed. What the shed asked for is forgotten; its events are still told. Returns how many
    /// requests nobody will hear.
    pub(super) fn disconnect(&mut self, shed: &ShedName, serial: u64) -> usize {
        if self.sheds.get(shed).is_some_and(|connected| connected.serial == serial) {
            self.disconnect_any(shed)
        } else {
            0
        }
    }

    fn disconnect_any(&mut self, shed: &ShedName) -> usize {
        if self.sheds.remove(shed).is_none() {
            return 0;
        }
        self.listeners.values_mut().map(|seat| seat.queue.forget_requests(shed)).sum()
    }

    /// Gives a namespace to a listener, unless it has one. Returns what names this one.
    pub(super) fn listen(&mut self, namespace: &Namespace, now: Timestamp) -> Option<u64> {
        if self.listeners.contains_key(namespace) {
            return None;
        }
        let serial = self.next_serial();
        let seat = Seat { serial, since: now, queue: FairQueue::default() };
        let _none = self.listeners.insert(namespace.clone(), seat);
        Some(serial)
    }

    /// Takes a namespace from its listener. Requests that it has not taken are forgotten. Returns how many messages are
    /// lost.
    pub(super) fn leave(&mut self, namespace: &Namespace, serial: u64) -> usize {
        if self.listeners.get(namespace).is_none_or(|seat| seat.serial != serial) {
            return 0;
        }
        let Some(mut seat) = self.listeners.remove(namespace) else { return 0 };
        let mut lost = 0;
        while let Some((shed, message)) = seat.queue.pop() {
            self.forget(&shed, &message);
            lost += 1;
        }
        lost
    }

    /// Takes a message of a guest, by the channel that `serial` names.
    pub(super) fn offer(
        &mut self,
        shed: &ShedName,
        serial: u64,
        namespace: &Namespace,
        message: Message,
        now: Instant,
    ) -> Offered {
        let Some(connected) = self.sheds.get_mut(shed).filter(|connected| connected.serial == serial) else {
            return Offered::Disconnected;
        };
        let Some(seat) = self.listeners.get_mut(namespace) else {
            return Offered::NoListener { tell: connected.may_tell(namespace, now) };
        };
        let (id, is_request) = (message.id, message.is_request);
        if is_request {
            connected.pending.retain(|_, pending| now < pending.until);
            if connected.pending.contains_key(&id) {
                return Offered::Repeated;
            }
            if connected.pending.len() >= MAX_IN_FLIGHT {
                return Offered::TooMany;
            }
        }
        let Ok(gone) = seat.queue.push(shed, message) else { return Offered::Full };
        if is_request {
            let pending = Pending { namespace: namespace.clone(), until: now + PENDING };
            let _none = connected.pending.insert(id, pending);
        }
        for (other, message) in &gone {
            self.forget(other, message);
        }
        Offered::Queued { gone: gone.len() }
    }

    /// Takes the next message for a listener; nothing when the namespace is not its own any more.
    pub(super) fn take(&mut self, namespace: &Namespace, serial: u64, now: Instant) -> Taken {
        let mut expired = 0;
        let seat = self.listeners.get_mut(namespace).filter(|seat| seat.serial == serial);
        let Some(seat) = seat else { return Taken::Nothing { expired } };
        while let Some((shed, message)) = seat.queue.pop() {
            let pending = self.sheds.get(&shed).and_then(|connected| connected.pending.get(&message.id));
            if !message.is_request || pending.is_some_and(|pending| now < pending.until) {
                return Taken::Message { text: message.text, expired };
            }
            expired += 1;
        }
        Taken::Nothing { expired }
    }

    /// Puts a response on its way to the guest that waits for it.
    ///
    /// # Errors
    /// When none does, or it does not read.
    pub(super) fn respond(
        &mut self,
        shed: &ShedName,
        namespace: &Namespace,
        response: Response,
        now: Instant,
    ) -> Result<(), Refused> {
        let connected = self.sheds.get_mut(shed).ok_or(Refused::NotConnected)?;
        let to = response.to.ok_or(Refused::NotPending)?;
        let pending = connected.pending.get(&to).ok_or(Refused::NotPending)?;
        if pending.namespace != *namespace || now >= pending.until {
            return Err(Refused::NotPending);
        }
        let bytes = connected.response_bytes + response.frame.payload.len();
        if connected.responses.len() >= RESPONSES.messages || bytes > RESPONSES.bytes {
            return Err(Refused::Full);
        }
        connected.response_bytes = bytes;
        connected.responses.push_back(response.frame);
        if response.is_final {
            let _answered = connected.pending.remove(&to);
        }
        Ok(())
    }

    /// Takes the next response for a guest.
    pub(super) fn next_response(&mut self, shed: &ShedName, serial: u64) -> Option<Frame> {
        let connected = self.sheds.get_mut(shed).filter(|connected| connected.serial == serial)?;
        let frame = connected.responses.pop_front()?;
        connected.response_bytes -= frame.payload.len();
        Some(frame)
    }

    /// Returns who listens, and since when, sorted.
    pub(super) fn listeners(&self) -> Vec<(Namespace, Timestamp)> {
        self.listeners.iter().map(|(namespace, seat)| (namespace.clone(), seat.since)).collect()
    }

    /// Returns the sheds whose channels are open, sorted.
    pub(super) fn sheds(&self) -> Vec<ShedName> {
        self.sheds.keys().cloned().collect()
    }

    /// Forgets a request that no listener will hear.
    fn forget(&mut self, shed: &ShedName, message: &Message) {
        if message.is_request
            && let Some(connected) = self.sheds.get_mut(shed)
        {
            let _pending = connected.pending.remove(&message.id);
        }
    }

    /// Returns what names the open channel of a shed.
    pub(super) fn connection(&self, shed: &ShedName) -> Option<u64> {
        self.sheds.get(shed).map(|connected| connected.serial)
    }

    /// Returns what names the listener of a namespace.
    pub(super) fn listener(&self, namespace: &Namespace) -> Option<u64> {
        self.listeners.get(namespace).map(|seat| seat.serial)
    }

    fn next_serial(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// A response on its way to a guest.
pub(super) struct Response {
    /// The request that it answers; nothing when what names it is no id.
    pub(super) to: Option<Uuid>,
    /// Whether no more follow.
    pub(super) is_final: bool,
    /// The whole of it.
    pub(super) frame: Frame,
}

impl Connected {
    fn may_tell(&mut self, namespace: &Namespace, now: Instant) -> bool {
        self.told.retain(|_, at| now.duration_since(*at) < NO_LISTENER_LOG);
        let may = !self.told.contains_key(namespace) && self.told.len() < NO_LISTENER_NAMES;
        if may {
            let _none = self.told.insert(namespace.clone(), now);
        }
        may
    }
}

#[cfg(test)]
mod tests;
