//! What programs of the guest have published: on its way to the host, and waiting for its response.
//!
//! The publish API puts messages in; the message channel's writer takes them when nothing else is to be sent, and its reader
//! brings the responses. Bounded, and nothing outlives the channel that it went by, nor whoever waits for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use shed_protocol::{
    Envelope, EnvelopeKind, Frame, FrameKind, MAX_PAYLOAD,
    publish::{MAX_IN_FLIGHT, PublishErrorCode},
};
use shed_types::Namespace;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};
use uuid::Uuid;

/// Most messages that wait to be sent, and their bytes together; one is taken whatever its length.
const QUEUE: (usize, usize) = (128, 8 << 20);

/// Why a message brought nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: PublishErrorCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: PublishErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Where messages wait.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Which channel takes messages, while one does; they count from 1.
    open: Option<u64>,
    last: u64,
    closing: bool,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    waiting: HashMap<Uuid, Waiting>,
}

/// A message to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    id: Uuid,
    pub(crate) frame: Frame,
}

/// Somebody who waits: for a response, or with an event until it is sent.
#[derive(Debug)]
struct Waiting {
    kind: EnvelopeKind,
    namespace: Namespace,
    end: oneshot::Sender<Result<Option<Envelope>, Failure>>,
}

/// A place at the desk; dropping it gives it up, and the message with it if it is not sent yet.
struct Place<'a> {
    desk: &'a Desk,
    id: Uuid,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.desk.lock();
        let _answered = inner.waiting.remove(&self.id);
        inner.unqueue(self.id);
    }
}

/// The channel that takes messages. Dropping it fails what waits.
#[derive(Debug)]
pub(crate) struct Counter<'a> {
    desk: &'a Desk,
    serial: u64,
}

impl Desk {
    /// Sends a request and waits for its final response.
    ///
    /// # Errors
    /// With the code that the specification has for what went wrong (B.7).
    ///
    /// # Cancel safety
    /// Dropping the future gives the request up; the host may have heard it.
    pub(crate) async fn request(
        &self,
        namespace: &Namespace,
        payload: &Value,
        patience: Duration,
    ) -> Result<Envelope, Failure> {
        let envelope = Envelope::request(namespace.as_str(), payload);
        let late = || {
            let seconds = patience.as_secs();
            let message = format!(
                "nobody answered in namespace `{namespace}` within {seconds} s; does its host agent run and listen?"
            );
            Failure::new(PublishErrorCode::Timeout, message)
        };
        match self.send(namespace, &envelope, patience).await {
            Some(end) => end.map(|response| response.expect("a request ends with a response or a failure")),
            None => Err(late()),
        }
    }

    /// Sends an event and waits until the host's end of the channel has it.
    ///
    /// # Errors
    /// With the code that the specification has for what went wrong (B.7).
    ///
    /// # Cancel safety
    /// Dropping the future gives the event up, unless it is sent already.
    pub(crate) async fn event(
        &self,
        namespace: &Namespace,
        payload: &Value,
        patience: Duration,
    ) -> Result<(), Failure> {
        let envelope = Envelope::event(namespace.as_str(), payload);
        match self.send(namespace, &envelope, patience).await {
            Some(end) => end.map(drop),
            None => {
                let message = format!("the host did not take the message within {} s", patience.as_secs());
                Err(Failure::new(PublishErrorCode::SendFailed, message))
            }
        }
    }

    /// Sends a message and waits for its end; nothing comes in time when that is too long.
    async fn send(
        &self,
        namespace: &Namespace,
        envelope: &Envelope,
        patience: Duration,
    ) -> Option<Result<Option<Envelope>, Failure>> {
        let end = match self.put(namespace, envelope) {
            Ok(end) => end,
            Err(failure) => return Some(Err(failure)),
        };
        let _place = Place { desk: self, id: envelope.id };
        let end = timeout(patience, end).await.ok()?;
        Some(end.unwrap_or_else(|_| Err(connection_lost())))
    }

    fn put(
        &self,
        namespace: &Namespace,
        envelope: &Envelope,
    ) -> Result<oneshot::Receiver<Result<Option<Envelope>, Failure>>, Failure> {
        // Looked at first, so that what is refused anyway costs little.
        self.lock().check()?;
        let frame = Frame::json(FrameKind::Message, envelope);
        let bytes = frame.payload.len();
        if bytes > MAX_PAYLOAD {
            let message = format!(
                "the message has {bytes} bytes with what goes around its payload; at most {MAX_PAYLOAD} can be sent"
            );
            return Err(Failure::new(PublishErrorCode::InvalidBody, message));
        }
        let (end, ended) = oneshot::channel();
        let mut inner = self.lock();
        inner.check()?;
        let requests = inner.waiting.values().filter(|waiting| waiting.kind == EnvelopeKind::Request);
        if envelope.kind == EnvelopeKind::Request && requests.count() >= MAX_IN_FLIGHT {
            let message = format!(
                "{MAX_IN_FLIGHT} requests of this shed wait for their responses already, and no more may; try again when \
                 some are answered"
            );
            return Err(Failure::new(PublishErrorCode::TooManyRequests, message));
        }
        if inner.queue.len() >= QUEUE.0 || (inner.queued_bytes + bytes > QUEUE.1 && !inner.queue.is_empty()) {
            let message = "the host takes messages more slowly than they come; try again in a moment";
            return Err(Failure::new(PublishErrorCode::TooManyRequests, message));
        }
        let waiting = Waiting { kind: envelope.kind, namespace: namespace.clone(), end };
        let _none = inner.waiting.insert(envelope.id, waiting);
        inner.queued_bytes += bytes;
        inner.queue.push_back(Outgoing { id: envelope.id, frame });
        drop(inner);
        self.arrived.notify_one();
        Ok(ended)
    }

