//! extensions.yaml: what may stand in it, and the checked result (spec J.4).
//!
//! [`load`] is the only door: it reads the file into [`file`]'s plain shapes, which keep line and column of each value,
//! and [`check`]s every value once. An unknown key is an error: a misspelt `approval` must not mean that nobody is asked.

mod check;
mod file;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::{MessageFormatter, UserMessageFormatter};
use shed_client::ServerAddress;
use shed_extensions::ssh::Mode;
use shed_host_docker::Registry;

use crate::places::Surroundings;

/// Largest extensions.yaml that is read, in bytes; a real one has a few hundred.
const MAX_FILE: u64 = 1 << 20;

/// Everything the agent is told by its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from; none when everything is at its default.
    pub file: Option<Utf8PathBuf>,
    /// Whose sheds are answered; at least one, none twice.
    pub servers: Vec<ServerAddress>,
    /// SSH keys.
    pub ssh: SshConfig,
    /// AWS credentials.
    pub aws: AwsConfig,
    /// Credentials of registries.
    pub docker: DockerConfig,
    /// The audit log.
    pub logging: LoggingConfig,
}

/// SSH keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshConfig {
    /// Where the keys are; absent means the user's agent when it answers, else files.
    pub mode: Option<Mode>,
    /// Whether a person is asked before a key signs; absent means not.
    pub approval: Option<ApprovalConfig>,
}

/// When a person is asked before a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApprovalConfig {
    /// What a yes is good for.
    pub policy: Policy,
    /// For how long, where it is good for more than one request.
    pub session_ttl: Duration,
}

/// What a person's yes is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The one request.
    PerRequest,
    /// All requests of all sheds for a time.
    PerSession,
    /// All requests of that shed for a time.
    PerShed,
}

impl Policy {
    /// Every policy, in the order in which an error names them.
    pub const ALL: [Self; 3] = [Self::PerSession, Self::PerRequest, Self::PerShed];

    /// Returns it as it stands in extensions.yaml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerRequest => "per-request",
            Self::PerSession => "per-session",
            Self::PerShed => "per-shed",
        }
    }
}

/// AWS credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsConfig {
    /// The profile whose credentials assume the roles.
    pub source_profile: String,
    /// The role of sheds that have none of their own.
    pub default_role: Option<String>,
    /// How long credentials of a role live; 15 minutes to 12 hours, as AWS has it.
    pub session_duration: Duration,
    /// How long before their end new ones are made; less than `session_duration`.
    pub cache_refresh_before: Duration,
    /// Sheds by name.
    pub sheds: BTreeMap<String, AwsShed>,
}

/// What a shed has of its own in AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsShed {
    /// The ARN of its role.
    pub role: String,
}

/// Credentials of registries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerConfig {
    /// The registries that sheds may get credentials of.
    pub registries: BTreeSet<Registry>,
    /// Whether they may get those of every registry.
    pub allow_all: bool,
    /// Docker's config.json; absent means where Docker itself looks.
    pub config_path: Option<Utf8PathBuf>,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingConfig {
    /// The file; absent when nothing is to be written.
    pub audit: Option<Utf8PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadConfigError {
    #[error(
        "there is no configuration at {path}, which --config asks for; write one, or leave --config out for the defaults"
    )]
    NotThere { path: Utf8PathBuf },
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is longer than {MAX_FILE} bytes, which no extensions.yaml is")]
    TooLong { path: Utf8PathBuf },
    /// It is no YAML, or something in it does not belong there or is not allowed.
    #[error("{place}: {problem}")]
    Wrong {
        /// `file:line:column`.
        place: String,
        /// What is wrong, with the key or the line it stands in, and what is allowed.
        problem: String,
    },
    #[error(
        "the home directory is unknown, so there is no place for the audit log; set HOME, or logging.path in extensions.yaml"
    )]
    NoHome,
}

/// Reads and checks the file that was asked for, or the user's own, or makes the defaults when that is not there.
///
/// # Errors
/// When the file cannot be read, is not well formed, or has a value that is not allowed.
pub fn load(asked: Option<&Utf8Path>, surroundings: &Surroundings) -> Result<Config, LoadConfigError> {
    let path = match (asked, &surroundings.home) {
        (Some(path), _) => surroundings.current_dir.join(path),
        (None, Some(home)) => home.join(".config/shed/extensions.yaml"),
        (None, None) => return check::check(file::ExtensionsFile::default(), None, surroundings),
    };
    match read(&path)? {
        Some(text) => check::check(parse(&path, &text)?, Some(&path), surroundings),
        None if asked.is_some() => Err(LoadConfigError::NotThere { path }),
        None => check::check(file::ExtensionsFile::default(), None, surroundings),
    }
}

fn read(path: &Utf8Path) -> Result<Option<String>, LoadConfigError> {
    let failed = |source| LoadConfigError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(about) if about.len() > MAX_FILE => Err(LoadConfigError::TooLong { path: path.to_owned() }),
        Ok(_) => std::fs::read_to_string(path).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn parse(path: &Utf8Path, text: &str) -> Result<file::ExtensionsFile, LoadConfigError> {
    // Comments alone are an empty document, which has every default.
    serde_saphyr::from_str::<Option<file::ExtensionsFile>>(text).map(Option::unwrap_or_default).map_err(
        |error| {
            let reason = UserMessageFormatter.format_message(error.without_snippet());
            let Some(at) = error.location() else {
                return LoadConfigError::Wrong { place: path.to_string(), problem: reason.into_owned() };
            };
            let before = usize::try_from(at.line()).unwrap_or(usize::MAX).saturating_sub(1);
            let line = text.lines().nth(before).unwrap_or_default().trim();
            LoadConfigError::Wrong {
                place: format!("{path}:{}:{}", at.line(), at.column()),
                problem: format!("{reason}; the line is `{line}`"),
            }
        },
    )
}
