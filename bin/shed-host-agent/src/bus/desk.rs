//! Answers messages: finds a place for each, has the extension answer, writes the audit log, sends the response.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use serde_json::Value;
use shed_api::{PluginMessage, PluginMessageKind, PluginResponse, PluginTarget};
use shed_client::Client;
use shed_extensions::{Code, Failure, clean};
use shed_types::{Namespace, error_chain};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;

use super::bounds::Bounds;
use crate::{
    answer::{Asked, Extension, Told},
    approval::ShedKey,
    audit::Audit,
};

/// How long an answer may take; the guest waits 30 s (spec J.3).
const LIMIT: Duration = Duration::from_secs(28);

/// Most refusals that are on their way at the same time. Who asks still more is not answered at all.
const REFUSALS: usize = 32;

/// Operations that ask how the agent is. They give nothing away and come often, so only their failures are logged.
const UNLOGGED: [&str; 2] = ["ping", "status"];

/// Where all messages are answered. Clones are the same desk.
#[derive(Debug, Clone)]
pub struct Desk {
    audit: Audit,
    bounds: Bounds,
    refusals: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// Where a message came from, and where its response goes.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) client: Client,
    /// URL.
    pub(super) server: String,
    pub(super) namespace: Namespace,
    pub(super) extension: Arc<dyn Extension>,
}

impl Desk {
    /// Makes one with no message on it.
    #[must_use]
    pub fn new(audit: Audit) -> Self {
        Self {
            audit,
            bounds: Bounds::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            tasks: TaskTracker::new(),
        }
    }

    /// Waits until what is being answered is done, at most so long.
    pub async fn finish(&self, limit: Duration) {
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                requests = self.tasks.len(),
                "requests are left unanswered; their sheds get a time-out"
            );
        }
    }

    /// Takes a message and returns at once.
    pub(super) fn take(&self, origin: &Origin, message: PluginMessage) {
        match message.kind {
            PluginMessageKind::Request => {}
            // Nothing that Shed's own extensions know is told without a question.
            PluginMessageKind::Event => return,
        }
        let PluginMessage { id, shed, payload, .. } = message;
        let asked = Asked { server: origin.server.clone(), shed, payload };
        let (desk, origin) = (self.clone(), origin.clone());
        if let Some(place) = self.bounds.enter(&ShedKey::of(&asked)) {
            drop(self.tasks.spawn(async move {
                let answer = desk.answer(&origin, &asked).await;
                send(&origin, id, &asked, answer).await;
                drop(place);
            }));
        } else if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
            drop(self.tasks.spawn(async move {
                let answer = desk.refuse(&origin, &asked).await;
                send(&origin, id, &asked, answer).await;
                drop(permit);
            }));
        } else {
            tracing::debug!(shed = clean(&asked.shed.name, 64), "a request is dropped: far too many at once");
        }
    }

    /// Returns the payload of the response; nothing goes out that is not in the audit log.
    async fn answer(&self, origin: &Origin, asked: &Asked) -> Value {
        let began = Instant::now();
        let mut told = Told::default();
        let work = AssertUnwindSafe(timeout(LIMIT, origin.extension.answer(asked, &mut told))).catch_unwind();
        let answer = match work.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(internal(format!("the host agent had no answer within {} s", LIMIT.as_secs()))),
            Err(_) => Err(internal("the host agent failed; its log says how")),
        };
        let shed = clean(&asked.shed.name, 64);
        tracing::debug!(shed, operation = told.operation, ok = answer.is_ok(), took = ?began.elapsed(), "request");
        let result = answer.as_ref().map(drop);
        let is_logged = result.is_err() || !UNLOGGED.contains(&told.operation.as_str());
        if is_logged
            && let Err(error) = self.audit.write(asked, origin.extension.namespace(), &told, result).await
        {
            tracing::error!(
                shed,
                error = error_chain(&error),
                "a request is refused, because it cannot be logged"
            );
            return failure(&internal("the host agent cannot write its audit log, so it answers nothing"));
        }
        match answer {
            Ok(answer) => answer,
            Err(why) => failure(&why),
        }
    }

    async fn refuse(&self, origin: &Origin, asked: &Asked) -> Value {
        let why = internal("too many requests at once; wait for some to be answered");
        if let Err(error) = self.audit.write_refusal(asked, origin.extension.namespace(), &why).await {
            tracing::error!(error = error_chain(&error), "a refusal cannot be logged");
        }
        failure(&why)
    }
}

async fn send(origin: &Origin, id: String, asked: &Asked, payload: Value) {
    let response = PluginResponse {
        namespace: None,
        in_reply_to: Some(id),
        is_final: true,
        payload,
        shed: Some(PluginTarget { name: asked.shed.name.clone() }),
    };
    if let Err(error) = origin.client.respond(&origin.namespace, &response).await {
        let (server, shed) = (&origin.server, clean(&asked.shed.name, 64));
        tracing::warn!(
            server,
            shed,
            error = clean(&error_chain(&error), 300),
            "an answer did not reach its shed"
        );
    }
}

fn internal(error: impl Into<String>) -> Failure {
    Failure::new(Code::InternalError, error)
}

fn failure(why: &Failure) -> Value {
    serde_json::to_value(why).expect("a failure is plain JSON")
}
