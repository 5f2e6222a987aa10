//! The setup service (port 1027): clones a repository and runs its hooks, as the user (spec D).
//!
//! The host asks on a stream and is told there what happens, but the steps belong to a task of the agent's own: they go on
//! when the stream breaks, and health reports say how they stand. One setup runs at a time. A second one is refused, but
//! for that of a stop, which ends the one that runs.
//!
//! A repository may be anybody's. What it names is opened beneath /workspace as the user, what it prints is bounded, and
//! what its hooks do they do as the user.

mod announce;
mod as_user;
mod clone;
mod hook_state;
mod hooks;
mod job;
mod known_hosts;
mod live;
mod log_dir;
mod mask;
mod output;
mod provision;
mod report;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod text;
mod tools_path;
mod workspace;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use shed_protocol::{Frame, FrameCodec, FrameKind, Occasion, SetupReply, SetupReport, SetupRequest};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    sync::CancellationToken,
};

use self::{live::Live, report::Reports, run::Run};
use crate::{exec::users::User, image::WORKSPACE, serve::ByteStream, state::State};

/// Where the report is kept for agents that start later in this boot.
const KEPT: &str = "/run/shed-setup.json";

/// Longest time that a host may ask for: more than any hook may take, and far from what clocks can count.
const MAX_LIMIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Places and people; those of a guest, but for tests.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    /// Where repositories lie.
    pub(crate) workspace: PathBuf,
    /// The directory of logs.
    pub(crate) logs: PathBuf,
    /// The machine's configuration.
    pub(crate) etc: PathBuf,
    /// Where the report is kept.
    pub(crate) kept: PathBuf,
    /// Who clones and runs hooks; nobody means whoever runs commands that name nobody.
    pub(crate) user: Option<User>,
}

impl Ground {
    /// Returns those of a guest.
    pub(crate) fn guest() -> Self {
        Self {
            workspace: WORKSPACE.into(),
            logs: "/var/log/shed".into(),
            etc: "/etc".into(),
            kept: KEPT.into(),
            user: None,
        }
    }
}

/// The setups of this agent.
#[derive(Debug)]
pub(crate) struct Setups {
    ground: Ground,
    reports: Reports,
    /// Whoever holds it may run.
    turn: Arc<tokio::sync::Mutex<()>>,
    current: Mutex<Current>,
}

/// The setup that runs.
#[derive(Debug, Default)]
struct Current {
    /// Ends it.
    stop: CancellationToken,
    /// Whether a stop runs, or waits for another setup's end.
    stopping: bool,
}

impl Setups {
    /// Makes them, with the report that an earlier agent of this boot has left.
    pub(crate) fn new(ground: Ground) -> Self {
        let reports = Reports::open(&ground.kept);
        Self { ground, reports, turn: Arc::default(), current: Mutex::default() }
    }

    /// How the setup of this boot stands, when there was one.
    pub(crate) fn report(&self) -> Option<SetupReport> {
        self.reports.get()
    }

    /// Takes the turn; what it is told by ends with the setup.
    async fn begin(
        &self,
        occasion: Occasion,
        deadline: Option<Instant>,
    ) -> Result<(OwnedMutexGuard<()>, CancellationToken), &'static str> {
        let lock = || self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = {
            let mut current = lock();
            if current.stopping {
                return Err("the shed is being stopped");
            }
            match occasion {
                Occasion::Create | Occasion::Start => {
                    let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
                        return Err("a setup runs already; wait for its end, or stop the shed");
                    };
                    current.stop = CancellationToken::new();
                    return Ok((turn, current.stop.clone()));
                }
                Occasion::Stop => {
                    current.stopping = true;
                    current.stop.cancel();
                    Arc::clone(&self.turn).lock_owned()
                }
            }
        };
        let turn = match deadline {
            Some(deadline) => match timeout_at(deadline, waiting).await {
                Ok(turn) => turn,
                Err(_) => {
                    lock().stopping = false;
                    return Err("the setup that runs did not end in time");
                }
            },
            None => waiting.await,
        };
        let stop = CancellationToken::new();
        lock().stop = stop.clone();
        Ok((turn, stop))
    }

    /// Lets the next one begin.
    fn end(&self, occasion: Occasion, turn: OwnedMutexGuard<()>) {
        if occasion == Occasion::Stop {
            self.current.lock().unwrap_or_else(PoisonError::into_inner).stopping = false;
        }
        drop(turn);
    }
}

/// Serves one stream.
pub(crate) async fn serve(stream: impl ByteStream, state: &Arc<State>) {
    let (reader, writer) = tokio::io::split(stream);
    let mut requests = FramedRead::new(reader, FrameCodec);
    let mut host = FramedWrite::new(writer, FrameCodec);
    let request = match requests.next().await {
        Some(Ok(frame)) if frame.kind == FrameKind::SetupRequest => frame.parse::<SetupRequest>().ok(),
        Some(_) => None,
        None => return,
    };
    let live = Arc::new(Live::default());
    match request {
        Some(request) => match check(&request) {
            Ok(()) => begin(request, &live, state),
            Err(reason) => live.reply(&refusal(reason)),
        },
        None => live.reply(&refusal("the request for a setup cannot be read")),
    }
    while let Some(frame) = live.next().await {
        if host.send(frame).await.is_err() {
            return live.host_has_gone();
        }
    }
    // When this fails the host has gone with the reply in its hands or without: nothing is left to do.
    let _gone = SinkExt::<Frame>::close(&mut host).await;
}

/// Begins a setup in a task of its own, which no stream can end.
fn begin(request: SetupRequest, live: &Arc<Live>, state: &Arc<State>) {
    let (live, state) = (Arc::clone(live), Arc::clone(state));
    let limit = request.limit_ms.map(|limit| Duration::from_millis(limit).min(MAX_LIMIT));
    // A stop's time runs while it waits for the one that it ends.
    let deadline = limit.map(|limit| Instant::now() + limit);
    tokio::spawn(async move {
        let occasion = request.occasion;
        let reply = match state.setups.begin(occasion, deadline).await {
            Ok((turn, stop)) => {
                Run::new(request, Arc::clone(&state), Arc::clone(&live), stop, deadline).run().await;
                state.setups.end(occasion, turn);
                SetupReply::default()
            }
            Err(reason) => refusal(reason),
        };
        live.reply(&reply);
    });
}

fn check(request: &SetupRequest) -> Result<(), &'static str> {
    let is_variable =
        |entry: &String| !entry.contains('\0') && entry.find('=').is_some_and(|length| length > 0);
    if !request.env.iter().all(is_variable) {
        return Err("the request has a variable that is none");
    }
    match &request.clone {
        Some(clone) if !clone::is_url(&clone.url) => {
            Err("the request has a URL that git cannot clone from here")
        }
        Some(clone) if !known_hosts::are_lines(&clone.known_hosts) => {
            Err("the request has known hosts that are no lines")
        }
        Some(_) | None => Ok(()),
    }
}

fn refusal(reason: &str) -> SetupReply {
    SetupReply { error: Some(reason.to_owned()) }
}
