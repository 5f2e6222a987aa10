//! Manifests and indexes as registries have them: OCI's, and Docker's of schema 2, which differ in names of types only.
//!
//! Their bytes are what counts and are kept as they came; this only reads what pull and push must know. What could be
//! read in two ways is refused.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Deserialize;
use shed_image::{ImageConfig, IndexEntry, Platform};
use shed_types::Digest;

use crate::error::clean;

/// Longest manifest, in bytes (OCI distribution specification, "Pushing Manifests": registries take at least this).
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The most layers of an image; overlayfs, and so Docker, has at most 500 beneath each other.
const MAX_LAYERS: usize = 1000;

/// What is asked for with `Accept`.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// How many platforms an error lists.
const MAX_LISTED: usize = 24;

/// A pointer to a blob or manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    platform: Option<Machine>,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The machine that a manifest or a config is for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Machine {
    os: String,
    architecture: String,
    variant: String,
}

/// What a reference can lead to.
#[derive(Debug)]
pub(crate) enum Manifest {
    Image(Image),
    Index(Vec<Descriptor>),
}

/// An image: its config and its layers.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    /// The type under which it is sent.
    pub(crate) media_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// With the reason why it is none that an image can be made from.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no manifest: {}", clean(&error.to_string())))?;
        let Document { schema_version, media_type, config, layers, manifests, fs_layers } = document;
        if schema_version == 1 || fs_layers.is_some() {
            let reason = "it is a manifest of Docker's schema 1, which has no digests that could be checked; \
                          push the image again with a current tool";
            return Err(reason.to_owned());
        }
        if schema_version != 2 {
            return Err(format!("it is a manifest of schema {schema_version}, and only 2 is known"));
        }
        match (config, layers, manifests) {
            (Some(config), Some(layers), None) => {
                let known = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type.as_str());
                if !media_type.is_empty() && !known {
                    return Err(format!("it is of the type {}, which is no image", clean(&media_type)));
                }
                let media_type = if known { media_type } else { OCI_MANIFEST.to_owned() };
                let image = Image { config, layers, media_type };
                image.check()?;
                Ok(Self::Image(image))
            }
            (None, None, Some(manifests)) => {
                if !media_type.is_empty() && ![OCI_INDEX, DOCKER_LIST].contains(&media_type.as_str()) {
                    return Err(format!("it is of the type {}, which is no index", clean(&media_type)));
                }
                Ok(Self::Index(manifests))
            }
            (None, None, None) => Err("it has neither layers nor manifests".to_owned()),
            _ => Err("it is neither an image nor an index, but parts of both".to_owned()),
        }
    }
}

impl Image {
    /// Checks that there are not too many layers, each digest has one length, and all lengths can be added.
    fn check(&self) -> Result<(), String> {
        if self.layers.len() > MAX_LAYERS {
            return Err(format!("it has {} layers, more than {MAX_LAYERS}", self.layers.len()));
        }
        let mut sizes = BTreeMap::new();
        let mut sum: u64 = 0;
        for Descriptor { digest, size, .. } in [&self.config].into_iter().chain(&self.layers) {
            if *sizes.entry(digest).or_insert(*size) != *size {
                return Err(format!("it says two lengths of {digest}"));
            }
            sum = sum.checked_add(*size).ok_or("its layers are longer than can be counted")?;
        }
        if self.config.size > MAX_MANIFEST {
            return Err(format!("its config has {} bytes, more than {MAX_MANIFEST}", self.config.size));
        }
        Ok(())
    }

    /// Returns how many layers are this blob.
    pub(crate) fn layers_with(&self, blob: &Descriptor) -> usize {
        self.layers.iter().filter(|layer| layer.digest == blob.digest).count()
    }

    /// Returns all blobs, each once, the config first.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = std::collections::BTreeSet::new();
        let all = [&self.config].into_iter().chain(&self.layers);
        all.filter(|blob| seen.insert(&blob.digest)).collect()
    }
}

