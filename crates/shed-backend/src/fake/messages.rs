//! The fake agent's message channel: says what a test has put there, hostile or not, as the real one says what it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use shed_protocol::{
    CloseLogs, Envelope, EnvelopeKind, Frame, FrameError, FrameKind, GENERATION, HealthReport, HealthRequest,
    HealthStatus, HelloReply, Identify, LogsOpened, LogsRefusal, NextLogs, OpenLogs, SYSTEM_HEALTH,
    SYSTEM_HELLO, SYSTEM_IDENTIFY, SYSTEM_LOGS_CLOSE, SYSTEM_LOGS_NEXT, SYSTEM_LOGS_OPEN, SYSTEM_POWER_OFF,
    timeouts,
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{AskedBy, BootFault, Machine, agent::Frames};

/// What guests of a shed say on their message channel.
#[derive(Debug)]
pub(super) struct Said {
    /// Payload of health reports; absent means that all is well.
    pub(super) health: Option<Value>,
    /// What is said unasked; each channel is told all of it after its hello.
    pub(super) events: watch::Sender<Vec<Envelope>>,
    /// Responses of listeners, in order.
    pub(super) responses: Vec<Envelope>,
    pub(super) logs: FakeLogs,
    /// What was asked of the pace of health reports, in order.
    pub(super) paces: Vec<u64>,
    /// The times that they were told because theirs seemed wrong, in order.
    pub(super) times: Vec<Timestamp>,
    pub(super) readers: BTreeSet<Uuid>,
    /// The last question that opened a reader.
    pub(super) opened: Option<OpenLogs>,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            health: None,
            events: watch::Sender::new(Vec::new()),
            responses: Vec::new(),
            logs: FakeLogs::default(),
            paces: Vec::new(),
            times: Vec::new(),
            readers: BTreeSet::new(),
            opened: None,
        }
    }
}

/// What a fake guest's journal does.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum FakeLogs {
    /// It has nothing, and there will be nothing.
    #[default]
    Empty,
    /// It answers the first question with these entries, as JSON, and ends or says nothing more.
    Entries(Vec<Value>),
    /// It opens no reader.
    Refuses(LogsRefusal),
    /// It answers each question with this payload, at once.
    Says(Value),
    /// It opens a reader and never answers.
    Silent,
}

/// Serves one channel.
pub(super) async fn serve(mut frames: Frames, machine: Arc<Machine>) -> Result<(), FrameError> {
    let shed = machine.spec.shed.clone();
    let started_at = Timestamp::now();
    let mut events = machine.world.host().said.entry(shed.clone()).or_default().events.subscribe();
    let (mut greeted, mut told, mut follows) = (false, 0, false);
    let mut beat = tokio::time::interval(timeouts::HEALTH_EVENT);
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            Ok(()) = events.changed(), if greeted => {
                tell(&mut frames, &events, &mut told).await?;
                continue;
            }
            _at = beat.tick(), if greeted => {
                let event = Envelope::event(SYSTEM_HEALTH, &health(&machine, started_at));
                frames.send(Frame::json(FrameKind::Message, &event)).await?;
                continue;
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame?;
        if frame.kind != FrameKind::Message {
            continue;
        }
        let request: Envelope = frame.parse()?;
        if request.kind == EnvelopeKind::Response {
            machine.world.host().said.entry(shed.clone()).or_default().responses.push(request);
            continue;
        }
        if request.kind != EnvelopeKind::Request {
            continue;
        }
        let health = health(&machine, started_at);
        let mut event = None;
        let reply = match request.namespace.as_str() {
            SYSTEM_HELLO => {
                event = Some(Envelope::event(SYSTEM_HEALTH, &health));
                request.reply(&HelloReply {
                    generation: GENERATION,
                    version: "fake".to_owned(),
                    features: [].into(),
                    boot_id: machine.identity.launch_id.to_string(),
                    started_at,
                })
            }
            SYSTEM_IDENTIFY if machine.faults.boot == BootFault::NeverIdentified => continue,
            SYSTEM_IDENTIFY if machine.faults.boot == BootFault::MountFails => {
                request.reply(&json!({ "error": "mounting workspace at /workspace: no such device" }))
            }
            SYSTEM_IDENTIFY => match request.parse::<Identify>() {
                Ok(identify) => {
                    machine.world.host().identified.insert(shed.clone(), identify);
                    request.reply(&json!({}))
                }
                Err(error) => request.reply(&json!({ "error": error.to_string() })),
            },
            SYSTEM_HEALTH => {
                let asked = request.parse::<HealthRequest>().unwrap_or_default();
                let mut host = machine.world.host();
                let said = host.said.entry(shed.clone()).or_default();
                said.paces.extend(asked.every_ms);
                said.times.extend(asked.now);
                drop(host);
                request.reply(&health)
            }
            SYSTEM_LOGS_OPEN | SYSTEM_LOGS_NEXT | SYSTEM_LOGS_CLOSE => {
                match logs(&request, &machine, &mut follows) {
                    Some(reply) => reply,
                    None => continue,
                }
            }
            SYSTEM_POWER_OFF => request.reply(&json!({})),
            _ => continue,
        };
        frames.send(Frame::json(FrameKind::Message, &reply)).await?;
        if let Some(event) = event {
            frames.send(Frame::json(FrameKind::Message, &event)).await?;
            greeted = true;
            tell(&mut frames, &events, &mut told).await?;
        }
        if request.namespace == SYSTEM_POWER_OFF {
            machine.power_off(AskedBy::Agent);
        }
    }
}

