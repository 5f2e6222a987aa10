//! `shed-host-agent run`: makes everything, waits for SIGTERM or SIGINT, and lets what is being answered end.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use shed_types::Namespace;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    approval::{self, Queue, notify::Notifier},
    audit::Audit,
    bus::{self, Desk, Links},
    config::Config,
    control::{
        AgentStatus, NotOffered,
        place::Place,
        server::{self, Described},
    },
    extensions,
    places::Surroundings,
    ssh::Ssh,
};

/// How long requests may take that are being answered when the agent is to end.
const GRACE: Duration = Duration::from_secs(3);

/// Runs until a signal.
///
/// # Errors
/// When another agent runs, or something that is needed cannot be had.
pub async fn run(config: Config, surroundings: &Surroundings) -> anyhow::Result<()> {
    let place = Place::take(&surroundings.control_dir()?)?;
    let mut terminate = signal(SignalKind::terminate()).context("could not wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not wait for SIGINT")?;
    let audit = Audit::open(config.logging.audit.as_deref())
        .context("the audit log is on, so nothing would be answered; set logging.path or logging.enabled")?;
    let queue = Queue::new(Notifier::find(surroundings));
    let offer = extensions::offer(&config, surroundings, Some(approval::gate(&queue))).await?;
    for left_out in &offer.not_offered {
        tracing::warn!(namespace = left_out.namespace, "not offered: {}", left_out.reason);
    }

    // Whoever sees the agent on the bus finds its socket.
    let socket = place.listen()?;
    let links = Links::default();
    let desk = Desk::new(audit);
    let stop = CancellationToken::new();
    let listeners = TaskTracker::new();
    for server in &config.servers {
        for extension in &offer.extensions {
            let namespace: Namespace =
                extension.namespace().parse().context("an extension has a bad namespace")?;
            let (extension, desk) = (Arc::clone(extension), desk.clone());
            let listener = bus::run(server.clone(), namespace, extension, desk, links.clone(), stop.clone());
            drop(listeners.spawn(listener));
        }
    }
    listeners.close();

    let agent = Arc::new(Agent {
        started_at: Timestamp::now(),
        config,
        queue: queue.clone(),
        ssh: offer.ssh,
        links,
        not_offered: offer.not_offered,
    });
    let control = server::serve(socket, queue.clone(), agent);
    let control = AbortOnDropHandle::new(tokio::spawn(control));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "shed-host-agent runs");

    tokio::select! {
        _signal = terminate.recv() => {}
        _signal = interrupt.recv() => {}
    }
    tracing::info!("ending");
    // Namespaces are given back first, so that nothing new comes; what is here may still be answered.
    stop.cancel();
    listeners.wait().await;
    queue.deny_all();
    desk.finish(GRACE).await;
    drop(control);
    drop(place);
    Ok(())
}

/// What the control socket can ask.
struct Agent {
    started_at: Timestamp,
    config: Config,
    queue: Queue,
    ssh: Arc<Ssh>,
    links: Links,
    not_offered: Vec<NotOffered>,
}

#[async_trait::async_trait]
impl Described for Agent {
    async fn describe(&self) -> AgentStatus {
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            config: self.config.file.clone(),
            audit: self.config.logging.audit.clone(),
            approval: self.config.ssh.approval.map(|approval| approval.policy.as_str().to_owned()),
            waiting: self.queue.waiting().len(),
            ssh: self.ssh.status().await,
            connections: self.links.list(),
            not_offered: self.not_offered.clone(),
        }
    }
}
