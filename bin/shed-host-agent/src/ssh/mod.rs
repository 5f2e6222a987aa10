//! The extension `ssh-agent`: keys of this machine that sign for sheds (spec J.2, J.4).
//!
//! The keys are the user's agent's, or in files. It signs with keys that it lists and with no others, and when approval is
//! on only after a person said yes. No private key and nothing that was signed is ever in a log.

mod agent;
mod local;
mod wire;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use camino::Utf8PathBuf;
use sha2::{Digest, Sha256};
use shed_extensions::{
    Code, Failure, Pong,
    ssh::{Keys, Mode, NAMESPACE, Request, Sign, Signature, Status},
};
use shed_types::error_chain;

use self::{
    agent::{Agent, AgentError},
    local::{LocalKey, Skipped},
};
use crate::{
    answer::{APPROVAL_DENIED, Asked, Extension, Told, payload, read_request},
    approval::{Approver, Verdict},
};

/// Answers for keys.
pub struct Ssh {
    mode: Option<Mode>,
    agent: Agent,
    home: Option<Utf8PathBuf>,
    approver: Option<Arc<Approver>>,
    /// Files that a note was written of; one is enough.
    noted: Mutex<HashSet<String>>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The keys there are now.
enum Found {
    /// Those of the agent.
    Agent(Vec<shed_extensions::ssh::Key>),
    /// Those of files.
    Local(Vec<LocalKey>),
}

impl Ssh {
    /// Makes it. Without an approver nobody is asked.
    #[must_use]
    pub fn new(
        mode: Option<Mode>,
        agent_socket: Option<Utf8PathBuf>,
        home: Option<Utf8PathBuf>,
        approver: Option<Arc<Approver>>,
    ) -> Self {
        Self { mode, agent: Agent::new(agent_socket), home, approver, noted: Mutex::default() }
    }

    /// Says how it works now, for guests and for `shed-host-agent status`.
    pub async fn status(&self) -> Status {
        match self.find().await {
            Ok(found) => {
                let (mode, key_count) = match &found {
                    Found::Agent(keys) => (Mode::AgentForward, keys.len()),
                    Found::Local(keys) => (Mode::LocalKeys, keys.len()),
                };
                Status { connected: key_count > 0 || mode == Mode::AgentForward, mode, key_count }
            }
            Err(_) => Status { connected: false, mode: Mode::AgentForward, key_count: 0 },
        }
    }

    /// Finds the keys. Without a mode they are the agent's when it answers (spec J.4).
    async fn find(&self) -> Result<Found, AgentError> {
        match self.mode {
            Some(Mode::AgentForward) => self.agent.keys().await.map(Found::Agent),
            Some(Mode::LocalKeys) => Ok(self.local().await),
            None => match self.agent.keys().await {
                Ok(keys) => Ok(Found::Agent(keys)),
                Err(error) => {
                    tracing::debug!(
                        error = error_chain(&error),
                        "no agent answers; keys are read from files"
                    );
                    Ok(self.local().await)
                }
            },
        }
    }

    async fn local(&self) -> Found {
        let Some(home) = self.home.clone() else { return Found::Local(Vec::new()) };
        let read = tokio::task::spawn_blocking(move || local::read(&home)).await;
        let (keys, skipped) = read.unwrap_or_default();
        for why in skipped {
            self.note(&why);
        }
        Found::Local(keys)
    }

    fn note(&self, why: &Skipped) {
        let note = why.to_string();
        if self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(note.clone()) {
            tracing::warn!("a key is not used: {note}");
        }
    }

    async fn list(&self, told: &mut Told) -> Result<Keys, Failure> {
        let keys = match self.find().await.map_err(|error| no_keys(&error))? {
            Found::Agent(keys) => keys,
            Found::Local(keys) => keys.into_iter().map(|key| key.listed).collect(),
        };
        told.detail = Some(format!("{} keys", keys.len()));
        Ok(Keys { keys })
    }

    async fn sign(&self, asked: &Asked, request: Sign, told: &mut Told) -> Result<Signature, Failure> {
        let blob = &request.public_key.0;
        let format = wire::key_format(blob).unwrap_or_else(|| "no key".to_owned());
        let key = format!("{format} {}", fingerprint(blob));
        told.detail = Some(key.clone());
        let found = match self.find().await.map_err(|error| no_keys(&error))? {
            Found::Agent(keys) => keys.iter().any(|key| key.blob.0 == *blob).then_some(None),
            Found::Local(keys) => keys.into_iter().find(|key| key.listed.blob.0 == *blob).map(Some),
        };
        let Some(local) = found else {
            let error = format!("the host agent lists no key {key}; see `ssh-add -l` in the shed");
            return Err(Failure::new(Code::KeyNotFound, error));
        };
        if let Some(approver) = &self.approver
            && approver.approve(asked, &format!("sign with {key}"), told).await == Verdict::Denied
        {
            return Err(Failure::new(Code::SignFailed, APPROVAL_DENIED));
        }
        let failed = |error: &dyn std::error::Error| Failure::new(Code::SignFailed, error_chain(error));
        let Some(local) = local else {
            return self.agent.sign(&request).await.map_err(|error| failed(&error));
        };
        let signed = tokio::task::spawn_blocking(move || local.sign(&request)).await;
        signed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }
}

#[async_trait::async_trait]
impl Extension for Ssh {
    fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    async fn answer(&self, asked: &Asked, told: &mut Told) -> Result<serde_json::Value, Failure> {
        match read_request(asked, told)? {
            Request::List => payload(&self.list(told).await?),
            Request::Sign(request) => payload(&self.sign(asked, request, told).await?),
            Request::Ping => payload(&Pong::ok()),
            Request::Status => payload(&self.status().await),
        }
    }
}

fn no_keys(error: &AgentError) -> Failure {
    Failure::new(Code::InternalError, error_chain(error))
}

/// Returns the name of a key as `ssh-keygen -l` prints it.
fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}
