//! All that one pull or push needs to speak with a repository: connections, login, patience.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, atomic::AtomicU64},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, StatusCode, Url};
use shed_types::ImageReference;
use tokio::sync::Mutex;

use crate::{
    Patience, RegistrySettings,
    credentials::DockerConfig,
    error::RequestError,
    http::{Answer, Ask, Clients},
    login::{Grant, Porter, Slot, not_let_in},
    repository::Repository,
};

/// What somebody may do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Access {
    /// Returns it in the words of Docker's token specification.
    const fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

/// What all pulls and pushes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: RegistrySettings,
    pub(crate) patience: Patience,
    config: DockerConfig,
    clients: Clients,
    slots: StdMutex<Slots>,
}

/// By registry, repository and access.
type Slots = HashMap<(String, String, Access), Arc<Mutex<Slot>>>;

impl Shared {
    pub(crate) fn new(settings: RegistrySettings, patience: Patience) -> Self {
        let config = DockerConfig::new(settings.docker_config.as_deref(), patience.helper);
        Self { settings, patience, config, clients: Clients::default(), slots: StdMutex::default() }
    }
}

/// A conversation with one repository.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    pub(crate) repository: Repository,
    access: Access,
    slot: Arc<Mutex<Slot>>,
}

/// A request without the parts that are the same for all.
pub(crate) struct Ordinary<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) build: &'a (dyn Fn(RequestBuilder) -> RequestBuilder + Send + Sync),
}

impl Session {
    /// Prepares to speak with the repository of a reference; connects to nothing yet.
    ///
    /// # Errors
    /// When the reference's registry cannot be a host, or may not be asked.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        reference: &ImageReference,
        access: Access,
    ) -> Result<Self, RequestError> {
        if !shared.settings.allows(reference.registry()) {
            return Err(RequestError::NotAllowed { registry: reference.registry().to_owned() });
        }
        let repository = Repository::of(reference, &shared.settings)?;
        let key = (repository.registry().to_owned(), repository.path().to_owned(), access);
        let mut slots = shared.slots.lock().expect("nothing panics while it is held");
        let slot = Arc::clone(slots.entry(key).or_default());
        drop(slots);
        Ok(Self { shared: Arc::clone(shared), repository, access, slot })
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.shared.patience
    }

    /// Asks the registry, with the login that it wants, and returns whatever it answers but 401.
    ///
    /// # Errors
    /// When nobody answers, or the registry lets nobody of this login in.
    pub(crate) async fn ask(&self, ordinary: Ordinary<'_>) -> Result<Answer, RequestError> {
        self.ask_long(ordinary, self.patience().quiet, None).await
    }

    /// Does as [`Self::ask`], with a body that may take its time: `quiet` counts from the last of it that moved.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn ask_long(
        &self,
        ordinary: Ordinary<'_>,
        quiet: Duration,
        moved: Option<&AtomicU64>,
    ) -> Result<Answer, RequestError> {
        let Ordinary { method, url, build } = ordinary;
        let ask = Ask { method, url, build, quiet, moved };
        let shared = &self.shared;
        let grant = self.slot.lock().await.grant.clone().filter(|grant| grant.is_fresh());
        let send = async |grant: Option<&Grant>| {
            shared.clients.ask(&ask, &self.repository, grant, &shared.patience).await
        };
        let answer = send(grant.as_deref()).await?;
        if answer.response.status() != StatusCode::UNAUTHORIZED || !self.repository.is_own(&answer.url) {
            return Ok(answer);
        }
        let grant = self.let_in(grant, answer).await?;
        let answer = send(Some(&grant)).await?;
        if answer.response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.refusal(answer).await);
        }
        Ok(answer)
    }

    /// Finds what the registry wants to see, unless another request of this repository has found it meanwhile.
    async fn let_in(&self, shown: Option<Arc<Grant>>, refusal: Answer) -> Result<Arc<Grant>, RequestError> {
        let mut slot = self.slot.lock().await;
        if let Some(grant) = slot.grant.as_ref().filter(|grant| grant.is_fresh())
            && shown.is_none_or(|shown| !Arc::ptr_eq(&shown, grant))
        {
            return Ok(Arc::clone(grant));
        }
        let Shared { config, clients, patience, .. } = &*self.shared;
        let actions = self.access.actions();
        let porter = Porter { clients, patience, config, repository: &self.repository, actions };
        porter.grant(&mut slot, refusal).await
    }

    /// Makes the error of an answer that is none of those hoped for.
    pub(crate) async fn refusal(&self, answer: Answer) -> RequestError {
        let (grant, problem) = {
            let slot = self.slot.lock().await;
            (slot.grant.clone(), slot.problem.clone())
        };
        let (host, own) = (answer.host(), self.repository.is_own(&answer.url));
        let said = answer.said(self.patience()).await;
        let said = match &grant {
            Some(grant) => grant.scrub(said),
            None => said,
        };
        if !own || !matches!(said.status, 401 | 403 | 404) {
            return RequestError::Refused { host, said };
        }
        // Registries call private repositories missing or forbidden to those who are not logged in.
        if let Some(problem) = problem {
            return RequestError::Credentials(problem);
        }
        let registry = self.repository.registry().to_owned();
        match said.status {
            401 => {
                let had_login = grant.is_some_and(|grant| grant.has_login());
                not_let_in(&host, &self.repository, &self.shared.config, had_login, said)
            }
            403 => RequestError::Denied { host, registry, said },
            _ => RequestError::NotFound { host, registry, said },
        }
    }
}
