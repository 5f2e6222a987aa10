//! Turns the plain shapes of extensions.yaml into a [`Config`], checking each value once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::Spanned;
use shed_client::ServerAddress;
use shed_extensions::ssh::Mode;
use shed_host_docker::Registry;
use shed_types::GoDuration;

use super::{
    ApprovalConfig, AwsConfig, AwsShed, Config, DockerConfig, LoadConfigError, LoggingConfig, Policy,
    SshConfig,
    file::{AwsFile, DockerFile, ExtensionsFile, LoggingFile, SshFile, Value},
};
use crate::places::Surroundings;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Most servers that one agent answers; each has a connection a namespace.
const SERVERS: usize = 64;

/// The file whose values are checked, and what they are relative to.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: Option<&'a Utf8Path>,
    surroundings: &'a Surroundings,
}

/// Checks every value and fills in the defaults.
pub(super) fn check(
    raw: ExtensionsFile,
    file: Option<&Utf8Path>,
    surroundings: &Surroundings,
) -> Result<Config, LoadConfigError> {
    let source = Source { file, surroundings };
    Ok(Config {
        file: file.map(Utf8Path::to_owned),
        servers: source.servers(raw.server, raw.servers)?,
        ssh: source.ssh(raw.ssh.unwrap_or_default())?,
        aws: source.aws(raw.aws.unwrap_or_default())?,
        docker: source.docker(raw.docker.unwrap_or_default())?,
        logging: source.logging(&raw.logging.unwrap_or_default())?,
    })
}

