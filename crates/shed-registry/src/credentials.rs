//! The logins of `docker login`: read from Docker's `config.json`, or asked of the helper that it names.
//!
//! Called when a registry wants to know who asks, never before: a broken config harms nobody who needs no login. Helpers
//! are programs; they get a time limit and are killed at its end. Nothing that a helper prints gets into an error, because
//! it may be a password.

use std::{collections::BTreeMap, io, process::Stdio, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use crate::{repository::is_docker_hub, secret::Secret};

/// Longest config that is read, and longest answer of a helper, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// Docker Hub's name in configs and helpers since the days of its first API.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a helper prints when it has no login (`docker-credential-helpers`, "credentials" errors); by agreement of all.
const NOT_FOUND: &str = "credentials not found";

/// The name of a user that marks a secret as a refresh token, by agreement of helpers.
const TOKEN_USER: &str = "<token>";

/// Padding is there or not, depending on who wrote the config.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How to log in to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password {
        user: String,
        password: Secret,
    },
    /// A refresh token, which only a token server can use.
    Identity(Secret),
}

/// Says why the login for a registry could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {path}, which has the logins of registries")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a config of Docker: {problem}")]
    Parse { path: Utf8PathBuf, problem: String },
    #[error("the login for {host} in {path} is damaged; run `docker login {host}` again")]
    Damaged { path: Utf8PathBuf, host: String },
    #[error(
        "cannot run {helper}, which {path} names for the login of {host}; install it, or correct the file"
    )]
    NoHelper {
        helper: String,
        path: Utf8PathBuf,
        host: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{helper}, which {path} names for the login of {host}, failed: {ending}; try `{helper} get` by hand"
    )]
    HelperFailed { helper: String, path: Utf8PathBuf, host: String, ending: String },
    #[error("{helper}, which {path} names for the login of {host}, did not answer within {} seconds", limit.as_secs_f32())]
    HelperStuck { helper: String, path: Utf8PathBuf, host: String, limit: Duration },
}

/// The part of Docker's config that is about logins.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// Docker's config, of which only the place is known.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig {
    /// Nothing when there is no home.
    file: Option<Utf8PathBuf>,
    helper_limit: Duration,
}

impl DockerConfig {
    /// Takes the config in `dir`, by default where Docker has it.
    pub(crate) fn new(dir: Option<&Utf8Path>, helper_limit: Duration) -> Self {
        let variable =
            |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
        let dir = dir
            .map(Utf8Path::to_owned)
            .or_else(|| variable("DOCKER_CONFIG"))
            .or_else(|| variable("HOME").map(|home| home.join(".docker")));
        Self { file: dir.map(|dir| dir.join("config.json")), helper_limit }
    }

    /// Returns where logins are looked for, for messages.
    pub(crate) fn place(&self) -> String {
        self.file.as_ref().map_or_else(|| "Docker's config".to_owned(), Utf8PathBuf::to_string)
    }

    /// Finds the login for a registry; `None` when there is none.
    ///
    /// # Errors
    /// When the config is there and damaged, or a helper that it names is missing or fails.
    pub(crate) async fn login(&self, registry: &str) -> Result<Option<Login>, CredentialError> {
        let Some(path) = &self.file else { return Ok(None) };
        let Some(config) = read(path).await? else { return Ok(None) };
        let helpers = config.cred_helpers.iter().filter(|(_, helper)| !helper.is_empty());
        if let Some((_, helper)) = best(helpers, registry) {
            return self.ask(path, helper, registry).await;
        }
        let entries = config.auths.iter().filter(|(_, entry)| entry.has_content());
        if let Some((_, entry)) = best(entries, registry) {
            let damaged = || CredentialError::Damaged { path: path.clone(), host: registry.to_owned() };
            return entry.login().map(Some).ok_or_else(damaged);
        }
        if config.creds_store.is_empty() {
            Ok(None)
        } else {
            self.ask(path, &config.creds_store, registry).await
        }
    }

