//! What a machine that has just been booted still gets while its shed runs already: credentials, its project, the hooks
//! (spec C.2, steps 11 to 14).
//!
//! The driver begins this when the record says `running`, holds it with the machine, and drops it with the machine: a stop,
//! a delete or the machine's end ends it, a client that goes away does not. Nothing that fails here fails the create or
//! start; those who wait for one are answered when this ends, with what went wrong.
//!
//! The record of a launch says what is to be done. So a server that adopts the machine after a crash can ask the guest
//! whether its setup was ever begun, and begin it.

use std::sync::Arc;

use shed_backend::Vm;
use shed_protocol::{
    CloneRequest, HealthReport, HealthRequest, Occasion, SYSTEM_HEALTH, SetupRequest, timeouts,
};
use shed_state::{PlannedSetup, ShedRecord};
use shed_types::{Repo, ShedName, error_chain};
use tokio::sync::oneshot;

use crate::{
    Phase, Progress,
    context::Context,
    credentials::Attending,
    driver::{CreateReply, Pending, StartReply},
    env_file,
    guest_channel::GuestChannel,
    known_hosts, setup,
};

/// What a boot leads to besides a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Project {
    /// What is cloned, by a create.
    pub repo: Option<Repo>,
    /// Whether hooks run.
    pub hooks: bool,
    /// Create or start.
    pub occasion: Occasion,
}

impl Project {
    /// What a start leads to.
    pub(crate) const START: Self = Self { repo: None, hooks: true, occasion: Occasion::Start };

    /// Returns what the record keeps of it. `credentials` is whether there are some to copy.
    pub(crate) fn planned(&self, credentials: bool) -> Option<PlannedSetup> {
        match (self.occasion, self.hooks) {
            (Occasion::Create, true) => Some(PlannedSetup::Create),
            (Occasion::Create, false) => {
                (self.repo.is_some() || credentials).then_some(PlannedSetup::CreateWithoutHooks)
            }
            (Occasion::Start, _) => Some(PlannedSetup::Start),
            (Occasion::Stop, _) => None,
        }
    }

    /// Returns what a record keeps of it, and what is lost: a repository whose password only the former server had.
    pub(crate) fn of_record(record: &ShedRecord) -> Option<(Self, Option<String>)> {
        let planned = record.vm.and_then(|vm| vm.setup)?;
        let (occasion, hooks) = match planned {
            PlannedSetup::Create => (Occasion::Create, true),
            PlannedSetup::CreateWithoutHooks => (Occasion::Create, false),
            PlannedSetup::Start => (Occasion::Start, true),
        };
        let text =
            record.repo.as_ref().filter(|_| occasion == Occasion::Create && record.local_dir.is_none());
        let repo = text.and_then(|text| Repo::from_masked(text));
        let lost = text.filter(|_| repo.is_none()).map(|text| {
            format!("the repository {text} was not cloned: the server that ended had its password in memory alone; clone it in the shed")
        });
        Some((Self { repo, hooks, occasion }, lost))
    }
}

/// How far what comes after a boot is. It belongs to the machine and goes with it.
pub(crate) enum Settling {
    /// It goes on.
    InProgress {
        work: Pending<Attending>,
        /// Resolves when credentials are copied, and is gone afterwards.
        delivered: Option<oneshot::Receiver<()>>,
        waiters: Waiters,
    },
    /// It has ended, and credentials are kept in step.
    Done(Attending),
}

/// Those who wait until a shed has settled, and what they will be told.
pub(crate) struct Waiters {
    pub progress: Arc<Progress>,
    pub create: Option<CreateReply>,
    pub starts: Vec<StartReply>,
    /// Those who wait for its credentials alone.
    pub running: Vec<StartReply>,
}

/// How settling goes on.
pub(crate) enum Settled {
    /// Credentials are copied; commands may be run.
    Delivered,
    /// All is done.
    Done(Attending),
}

impl Settling {
    /// Waits for what comes next; for ever when all has been.
    pub(crate) async fn next(&mut self) -> Settled {
        match self {
            Self::InProgress { work, delivered, .. } => tokio::select! {
                biased;
                // What goes on with a setup that has begun has nothing to copy, and drops its end.
                _told = async { delivered.as_mut().expect("it is looked at while it is there").await }, if delivered.is_some() => {
                    *delivered = None;
                    Settled::Delivered
                }
                attending = work => Settled::Done(attending),
            },
            Self::Done(_) => std::future::pending().await,
        }
    }

