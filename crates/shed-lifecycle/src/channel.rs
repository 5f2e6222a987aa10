//! The message channel to one guest: hello, identity, health, power-off (spec B.5, design §4).
//!
//! A boot opens it and waits for the answer: that is readiness. Afterwards a keeper task holds it open and opens
//! it anew when it breaks, until the machine ends.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use shed_backend::{ConnectGuestError, GuestStream, Vm};
use shed_protocol::{
    Envelope, EnvelopeKind, Frame, FrameCodec, FrameError, FrameKind, GENERATION, HealthReport, HelloReply,
    HelloRequest, Identify, ImageConfig, Mount, NetworkIdentity, SYSTEM_CREDENTIALS, SYSTEM_EVENT,
    SYSTEM_HEALTH, SYSTEM_HELLO, SYSTEM_IDENTIFY, timeouts,
};
use shed_state::InstanceFiles;
use shed_types::{GuestPort, Namespace, ShedName};
use tokio::{sync::watch, task::consume_budget, time::timeout};
use tokio_util::codec::Framed;

use crate::{
    bus::Bus,
    clean, console,
    guest_channel::{self, GuestChannel, Users},
    run_config,
};

/// First and longest pause between two attempts to reopen the channel (spec B.5).
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often the size of a machine's logs is looked at. A guest writes some megabytes a second to a serial console at
/// most.
const LOG_CHECK: Duration = Duration::from_secs(30);

/// Bytes of randomness given to a guest, as many as Linux's pool takes in (random(7): 256 bits).
const SEED_BYTES: usize = 32;

/// Most events that are kept while the channel is opened: as many as an agent keeps for a new host.
const EARLY: usize = 512;

/// Most bytes that they have together. An agent's own events have some hundred bytes each.
const EARLY_BYTES: usize = 1 << 20;

/// Longest event that is looked at, in bytes. The longest that an agent sends names files of a credential, in 64 KiB.
const LONGEST_EVENT: usize = 128 << 10;

/// Most messages of the plugin bus that are kept while the channel is opened, and the bytes that they have together.
const EARLY_MESSAGES: usize = 32;
const EARLY_MESSAGE_BYTES: usize = 2 << 20;

/// How far a guest's clock may seem to be off before it is told the time: a report of a busy guest is under way for a
/// while. The guest itself measures more strictly.
pub(crate) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(3);

/// What a guest tells the server of its own accord, besides its health. Besides it there is only what passes to listeners.
const TOLD: [&str; 2] = [SYSTEM_EVENT, SYSTEM_CREDENTIALS];

