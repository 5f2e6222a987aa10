//! The message channel (port 1026, spec B.5): envelopes both ways for as long as the shed runs.
//!
//! The host asks, this answers: requests side by side, but for those whose order matters. Health flows once the host has
//! said hello or asked for it, and what parts of the agent post with [`State::post`] once it has said hello; so does what
//! programs of the guest publish (`publish`), whose responses are brought to them here. Of several
//! channels the newest wins. Every write has a deadline, so a host that does not read cannot hold the agent.

pub(crate) mod outbox;
mod requests;
mod writer;

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use shed_protocol::{
    Envelope, EnvelopeKind, FrameCodec, FrameKind, SYSTEM_CREDENTIALS, SYSTEM_IDENTIFY, timeouts,
};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::codec::FramedRead;

use crate::{journal::readers::Readers, log, serve::ByteStream, state::State};

use requests::Outcome;

/// Requests that are answered at a time. Beyond it the host's next one is not read yet.
const AT_ONCE: usize = 64;

/// Requests and answers that wait for the next part of the channel.
const QUEUE: usize = 8;

/// Serves one channel until it ends or a newer one comes.
pub(crate) async fn serve(stream: impl ByteStream, state: &State) {
    let replaced = state.take_message_channel();
    tokio::select! {
        () = replaced.cancelled() => {}
        () = talk(stream, state, timeouts::HEALTH_EVENT) => {}
    }
}

async fn talk(stream: impl ByteStream, state: &State, every: Duration) {
    let (from_host, to_host) = tokio::io::split(stream);
    let (answers, outgoing) = mpsc::channel(QUEUE);
    let (any_order, unordered) = mpsc::channel(QUEUE);
    let (in_order, ordered) = mpsc::channel(QUEUE);
    let readers = Readers::default();
    // Whichever part ends ends the channel, and with it the answers that are not given yet.
    tokio::select! {
        () = read(from_host, &any_order, &in_order, state) => {}
        () = answer_side_by_side(unordered, answers.clone(), state, &readers) => {}
        () = answer_in_order(ordered, answers, state, &readers) => {}
        () = writer::write(to_host, outgoing, state, every) => {}
    }
}

/// Reads requests and responses and puts each where it is waited for, until the host has gone.
async fn read(
    stream: impl AsyncRead + Unpin,
    any_order: &mpsc::Sender<Envelope>,
    in_order: &mpsc::Sender<Envelope>,
    state: &State,
) {
    let mut frames = FramedRead::new(stream, FrameCodec);
    while let Some(Ok(frame)) = frames.next().await {
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
        match envelope.kind {
            EnvelopeKind::Request => {}
            EnvelopeKind::Response => {
                state.desk.answer(envelope);
                continue;
            }
            EnvelopeKind::Event => continue,
        }
        // The later of two of these shall hold.
        let lane = match envelope.namespace.as_str() {
            SYSTEM_IDENTIFY | SYSTEM_CREDENTIALS => in_order,
            _ => any_order,
        };
        if lane.send(envelope).await.is_err() {
            return;
        }
    }
}

async fn answer_side_by_side(
    mut requests: mpsc::Receiver<Envelope>,
    answers: mpsc::Sender<Outcome>,
    state: &State,
    readers: &Readers,
) {
    let mut at_work = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(outcome) = at_work.next() => {
                if answers.send(outcome).await.is_err() {
                    return;
                }
            }
            request = requests.recv(), if at_work.len() < AT_ONCE => {
                let Some(request) = request else { return };
                at_work.push(async move { requests::answer(&request, state, readers).await });
            }
        }
    }
}

