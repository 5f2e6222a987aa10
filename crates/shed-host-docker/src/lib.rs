//! Answers sheds that ask for registries' credentials (spec J.2, J.4): from where the user's own Docker keeps them, for the
//! registries that the user allows.
//!
//! `shed-host-agent` calls it. It reads Docker's configuration anew for each request, runs Docker's credential helpers, and
//! stores and erases nothing. A registry that is not allowed is not looked up at all.

mod config;
mod helper;
mod registry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use shed_extensions::{
    Answer, Code, Failure, Pong, clean,
    docker::{Credentials, Registries, Request, Status},
    operation, read_request,
};
use shed_types::error_chain;

pub use crate::registry::{ParseRegistryError, Registry};
use crate::{
    config::{ConfigError, DockerConfig, Login},
    helper::{HelperError, Helpers},
};

/// Most helpers that a list asks.
const HELPERS_LISTED: usize = 16;

/// Most registries that a list names.
const LISTED: usize = 1000;

/// The `docker:` section of extensions.yaml, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The allowlist.
    pub registries: BTreeSet<Registry>,
    /// Whether it is not looked at.
    pub allow_all: bool,
    /// Docker's configuration.
    pub config_path: PathBuf,
    /// Where helpers are looked for, in the form of `PATH`, which it is when this is absent.
    pub search_path: Option<OsString>,
}

impl Options {
    /// Returns where Docker itself would read its configuration: as `DOCKER_CONFIG` says, else in `home`.
    #[must_use]
    pub fn default_config_path(home: &Path) -> PathBuf {
        let dir = env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        dir.unwrap_or_else(|| home.join(".docker")).join("config.json")
    }

    fn allows(&self, registry: &Registry) -> bool {
        self.allow_all || self.registries.contains(registry)
    }
}

/// Why the namespace is not offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

/// Answers for the namespace [`NAMESPACE`](shed_extensions::docker::NAMESPACE).
#[derive(Debug)]
pub struct Docker {
    options: Options,
    helpers: Helpers,
}

/// Why there are no credentials. `Display` is what a guest may read.
#[derive(Debug, thiserror::Error)]
enum GetError {
    #[error("`{0}` is no name of a registry, like ghcr.io")]
    NoRegistry(String),
    #[error(
        "registry {0} is not allowed; its user can add it to docker.registries in extensions.yaml of the host"
    )]
    NotAllowed(Registry),
    #[error("the host has no credentials for {0}; its user can run `docker login {0}` there")]
    NotFound(Registry),
    #[error(
        "the host could not read the configuration of its Docker; its user finds the reason in the log of shed-host-agent"
    )]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Helper(#[from] HelperError),
}

impl GetError {
    fn code(&self) -> Code {
        match self {
            Self::NoRegistry(_) | Self::NotAllowed(_) => Code::RegistryNotAllowed,
            Self::NotFound(_) => Code::CredentialsNotFound,
            Self::Config(_) => Code::InternalError,
            Self::Helper(_) => Code::HelperFailed,
        }
    }

    fn answer(&self, operation: String) -> Answer {
        let detail = Some(clean(&error_chain(self), 600));
        Answer { result: Err(Failure::new(self.code(), self.to_string())), operation, detail }
    }
}

impl Docker {
    /// Makes one; nothing is read yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with_limit(options, helper::LIMIT)
    }

    fn with_limit(options: Options, limit: Duration) -> Self {
        Self { helpers: Helpers::new(options.search_path.clone(), limit), options }
    }

    /// Says whether any registry is allowed, and there is a configuration of Docker. No helper is run.
    ///
    /// # Errors
    /// When there is not; the text says what to do.
    pub async fn available(&self) -> Result<(), Unavailable> {
        if self.options.registries.is_empty() && !self.options.allow_all {
            let text = "no registry is allowed; set docker.registries, or docker.allow_all";
            return Err(Unavailable(text.to_owned()));
        }
        let config = DockerConfig::read(&self.options.config_path).await;
        config.map(drop).map_err(|error| Unavailable(error_chain(&error)))
    }

    /// Answers one request of a shed. Who it is changes nothing: the allowlist is for all.
    pub async fn answer(&self, _server: &str, _shed: &str, payload: &serde_json::Value) -> Answer {
        let operation = operation(payload);
        if ["store", "erase"].contains(&operation.as_str()) {
            let error = format!(
                "a shed cannot {operation} credentials; run `docker login` or `docker logout` on the host"
            );
            return Answer::failed(operation, Failure::new(Code::ReadOnly, error));
        }
        match read_request(payload) {
            Err(failure) => Answer::failed(operation, failure),
            Ok(Request::Ping) => Answer::of(operation, &Pong::ok(), None),
            Ok(Request::Status) => {
                let status = Status {
                    connected: DockerConfig::read(&self.options.config_path).await.is_ok(),
                    allow_all: self.options.allow_all,
                    registry_count: self.options.registries.len(),
                };
                Answer::of(operation, &status, None)
            }
            Ok(Request::List) => match self.list().await {
                Ok(list) => {
                    let detail = format!("{} registries", list.registries.len());
                    Answer::of(operation, &list, Some(detail))
                }
                Err(error) => error.answer(operation),
            },
            Ok(Request::Get { server_url }) => match self.get(&server_url).await {
                Ok((registry, login)) => {
                    let server_url = server_url.trim().to_owned();
                    let credentials =
                        Credentials { server_url, username: login.username, secret: login.secret };
                    Answer::of(operation, &credentials, Some(registry.to_string()))
                }
                Err(error) => error.answer(operation),
            },
        }
    }

    async fn get(&self, server_url: &str) -> Result<(Registry, Login), GetError> {
        let registry = Registry::parse(server_url)
            .map_err(|_no_registry| GetError::NoRegistry(clean(server_url, 100)))?;
        if !self.options.allows(&registry) {
            return Err(GetError::NotAllowed(registry));
        }
        let config = DockerConfig::read(&self.options.config_path).await?;
        for helper in config.helpers(&registry) {
            for name in config.names(&registry) {
                if let Some(login) = self.helpers.get(helper, name).await? {
                    return Ok((registry, login));
                }
            }
        }
        match config.login(&registry) {
            Some(login) => Ok((registry, login)),
            None => Err(GetError::NotFound(registry)),
        }
    }

    /// Names the allowed registries that there are credentials for. A helper that fails has none.
    async fn list(&self) -> Result<Registries, GetError> {
        let config = DockerConfig::read(&self.options.config_path).await?;
        let mut registries = BTreeMap::new();
        let mut add = |written: &str, user: String| {
            let allowed = Registry::parse(written).is_ok_and(|registry| self.options.allows(&registry));
            if allowed && registries.len() < LISTED {
                let _first = registries.entry(written.trim().to_owned()).or_insert(clean(&user, 200));
            }
        };
        for (written, user) in config.logins() {
            add(written, user);
        }
        let asked = config
            .all_helpers()
            .into_iter()
            .take(HELPERS_LISTED)
            .map(|(helper, only)| async move { (self.helpers.list(helper).await, only) });
        for (listed, only) in futures::future::join_all(asked).await {
            let listed = listed.unwrap_or_else(|error| {
                tracing::warn!("left out of a list of registries: {}", error_chain(&error));
                BTreeMap::new()
            });
            for (written, user) in listed {
                let is_its_own = |only: &BTreeSet<Registry>| {
                    Registry::parse(&written).is_ok_and(|registry| only.contains(&registry))
                };
                if only.as_ref().is_none_or(is_its_own) {
                    add(&written, user);
                }
            }
        }
        Ok(Registries { registries })
    }
}