    /// Notes that a channel takes messages from now on. One before it takes no more.
    pub(crate) fn open(&self) -> Counter<'_> {
        let mut inner = self.lock();
        inner.fail_all(&connection_lost());
        inner.last += 1;
        let serial = inner.last;
        inner.open = Some(serial);
        Counter { desk: self, serial }
    }

    /// Brings what the host has answered. What nobody waits for is dropped, and so are responses after which more follow:
    /// they are reserved (spec B.7).
    pub(crate) fn answer(&self, response: Envelope) {
        let Some(id) = response.in_reply_to.filter(|_| response.is_final) else { return };
        let mut inner = self.lock();
        let ours = inner.waiting.get(&id).is_some_and(|waiting| {
            waiting.kind == EnvelopeKind::Request && waiting.namespace.as_str() == response.namespace
        });
        if ours && let Some(waiting) = inner.waiting.remove(&id) {
            let _gone = waiting.end.send(Ok(Some(response)));
        }
    }

    /// Takes nothing more, and fails what waits: the agent ends.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        inner.fail_all(&shutting_down());
    }

    /// Returns how many wait, and how many messages are not sent.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.waiting.len(), inner.queue.len())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The desk is whole at every point where a holder could die.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check(&self) -> Result<(), Failure> {
        if self.closing {
            return Err(shutting_down());
        }
        if self.open.is_none() {
            let message = "no shed-server is connected to this shed at the moment; try again when one is";
            return Err(Failure::new(PublishErrorCode::NoConnection, message));
        }
        Ok(())
    }

    fn fail_all(&mut self, failure: &Failure) {
        for (_, waiting) in self.waiting.drain() {
            let unsent_event =
                waiting.kind == EnvelopeKind::Event && failure.code == PublishErrorCode::ConnectionLost;
            let failure = if unsent_event {
                let message = "the connection to the shed-server broke before the message was sent";
                Failure::new(PublishErrorCode::SendFailed, message)
            } else {
                failure.clone()
            };
            let _gone = waiting.end.send(Err(failure));
        }
        self.queue.clear();
        self.queued_bytes = 0;
    }

    fn unqueue(&mut self, id: Uuid) {
        if let Some(at) = self.queue.iter().position(|outgoing| outgoing.id == id)
            && let Some(outgoing) = self.queue.remove(at)
        {
            self.queued_bytes -= outgoing.frame.payload.len();
        }
    }
}

impl Counter<'_> {
    /// Waits for a message to send. It is given out again until [`Self::sent`] is called.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> Outgoing {
        loop {
            let front = {
                let inner = self.desk.lock();
                (inner.open == Some(self.serial)).then(|| inner.queue.front().cloned())
            };
            match front {
                Some(Some(outgoing)) => return outgoing,
                // One that was put there between the look and the wait has left its mark.
                Some(None) => self.desk.arrived.notified().await,
                None => {
                    // A mark that woke this one was meant for the newer.
                    self.desk.arrived.notify_one();
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Notes that a message is with the host. An event has come to its end with that.
    pub(crate) fn sent(&self, outgoing: &Outgoing) {
        let mut inner = self.desk.lock();
        inner.unqueue(outgoing.id);
        let is_event =
            inner.waiting.get(&outgoing.id).is_some_and(|waiting| waiting.kind == EnvelopeKind::Event);
        if is_event && let Some(waiting) = inner.waiting.remove(&outgoing.id) {
            let _gone = waiting.end.send(Ok(None));
        }
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        let mut inner = self.desk.lock();
        // A newer channel has failed what went by this one.
        if inner.open == Some(self.serial) {
            inner.open = None;
            inner.fail_all(&connection_lost());
        }
    }
}

fn connection_lost() -> Failure {
    let message = "the connection to the shed-server broke before the response came; try again";
    Failure::new(PublishErrorCode::ConnectionLost, message)
}

fn shutting_down() -> Failure {
    Failure::new(PublishErrorCode::ShuttingDown, "the agent of this shed is shutting down")
}