    /// Returns those who wait for credentials alone.
    pub(crate) fn take_running(&mut self) -> Option<(Arc<Progress>, Vec<StartReply>)> {
        match self {
            Self::InProgress { waiters, .. } => {
                Some((Arc::clone(&waiters.progress), std::mem::take(&mut waiters.running)))
            }
            Self::Done(_) => None,
        }
    }

    /// Ends it, and returns those who wait for it, or else what keeps credentials in step.
    pub(crate) fn leave(self) -> (Option<Waiters>, Option<Attending>) {
        match self {
            Self::InProgress { waiters, .. } => (Some(waiters), None),
            Self::Done(credentials) => (None, Some(credentials)),
        }
    }
}

/// Why a shed does not settle.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unsettled {
    Stopped,
    MachineEnded,
    ServerEnds,
}

impl Unsettled {
    /// Says it to whoever waited.
    pub(crate) fn explain(self, shed: &ShedName) -> String {
        match self {
            Self::Stopped => format!("shed {shed} was stopped before its project was set up"),
            Self::MachineEnded => format!("the machine of shed {shed} ended before its project was set up"),
            Self::ServerEnds => format!(
                "the server ends; the setup of shed {shed} goes on, and `shed status {shed}` tells how it stands"
            ),
        }
    }
}

/// A running machine that settles.
pub(crate) struct Settle {
    pub context: Arc<Context>,
    pub shed: ShedName,
    pub vm: Arc<dyn Vm>,
    pub channel: GuestChannel,
    pub progress: Arc<Progress>,
}

impl Settle {
    /// Does all of it, and returns what keeps credentials in step from now on. `delivered` hears when they are copied.
    pub(crate) async fn run(self, project: Project, delivered: oneshot::Sender<()>) -> Attending {
        let credentials = &self.context.credentials;
        if !credentials.is_empty() {
            self.progress.enter(Phase::Credentials);
            credentials.deliver(&self.shed, &*self.vm, &self.progress).await;
        }
        let attending = self.attend();
        let _nobody_waits = delivered.send(());
        // Without a step there is nothing to ask the guest for.
        if project.repo.is_some() || project.hooks {
            self.set_up(project).await;
        }
        attending
    }

    /// Keeps credentials in step from now on.
    pub(crate) fn attend(&self) -> Attending {
        let (shed, vm) = (self.shed.clone(), Arc::clone(&self.vm));
        self.context.credentials.attend(shed, vm, self.channel.clone())
    }

    /// Does what a former server had to do for a machine, unless it came to that: the guest goes on by itself.
    pub(crate) async fn resume(
        self,
        project: Project,
        lost: Option<String>,
        delivered: oneshot::Sender<()>,
    ) -> Attending {
        if self.has_begun().await {
            return self.attend();
        }
        tracing::info!("the former server ended before it asked the guest for its setup; asking now");
        if let Some(warning) = lost {
            self.progress.warn(Phase::Repo, warning);
        }
        self.run(project, delivered).await
    }

    /// Asks the guest whether it has been asked for a setup since it booted. Waits until it answers.
    async fn has_begun(&self) -> bool {
        let mut openings = self.channel.openings();
        loop {
            let patience = timeouts::SYSTEM_REPLY;
            let request = HealthRequest::default();
            match self.channel.request(SYSTEM_HEALTH, &request, patience).await {
                Ok(HealthReport { setup, .. }) => return setup.is_some(),
                Err(error) => {
                    tracing::debug!(error = %error_chain(&error), "the guest did not say how its setup stands");
                }
            }
            // The sender goes with the machine, and this future, too.
            if openings.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn set_up(&self, Project { repo, hooks, occasion }: Project) {
        let settings = &self.context.settings;
        let phase = if repo.is_some() { Phase::Repo } else { Phase::Provision };
        self.progress.enter(phase);
        let file = env_file::read(settings.env_file.as_ref()).await;
        for warning in file.warnings {
            self.progress.warn(phase, warning);
        }
        let request = SetupRequest {
            occasion,
            clone: repo.as_ref().map(|repo| CloneRequest {
                url: repo.clone_url(),
                known_hosts: known_hosts::lines(repo, &settings.extra_known_hosts),
            }),
            hooks,
            env: file.env,
            limit_ms: None,
        };
        let secret = repo.as_ref().and_then(Repo::secret);
        setup::run(&self.shed, &*self.vm, &request, secret, &self.progress).await;
    }
}
