//! Events on their way to the host, posted by any part of the agent and sent by the message channel's writer.
//!
//! Guest events stay here after they were sent, and each channel begins with all of them: a server that was started
//! again knows what happened before it came, and one that died in the middle of a message misses nothing. The host
//! tells by their content which it knows already. Everything else is sent once. Both are bounded, the oldest goes first.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use shed_protocol::{Envelope, Frame, FrameKind, MAX_PAYLOAD, SYSTEM_EVENT};
use tokio::sync::Notify;

use crate::log;

/// Most guest events that are kept.
const KEPT: Bounds = Bounds { count: 256, bytes: 512 << 10 };

/// Most other events that wait for a host. One of credentials may name a thousand files.
const PASSING: Bounds = Bounds { count: 64, bytes: 1 << 20 };

/// How much a queue holds; the newest message is held whatever its size.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    count: usize,
    bytes: usize,
}

/// What is to be told to hosts.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    posted: Notify,
    health_changed: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    kept: Queue,
    passing: Queue,
    /// Number of the last message; they count from 1.
    last: u64,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(u64, Frame)>,
    bytes: usize,
}

/// How far one channel is with the events that are kept; a new one begins at the beginning.
#[derive(Debug, Default)]
pub(crate) struct Cursor(u64);

/// A message to send now.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: Frame,
    number: u64,
}

impl Outbox {
    /// Has an event sent as soon as there is a host.
    pub(crate) fn post(&self, event: &Envelope) {
        let frame = Frame::json(FrameKind::Message, event);
        if frame.payload.len() > MAX_PAYLOAD {
            log::error(&format!("an event of {} is too long to be sent", event.namespace));
            return;
        }
        {
            let mut queues = self.lock();
            queues.last += 1;
            let number = queues.last;
            if event.namespace == SYSTEM_EVENT {
                queues.kept.push(number, frame, KEPT);
            } else {
                queues.passing.push(number, frame, PASSING);
            }
        }
        self.posted.notify_one();
    }

    /// Has health told now, as it is when it is told. With no host there nothing is kept of it but that.
    pub(crate) fn health_has_changed(&self) {
        self.health_changed.notify_one();
    }

    /// Waits until health is to be told beside its pace.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn health_changed(&self) {
        self.health_changed.notified().await;
    }

    /// Waits for a message that this channel has not sent. It is given out again until [`Self::sent`] is called.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&self, cursor: &Cursor) -> Outgoing {
        loop {
            // One that was posted between the look and the wait has left its mark there.
            if let Some(outgoing) = self.lock().first(cursor) {
                return outgoing;
            }
            self.posted.notified().await;
        }
    }

    /// Notes that a message is with the host.
    pub(crate) fn sent(&self, message: &Outgoing, cursor: &mut Cursor) {
        let mut queues = self.lock();
        let passing = queues.passing.messages.front().is_some_and(|(number, _)| *number == message.number);
        if passing {
            queues.passing.drop_first();
        } else if queues.kept.messages.iter().any(|(number, _)| *number == message.number) {
            cursor.0 = message.number;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        // Each queue is whole at every point where a holder could die.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn first(&self, cursor: &Cursor) -> Option<Outgoing> {
        let kept = self.kept.messages.iter().find(|(number, _)| *number > cursor.0);
        let (number, frame) = self.passing.messages.front().or(kept)?;
        Some(Outgoing { frame: frame.clone(), number: *number })
    }
}

impl Queue {
    fn push(&mut self, number: u64, frame: Frame, bounds: Bounds) {
        self.bytes += frame.payload.len();
        self.messages.push_back((number, frame));
        while self.messages.len() > bounds.count || (self.bytes > bounds.bytes && self.messages.len() > 1) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, frame)) = self.messages.pop_front() {
            self.bytes -= frame.payload.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::json;

    use super::*;

    fn drain(outbox: &Outbox, cursor: &mut Cursor) -> Vec<serde_json::Value> {
        let mut payloads = Vec::new();
        while let Some(message) = outbox.next(cursor).now_or_never() {
            payloads.push(message.frame.parse::<Envelope>().unwrap().payload);
            outbox.sent(&message, cursor);
        }
        payloads
    }

    fn post(outbox: &Outbox, namespace: &str, payload: &serde_json::Value) {
        outbox.post(&Envelope::event(namespace, payload));
    }

    #[test]
    fn each_channel_gets_the_kept_events_and_only_one_the_others() {
        let outbox = Outbox::default();
        post(&outbox, SYSTEM_EVENT, &json!(1));
        post(&outbox, "system:credentials", &json!("a"));
        post(&outbox, SYSTEM_EVENT, &json!(2));
        let mut first = Cursor::default();
        assert_eq!(drain(&outbox, &mut first), [json!("a"), json!(1), json!(2)]);
        post(&outbox, SYSTEM_EVENT, &json!(3));
        assert_eq!(drain(&outbox, &mut first), [json!(3)]);
        assert_eq!(drain(&outbox, &mut Cursor::default()), [json!(1), json!(2), json!(3)]);
    }

    #[test]
    fn what_was_not_sent_is_given_out_again() {
        let outbox = Outbox::default();
        post(&outbox, "system:credentials", &json!("a"));
        let cursor = Cursor::default();
        drop(outbox.next(&cursor).now_or_never().unwrap());
        assert_eq!(drain(&outbox, &mut Cursor::default()), [json!("a")]);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_or_they_are_too_long() {
        let outbox = Outbox::default();
        for number in 0..KEPT.count + 10 {
            post(&outbox, SYSTEM_EVENT, &json!(number));
        }
        for _ in 0..20 {
            post(&outbox, "other", &json!("x".repeat(100 << 10)));
        }
        post(&outbox, "other", &json!("y".repeat(MAX_PAYLOAD)));
        let payloads = drain(&outbox, &mut Cursor::default());
        let (numbers, others): (Vec<_>, Vec<_>) = payloads.iter().partition(|payload| payload.is_u64());
        assert_eq!((numbers.len(), numbers[0]), (KEPT.count, &json!(10)));
        assert_eq!(others.len(), PASSING.bytes / (101 << 10));
    }

    #[tokio::test]
    async fn a_channel_that_waits_is_woken() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let waiting = tokio::spawn({
            let outbox = std::sync::Arc::clone(&outbox);
            async move { outbox.next(&Cursor::default()).await }
        });
        tokio::task::yield_now().await;
        post(&outbox, SYSTEM_EVENT, &json!(1));
        let message =
            tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await.unwrap().unwrap();
        assert_eq!(message.frame.parse::<Envelope>().unwrap().payload, json!(1));
    }
}
