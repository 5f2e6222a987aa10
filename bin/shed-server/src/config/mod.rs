//! server.yaml: where it is looked for, what may stand in it, and the checked result (spec K.1).
//!
//! [`load`] is the only door. It reads the file into [`file`]'s plain shapes, which keep line and column of each
//! value, and [`check`]s every value once; the rest of the server holds a [`Config`] and checks nothing again. A
//! key that is gone or unknown is an error; one that this build does not act on is named in the log, never ignored.

mod check;
mod credentials;
mod extensions;
mod file;
mod images;
mod locate;
mod print;
mod project;
mod sections;

use std::{collections::BTreeMap, io, net::IpAddr};

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::{MessageFormatter, UserMessageFormatter};
use shed_image::ImageLimits;
use shed_lifecycle::Credential;
use shed_registry::RegistrySettings;
use shed_types::{BackendChoice, CredentialName, KnownHost};

use crate::ssh::term::Terms;
pub use extensions::Extensions;
pub use locate::{LocateConfigError, Surroundings, User, locate};
pub use sections::{Accel, CommonSection, FirecrackerSection, JailerChoice, QemuSection, VzSection};

/// Largest server.yaml that is read, in bytes; a real one has a few hundred.
const MAX_FILE: u64 = 1 << 20;

/// Everything the server is told by its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from; none when everything is at its default.
    pub file: Option<Utf8PathBuf>,
    /// What the server calls itself.
    pub name: String,
    /// Address the HTTP API listens on.
    pub listen: IpAddr,
    /// Port of the HTTP API; 0 lets the system pick one, which tests use.
    pub http_port: u16,
    /// Port of the SSH server; 0 lets the system pick one, which tests use.
    pub ssh_port: u16,
    /// The private key by which SSH clients know this server; made when it is not there.
    pub ssh_host_key: Utf8PathBuf,
    /// Which backend runs new sheds.
    pub default_backend: BackendChoice,
    /// What is logged.
    pub log_level: LogLevel,
    /// What terminals are called in guests.
    pub terms: Terms,
    /// How registries are reached.
    pub registries: RegistrySettings,
    /// What an image may take at most that is made from a registry's.
    pub image_limits: ImageLimits,
    /// What sheds get of the host's files, and give back.
    pub credentials: BTreeMap<CredentialName, Credential>,
    /// What `~` stands for in paths, also in those of creates.
    pub home: Option<Utf8PathBuf>,
    /// File of `NAME=value` lines that clones and hooks get as environment. Whether it is there is seen when it is read.
    pub env_file: Option<Utf8PathBuf>,
    /// Lines for known_hosts in sheds besides those of well-known hosts.
    pub extra_known_hosts: Vec<KnownHost>,
    /// What sheds may say to programs that listen, and run for it.
    pub extensions: Extensions,
    /// The QEMU backend.
    pub qemu: QemuSection,
    /// The Firecracker backend.
    pub firecracker: FirecrackerSection,
    /// The backend of Apple's Virtualization framework.
    pub vz: VzSection,
    /// Keys of the file that this build does not act on.
    pub idle_keys: Vec<&'static str>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Everything, for finding faults.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What needs attention.
    Warn,
    /// What failed.
    Error,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadConfigError {
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is longer than {MAX_FILE} bytes, which no server.yaml is")]
    TooLong { path: Utf8PathBuf },
    /// The text is no YAML, or has a key or type that does not belong there.
    #[error("{place}: {reason}; the line is `{line}`")]
    Parse {
        /// `file:line:column`.
        place: String,
        /// What is wrong.
        reason: String,
        /// The line, as it stands in the file.
        line: String,
    },
    /// One value is not allowed.
    #[error("{place}: {key}: {problem}")]
    Value {
        /// `file:line:column`, or `default` when the value is not from a file.
        place: String,
        /// The key with its section, like `qemu.default_cpus`.
        key: String,
        /// What is wrong, with the value and what is allowed.
        problem: String,
    },
    #[error(
        "the home directory is unknown, so there is no place for sheds; set HOME, or {key} in server.yaml to an absolute path"
    )]
    NoHome { key: String },
}

/// Reads and checks the file, or makes the defaults when there is none.
///
/// # Errors
/// When the file cannot be read, is not well formed, or has a value that is not allowed.
pub fn load(file: Option<&Utf8Path>, surroundings: &Surroundings) -> Result<Config, LoadConfigError> {
    let raw = match file {
        None => file::ServerFile::default(),
        Some(path) => parse(path, &read(path)?)?,
    };
    check::check(raw, file, surroundings)
}

fn read(path: &Utf8Path) -> Result<String, LoadConfigError> {
    let failed = |source| LoadConfigError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(LoadConfigError::TooLong { path: path.to_owned() });
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn parse(path: &Utf8Path, text: &str) -> Result<file::ServerFile, LoadConfigError> {
    // Text that is no mapping at all has no such keys, and is refused below.
    if let Ok(Some(removed)) = serde_saphyr::from_str::<Option<file::RemovedKeys>>(text) {
        check::refuse_removed_keys(&removed, path)?;
    }
    // Comments alone are an empty document, which is a mapping without keys here.
    let parsed: Result<Option<file::ServerFile>, _> = serde_saphyr::from_str(text);
    parsed.map(Option::unwrap_or_default).map_err(|error| parse_error(path, text, &error))
}

fn parse_error(path: &Utf8Path, text: &str, error: &serde_saphyr::Error) -> LoadConfigError {
    let reason = UserMessageFormatter.format_message(error.without_snippet()).into_owned();
    let (place, line) = match error.location() {
        None => (path.to_string(), ""),
        Some(at) => {
            let before = usize::try_from(at.line()).unwrap_or(usize::MAX).saturating_sub(1);
            let line = text.lines().nth(before).unwrap_or_default();
            (format!("{path}:{}:{}", at.line(), at.column()), line.trim())
        }
    };
    LoadConfigError::Parse { place, reason, line: line.to_owned() }
}

#[cfg(test)]
mod tests;