impl Source<'_> {
    fn bad<T>(self, value: &Spanned<T>, key: &str, problem: impl Into<String>) -> LoadConfigError {
        let at = value.referenced;
        let place = match self.file {
            Some(file) => format!("{file}:{}:{}", at.line(), at.column()),
            None => "default".to_owned(),
        };
        LoadConfigError::Wrong { place, problem: format!("{key}: {}", problem.into()) }
    }

    fn servers(
        self,
        one: Value<String>,
        many: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Vec<ServerAddress>, LoadConfigError> {
        let (key, written) = match (one, many) {
            (Some(_), Some(many)) => {
                return Err(self.bad(
                    &many,
                    "servers",
                    "is the same as `server`, for several; keep one of the two",
                ));
            }
            (_, Some(many)) if many.value.is_empty() => {
                return Err(self.bad(
                    &many,
                    "servers",
                    "is empty; name a server, or leave it out for http://localhost:8080",
                ));
            }
            (_, Some(many)) if many.value.len() > SERVERS => {
                return Err(self.bad(&many, "servers", format!("has more than {SERVERS} servers")));
            }
            (_, Some(many)) => ("servers", many.value),
            (Some(one), None) => ("server", vec![one]),
            (None, None) => {
                return Ok(vec!["localhost:8080".parse().expect("the default is an address")]);
            }
        };
        let mut servers: Vec<ServerAddress> = Vec::new();
        for text in written {
            let server =
                text.value.trim().parse().map_err(|error| self.bad(&text, key, format!("{error}")))?;
            if servers.contains(&server) {
                return Err(self.bad(&text, key, format!("{server} is there twice")));
            }
            servers.push(server);
        }
        Ok(servers)
    }

    fn ssh(self, raw: SshFile) -> Result<SshConfig, LoadConfigError> {
        let mode = match raw.mode.as_ref().map(|mode| (mode, mode.value.as_str())) {
            None | Some((_, "")) => None,
            Some((_, "agent-forward")) => Some(Mode::AgentForward),
            Some((_, "local-keys")) => Some(Mode::LocalKeys),
            Some((mode, other)) => {
                let problem = format!("must be agent-forward, local-keys or empty; got {other:?}");
                return Err(self.bad(mode, "ssh.mode", problem));
            }
        };
        let raw = raw.approval.unwrap_or_default();
        let policy = match &raw.policy {
            None => Policy::PerSession,
            Some(text) => {
                Policy::ALL.into_iter().find(|policy| policy.as_str() == text.value).ok_or_else(|| {
                    let allowed = Policy::ALL.map(Policy::as_str).join(", ");
                    self.bad(
                        text,
                        "ssh.approval.policy",
                        format!("must be one of {allowed}; got {:?}", text.value),
                    )
                })?
            }
        };
        let session_ttl = self.duration(
            raw.session_ttl.as_ref(),
            "ssh.approval.session_ttl",
            4 * HOUR,
            MINUTE / 60..=24 * HOUR,
        )?;
        let approval = raw.enabled.unwrap_or(false).then_some(ApprovalConfig { policy, session_ttl });
        Ok(SshConfig { mode, approval })
    }

    fn aws(self, raw: AwsFile) -> Result<AwsConfig, LoadConfigError> {
        let default_role = self.role(raw.default_role.as_ref(), "aws.default_role")?;
        let source_profile = match raw.source_profile {
            None => "default".to_owned(),
            Some(name) if is_line(&name.value) => name.value,
            Some(name) => return Err(self.bad(&name, "aws.source_profile", "is no name of a profile")),
        };
        // AWS's own bounds of DurationSeconds (AssumeRole).
        let limits = 15 * MINUTE..=12 * HOUR;
        let session_duration =
            self.duration(raw.session_duration.as_ref(), "aws.session_duration", HOUR, limits)?;
        let cache_refresh_before = self.duration(
            raw.cache_refresh_before.as_ref(),
            "aws.cache_refresh_before",
            5 * MINUTE,
            Duration::ZERO..=session_duration - MINUTE,
        )?;
        let mut sheds = BTreeMap::new();
        for (name, shed) in raw.sheds.unwrap_or_default() {
            let key = format!("aws.sheds.{name}.role");
            let role = self.role(shed.value.role.as_ref(), &key)?;
            let role = role.ok_or_else(|| self.bad(&shed, &key, "is missing; write the ARN of the role"))?;
            let _none = sheds.insert(name, AwsShed { role });
        }
        Ok(AwsConfig { source_profile, default_role, session_duration, cache_refresh_before, sheds })
    }

    fn role(self, value: Option<&Spanned<String>>, key: &str) -> Result<Option<String>, LoadConfigError> {
        let Some(value) = value.filter(|value| !value.value.is_empty()) else { return Ok(None) };
        // The partition may be aws, aws-cn, aws-us-gov; the rest is AWS's to check.
        if value.value.starts_with("arn:aws") && value.value.contains(":role/") && is_line(&value.value) {
            return Ok(Some(value.value.clone()));
        }
        let problem =
            format!("{:?} is no ARN of a role, like arn:aws:iam::123456789012:role/dev", value.value);
        Err(self.bad(value, key, problem))
    }

    fn docker(self, raw: DockerFile) -> Result<DockerConfig, LoadConfigError> {
        let mut registries = BTreeSet::new();
        for written in raw.registries.unwrap_or_default() {
            let registry = Registry::parse(&written.value).map_err(|_no_registry| {
                let problem = format!("{:?} is no registry; write its host, like ghcr.io", written.value);
                self.bad(&written, "docker.registries", problem)
            })?;
            let _twice = registries.insert(registry);
        }
        let config_path = self.path(raw.config_path.as_ref(), "docker.config_path")?;
        Ok(DockerConfig { registries, allow_all: raw.allow_all.unwrap_or(false), config_path })
    }

    fn logging(self, raw: &LoggingFile) -> Result<LoggingConfig, LoadConfigError> {
        let path = self.path(raw.path.as_ref(), "logging.path")?;
        if !raw.enabled.unwrap_or(true) {
            return Ok(LoggingConfig { audit: None });
        }
        let home = self.surroundings.home.as_ref();
        let default = || home.map(|home| home.join(".local/share/shed/extensions-audit.log"));
        Ok(LoggingConfig { audit: Some(path.or_else(default).ok_or(LoadConfigError::NoHome)?) })
    }

    fn duration(
        self,
        value: Option<&Spanned<String>>,
        key: &str,
        default: Duration,
        limits: RangeInclusive<Duration>,
    ) -> Result<Duration, LoadConfigError> {
        let Some(value) = value else { return Ok(default) };
        let parsed = value.value.parse::<GoDuration>();
        let parsed = parsed
            .map_err(|error| self.bad(value, key, format!("{:?} is no duration: {error}", value.value)))?;
        match parsed.to_duration().filter(|duration| limits.contains(duration)) {
            Some(duration) => Ok(duration),
            None => {
                let [low, high] =
                    [limits.start(), limits.end()].map(|limit| GoDuration::saturating_from(*limit));
                Err(self.bad(value, key, format!("must be from {low} to {high}; got {}", value.value)))
            }
        }
    }

    fn path(
        self,
        value: Option<&Spanned<String>>,
        key: &str,
    ) -> Result<Option<Utf8PathBuf>, LoadConfigError> {
        let Some(value) = value.filter(|value| !value.value.is_empty()) else { return Ok(None) };
        let text = value.value.as_str();
        let path = match (text.strip_prefix("~/"), &self.surroundings.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => Utf8PathBuf::from(text),
        };
        if path.is_absolute() && is_line(text) {
            return Ok(Some(path));
        }
        Err(self.bad(value, key, format!("{text:?} is no absolute path (`~/` is your home directory)")))
    }
}

fn is_line(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains(char::is_control)
}
