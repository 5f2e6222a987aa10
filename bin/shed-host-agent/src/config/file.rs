//! The shape of extensions.yaml before its values are checked: every key is optional and keeps its place in the file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

/// A value with its line and column.
pub(super) type Value<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtensionsFile {
    pub(super) server: Value<String>,
    pub(super) servers: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) ssh: Option<SshFile>,
    pub(super) aws: Option<AwsFile>,
    pub(super) docker: Option<DockerFile>,
    pub(super) logging: Option<LoggingFile>,
}

/// The `ssh:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SshFile {
    pub(super) mode: Value<String>,
    pub(super) approval: Option<ApprovalFile>,
}

/// The `ssh.approval:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApprovalFile {
    pub(super) enabled: Option<bool>,
    pub(super) policy: Value<String>,
    pub(super) session_ttl: Value<String>,
}

/// The `aws:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AwsFile {
    pub(super) source_profile: Value<String>,
    pub(super) default_role: Value<String>,
    pub(super) session_duration: Value<String>,
    pub(super) cache_refresh_before: Value<String>,
    pub(super) sheds: Option<BTreeMap<String, Spanned<AwsShedFile>>>,
}

/// An entry of `aws.sheds:`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AwsShedFile {
    pub(super) role: Value<String>,
}

/// The `docker:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DockerFile {
    pub(super) registries: Option<Vec<Spanned<String>>>,
    pub(super) allow_all: Option<bool>,
    pub(super) config_path: Value<String>,
}

/// The `logging:` section.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoggingFile {
    pub(super) enabled: Option<bool>,
    pub(super) path: Value<String>,
}
