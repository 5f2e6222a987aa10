//! Docker's own configuration file: where credentials are, and those that it holds itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use shed_extensions::Secret;
use tokio::io::AsyncReadExt;

use crate::Registry;

/// Most of the file that is read, in bytes; one with a hundred registries has some ten kilobytes.
const CONFIG_FILE: u64 = 4 << 20;

/// The name of a user that says: the secret is an identity token.
const TOKEN: &str = "<token>";

/// Some programs that write the file leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why the file is of no use. No text shows anything of its contents.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{path} is not there; log in with `docker login`, or set docker.config_path")]
    Missing { path: String },
    #[error("{path} could not be read")]
    Unreadable { path: String, source: io::Error },
    #[error("{path} is no configuration of Docker: line {line}, column {column} is not as it should be")]
    Malformed { path: String, line: usize, column: usize },
}

/// What of the file says where credentials are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

/// Credentials of one registry. It is empty when a helper keeps them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// What a registry gave for a password; it counts before all others.
    #[serde(rename = "identitytoken")]
    token: Option<Secret>,
    /// `user:password` in base64.
    auth: Option<Secret>,
    /// In place of `auth`, in files that people write.
    username: Option<String>,
    /// Of that user.
    password: Option<Secret>,
}

/// A user and what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) secret: Secret,
}

impl DockerConfig {
    /// Reads the file as it is now.
    pub(crate) async fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = || path.display().to_string();
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing { path: name() },
            _ => ConfigError::Unreadable { path: name(), source },
        };
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let mut contents = Vec::new();
        let read = file.take(CONFIG_FILE + 1).read_to_end(&mut contents).await.map_err(unreadable)?;
        if read as u64 > CONFIG_FILE {
            let error = format!("it has more than {CONFIG_FILE} bytes");
            return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, error)));
        }
        // serde's own words repeat what they do not like.
        serde_json::from_slice(&contents).map_err(|error| ConfigError::Malformed {
            path: name(),
            line: error.line(),
            column: error.column(),
        })
    }

    /// Returns who may know a registry's credentials, the most particular first.
    pub(crate) fn helpers(&self, registry: &Registry) -> Vec<&str> {
        let own = self
            .cred_helpers
            .iter()
            .filter(|(name, _helper)| is(name, registry))
            .map(|(_name, helper)| helper);
        let mut helpers: Vec<&str> =
            own.chain([&self.creds_store]).map(String::as_str).filter(|helper| !helper.is_empty()).collect();
        helpers.dedup();
        helpers
    }

    /// Returns every helper, each with the registries that it is for, or none when it is for all.
    pub(crate) fn all_helpers(&self) -> BTreeMap<&str, Option<BTreeSet<Registry>>> {
        let mut helpers = BTreeMap::new();
        for (name, helper) in self.cred_helpers.iter().filter(|(_name, helper)| !helper.is_empty()) {
            let of_helper = helpers.entry(helper.as_str()).or_insert_with(|| Some(BTreeSet::new()));
            if let (Some(registries), Ok(registry)) = (of_helper, Registry::parse(name)) {
                let _new = registries.insert(registry);
            }
        }
        if !self.creds_store.is_empty() {
            let _own = helpers.insert(self.creds_store.as_str(), None);
        }
        helpers
    }

    /// Returns how a helper may know a registry: as Docker wrote it when it logged in, and by its name.
    pub(crate) fn names<'a>(&'a self, registry: &'a Registry) -> Vec<&'a str> {
        let written = self.auths.keys().find(|name| is(name, registry)).map(|name| name.trim());
        let mut names: Vec<&str> = written.into_iter().chain([registry.for_helper()]).collect();
        names.dedup();
        names
    }

    /// Returns the credentials of a registry that are in the file itself.
    pub(crate) fn login(&self, registry: &Registry) -> Option<Login> {
        self.auths.iter().filter(|(name, _entry)| is(name, registry)).find_map(|(_name, entry)| entry.login())
    }

    /// Returns the registries whose credentials are in the file, each with its user.
    pub(crate) fn logins(&self) -> impl Iterator<Item = (&str, String)> {
        self.auths.iter().filter_map(|(name, entry)| Some((name.as_str(), entry.login()?.username)))
    }
}

fn is(written: &str, registry: &Registry) -> bool {
    Registry::parse(written).is_ok_and(|written| written == *registry)
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if let Some(token) = self.token.as_ref().filter(|token| !token.reveal().is_empty()) {
            return Some(Login { username: TOKEN.to_owned(), secret: token.clone() });
        }
        let written = || {
            let username = self.username.clone().filter(|name| !name.is_empty())?;
            Some(Login { username, secret: self.password.clone()? })
        };
        self.auth.as_ref().and_then(|auth| decode(auth.reveal())).or_else(written)
    }
}

/// Reads `user:password` in base64, as Docker does: the first colon parts them, and zero bytes at the end are no part.
fn decode(auth: &str) -> Option<Login> {
    let text = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0');
    if username.is_empty() || password.is_empty() {
        return None;
    }
    Some(Login { username: username.to_owned(), secret: Secret::new(password) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: serde_json::Value) -> DockerConfig {
        serde_json::from_value(value).unwrap()
    }

    fn registry(name: &str) -> Registry {
        Registry::parse(name).unwrap()
    }

    #[test]
    fn credentials_are_read_as_docker_reads_them() {
        let config = config(json!({"auths": {
            "https://index.docker.io/v1/": {"auth": BASE64.encode("me:pa:ss\0\0"), "email": "x"},
            "token.example": {"auth": BASE64.encode("me:old"), "identitytoken": "idtok"},
            "unpadded.example": {"auth": "dTpwdw"},
            "plain.example": {"username": "u", "password": "p"},
            "empty.example": {},
            "bad.example": {"auth": "%%%"},
            "nouser.example": {"auth": BASE64.encode(":p")},
        }, "HttpHeaders": {}}));
        let login = |name| {
            config.login(&registry(name)).map(|login| (login.username, login.secret.reveal().to_owned()))
        };
        assert_eq!(login("docker.io"), Some(("me".into(), "pa:ss".into())));
        assert_eq!(login("token.example"), Some((TOKEN.into(), "idtok".into())));
        assert_eq!(login("unpadded.example"), Some(("u".into(), "pw".into())));
        assert_eq!(login("plain.example"), Some(("u".into(), "p".into())));
        for none in ["empty.example", "bad.example", "nouser.example", "other.example"] {
            assert_eq!(login(none), None, "{none}");
        }
        assert_eq!(config.logins().count(), 4);
        let debug = format!("{config:?}");
        assert!(!debug.contains("idtok") && !debug.contains(&BASE64.encode("me:old")), "{debug}");
    }

    #[test]
    fn the_most_particular_helper_is_first() {
        let config = config(json!({
            "auths": {"https://r.example/v2/": {}}, "credsStore": "store", "credHelpers": {"https://R.example": "own", "x": ""}
        }));
        assert_eq!(config.helpers(&registry("r.example")), ["own", "store"]);
        assert_eq!(config.helpers(&registry("other.example")), ["store"]);
        assert_eq!(config.names(&registry("r.example")), ["https://r.example/v2/", "r.example"]);
        assert_eq!(config.names(&registry("docker.io")), [crate::registry::DOCKER_URL]);
        assert_eq!(
            config.all_helpers(),
            [("own", Some([registry("r.example")].into())), ("store", None)].into()
        );
    }
}
