//! Keeps one connection: listens to a namespace of a server, and begins again whenever that ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shed_client::{BusEvent, Client, ClientError, ServerAddress, Timeouts};
use shed_extensions::clean;
use shed_types::{Namespace, error_chain};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::Backoff,
    desk::{Desk, Origin},
    links::{LinkState, Links},
};
use crate::answer::Extension;

/// Longest time without a byte; the server sends a comment every 15 s (spec A.9).
const SILENCE: Duration = Duration::from_secs(45);

/// HTTP status of a server where somebody else listens.
const CONFLICT: u16 = 409;

/// Listens until it is told to stop.
pub async fn run(
    server: ServerAddress,
    namespace: Namespace,
    extension: Arc<dyn Extension>,
    desk: Desk,
    links: Links,
    stop: CancellationToken,
) {
    let url = format!("http://{server}");
    let client = Client::new(server, Timeouts { silence: SILENCE, ..Timeouts::default() });
    let origin = Origin { client, server: url, namespace, extension };
    let mut keeper = Keeper { backoff: Backoff::new(), trouble: None, links };
    let listening = async {
        loop {
            let (error, lived) = keeper.listen(&origin, &desk).await;
            tokio::time::sleep(keeper.ended(&origin, &error, lived)).await;
        }
    };
    let _stopped = stop.run_until_cancelled(listening).await;
}

struct Keeper {
    backoff: Backoff,
    /// What was last warned of, so that a server that is down is told of once.
    trouble: Option<LinkState>,
    links: Links,
}

impl Keeper {
    /// Returns why it ended, and how long it had listened.
    async fn listen(&mut self, origin: &Origin, desk: &Desk) -> (ClientError, Duration) {
        if self.trouble.is_none() {
            self.set(origin, LinkState::Connecting, None);
        }
        let mut messages = match origin.client.listen(&origin.namespace).await {
            Ok(messages) => messages,
            Err(error) => return (error, Duration::ZERO),
        };
        let began = Instant::now();
        self.trouble = None;
        self.set(origin, LinkState::Listening, None);
        tracing::info!(server = origin.server, namespace = origin.namespace.as_str(), "listening");
        loop {
            match messages.next().await {
                Some(Ok(BusEvent::Message(message))) => desk.take(origin, *message),
                Some(Ok(BusEvent::Unreadable(why))) => {
                    let why = clean(&why, 200);
                    tracing::warn!(server = origin.server, why, "a message is not of the plugin bus");
                }
                Some(Err(error)) => return (error, began.elapsed()),
                None => unreachable!("events of the bus have no last one"),
            }
        }
    }

    /// Tells of the end, and returns how long to wait.
    fn ended(&mut self, origin: &Origin, error: &ClientError, lived: Duration) -> Duration {
        let state = match error {
            ClientError::Api { status: CONFLICT, .. } => LinkState::Held,
            ClientError::Api { .. }
            | ClientError::Unreachable { .. }
            | ClientError::Broken { .. }
            | ClientError::Protocol { .. }
            | ClientError::TimedOut { .. } => LinkState::Broken,
        };
        let wait = self.backoff.after(lived);
        let reason = clean(&error_chain(error), 300);
        let (server, namespace) = (origin.server.as_str(), origin.namespace.as_str());
        if self.trouble.replace(state) == Some(state) {
            tracing::debug!(server, namespace, reason, ?wait, "still not listening");
        } else if state == LinkState::Held {
            tracing::warn!(
                server,
                namespace,
                reason,
                "another agent listens there; this one takes over when that one ends"
            );
        } else {
            tracing::warn!(server, namespace, reason, "not listening; trying again");
        }
        self.set(origin, state, Some(reason));
        wait
    }

    fn set(&self, origin: &Origin, state: LinkState, reason: Option<String>) {
        self.links.set(&origin.server, origin.namespace.as_str(), state, reason);
    }
}
