//! `docker-credential-shed`: a credential helper of Docker's (docker-credential-helpers, README) that asks the host.
//!
//! Docker reads answers and errors from standard output, and knows by one exact text that there are no credentials, whereupon
//! it goes on without any.

use std::{collections::BTreeMap, io::Read, process::ExitCode, time::Duration};

use serde::Serialize;
use shed_extensions::{
    Code,
    docker::{Credentials, NAMESPACE, Registries, Request},
};

use crate::{
    bus::{Bus, BusError},
    command_line::Action,
    say,
};

const NAME: &str = "docker-credential-shed";

/// What Docker takes for "none" (docker-credential-helpers, credentials/error.go).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// What Docker takes for "no registry was named".
const NO_REGISTRY: &str = "no credentials server URL";

/// What is said to a `docker login` or `logout`.
const READ_ONLY: &str = "docker-credentials: nothing can be stored or erased in a shed: use `docker login` or `docker \
                         logout` on your own machine, where shed-host-agent runs.";

/// How long the answer may take (spec J.3).
const LIMIT: Duration = Duration::from_secs(5);

/// Longest name of a registry, in bytes.
const MAX_REGISTRY: usize = 4096;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Found<'a> {
    #[serde(rename = "ServerURL")]
    server_url: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// Does what Docker asks.
pub(crate) async fn run(action: Action, bus: Bus) -> ExitCode {
    let done = match action {
        Action::Get => get(&bus).await,
        Action::List => list(&bus).await,
        Action::Store | Action::Erase => {
            // Docker writes a secret to it and must not meet a closed pipe.
            let _unread = input(1 << 20);
            Err(READ_ONLY.to_owned())
        }
    };
    match done {
        Ok(answer) => {
            say::answer(&answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say::answer(&say::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

async fn get(bus: &Bus) -> Result<String, String> {
    let registry = input(MAX_REGISTRY)?;
    let registry = registry.trim();
    if registry.is_empty() {
        return Err(NO_REGISTRY.to_owned());
    }
    let request = Request::Get { server_url: registry.to_owned() };
    match bus.ask::<Credentials>(NAMESPACE, &request, LIMIT).await {
        Ok(found) => {
            let secret = found.secret.reveal();
            // As it was asked: Docker looks for the same text.
            let found = Found { server_url: registry, username: &found.username, secret };
            serde_json::to_string(&found).map_err(|error| error.to_string())
        }
        Err(error) => Err(not_found(&error).unwrap_or_else(|| error.to_string())),
    }
}

/// For Docker a registry that is not allowed is one without credentials: what is public there can still be pulled.
fn not_found(error: &BusError) -> Option<String> {
    match error.code()? {
        Code::CredentialsNotFound => {}
        Code::RegistryNotAllowed => say::note(NAME, &error.to_string()),
        Code::KeyNotFound
        | Code::SignFailed
        | Code::RoleNotFound
        | Code::AssumeRoleFailed
        | Code::ReadOnly
        | Code::HelperFailed
        | Code::InternalError => return None,
    }
    Some(NOT_FOUND.to_owned())
}

async fn list(bus: &Bus) -> Result<String, String> {
    let found = bus.ask::<Registries>(NAMESPACE, &Request::List, LIMIT).await;
    let found: BTreeMap<String, String> = found.map_err(|error| error.to_string())?.registries;
    serde_json::to_string(&found).map_err(|error| error.to_string())
}

/// Reads all of standard input, which has at most `longest` bytes.
fn input(longest: usize) -> Result<String, String> {
    let mut text = Vec::new();
    let most = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
    let read = std::io::stdin().lock().take(most).read_to_end(&mut text);
    read.map_err(|error| format!("docker-credentials: cannot read standard input: {error}."))?;
    if text.len() > longest {
        return Err(format!(
            "docker-credentials: the input has more than {longest} bytes: name one registry."
        ));
    }
    String::from_utf8(text)
        .map_err(|_| "docker-credentials: the input is no text: name one registry.".to_owned())
}