    /// Asks a helper, by all names that the registry has in helpers.
    async fn ask(
        &self,
        path: &Utf8Path,
        name: &str,
        registry: &str,
    ) -> Result<Option<Login>, CredentialError> {
        let helper = format!("docker-credential-{name}");
        let owned = || (helper.clone(), path.to_owned(), registry.to_owned());
        for key in spellings(registry) {
            let answer = match timeout(self.helper_limit, run(&helper, &key)).await {
                Ok(answer) => answer,
                Err(_) => {
                    let (helper, path, host) = owned();
                    return Err(CredentialError::HelperStuck {
                        helper,
                        path,
                        host,
                        limit: self.helper_limit,
                    });
                }
            };
            match answer {
                Ok(Some(login)) => return Ok(Some(login)),
                Ok(None) => {}
                Err(Ending::NotRun(source)) => {
                    let (helper, path, host) = owned();
                    return Err(CredentialError::NoHelper { helper, path, host, source });
                }
                Err(Ending::Failed(ending)) => {
                    let (helper, path, host) = owned();
                    return Err(CredentialError::HelperFailed { helper, path, host, ending });
                }
            }
        }
        Ok(None)
    }
}

impl Entry {
    /// Tells whether it has a login; beside a credentials store, entries are empty.
    fn has_content(&self) -> bool {
        let has = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| !secret.expose().is_empty());
        has(&self.auth) || has(&self.identitytoken) || has(&self.password)
    }

    fn login(&self) -> Option<Login> {
        let filled = |secret: &&Secret| !secret.expose().is_empty();
        if let Some(token) = self.identitytoken.as_ref().filter(filled) {
            return Some(Login::Identity(token.clone()));
        }
        let Some(auth) = self.auth.as_ref().filter(filled) else {
            return Some(Login::Password { user: self.username.clone()?, password: self.password.clone()? });
        };
        let text = String::from_utf8(BASE64.decode(auth.expose()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        // Docker itself once padded passwords with zeros.
        let password = Secret::new(password.trim_end_matches('\0').to_owned());
        Some(Login::Password { user: user.to_owned(), password })
    }
}

/// Reads a config; `None` when there is none.
async fn read(path: &Utf8Path) -> Result<Option<Config>, CredentialError> {
    let failed = |source| CredentialError::Read { path: path.to_owned(), source };
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    let _length = file.take(MAX_LENGTH).read_to_end(&mut bytes).await.map_err(failed)?;
    // The parser's own message would quote what is in the file.
    serde_json::from_slice(&bytes).map(Some).map_err(|error| CredentialError::Parse {
        path: path.to_owned(),
        problem: format!("line {}, column {} is not as expected", error.line(), error.column()),
    })
}

/// Chooses what stands under a registry's name, or under another spelling of it.
fn best<'a, T>(
    entries: impl Iterator<Item = (&'a String, T)> + Clone,
    registry: &str,
) -> Option<(&'a String, T)> {
    entries.clone().find(|(key, _)| *key == registry).or_else(|| {
        let mut entries = entries;
        entries.find(|(key, _)| means(key, registry))
    })
}

/// Tells whether a key of the config means a registry: with a scheme, with the path of an API, or as one of Docker Hub's
/// names.
fn means(key: &str, registry: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    matches!(path.trim_end_matches('/'), "" | "v1" | "v2")
        && (host == registry || (is_docker_hub(host) && is_docker_hub(registry)))
}

/// Returns the names under which helpers may keep the login of a registry.
fn spellings(registry: &str) -> Vec<String> {
    if is_docker_hub(registry) {
        let others = ["index.docker.io", "docker.io", "registry-1.docker.io"];
        return [DOCKER_HUB_KEY].into_iter().chain(others).map(str::to_owned).collect();
    }
    vec![registry.to_owned(), format!("https://{registry}")]
}

/// Why a helper gave no answer.
enum Ending {
    NotRun(io::Error),
    Failed(String),
}

/// Asks a helper once; `None` when it has nothing under this name.
async fn run(helper: &str, key: &str) -> Result<Option<Login>, Ending> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: Secret,
    }
    if helper.contains('/') {
        return Err(Ending::NotRun(io::Error::new(io::ErrorKind::InvalidInput, "its name is a path")));
    }
    let failed = |error: io::Error| Ending::Failed(error.to_string());
    let mut child = Command::new(helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(Ending::NotRun)?;
    let mut input = child.stdin.take().expect("it was asked for");
    let output = child.stdout.take().expect("it was asked for");
    // One that knows the answer may not read to the end; what it prints counts.
    let _unread = input.write_all(key.as_bytes()).await;
    drop(input);
    let mut answer = Vec::new();
    let _length = output.take(MAX_LENGTH).read_to_end(&mut answer).await.map_err(failed)?;
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        // Whether it says so on a line of its own or in a sentence differs.
        let nothing = String::from_utf8_lossy(&answer).contains(NOT_FOUND);
        return if nothing { Ok(None) } else { Err(Ending::Failed(status.to_string())) };
    }
    let Ok(Answer { username, secret }) = serde_json::from_slice(&answer) else {
        return Err(Ending::Failed("its answer has no Username and Secret".to_owned()));
    };
    Ok(Some(if username == TOKEN_USER {
        Login::Identity(secret)
    } else {
        Login::Password { user: username, password: secret }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap();
        let config = DockerConfig::new(Some(path), Duration::from_secs(60));
        (dir, config)
    }

    fn password(user: &str, password: &str) -> Login {
        Login::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) }
    }

    #[tokio::test]
    async fn logins_are_found_under_every_spelling() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA"},
            "quay.example": {"auth": "YTpiOmM="},
            "https://with.scheme/v2/": {"username": "u", "password": "p"},
            "r.example:5000": {"identitytoken": "refresh", "auth": "MDA6"},
            "r.example": {},
            "broken.example": {"auth": "%%%"}
        }, "HttpHeaders": {"x": "y"}}"#;
        let (_dir, config) = config(text);
        for (registry, expected) in [
            ("docker.io", Some(password("hub", "secret"))),
            ("registry-1.docker.io", Some(password("hub", "secret"))),
            ("quay.example", Some(password("a", "b:c"))),
            ("with.scheme", Some(password("u", "p"))),
            ("r.example:5000", Some(Login::Identity(Secret::new("refresh".to_owned())))),
            ("r.example", None),
            ("example", None),
            ("quay.example:443", None),
        ] {
            assert_eq!(config.login(registry).await.unwrap(), expected, "{registry}");
        }
        let damaged = config.login("broken.example").await.unwrap_err().to_string();
        assert!(damaged.contains("broken.example") && damaged.contains("config.json"), "{damaged}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_config_is_said_without_what_is_in_it() {
        let (dir, config) = config(r#"{"auths": {"r.example": {"auth": ["hunter2"]}}}"#);
        let text = config.login("r.example").await.unwrap_err().to_string();
        assert!(text.contains("config.json") && !text.contains("hunter2"), "{text}");
        std::fs::remove_file(dir.path().join("config.json")).unwrap();
        assert_eq!(config.login("r.example").await.unwrap(), None);
        std::fs::create_dir(dir.path().join("config.json")).unwrap();
        assert!(matches!(config.login("r.example").await, Err(CredentialError::Read { .. })));
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_named_only_for_its_own_registry() {
        let text =
            r#"{"credHelpers": {"r.example": "not-on-this-host"}, "auths": {"o.example": {"auth": "YTpi"}}}"#;
        let (_dir, config) = config(text);
        assert_eq!(config.login("o.example").await.unwrap(), Some(password("a", "b")));
        assert_eq!(config.login("third.example").await.unwrap(), None);
        let text = config.login("r.example").await.unwrap_err().to_string();
        assert!(
            text.contains("docker-credential-not-on-this-host") && text.contains("config.json"),
            "{text}"
        );
    }
}