/// Returns how the guest says it is.
fn health(machine: &Machine, started_at: Timestamp) -> Value {
    let setup = machine.setup();
    let asked = machine.world.host().said.entry(machine.spec.shed.clone()).or_default().health.clone();
    asked.unwrap_or_else(|| {
        let (status, metrics, extensions) = (HealthStatus::Ok, None, BTreeMap::new());
        json!(HealthReport { status, started_at, metrics, setup, extensions })
    })
}

async fn tell(
    frames: &mut Frames,
    events: &watch::Receiver<Vec<Envelope>>,
    told: &mut usize,
) -> Result<(), FrameError> {
    let news = events.borrow().get(*told..).unwrap_or_default().to_vec();
    *told += news.len();
    for envelope in news {
        frames.send(Frame::json(FrameKind::Message, &envelope)).await?;
    }
    Ok(())
}

/// Answers what is asked of the journal; a guest that says nothing has no answer.
fn logs(request: &Envelope, machine: &Machine, follows: &mut bool) -> Option<Envelope> {
    let mut host = machine.world.host();
    let said = host.said.entry(machine.spec.shed.clone()).or_default();
    match request.namespace.as_str() {
        SYSTEM_LOGS_OPEN => {
            let open: OpenLogs = request.parse().ok()?;
            if let FakeLogs::Refuses(refusal) = said.logs {
                return Some(request.reply(&LogsOpened { refusal: Some(refusal) }));
            }
            *follows = open.follow;
            said.readers.insert(open.reader);
            said.opened = Some(open);
            Some(request.reply(&LogsOpened::default()))
        }
        SYSTEM_LOGS_CLOSE => {
            let close: CloseLogs = request.parse().ok()?;
            said.readers.remove(&close.reader);
            Some(request.reply(&json!({})))
        }
        _next => {
            let next: NextLogs = request.parse().ok()?;
            let ends = |said: &mut Said, entries: &[Value]| {
                said.readers.remove(&next.reader);
                Some(request.reply(&json!({ "entries": entries, "done": true })))
            };
            match said.logs.clone() {
                FakeLogs::Empty | FakeLogs::Refuses(_) if !*follows => ends(said, &[]),
                FakeLogs::Entries(entries) if !*follows => ends(said, &entries),
                FakeLogs::Entries(entries) => {
                    said.logs = FakeLogs::Empty;
                    Some(request.reply(&json!({ "entries": entries, "done": false })))
                }
                FakeLogs::Says(payload) => Some(request.reply(&payload)),
                FakeLogs::Empty | FakeLogs::Refuses(_) | FakeLogs::Silent => None,
            }
        }
    }
}