async fn answer_in_order(
    mut requests: mpsc::Receiver<Envelope>,
    answers: mpsc::Sender<Outcome>,
    state: &State,
    readers: &Readers,
) {
    while let Some(request) = requests.recv().await {
        if answers.send(requests::answer(&request, state, readers).await).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::SinkExt;
    use shed_protocol::{
        Frame, GENERATION, GuestEvent, HealthReport, HealthRequest, HelloReply, HelloRequest, PowerOff,
        SYSTEM_EVENT, SYSTEM_HEALTH, SYSTEM_HELLO,
    };
    use tokio::{
        io::{DuplexStream, duplex},
        time::timeout,
    };
    use tokio_util::codec::Framed;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

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

    fn oom(process: &str) -> Envelope {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Envelope::event(SYSTEM_EVENT, &GuestEvent::OutOfMemory { process: process.into(), at })
    }

    /// Receives until an event of this namespace comes.
    async fn event_of(host: &mut Host, namespace: &str) -> Envelope {
        loop {
            let envelope = receive(host).await.expect("the channel stays open");
            if (envelope.kind, envelope.namespace.as_str()) == (EnvelopeKind::Event, namespace) {
                return envelope;
            }
        }
    }

    #[tokio::test]
    async fn events_wait_for_a_host_that_says_hello_and_each_host_gets_them() {
        let state = std::sync::Arc::new(State::new());
        state.post(&oom("before"));
        for _server in 0..2 {
            let (ours, theirs) = duplex(1 << 16);
            let shared = std::sync::Arc::clone(&state);
            tokio::spawn(async move { serve(theirs, &shared).await });
            let mut host = Framed::new(ours, FrameCodec);
            ask(&mut host, SYSTEM_HEALTH, &HealthRequest::default()).await;
            assert_eq!(receive(&mut host).await.unwrap().namespace, SYSTEM_HEALTH);
            ask(&mut host, SYSTEM_HELLO, &hello()).await;
            let event: GuestEvent = event_of(&mut host, SYSTEM_EVENT).await.parse().unwrap();
            assert!(matches!(event, GuestEvent::OutOfMemory { process, .. } if process == "before"));
        }
    }

    #[tokio::test]
    async fn a_request_changes_the_pace_of_health() {
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(async move { serve(theirs, &State::new()).await });
        let mut host = Framed::new(ours, FrameCodec);
        ask(&mut host, SYSTEM_HELLO, &hello()).await;
        assert_eq!(receive(&mut host).await.unwrap().namespace, SYSTEM_HEALTH);
        // One that is too short is not refused but made longer.
        let started = std::time::Instant::now();
        ask(&mut host, SYSTEM_HEALTH, &HealthRequest { every_ms: Some(0), ..Default::default() }).await;
        for _ in 0..2 {
            event_of(&mut host, SYSTEM_HEALTH).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(900));
    }

    #[tokio::test]
    async fn a_request_names_the_extensions_and_one_that_does_not_leaves_them() {
        let state = std::sync::Arc::new(State::new());
        let shared = std::sync::Arc::clone(&state);
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(async move { serve(theirs, &shared).await });
        let mut host = Framed::new(ours, FrameCodec);
        let named: std::collections::BTreeSet<_> = ["ssh-agent".parse().unwrap()].into();
        for asked in [Some(named.clone()), None] {
            let request = HealthRequest { extensions: asked, ..Default::default() };
            let report: HealthReport = ask(&mut host, SYSTEM_HEALTH, &request).await.parse().unwrap();
            // Nobody waits for what is to be started.
            assert!(report.extensions.is_empty());
            assert_eq!(state.extensions.wanted(), Some(named.clone()));
            if request.extensions.is_some() {
                // The first request begins the reports.
                event_of(&mut host, SYSTEM_HEALTH).await;
            }
        }
    }

    #[tokio::test]
    async fn a_host_that_does_not_read_holds_only_its_own_channel() {
        let state = std::sync::Arc::new(State::new());
        let shared = std::sync::Arc::clone(&state);
        let (ours, theirs) = duplex(64);
        let server = tokio::spawn(async move { serve(theirs, &shared).await });
        let mut host = Framed::new(ours, FrameCodec);
        host.send(Frame::json(FrameKind::Message, &Envelope::request(SYSTEM_HELLO, &hello()))).await.unwrap();
        for _ in 0..1000 {
            state.post(&oom("x"));
        }
        timeout(DEADLINE, server).await.expect("the write has a deadline").unwrap();
    }
}
