//! The message channel (port 1026, spec B.5): envelopes both ways for as long as the shed runs.
//!
//! The host asks, this answers; health events flow once the host has said hello or asked for health. Of several
//! channels the newest wins. Every write has a deadline, so a host that does not read cannot hold the agent.

mod requests;

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use shed_protocol::{
    Envelope, EnvelopeKind, Frame, FrameCodec, FrameKind, SYSTEM_HEALTH, SYSTEM_HELLO, timeouts,
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::codec::Framed;

use crate::{health, log, serve::ByteStream, state::State};

use requests::Outcome;

/// Serves one channel until it ends or a newer one comes.
pub(crate) async fn serve(stream: impl ByteStream, state: &State) {
    let replaced = state.take_message_channel();
    tokio::select! {
        () = replaced.cancelled() => {}
        () = talk(stream, state, timeouts::HEALTH_EVENT) => {}
    }
}

async fn talk(stream: impl ByteStream, state: &State, every: Duration) {
    let mut frames = Framed::new(stream, FrameCodec);
    let mut events = interval_at(Instant::now() + every, every);
    events.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            frame = frames.next() => {
                let Some(Ok(frame)) = frame else { return };
                if frame.kind != FrameKind::Message {
                    continue;
                }
                let envelope: Envelope = match frame.parse() {
                    Ok(envelope) => envelope,
                    Err(error) => {
                        log::failed(&error);
                        continue;
                    }
                };
                if envelope.kind != EnvelopeKind::Request {
                    continue;
                }
                let Outcome { reply, then } = requests::answer(&envelope, state).await;
                if send(&mut frames, &reply).await.is_err() {
                    return;
                }
                if !told && matches!(envelope.namespace.as_str(), SYSTEM_HELLO | SYSTEM_HEALTH) {
                    told = true;
                    if send(&mut frames, &health_event(state)).await.is_err() {
                        return;
                    }
                }
                if let Some(then) = then {
                    // Lets the link send the answer before anything ends this process.
                    tokio::task::yield_now().await;
                    then();
                }
            }
            _ = events.tick(), if told => {
                if send(&mut frames, &health_event(state)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn health_event(state: &State) -> Envelope {
    Envelope::event(SYSTEM_HEALTH, &health::report(state))
}

/// Says that the host does not take a message, or not in time.
struct NotSent;

async fn send<S: ByteStream>(frames: &mut Framed<S, FrameCodec>, envelope: &Envelope) -> Result<(), NotSent> {
    let frame = Frame::json(FrameKind::Message, envelope);
    match timeout(timeouts::MESSAGE_WRITE, frames.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(NotSent),
    }
}

#[cfg(test)]
mod tests {
    use shed_protocol::{GENERATION, HealthReport, HelloReply, HelloRequest, PowerOff};
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    type Host = Framed<DuplexStream, FrameCodec>;

    async fn receive(host: &mut Host) -> Option<Envelope> {
        let frame = timeout(DEADLINE, host.next()).await.expect("the agent answers in time")?.unwrap();
        Some(frame.parse().unwrap())
    }

    async fn ask<T: serde::Serialize>(host: &mut Host, namespace: &str, payload: &T) -> Envelope {
        let request = Envelope::request(namespace, payload);
        host.send(Frame::json(FrameKind::Message, &request)).await.unwrap();
        let reply = receive(host).await.unwrap();
        assert_eq!((reply.in_reply_to, reply.kind), (Some(request.id), EnvelopeKind::Response));
        reply
    }

    fn hello() -> HelloRequest {
        HelloRequest { generation: GENERATION, version: "test".into(), features: Default::default() }
    }

    #[tokio::test]
    async fn hello_is_answered_and_health_follows_at_once_and_then_in_time() {
        let (ours, theirs) = duplex(1 << 16);
        let server =
            tokio::spawn(async move { talk(theirs, &State::new(), Duration::from_millis(30)).await });
        let mut host = Framed::new(ours, FrameCodec);
        let reply: HelloReply = ask(&mut host, SYSTEM_HELLO, &hello()).await.parse().unwrap();
        assert_eq!(reply.generation, GENERATION);
        for _ in 0..3 {
            let event = receive(&mut host).await.unwrap();
            assert_eq!((event.kind, event.namespace.as_str()), (EnvelopeKind::Event, SYSTEM_HEALTH));
            event.parse::<HealthReport>().unwrap();
        }
        drop(host);
        timeout(DEADLINE, server).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nonsense_is_answered_or_ignored_and_the_channel_lives_on() {
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(async move { serve(theirs, &State::new()).await });
        let mut host = Framed::new(ours, FrameCodec);
        host.send(Frame::new(FrameKind::Message, "no json".into())).await.unwrap();
        host.send(Frame::empty(FrameKind::Message)).await.unwrap();
        host.send(Frame::empty(FrameKind::Resize)).await.unwrap();
        host.send(Frame::json(FrameKind::Message, &Envelope::event(SYSTEM_HELLO, &hello()))).await.unwrap();
        for (namespace, payload) in [("system:later", "x"), ("other", "x"), (SYSTEM_HELLO, "not an object")] {
            let reply = ask(&mut host, namespace, &payload).await;
            assert!(reply.payload["error"].is_string(), "{namespace}: {:?}", reply.payload);
            if namespace == SYSTEM_HELLO {
                assert_eq!(receive(&mut host).await.unwrap().namespace, SYSTEM_HEALTH);
            }
        }
        let report: HealthReport = ask(&mut host, SYSTEM_HEALTH, &PowerOff {}).await.parse().unwrap();
        assert!(report.started_at <= jiff::Timestamp::now());
    }

    #[tokio::test]
    async fn the_newest_channel_wins_and_the_end_of_an_old_one_does_not_hurt_it() {
        let state = std::sync::Arc::new(State::new());
        let connect = || {
            let (ours, theirs) = duplex(1 << 16);
            let state = std::sync::Arc::clone(&state);
            (Framed::new(ours, FrameCodec), tokio::spawn(async move { serve(theirs, &state).await }))
        };
        let (mut first, first_server) = connect();
        ask(&mut first, SYSTEM_HELLO, &hello()).await;
        let (mut second, _second_server) = connect();
        ask(&mut second, SYSTEM_HELLO, &hello()).await;
        timeout(DEADLINE, first_server).await.expect("the old channel ends").unwrap();
        assert!(receive(&mut second).await.is_some());
        ask(&mut second, SYSTEM_HEALTH, &PowerOff {}).await;
    }
}
