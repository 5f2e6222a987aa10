//! The agent's end of the control socket.

use std::{io, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use shed_types::error_chain;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::codec::{Framed, LinesCodec};

use super::{AgentStatus, MAX_LINE, Order, Report};
use crate::approval::{Queue, Verdict};

/// Most connections at the same time; each `approvals watch` is one.
const MOST: usize = 32;

/// How long an order may take to come, and a report to be taken.
const LIMIT: Duration = Duration::from_secs(5);

/// Who can say how the agent is.
#[async_trait::async_trait]
pub trait Described: Send + Sync {
    /// Says it.
    async fn describe(&self) -> AgentStatus;
}

/// Answers orders until it is dropped.
pub async fn serve(listener: UnixListener, queue: Queue, agent: Arc<dyn Described>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, which pass; a loop without a pause would only heat.
                tracing::warn!(%error, "a connection to the control socket was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (queue, agent) = (queue.clone(), Arc::clone(&agent));
        drop(tokio::spawn(async move {
            if let Err(error) = attend(stream, &queue, agent.as_ref()).await {
                tracing::debug!(error = error_chain(&error), "a control connection ended early");
            }
            drop(place);
        }));
    }
}

async fn attend(stream: UnixStream, queue: &Queue, agent: &dyn Described) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != rustix::process::geteuid().as_raw() {
        tracing::warn!(uid = peer, "another user is refused at the control socket");
        return Ok(());
    }
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
    let line = timeout(LIMIT, lines.next()).await.map_err(io::Error::from)?;
    let Some(line) = line.transpose().map_err(io::Error::other)? else { return Ok(()) };
    let answer = |id: &str, verdict, what| match queue.answer(id, verdict) {
        Ok(question) => Report::Done { what: format!("{what}: {}", question.text()) },
        Err(error) => Report::Failed { error: error.to_string() },
    };
    let report = match serde_json::from_str(&line) {
        Ok(Order::Status) => Report::Status(Box::new(agent.describe().await)),
        Ok(Order::List) => Report::Waiting { waiting: queue.waiting() },
        Ok(Order::Watch) => return watch(&mut lines, queue).await,
        Ok(Order::Approve { id }) => answer(&id, Verdict::Approved, "approved"),
        Ok(Order::Deny { id }) => answer(&id, Verdict::Denied, "denied"),
        Err(error) => Report::Failed { error: format!("this agent does not know the order: {error}") },
    };
    send(&mut lines, &report).await
}

/// Tells of each change until the other end goes.
async fn watch(lines: &mut Framed<UnixStream, LinesCodec>, queue: &Queue) -> io::Result<()> {
    let mut changes = queue.changes();
    loop {
        send(lines, &Report::Waiting { waiting: queue.waiting() }).await?;
        tokio::select! {
            Ok(()) = changes.changed() => {}
            _gone = lines.next() => return Ok(()),
        }
    }
}

async fn send(lines: &mut Framed<UnixStream, LinesCodec>, report: &Report) -> io::Result<()> {
    let line = serde_json::to_string(report)?;
    timeout(LIMIT, lines.send(line)).await.map_err(io::Error::from)?.map_err(io::Error::other)
}
