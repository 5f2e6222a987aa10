//! What .shed/provision.yaml says, as pure text: hooks, variables, and how long a hook may take (spec D).
//!
//! The file comes with a repository that anybody may have written. It is read leniently where people write YAML by hand
//! (numbers are text, nothing is no value), and strictly where a mistake would run something else than was meant.

use std::{fmt, path::Path, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use shed_types::GoDuration;

/// How long a hook may take when the file says nothing (spec D).
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Bounds of what the file may say of it.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest path of a hook, in bytes (Linux, PATH_MAX).
const MAX_PATH: usize = 4096;

/// Who the user is nobody else says (spec B.3), a repository least of all.
const FORCED: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// Most unknown keys that are named.
const MAX_UNKNOWN: usize = 10;

/// The file, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Provision {
    pub(super) install: Option<HookPath>,
    pub(super) startup: Option<HookPath>,
    pub(super) shutdown: Option<HookPath>,
    /// Variables for all hooks; none of them is one of shed's own, or says who the user is.
    pub(super) env: Vec<(String, String)>,
    /// How long each hook may take.
    pub(super) timeout: Duration,
}

/// Path of a script below /workspace. That no link leads it elsewhere is seen when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookPath(String);

impl HookPath {
    /// Returns the path, which is relative.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says what is wrong with the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProvisionError {
    #[error("it is no UTF-8 text")]
    NoText,
    #[error("{0}")]
    Yaml(String),
    #[error("hooks.{hook}: {path:?} {problem}; a hook is a path below /workspace, like scripts/install.sh")]
    Path { hook: &'static str, path: String, problem: &'static str },
    #[error("env: {0:?} is no name of a variable: letters, digits and _ make one, and no digit is the first")]
    Name(String),
    #[error("env: the value of {0} has a NUL, which no variable can have")]
    Value(String),
    #[error("timeout: {text:?}: {problem}")]
    Timeout { text: String, problem: String },
}

/// Reads the file; also returns what is odd in it.
pub(super) fn parse(file: &[u8]) -> Result<(Provision, Vec<String>), ProvisionError> {
    let text = std::str::from_utf8(file).map_err(|_| ProvisionError::NoText)?;
    let document = if is_empty(text) {
        Document::default()
    } else {
        serde_saphyr::from_str(text).map_err(|error| ProvisionError::Yaml(first_line(&error)))?
    };
    let mut warnings = document.warnings();
    let Document { hooks, env, timeout, .. } = document;
    let (mut variables, mut reserved) = (Vec::new(), Vec::new());
    for (name, value) in env {
        if !is_name(&name) {
            return Err(ProvisionError::Name(name));
        }
        if value.contains('\0') {
            return Err(ProvisionError::Value(name));
        }
        if name.starts_with("SHED_") || FORCED.contains(&name.as_str()) {
            reserved.push(name);
        } else {
            variables.push((name, value));
        }
    }
    if let Some(first) = reserved.first() {
        let more = if reserved.len() > 1 {
            format!(" and {} more are", reserved.len() - 1)
        } else {
            " is".to_owned()
        };
        warnings.push(format!(
            "env: {first}{more} not taken: variables that begin with SHED_ are shed's own, and so are {}",
            FORCED.join(", ")
        ));
    }
    let provision = Provision {
        install: path("install", hooks.install)?,
        startup: path("startup", hooks.startup)?,
        shutdown: path("shutdown", hooks.shutdown)?,
        env: variables,
        timeout: timeout.map_or(Ok(TIMEOUT), |text| duration(&text))?,
    };
    Ok((provision, warnings))
}

/// YAML reads nothing, or nothing but comments, as null.
fn is_empty(text: &str) -> bool {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line == "---" || line.starts_with('#'))
}

/// What is wrong and where; the lines behind that quote the file, in which secrets may stand.
fn first_line(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it is no YAML").trim().to_owned()
}

fn path(hook: &'static str, given: Option<String>) -> Result<Option<HookPath>, ProvisionError> {
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(None) };
    let parts = || given.split('/').filter(|part| !matches!(*part, "" | "."));
    let problem = if Path::new(&given).is_absolute() {
        "is an absolute path"
    } else if given.contains('\0') || given.len() > MAX_PATH {
        "is no path"
    } else if given.split('/').any(|part| part == "..") {
        "has .. in it"
    } else if given.ends_with('/') || parts().next().is_none() {
        "is a directory"
    } else {
        return Ok(Some(HookPath(parts().collect::<Vec<_>>().join("/"))));
    };
    Err(ProvisionError::Path { hook, path: given, problem })
}

fn duration(text: &str) -> Result<Duration, ProvisionError> {
    let wrong = |problem: String| ProvisionError::Timeout { text: text.to_owned(), problem };
    let given: GoDuration = text.parse().map_err(|error| wrong(format!("{error}")))?;
    given
        .to_duration()
        .filter(|given| (MIN_TIMEOUT..=MAX_TIMEOUT).contains(given))
        .ok_or_else(|| wrong("it must be between 1s and 24h".to_owned()))
}

/// Whether a shell takes it as the name of a variable (POSIX, Base Definitions 3.216).
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The file as it is written.
#[derive(Debug, Default)]
struct Document {
    hooks: Hooks,
    env: Vec<(String, String)>,
    timeout: Option<String>,
    unknown: Vec<String>,
}

#[derive(Debug, Default)]
struct Hooks {
    install: Option<String>,
    startup: Option<String>,
    shutdown: Option<String>,
    unknown: Vec<String>,
}

impl Document {
    fn warnings(&self) -> Vec<String> {
        let hooks = self.hooks.unknown.iter().map(|key| format!("hooks.{key}"));
        let unknown: Vec<String> = self.unknown.iter().cloned().chain(hooks).collect();
        let named = unknown.iter().take(MAX_UNKNOWN);
        let mut warnings: Vec<String> =
            named.map(|key| format!("the key {key:?} means nothing here")).collect();
        if unknown.len() > MAX_UNKNOWN {
            warnings.push(format!("{} more keys mean nothing here", unknown.len() - MAX_UNKNOWN));
        }
        warnings
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with hooks, env and timeout")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Document, M::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "hooks" => document.hooks = map.next_value::<Option<Hooks>>()?.unwrap_or_default(),
                        "env" => document.env = map.next_value::<Option<Env>>()?.unwrap_or_default().0,
                        "timeout" => document.timeout = map.next_value()?,
                        _ => ignore(&mut map, &mut document.unknown, key)?,
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Hooks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Hooks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with install, startup and shutdown")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Hooks, M::Error> {
                let mut hooks = Hooks::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "install" => hooks.install = map.next_value()?,
                        "startup" => hooks.startup = map.next_value()?,
                        "shutdown" => hooks.shutdown = map.next_value()?,
                        _ => ignore(&mut map, &mut hooks.unknown, key)?,
                    }
                }
                Ok(hooks)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn ignore<'de, M: MapAccess<'de>>(
    map: &mut M,
    unknown: &mut Vec<String>,
    key: String,
) -> Result<(), M::Error> {
    if unknown.contains(&key) {
        return Err(M::Error::custom(format!("the key {key:?} stands there twice")));
    }
    unknown.push(key);
    map.next_value::<IgnoredAny>().map(drop)
}

/// Variables in the order of the file; a name without a value is an empty one.
#[derive(Debug, Default)]
struct Env(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Env;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of variables to values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Env, M::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    entries.push((name, map.next_value::<Option<String>>()?.unwrap_or_default()));
                }
                Ok(Env(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests;