/// Why the channel cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("could not reach the agent")]
    Connect(#[from] ConnectGuestError),
    #[error("the agent closed the message channel")]
    Closed,
    #[error("the agent has said nothing for {waited:?}")]
    Silent { waited: Duration },
    #[error("the message channel broke")]
    Frame(#[from] FrameError),
    #[error("the agent did not answer `{namespace}` within {waited:?}")]
    NoReply { namespace: &'static str, waited: Duration },
    #[error("the agent's answer to `{namespace}` cannot be read")]
    Reply {
        namespace: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the agent refused `{namespace}`: {reason}")]
    Refused { namespace: &'static str, reason: String },
}

impl ChannelError {
    /// Whether the next attempt may succeed although this one did not.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(ConnectGuestError::Broken { .. })
            | Self::Closed
            | Self::Frame(FrameError::Io(_))
            | Self::Silent { .. }
            | Self::NoReply { .. } => true,
            Self::Connect(ConnectGuestError::Ended { .. } | ConnectGuestError::Refused { .. })
            | Self::Frame(FrameError::TooLong { .. } | FrameError::Payload { .. })
            | Self::Reply { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// What is known of a running guest's health.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Health {
    /// When the last report came.
    pub last_healthy: Option<Timestamp>,
    /// When the agent says it started.
    pub agent_started_at: Option<Timestamp>,
    /// The last report itself.
    pub report: Option<HealthReport>,
    /// How far the guest's clock was behind the host's when it came, its way included; less than nothing when it was ahead.
    pub clock_off: SignedDuration,
}

/// Who a guest is told it is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub shed: ShedName,
    pub network: Option<NetworkIdentity>,
    pub image: Option<ImageConfig>,
    pub mounts: Vec<Mount>,
}

/// An open message channel.
pub(crate) struct Channel {
    frames: Framed<GuestStream, FrameCodec>,
    health: watch::Sender<Health>,
    /// The extensions whose states are looked at.
    extensions: Arc<BTreeSet<Namespace>>,
    /// What came while a reply was waited for.
    early: Early,
}

/// What a guest said before anybody could take it: bounded lists.
#[derive(Debug, Default)]
pub(crate) struct Early {
    /// What it told the server.
    pub events: VecDeque<Envelope>,
    bytes: usize,
    /// What it said to listeners.
    pub messages: VecDeque<Envelope>,
    message_bytes: usize,
    /// How many more of these there were.
    pub lost: u64,
}

impl Early {
    /// Keeps what has this many bytes, if there is room.
    fn keep(&mut self, envelope: Envelope, bytes: usize) {
        if TOLD.contains(&envelope.namespace.as_str()) {
            if self.events.len() < EARLY && self.bytes + bytes <= EARLY_BYTES {
                self.bytes += bytes;
                self.events.push_back(envelope);
            }
        } else if self.messages.len() < EARLY_MESSAGES && self.message_bytes + bytes <= EARLY_MESSAGE_BYTES {
            self.message_bytes += bytes;
            self.messages.push_back(envelope);
        } else {
            self.lost += 1;
        }
    }
}

impl Channel {
    /// Opens the channel and says hello. During boot this resolves the moment the agent is up. Of what the guest says of
    /// extensions only these are looked at.
    pub(crate) async fn open(
        vm: &dyn Vm,
        health: watch::Sender<Health>,
        extensions: Arc<BTreeSet<Namespace>>,
    ) -> Result<Self, ChannelError> {
        let stream = vm.connect_guest(GuestPort::Messages).await?;
        let frames = Framed::new(stream, FrameCodec);
        let mut channel = Self { frames, health, extensions, early: Early::default() };
        let hello = HelloRequest {
            generation: GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: [].into(),
        };
        let reply: HelloReply = channel.request(SYSTEM_HELLO, &hello).await?;
        channel.health.send_modify(|health| {
            health.last_healthy = Some(Timestamp::now());
            health.agent_started_at = Some(reply.started_at);
        });
        Ok(channel)
    }

    /// Makes the guest the shed it is.
    pub(crate) async fn identify(&mut self, identity: &Identity) -> Result<(), ChannelError> {
        let Identity { shed, network, image, mounts } = identity.clone();
        let seed: [u8; SEED_BYTES] = rand::random();
        let identify = Identify {
            name: shed.to_string(),
            hostname: shed.to_string(),
            now: Timestamp::now(),
            machine_id: None,
            random_seed: seed.iter().map(|byte| format!("{byte:02x}")).collect(),
            network,
            image,
            mounts,
        };
        let _reply: serde_json::Value = self.request(SYSTEM_IDENTIFY, &identify).await?;
        Ok(())
    }

    /// Sends a request and waits for its reply, taking events in meanwhile.
    pub(crate) async fn request<T, R>(
        &mut self,
        namespace: &'static str,
        payload: &T,
    ) -> Result<R, ChannelError>
    where
        T: serde::Serialize + Sync,
        R: serde::de::DeserializeOwned,
    {
        let request = Envelope::request(namespace, payload);
        let exchange = async {
            self.send(&request).await?;
            loop {
                let (envelope, bytes) = self.receive_sized().await?;
                if envelope.kind == EnvelopeKind::Response && envelope.in_reply_to == Some(request.id) {
                    return Ok::<_, ChannelError>(envelope);
                }
                match envelope.kind {
                    EnvelopeKind::Request | EnvelopeKind::Event => self.early.keep(envelope, bytes),
                    EnvelopeKind::Response => {}
                }
            }
        };
        let waited = timeouts::SYSTEM_REPLY;
        let reply =
            timeout(waited, exchange).await.map_err(|_| ChannelError::NoReply { namespace, waited })??;
        read_reply(namespace, &reply)
    }

    /// Returns the guest's health reports from now on, of which only the newest is kept.
    pub(crate) fn reports(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Returns what came while the channel was opened.
    pub(crate) fn take_early(&mut self) -> Early {
        std::mem::take(&mut self.early)
    }

    pub(crate) async fn send(&mut self, envelope: &Envelope) -> Result<(), ChannelError> {
        self.send_frame(Frame::json(FrameKind::Message, envelope)).await
    }

    pub(crate) async fn send_frame(&mut self, frame: Frame) -> Result<(), ChannelError> {
        match timeout(timeouts::MESSAGE_WRITE, self.frames.send(frame)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(FrameError::Io(io::ErrorKind::TimedOut.into()).into()),
        }
    }

    /// Returns the next message but for those that nobody here knows; health reports are noted on the way.
    pub(crate) async fn receive(&mut self) -> Result<Envelope, ChannelError> {
        Ok(self.receive_sized().await?.0)
    }

    /// The same, with the message's length in bytes.
    async fn receive_sized(&mut self) -> Result<(Envelope, usize), ChannelError> {
        loop {
            let frame = self.frames.next().await.ok_or(ChannelError::Closed)??;
            if frame.kind != FrameKind::Message {
                continue;
            }
            let bytes = frame.payload.len();
            let envelope: Envelope = frame.parse()?;
            if envelope.namespace == SYSTEM_HEALTH
                && let Ok(report) = envelope.parse::<HealthReport>()
            {
                let report = clean::report(report, &self.extensions);
                let now = Timestamp::now();
                let _before = self.health.send_replace(Health {
                    last_healthy: Some(now),
                    clock_off: now.duration_since(envelope.timestamp),
                    agent_started_at: Some(report.started_at),
                    report: Some(report),
                });
            }
            if !is_worth_keeping(envelope.kind, &envelope.namespace, bytes) {
                consume_budget().await;
                continue;
            }
            return Ok((envelope, bytes));
        }
    }
}

/// Whether a message of this kind, namespace and length is one that somebody may want.
fn is_worth_keeping(kind: EnvelopeKind, namespace: &str, bytes: usize) -> bool {
    match kind {
        EnvelopeKind::Response => true,
        EnvelopeKind::Event if TOLD.contains(&namespace) => bytes <= LONGEST_EVENT,
        // Of Shed's own namespaces, none of which is one of these, a guest asks nothing.
        EnvelopeKind::Event | EnvelopeKind::Request => namespace.parse::<Namespace>().is_ok(),
    }
}

/// Reads the answer to a request, which may be that it is refused.
pub(crate) fn read_reply<R: serde::de::DeserializeOwned>(
    namespace: &'static str,
    reply: &Envelope,
) -> Result<R, ChannelError> {
    if let Some(reason) = reply.payload.get("error").and_then(serde_json::Value::as_str) {
        let reason = reason.chars().filter(|c| !c.is_control()).take(500).collect();
        return Err(ChannelError::Refused { namespace, reason });
    }
    reply.parse().map_err(|source| ChannelError::Reply { namespace, source })
}

/// Keeps one guest's channel open and its logs small. Dropping it ends the task.
#[derive(Debug)]
pub(crate) struct Keeper {
    task: tokio::task::JoinHandle<()>,
    channel: GuestChannel,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Starts the task for a machine that has been booted, with the channel that the boot opened.
    pub(crate) fn spawn(
        vm: Arc<dyn Vm>,
        identity: Identity,
        open: Channel,
        health: watch::Sender<Health>,
        files: InstanceFiles,
        bus: Arc<Bus>,
    ) -> Self {
        let (channel, users) = guest_channel::pair(bus, identity.shed.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = keep(vm, identity, Some(open), health, users) => {}
                never = keep_logs_small(&files) => match never {},
            }
        });
        Self { task, channel }
    }

    /// Starts the task for a machine that is adopted, to which there is no channel yet.
    pub(crate) fn adopt(
        vm: Arc<dyn Vm>,
        shed: ShedName,
        network: Option<NetworkIdentity>,
        mounts: Vec<Mount>,
        health: watch::Sender<Health>,
        files: InstanceFiles,
        bus: Arc<Bus>,
    ) -> Self {
        let (channel, users) = guest_channel::pair(bus, shed.clone());
        let task = tokio::spawn(async move {
            let image = run_config::read(&shed, files.image.clone()).await;
            let identity = Identity { shed, network, image, mounts };
            tokio::select! {
                () = keep(vm, identity, None, health, users) => {}
                never = keep_logs_small(&files) => match never {},
            }
        });
        Self { task, channel }
    }

    /// Returns the channel as others use it.
    pub(crate) fn channel(&self) -> GuestChannel {
        self.channel.clone()
    }
}

/// Cuts the machine's logs whenever they have grown large: the guest writes them, and could fill the host's disk.
async fn keep_logs_small(files: &InstanceFiles) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(LOG_CHECK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let _now = ticks.tick().await;
        for log in [&files.console_log, &files.vmm_log] {
            let path = log.clone();
            match tokio::task::spawn_blocking(move || console::trim(&path)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%log, %error, "the log could not be cut"),
                Err(error) => tracing::error!(%log, %error, "the cut of the log broke off"),
            }
        }
    }
}

async fn keep(
    vm: Arc<dyn Vm>,
    identity: Identity,
    mut open: Option<Channel>,
    health: watch::Sender<Health>,
    mut users: Users,
) {
    let mut pause = REOPEN_PAUSE.0;
    let mut was_open = open.is_some();
    let shed = &identity.shed;
    while !vm.has_ended() {
        let result = match open.take() {
            Some(mut channel) => {
                pause = REOPEN_PAUSE.0;
                Err(users.serve(&mut channel, vm.agent_came()).await)
            }
            None => reopen(&*vm, &identity, health.clone(), users.extensions()).await,
        };
        match result {
            Ok(channel) => {
                tracing::info!(%shed, "message channel open");
                was_open = true;
                open = Some(channel);
            }
            // Only changes are logged: an agent that is away for a day would fill the log otherwise.
            Err(error) => {
                if was_open && !vm.has_ended() {
                    tracing::info!(%shed, error = %error, "message channel lost; reopening");
                }
                was_open = false;
                tokio::select! {
                    () = vm.ended() => return,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(REOPEN_PAUSE.1),
                }
            }
        }
    }
}

async fn reopen(
    vm: &dyn Vm,
    identity: &Identity,
    health: watch::Sender<Health>,
    extensions: Arc<BTreeSet<Namespace>>,
) -> Result<Channel, ChannelError> {
    let mut channel = Channel::open(vm, health, extensions).await?;
    // The guest may have rebooted, or slept with its host: its name, clock and network are put right again.
    channel.identify(identity).await?;
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_guest_tells_unasked_little_is_kept() {
        let event = |namespace, bytes| is_worth_keeping(EnvelopeKind::Event, namespace, bytes);
        let request = |namespace| is_worth_keeping(EnvelopeKind::Request, namespace, 10);
        assert!(TOLD.iter().all(|namespace| event(namespace, LONGEST_EVENT) && !request(namespace)));
        assert!(!event(SYSTEM_EVENT, LONGEST_EVENT + 1) && !event(SYSTEM_HEALTH, 10));
        let long = "x".repeat(129);
        for bad in ["", "system:", "a b", long.as_str()] {
            assert!(!event(bad, 10) && !request(bad), "{bad:?}");
        }
        assert!(event("ssh-agent", shed_protocol::MAX_PAYLOAD) && request("ssh-agent"));
        let mut early = Early::default();
        for length in [LONGEST_EVENT, 10] {
            for _ in 0..10_000 {
                early.keep(Envelope::event(SYSTEM_EVENT, &"x"), length);
            }
        }
        assert!(early.bytes <= EARLY_BYTES && early.events.len() <= EARLY, "{}", early.events.len());
        assert!(early.events.len() > EARLY_BYTES / LONGEST_EVENT || early.bytes == EARLY_BYTES);
        let events = early.events.len();
        for length in [shed_protocol::MAX_PAYLOAD, 10] {
            for _ in 0..100 {
                early.keep(Envelope::request("ssh-agent", &"x"), length);
            }
        }
        assert_eq!((early.events.len(), early.messages.len(), early.lost), (events, 2, 198));
    }
}
