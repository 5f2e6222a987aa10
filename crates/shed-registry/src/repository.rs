//! Where an image is: the registry's host and address, the repository in it, and where it may send us on to.
//!
//! Everything that becomes a URL is made here. Whether a connection may be without TLS is decided here too, for the
//! registry itself and for every address that it names.

use std::{fmt, net::IpAddr};

use reqwest::Url;
use shed_types::{Digest, ImageReference};

use crate::{RegistrySettings, error::RequestError, settings::covers};

/// The registry of references that name none, as `docker` writes it.
const DOCKER_HUB: &str = "docker.io";

/// The host that answers for it.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// Its other names, which stand in configs.
const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST];

/// The tag of a reference with neither tag nor digest, as `docker pull` has it.
const DEFAULT_TAG: &str = "latest";

/// Tells whether a name of a registry is one of Docker Hub's.
pub(crate) fn is_docker_hub(host: &str) -> bool {
    DOCKER_HUB_NAMES.contains(&host)
}

/// A repository in a registry.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    /// Host and port, as the reference has them: what logins are for.
    registry: String,
    /// The repository, complete.
    path: String,
    /// `…/v2/{path}/`.
    base: Url,
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Version {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Version {
    /// Returns what a pull of a reference asks for: its digest before its tag.
    pub(crate) fn of(reference: &ImageReference) -> Self {
        match reference.digest() {
            Some(digest) => Self::Digest(digest.parse().expect("a reference's digest has the form of one")),
            None => Self::Tag(reference.tag().unwrap_or(DEFAULT_TAG).to_owned()),
        }
    }
}

impl Repository {
    /// Finds out where a reference leads.
    ///
    /// # Errors
    /// When its registry cannot be a host, like `1.2.3.400`.
    pub(crate) fn of(reference: &ImageReference, settings: &RegistrySettings) -> Result<Self, RequestError> {
        let registry = reference.registry();
        let (host, path) = if is_docker_hub(registry) {
            let official = if reference.repository().contains('/') { "" } else { "library/" };
            (DOCKER_HUB_HOST, format!("{official}{}", reference.repository()))
        } else {
            (registry, reference.repository().to_owned())
        };
        let bad = || RequestError::BadHost { host: host.to_owned() };
        let secure: Url = format!("https://{host}/v2/{path}/").parse().map_err(|_| bad())?;
        let name = secure.host_str().ok_or_else(bad)?;
        let plain =
            is_loopback(&secure) || settings.insecure.contains(name) || covers(&settings.insecure, host);
        let base =
            if plain { format!("http://{host}/v2/{path}/").parse().map_err(|_| bad())? } else { secure };
        Ok(Self { registry: registry.to_owned(), path, base })
    }

    /// Returns host and port as the reference has them.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the address of a manifest.
    pub(crate) fn manifest(&self, version: &Version) -> Url {
        self.at(&format!("manifests/{version}"))
    }

    /// Returns the address of a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> Url {
        self.at(&format!("blobs/{digest}"))
    }

    /// Returns where uploads begin.
    pub(crate) fn uploads(&self) -> Url {
        self.at("blobs/uploads/")
    }

    fn at(&self, below: &str) -> Url {
        // Prefixed, or `sha256:…` at the beginning could be read as a scheme.
        self.base.join(&format!("./{below}")).expect("tags and digests are fit for an address")
    }

    /// Tells whether an address is the registry's own: only there do its credentials go.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Checks whether an address that the registry names may be asked.
    ///
    /// # Errors
    /// When it would leave TLS, or reach services of this host that the network cannot reach.
    pub(crate) fn check_named(&self, url: &Url) -> Result<(), RequestError> {
        let reason = match url.scheme() {
            "https" | "http" if is_loopback(url) && !is_loopback(&self.base) => {
                "it leads to a loopback address, that is to this host"
            }
            "https" => return Ok(()),
            "http" if self.base.scheme() == "http" => return Ok(()),
            "http" => "it leads from HTTPS to plain HTTP",
            _ => "it leads to an address that is not HTTP",
        };
        Err(RequestError::nonsense(&self.base, reason))
    }
}

