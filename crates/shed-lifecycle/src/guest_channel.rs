//! The message channel of a running guest as the rest of this crate uses it: requests with their answers, and events.
//!
//! The keeper of the channel serves it for as long as it is open. When it breaks, what waits for an answer fails, and
//! users are told of the new one by [`GuestChannel::openings`], after which they tell the guest again what it may have
//! forgotten. Nothing here trusts the guest: answers nobody waits for are dropped, and the queues are bounded.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use shed_protocol::{Envelope, EnvelopeKind};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};
use uuid::Uuid;

use crate::channel::{Channel, ChannelError, read_reply};

/// Requests that wait to be sent; callers beyond it wait before they are queued.
const REQUESTS: usize = 32;

/// Events that wait for a slow user, who then misses the oldest.
const EVENTS: usize = 256;

/// A running guest's message channel. Cheap to clone; it outlives breaks of the channel, and ends with the machine.
#[derive(Debug, Clone)]
pub(crate) struct GuestChannel {
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<Arc<Envelope>>,
    openings: watch::Receiver<u64>,
}

/// The keeper's end.
#[derive(Debug)]
pub(crate) struct Users {
    asks: mpsc::Receiver<Ask>,
    events: broadcast::Sender<Arc<Envelope>>,
    openings: watch::Sender<u64>,
}

/// A request on its way, and where its answer goes; dropped when the channel breaks.
#[derive(Debug)]
struct Ask {
    request: Envelope,
    reply: oneshot::Sender<Envelope>,
}

/// Makes both ends, for one machine.
pub(crate) fn pair() -> (GuestChannel, Users) {
    let (ask, asks) = mpsc::channel(REQUESTS);
    let events = broadcast::Sender::new(EVENTS);
    let openings = watch::Sender::new(0);
    let channel = GuestChannel { asks: ask, events: events.clone(), openings: openings.subscribe() };
    (channel, Users { asks, events, openings })
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
            self.asks.send(Ask { request, reply }).await.map_err(|_| ChannelError::Closed)?;
            answer.await.map_err(|_| ChannelError::Closed)
        };
        let late = |_| ChannelError::NoReply { namespace, waited: patience };
        let reply = timeout(patience, exchange).await.map_err(late)??;
        read_reply(namespace, &reply)
    }

    /// Returns the events of the guest from now on, those of all namespaces.
    pub(crate) fn events(&self) -> broadcast::Receiver<Arc<Envelope>> {
        self.events.subscribe()
    }

    /// Returns how often the channel has been opened; 0 before the first time. It changes with each opening, and its
    /// sender goes with the machine.
    pub(crate) fn openings(&self) -> watch::Receiver<u64> {
        self.openings.clone()
    }
}

impl Users {
    /// Serves the users of an open channel until it breaks, and returns why.
    pub(crate) async fn serve(&mut self, channel: &mut Channel) -> ChannelError {
        self.openings.send_modify(|times| *times += 1);
        let mut waiting: HashMap<Uuid, oneshot::Sender<Envelope>> = HashMap::new();
        loop {
            tokio::select! {
                received = channel.receive() => match received {
                    Ok(envelope) => self.take(envelope, &mut waiting),
                    Err(error) => return error,
                },
                // The sender's half is held by the keeper itself, so there is always one.
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
            }
        }
    }

    fn take(&self, envelope: Envelope, waiting: &mut HashMap<Uuid, oneshot::Sender<Envelope>>) {
        match envelope.kind {
            EnvelopeKind::Response => {
                if let Some(reply) = envelope.in_reply_to.and_then(|id| waiting.remove(&id)) {
                    let _gone = reply.send(envelope);
                }
            }
            EnvelopeKind::Event => {
                // Nobody may listen.
                let _listeners = self.events.send(Arc::new(envelope));
            }
            // No request of a guest is known yet.
            EnvelopeKind::Request => {}
        }
    }
}
