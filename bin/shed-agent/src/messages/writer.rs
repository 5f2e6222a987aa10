//! The one writer of a channel: answers, health, and what the parts of the agent post.
//!
//! Answers go first, then health, then events; what programs of the guest publish goes when nothing else is to be sent:
//! neither a host that asks much nor messages without end may make the guest look dead.

use std::time::Duration;

use futures::SinkExt;
use shed_protocol::{
    Envelope, Frame, FrameCodec, FrameKind, HealthReport, SYSTEM_HEALTH, SYSTEM_HELLO, timeouts,
};
use tokio::{
    io::AsyncWrite,
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::codec::FramedWrite;

use super::{outbox::Cursor, requests::Outcome};
use crate::{
    health,
    publish::desk::{Counter, Outgoing as Published},
    state::State,
};

/// Writes until the host does not take a message, or not in time, or nobody answers requests any more.
pub(super) async fn write(
    stream: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Outcome>,
    state: &State,
    every: Duration,
) {
    let mut frames = FramedWrite::new(stream, FrameCodec);
    let mut cursor = Cursor::default();
    let mut health = ticks(every);
    // Health flows once the host has asked for anything of it; events wait for a host that stays, which says hello.
    let (mut tells_health, mut tells_events) = (false, false);
    let mut counter = None;
    loop {
        let sent = tokio::select! {
            biased;
            answer = answers.recv() => {
                let Some(Outcome { reply, pace, then }) = answer else { return };
                let mut sent = send(&mut frames, envelope_frame(&reply)).await;
                let asks_health = matches!(reply.namespace.as_str(), SYSTEM_HELLO | SYSTEM_HEALTH);
                if sent.is_ok() && asks_health && !tells_health {
                    tells_health = true;
                    sent = send(&mut frames, health_event(state)).await;
                }
                tells_events |= reply.namespace == SYSTEM_HELLO;
                if sent.is_ok() && tells_events && counter.is_none() {
                    counter = Some(state.desk.open());
                }
                if let Some(every) = pace {
                    health = ticks(every);
                }
                if then.is_some() {
                    // Lets the link send the answer before anything ends this process.
                    tokio::task::yield_now().await;
                }
                drop(then);
                sent
            }
            _ = health.tick(), if tells_health => send(&mut frames, health_event(state)).await,
            () = state.outbox.health_changed(), if tells_health => send(&mut frames, health_event(state)).await,
            message = state.outbox.next(&cursor), if tells_events => {
                let sent = send(&mut frames, message.frame.clone()).await;
                if sent.is_ok() {
                    state.outbox.sent(&message, &mut cursor);
                }
                sent
            }
            published = published(counter.as_ref()) => {
                let sent = send(&mut frames, published.frame.clone()).await;
                if sent.is_ok() && let Some(counter) = &counter {
                    counter.sent(&published);
                }
                sent
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Waits for what a program of the guest publishes; for ever while the host has not said hello.
async fn published(counter: Option<&Counter<'_>>) -> Published {
    match counter {
        Some(counter) => counter.next().await,
        None => std::future::pending().await,
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn health_event(state: &State) -> Frame {
    let report: HealthReport = health::report(state);
    envelope_frame(&Envelope::event(SYSTEM_HEALTH, &report))
}

fn envelope_frame(envelope: &Envelope) -> Frame {
    Frame::json(FrameKind::Message, envelope)
}

/// Says that the host does not take a message, or not in time.
struct NotSent;

async fn send<W: AsyncWrite + Unpin>(
    frames: &mut FramedWrite<W, FrameCodec>,
    frame: Frame,
) -> Result<(), NotSent> {
    match timeout(timeouts::MESSAGE_WRITE, frames.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(NotSent),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::messages::requests::Afterwards;

    static DONE: AtomicBool = AtomicBool::new(false);

    /// The channel is closed by a host that has what it wants; a shed that said it powers off would run on for a minute.
    #[tokio::test]
    async fn what_an_answer_promises_is_done_though_the_host_closes_the_channel_at_once() {
        let state = State::new();
        let (mut host, guest) = tokio::io::duplex(1 << 16);
        let (answers, outgoing) = mpsc::channel(1);
        let then = Some(Afterwards(|| DONE.store(true, Ordering::Release)));
        let reply = Envelope::request("system:power-off", &json!({})).reply(&json!({}));
        answers.send(Outcome { reply, pace: None, then }).await.unwrap_or_else(|_| panic!("it is taken"));
        let mut byte = [0];
        tokio::select! {
            biased;
            heard = host.read_exact(&mut byte) => assert_eq!(heard.unwrap(), 1),
            () = write(guest, outgoing, &state, Duration::from_secs(60)) => panic!("the writer ended"),
        }
        assert!(DONE.load(Ordering::Acquire));
    }
}