/// Returns host and port of an address, for messages: no path, no query, which may hold secrets.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Tells whether an address is on the loopback interface by its looks; no name is resolved.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => bare == "localhost" || bare.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(text: &str, insecure: &[&str]) -> Repository {
        let settings = RegistrySettings {
            insecure: insecure.iter().map(|&host| host.to_owned()).collect(),
            ..RegistrySettings::default()
        };
        Repository::of(&text.parse().unwrap(), &settings).unwrap()
    }

    #[test]
    fn references_lead_to_addresses() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, address) in [
            ("ubuntu", "https://registry-1.docker.io/v2/library/ubuntu/manifests/latest".to_owned()),
            ("docker.io/a/b:c", "https://registry-1.docker.io/v2/a/b/manifests/c".to_owned()),
            ("index.docker.io/b:c", "https://registry-1.docker.io/v2/library/b/manifests/c".to_owned()),
            ("ghcr.io/a/b:v1", "https://ghcr.io/v2/a/b/manifests/v1".to_owned()),
            ("r.example:444/b", "https://r.example:444/v2/b/manifests/latest".to_owned()),
            ("plain.example:5000/b", "http://plain.example:5000/v2/b/manifests/latest".to_owned()),
            ("plain.example/b", "http://plain.example/v2/b/manifests/latest".to_owned()),
            ("one.example:5000/b", "http://one.example:5000/v2/b/manifests/latest".to_owned()),
            ("one.example:5001/b", "https://one.example:5001/v2/b/manifests/latest".to_owned()),
            ("localhost:5000/b", "http://localhost:5000/v2/b/manifests/latest".to_owned()),
            ("127.9.0.1:5000/b", "http://127.9.0.1:5000/v2/b/manifests/latest".to_owned()),
            ("[::1]:5000/b", "http://[::1]:5000/v2/b/manifests/latest".to_owned()),
            (&format!("r.io/b:t@{digest}"), format!("https://r.io/v2/b/manifests/{digest}")),
        ] {
            let repository = repository(text, &["plain.example", "one.example:5000"]);
            let version = Version::of(&text.parse().unwrap());
            assert_eq!(repository.manifest(&version).as_str(), address, "{text}");
        }
        let odd = Repository::of(&"1.2.3.400/x".parse().unwrap(), &RegistrySettings::default());
        assert!(matches!(odd, Err(RequestError::BadHost { .. })));
    }

    #[test]
    fn a_registry_sends_nobody_to_this_host_or_out_of_tls() {
        let (far, near) = (repository("r.example/b", &[]), repository("localhost:5000/b", &[]));
        let plain = repository("p.example/b", &["p.example"]);
        for (url, from_far, from_near, from_plain) in [
            ("https://storage.example/x", true, true, true),
            ("http://storage.example/x", false, true, true),
            ("http://r.example/x", false, true, true),
            ("http://127.0.0.1:8080/x", false, true, false),
            ("https://[::1]/x", false, true, false),
            ("https://[::ffff:127.0.0.1]/x", false, true, false),
            ("https://a.localhost/x", false, true, false),
            ("ftp://storage.example/x", false, false, false),
            ("file:///etc/passwd", false, false, false),
        ] {
            let url: Url = url.parse().unwrap();
            for (repository, allowed) in [(&far, from_far), (&near, from_near), (&plain, from_plain)] {
                assert_eq!(repository.check_named(&url).is_ok(), allowed, "{} to {url}", repository.base);
            }
        }
        assert!(far.is_own(&"https://r.example:443/elsewhere".parse().unwrap()));
        assert!(!far.is_own(&"https://r.example:444/".parse().unwrap()));
        assert!(!far.is_own(&"http://r.example/".parse().unwrap()));
    }
}