/// Chooses what an index has for a platform, of equals the first; without one, tells what there is instead.
pub(crate) fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, String> {
    wanted.best(manifests, Descriptor::said).first().copied().ok_or_else(|| listed(manifests))
}

impl Descriptor {
    /// Returns what an index says of this entry.
    fn said(&self) -> IndexEntry {
        let platform = self.platform.clone().map(|Machine { os, architecture, variant }| Platform {
            os,
            architecture,
            variant,
        });
        IndexEntry::of(platform, &self.artifact_type, self.annotations.keys().map(String::as_str))
    }
}

impl Machine {
    fn written(&self) -> String {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if !self.variant.is_empty() {
            let _infallible = write!(text, "/{}", self.variant);
        }
        clean(&text)
    }
}

fn listed(manifests: &[Descriptor]) -> String {
    let written = |entry: &Descriptor| match entry.said() {
        IndexEntry::NoImage => None,
        IndexEntry::Unsaid => Some("one that is not said".to_owned()),
        IndexEntry::For(platform) => Some(self::written(&platform)),
    };
    let mut names: Vec<String> = manifests.iter().filter_map(written).collect();
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    names.extend((more > 0).then(|| format!("{more} more")));
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Why a config cannot be that of the image that is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConfigProblem {
    /// With the reason.
    NoConfig(String),
    /// With the platform that it is for.
    Platform(String),
}

/// Checks that a config is one of the platform, and of an image with so many layers: the same that conversion asks, but
/// before the layers have come.
pub(crate) fn check_config(bytes: &[u8], wanted: &Platform, layers: usize) -> Result<(), ConfigProblem> {
    let config = ImageConfig::parse(bytes).map_err(|error| {
        ConfigProblem::NoConfig(format!("its config is not an image's: {}", clean(&error.to_string())))
    })?;
    if !config.is_for(wanted) {
        return Err(ConfigProblem::Platform(written(&config.platform)));
    }
    let named = config.diff_ids.len();
    if named != layers {
        let reason = format!("it has {layers} layers, and its config names {named}");
        return Err(ConfigProblem::NoConfig(reason));
    }
    Ok(())
}

/// Returns a platform as it is written.
pub(crate) fn written(platform: &Platform) -> String {
    let Platform { os, architecture, variant } = platform.clone();
    Machine { os, architecture, variant }.written()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: &str) -> String {
        format!("sha256:{}", byte.repeat(32))
    }

    fn entry(byte: &str, rest: &str) -> String {
        format!(r#"{{"mediaType":"x","digest":"{}","size":3{rest}}}"#, digest(byte))
    }

    fn platform(os: &str, architecture: &str, variant: &str) -> Platform {
        let [os, architecture, variant] = [os, architecture, variant].map(str::to_owned);
        Platform { os, architecture, variant }
    }

    #[test]
    fn an_image_and_an_index_are_told_apart_and_all_else_is_refused() {
        let image = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}]}}"#,
            entry("01", ""),
            entry("02", ""),
            entry("02", "")
        );
        let Ok(Manifest::Image(read)) = Manifest::parse(image.as_bytes()) else { panic!("an image") };
        assert_eq!((read.layers.len(), read.blobs().len()), (2, 2));
        assert_eq!(read.media_type, OCI_MANIFEST);
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[]}}"#);
        assert!(
            matches!(Manifest::parse(index.as_bytes()), Ok(Manifest::Index(entries)) if entries.is_empty())
        );

        let both = image.replace(r#""config""#, r#""manifests":[],"config""#);
        let other_type = image.replace(r#""config""#, &format!(r#""mediaType":"{OCI_INDEX}","config""#));
        let two_lengths = image.replacen(&entry("02", ""), &entry("01", "").replace('3', "4"), 1);
        let long = image.replace(r#""size":3"#, &format!(r#""size":{}"#, u64::MAX / 2));
        let negative = image.replace(r#""size":3"#, r#""size":-3"#);
        let odd_digest = image.replace("sha256:", "md5:");
        for (text, reason) in [
            ("<html>", "it is no manifest"),
            ("[]", "it is no manifest"),
            ("{}", "schema 0"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
            (r#"{"schemaVersion":2}"#, "neither layers nor manifests"),
            (&both, "parts of both"),
            (&other_type, "no image"),
            (&two_lengths, "two lengths"),
            (&long, "than can be counted"),
            (&negative, "it is no manifest"),
            (&odd_digest, "it is no manifest"),
        ] {
            let error = Manifest::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn an_index_gives_what_fits_best_or_says_what_there_is() {
        let for_machine = |byte: &str, os: &str, architecture: &str, variant: &str| {
            let machine = format!(
                r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
            );
            serde_json::from_str::<Descriptor>(&entry(byte, &machine)).unwrap()
        };
        let attestation = r#","platform":{"os":"linux","architecture":"amd64"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let entries = [
            serde_json::from_str(&entry("00", attestation)).unwrap(),
            for_machine("01", "linux", "arm", "v6"),
            for_machine("02", "linux", "arm", "v7"),
            for_machine("03", "linux", "arm64", ""),
            for_machine("04", "linux", "amd64", ""),
            for_machine("05", "unknown", "unknown", ""),
        ];
        for (wanted, expected) in [
            (platform("linux", "amd64", ""), Some("04")),
            (platform("linux", "amd64", "v2"), Some("04")),
            (platform("linux", "arm", ""), Some("01")),
            (platform("linux", "arm", "v7"), Some("02")),
            (platform("linux", "arm", "v8"), None),
            (platform("linux", "arm64", "v8"), Some("03")),
            (platform("windows", "amd64", ""), None),
        ] {
            let chosen = choose(&entries, &wanted).map(|chosen| chosen.digest.to_string());
            match expected {
                Some(byte) => assert_eq!(chosen.unwrap(), digest(byte), "{wanted:?}"),
                None => {
                    let there = "linux/arm/v6, linux/arm/v7, linux/arm64, linux/amd64";
                    assert_eq!(chosen.unwrap_err(), there, "{wanted:?}");
                }
            }
        }
        assert_eq!(choose(&[], &platform("linux", "amd64", "")).unwrap_err(), "nothing");
        let only = [serde_json::from_str::<Descriptor>(&entry("07", "")).unwrap()];
        assert!(choose(&only, &platform("linux", "amd64", "")).is_ok());
        // One of which nothing is said goes last, and its config tells then.
        let beside = [only[0].clone(), for_machine("08", "linux", "amd64", "v2")];
        let chosen = choose(&beside, &platform("linux", "amd64", "")).unwrap();
        assert_eq!(chosen.digest.to_string(), digest("08"));
        let chosen = choose(&beside, &platform("linux", "arm64", "")).unwrap();
        assert_eq!(chosen.digest.to_string(), digest("07"));
    }

    #[test]
    fn a_config_of_another_machine_is_noticed() {
        let amd = platform("linux", "amd64", "");
        let full = br#"{"os":"linux","architecture":"amd64","config":{},"rootfs":{"diff_ids":["a"]}}"#;
        assert_eq!(check_config(full, &amd, 1), Ok(()));
        assert_eq!(check_config(b"{}", &amd, 0), Ok(()));
        let other = check_config(br#"{"os":"linux","architecture":"arm64","variant":"v8"}"#, &amd, 0);
        assert_eq!(other, Err(ConfigProblem::Platform("linux/arm64/v8".to_owned())));
        for (bytes, layers) in [(b"[]".as_slice(), 0), (b"{}", 1), (full, 2), (full, 0)] {
            let problem = check_config(bytes, &amd, layers);
            assert!(matches!(problem, Err(ConfigProblem::NoConfig(_))), "{problem:?}");
        }
    }
}
