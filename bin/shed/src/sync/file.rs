//! `sync.yaml`: features, what belongs to each, and profiles of features. Read strictly: what is misspelt is said.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use shed_types::GuestPath;

use super::include::Include;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Longest name of a feature or profile, in bytes.
const MAX_NAME: usize = 63;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncFileError {
    #[error("there is no {path}, which says what to copy")]
    Missing { path: Utf8PathBuf },
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is longer than {MAX_FILE} bytes")]
    TooLong { path: Utf8PathBuf },
    #[error("{path} cannot be understood")]
    Parse {
        path: Utf8PathBuf,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("{path}: {problem}")]
    Check { path: Utf8PathBuf, problem: String },
    #[error("{path} has no profile {name}; it has: {}", list(.known))]
    NoProfile { path: Utf8PathBuf, name: ProfileName, known: Vec<String> },
    #[error("{path} has no feature {name}; it has: {}", list(.known))]
    NoFeature { path: Utf8PathBuf, name: FeatureName, known: Vec<String> },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Says why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a feature or profile: use 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
)]
pub(crate) struct ParseNameError(String);

macro_rules! name {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) struct $name(String);

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                let good = (1..=MAX_NAME).contains(&text.len())
                    && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
                if good { Ok(Self(text.to_owned())) } else { Err(ParseNameError(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;

            fn try_from(text: String) -> Result<Self, ParseNameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// Name of a feature.
    FeatureName
}
name! {
    /// Name of a profile.
    ProfileName
}

impl ProfileName {
    /// The profile that is used when none is named.
    pub(crate) fn default_name() -> Self {
        Self("default".to_owned())
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    features: BTreeMap<FeatureName, WrittenFeature>,
    #[serde(default)]
    profiles: BTreeMap<ProfileName, WrittenProfile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFeature {
    #[serde(default)]
    description: String,
    paths: Vec<WrittenPath>,
    #[serde(default, rename = "postSync")]
    post_sync: Vec<WrittenCommand>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPath {
    source: String,
    target: String,
    #[serde(default)]
    include: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCommand {
    run: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProfile {
    features: Vec<FeatureName>,
}

/// A checked file.
#[derive(Debug)]
pub(crate) struct SyncFile {
    path: Utf8PathBuf,
    features: BTreeMap<FeatureName, Feature>,
    profiles: BTreeMap<ProfileName, Vec<FeatureName>>,
}

/// What belongs together.
#[derive(Debug, Clone)]
pub(crate) struct Feature {
    pub(crate) description: String,
    pub(crate) paths: Vec<PathRule>,
    /// Lines for a login shell in the shed, in their order.
    pub(crate) post_sync: Vec<String>,
}

/// A file or directory, and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct PathRule {
    /// As it is written.
    pub(crate) written: String,
    /// On this machine; absolute.
    pub(crate) source: PathBuf,
    pub(crate) target: GuestPath,
    /// Whether the target is a directory even for a file: it ends with a slash, or is the home directory.
    pub(crate) target_is_directory: bool,
    /// What is taken of a directory; all without one.
    pub(crate) include: Option<Include>,
}

impl SyncFile {
    /// Reads the file.
    ///
    /// # Errors
    /// See [`SyncFileError`].
    pub(crate) fn load(path: &Utf8Path, home: Option<&Path>) -> Result<Self, SyncFileError> {
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => SyncFileError::Missing { path: path.to_owned() },
            _ => SyncFileError::Read { path: path.to_owned(), source },
        };
        let meta = fs::metadata(path).map_err(read)?;
        if meta.len() > MAX_FILE {
            return Err(SyncFileError::TooLong { path: path.to_owned() });
        }
        Self::parse(path, &fs::read_to_string(path).map_err(read)?, home)
    }

    fn parse(path: &Utf8Path, text: &str, home: Option<&Path>) -> Result<Self, SyncFileError> {
        // YAML reads nothing, or nothing but comments, as null.
        let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let written = if blank {
            Written::default()
        } else {
            serde_saphyr::from_str(text)
                .map_err(|source| SyncFileError::Parse { path: path.to_owned(), source: Box::new(source) })?
        };
        check(path, written, home).map_err(|problem| SyncFileError::Check { path: path.to_owned(), problem })
    }

    /// Returns the features of these profiles and these features, each once and in this order; those of the profile
    /// `default` when none of either is named.
    ///
    /// # Errors
    /// When there is no such profile or feature.
    pub(crate) fn choose(
        &self,
        profiles: &[ProfileName],
        features: &[FeatureName],
    ) -> Result<Vec<(&FeatureName, &Feature)>, SyncFileError> {
        let default = [ProfileName::default_name()];
        let profiles = if profiles.is_empty() && features.is_empty() { &default } else { profiles };
        let mut chosen: Vec<&FeatureName> = Vec::new();
        for name in profiles {
            let members = self.profiles.get(name).ok_or_else(|| SyncFileError::NoProfile {
                path: self.path.clone(),
                name: name.clone(),
                known: self.profiles.keys().map(ToString::to_string).collect(),
            })?;
            chosen.extend(members);
        }
        chosen.extend(features);
        let mut found = Vec::new();
        for name in chosen {
            let (name, feature) =
                self.features.get_key_value(name).ok_or_else(|| SyncFileError::NoFeature {
                    path: self.path.clone(),
                    name: name.clone(),
                    known: self.features.keys().map(ToString::to_string).collect(),
                })?;
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, feature));
            }
        }
        Ok(found)
    }

    /// Returns whether there is a profile of this name.
    pub(crate) fn has_profile(&self, name: &ProfileName) -> bool {
        self.profiles.contains_key(name)
    }
}

/// Turns what is written into what is meant; an error says where in the file it is.
fn check(path: &Utf8Path, written: Written, home: Option<&Path>) -> Result<SyncFile, String> {
    let mut features = BTreeMap::new();
    for (name, feature) in written.features {
        if feature.paths.is_empty() {
            return Err(format!("features.{name}.paths is empty: a feature copies at least one path"));
        }
        let mut paths = Vec::new();
        for (at, path) in feature.paths.into_iter().enumerate() {
            paths.push(path_rule(&format!("features.{name}.paths[{at}]"), path, home)?);
        }
        let mut post_sync = Vec::new();
        for (at, WrittenCommand { run }) in feature.post_sync.into_iter().enumerate() {
            let place = format!("features.{name}.postSync[{at}].run");
            if run.trim().is_empty() {
                return Err(format!("{place} is empty"));
            }
            if run.contains('\0') {
                return Err(format!("{place} has a zero byte in it"));
            }
            post_sync.push(run);
        }
        features.insert(name, Feature { description: feature.description, paths, post_sync });
    }
    let mut profiles = BTreeMap::new();
    for (name, WrittenProfile { features: members }) in written.profiles {
        if let Some(unknown) = members.iter().find(|member| !features.contains_key(*member)) {
            let known: Vec<String> = features.keys().map(ToString::to_string).collect();
            return Err(format!(
                "profiles.{name}.features names {unknown}, and there is no such feature; there are: {}",
                list(&known)
            ));
        }
        profiles.insert(name, members);
    }
    Ok(SyncFile { path: path.to_owned(), features, profiles })
}

fn path_rule(place: &str, path: WrittenPath, home: Option<&Path>) -> Result<PathRule, String> {
    let WrittenPath { source: written, target, include } = path;
    for (key, value) in [("source", &written), ("target", &target)] {
        if value.trim().is_empty() {
            return Err(format!("{place}.{key} is empty"));
        }
    }
    let source =
        expand(&written, home).map_err(|problem| format!("{place}.source {written:?}: {problem}"))?;
    let guest: GuestPath = target.parse().map_err(|error| format!("{place}.target {target:?}: {error}"))?;
    let target_is_directory = target.ends_with('/') || guest.split().is_none();
    let include = if include.is_empty() {
        None
    } else {
        let read = Include::new(&include).map_err(|(at, problem)| match at {
            Some(at) => format!("{place}.include[{at}] {:?}: {problem}", include[at]),
            None => format!("{place}.include: {problem}"),
        })?;
        Some(read)
    };
    Ok(PathRule { written, source, target: guest, target_is_directory, include })
}

/// Returns the path on this machine.
fn expand(text: &str, home: Option<&Path>) -> Result<PathBuf, &'static str> {
    if text.contains('\0') {
        return Err("a path has no zero byte in it");
    }
    let path = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = home.ok_or("the home directory is unknown: HOME is not set")?;
            home.join(rest.trim_start_matches('/'))
        }
        Some(_) => return Err("only `~` and `~/…` stand for a home directory, and only for your own"),
        None => PathBuf::from(text),
    };
    if path.is_absolute() { Ok(path) } else { Err("write an absolute path, or one that begins with `~/`") }
}

#[cfg(test)]
mod tests;
