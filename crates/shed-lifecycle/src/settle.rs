//! What a machine that has just been booted still gets while its shed runs already: credentials, its project, the hooks
//! (spec C.2, steps 11 to 14).
//!
//! The driver begins this when the record says `running`, holds it with the machine, and drops it with the machine: a stop,
//! a delete or the machine's end ends it, a client that goes away does not. Nothing that fails here fails the create or
//! start; those who wait for one are answered when this ends, with what went wrong.

use std::sync::Arc;

use shed_backend::Vm;
use shed_protocol::{CloneRequest, Occasion, SetupRequest};
use shed_types::{Repo, ShedName};
use tokio_util::task::AbortOnDropHandle;

use crate::{Phase, Progress, context::Context, env_file, guest_channel::GuestChannel, known_hosts, setup};

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
    /// Does all of it, and returns what keeps credentials in step from now on.
    pub(crate) async fn run(self, project: Project) -> AbortOnDropHandle<()> {
        let credentials = &self.context.credentials;
        if !credentials.is_empty() {
            self.progress.enter(Phase::Credentials);
            credentials.deliver(&self.shed, &*self.vm, &self.progress).await;
        }
        let attending = credentials.attend(self.shed.clone(), Arc::clone(&self.vm), self.channel.clone());
        // Without a step there is nothing to ask the guest for.
        if project.repo.is_some() || project.hooks {
            self.set_up(project).await;
        }
        attending
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
