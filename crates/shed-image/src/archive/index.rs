//! Which of the images in an index is meant, by its names and by the machine it is for. Import calls it for archives, and
//! pull for what registries have.

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, MediaType};
use shed_types::{Digest, ImageReference};

use super::{CONTAINERD_NAME, Platform, REF_NAME};

/// Tells whether a name that an archive gives an image is the one that was asked for: the same text, the same reference
/// in another spelling, or its tag.
pub(super) fn is_named(wanted: &str, given: &str) -> bool {
    if wanted == given {
        return true;
    }
    let Ok(given) = given.parse::<ImageReference>() else { return false };
    if given.tag() == Some(wanted) {
        return true;
    }
    // What is no reference cannot be spelled in two ways.
    wanted.parse::<ImageReference>().is_ok_and(|wanted| key(&wanted) == key(&given))
}

/// What a reference means, however it is spelled.
fn key(reference: &ImageReference) -> (&str, &str, Option<&str>, Option<&str>) {
    // Without tag and digest it means the tag `latest`.
    let tag = reference.tag().or_else(|| reference.digest().is_none().then_some("latest"));
    // Docker's own images have a repository that may be left out.
    let repository = reference.repository();
    let repository = repository
        .strip_prefix("library/")
        .filter(|_| reference.registry() == "docker.io")
        .unwrap_or(repository);
    (reference.registry(), repository, tag, reference.digest())
}

/// Returns the names that an index gives an image.
pub(super) fn names(descriptor: &Descriptor) -> Vec<&str> {
    let annotation = |name| descriptor.annotations().as_ref().and_then(|all| all.get(name));
    [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(annotation).map(String::as_str).collect()
}

/// Marks a manifest in an index that is no image but a statement about one (Docker's buildkit).
const ATTESTATION: &str = "vnd.docker.reference.type";

/// Types of the configs of images; an artifact has another one (OCI image specification, "Guidelines for Artifact Usage").
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What an index says that one of its entries is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexEntry {
    /// An attestation or another artifact.
    NoImage,
    /// An image or an index, and for which machine is not said.
    Unsaid,
    /// An image for this machine.
    For(Platform),
}

impl IndexEntry {
    /// Reads an entry from its platform, the type of artifact that it says (empty if none), and the names of its
    /// annotations.
    #[must_use]
    pub fn of<'a>(
        platform: Option<Platform>,
        artifact_type: &str,
        annotations: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let is_artifact = !artifact_type.is_empty() && !IMAGE_CONFIGS.contains(&artifact_type);
        if is_artifact || annotations.into_iter().any(|name| name == ATTESTATION) {
            return Self::NoImage;
        }
        match platform {
            Some(platform) if platform.os == "unknown" => Self::NoImage,
            Some(platform) if platform.os.is_empty() && platform.architecture.is_empty() => Self::Unsaid,
            Some(platform) => Self::For(platform),
            None => Self::Unsaid,
        }
    }

    /// Tells how well it fits a machine: the more the better. A variant that is not asked for may be any, and one that
    /// is not said fits all; what says the same as is asked goes first, and last what says nothing at all.
    fn fit(&self, wanted: &Platform) -> Option<u8> {
        match self {
            Self::NoImage => None,
            Self::Unsaid => Some(0),
            Self::For(found) if found.os != wanted.os || found.architecture != wanted.architecture => None,
            Self::For(found) if found.variant == wanted.variant => Some(2),
            Self::For(found) => (found.variant.is_empty() || wanted.variant.is_empty()).then_some(1),
        }
    }
}

impl Platform {
    /// Returns those entries of an index that fit this platform best, in their order: none, one, or several that fit
    /// equally well.
    pub fn best<'e, E>(
        &self,
        entries: impl IntoIterator<Item = &'e E>,
        said: impl Fn(&E) -> IndexEntry,
    ) -> Vec<&'e E> {
        let fitting = entries.into_iter().filter_map(|entry| Some((said(entry).fit(self)?, entry)));
        let ranked: Vec<_> = fitting.collect();
        let best = ranked.iter().map(|(rank, _)| *rank).max();
        ranked.into_iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, entry)| entry).collect()
    }
}

/// Returns what an index says of an entry.
fn said(descriptor: &Descriptor) -> IndexEntry {
    let platform = descriptor.platform().as_ref().map(|found| Platform {
        os: found.os().to_string(),
        architecture: found.architecture().to_string(),
        variant: found.variant().clone().unwrap_or_default(),
    });
    let artifact_type = descriptor.artifact_type().as_ref().map(ToString::to_string).unwrap_or_default();
    let annotations = descriptor.annotations().iter().flat_map(|all| all.keys()).map(String::as_str);
    IndexEntry::of(platform, &artifact_type, annotations)
}

/// Tells whether an entry is an index in an index.
pub(super) fn is_index(descriptor: &Descriptor) -> bool {
    const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    let media_type = descriptor.media_type();
    *media_type == MediaType::ImageIndex || media_type.to_string() == DOCKER_LIST
}

/// Chooses among what an index names; `Err` has the names there are.
pub(super) fn choose(
    descriptors: &[Descriptor],
    wanted: Option<&str>,
    platform: &Platform,
) -> Result<Descriptor, Choice> {
    let named = |descriptor: &&Descriptor| match wanted {
        Some(wanted) => {
            names(descriptor).iter().any(|given| is_named(wanted, given))
                || descriptor.digest().to_string() == wanted
        }
        None => true,
    };
    let all: Vec<&Descriptor> = descriptors.iter().filter(named).collect();
    if all.is_empty() {
        return Err(Choice::NoSuch(describe(descriptors)));
    }
    let mut fitting = platform.best(all.iter().copied(), said);
    // One image can have several names, anywhere in the index.
    let mut seen = BTreeSet::new();
    fitting.retain(|descriptor| seen.insert(descriptor.digest().to_string()));
    match fitting.as_slice() {
        [] => Err(Choice::Platform(platforms(&all))),
        [one] => Ok((*one).clone()),
        several @ [..] => Err(Choice::Several(describe(several.iter().copied()))),
    }
}

/// Why none was chosen.
#[derive(Debug)]
pub(super) enum Choice {
    NoSuch(String),
    Several(String),
    Platform(String),
}

/// Most names in an error.
const MAX_LISTED: usize = 20;

fn describe<'d>(descriptors: impl IntoIterator<Item = &'d Descriptor>) -> String {
    list(descriptors.into_iter().map(|descriptor| match names(descriptor).first() {
        Some(name) => (*name).to_owned(),
        None => descriptor.digest().to_string(),
    }))
}

fn platforms(descriptors: &[&Descriptor]) -> String {
    list(
        descriptors
            .iter()
            .filter_map(|descriptor| descriptor.platform().as_ref())
            .map(|platform| format!("{}/{}", platform.os(), platform.architecture())),
    )
}

pub(super) fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.map(|name| name.chars().take(300).collect()).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    if more > 0 { format!("{listed} and {more} more") } else { listed }
}

/// Where a layout keeps a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_every_spelling() {
        for (wanted, given) in [
            ("v1", "v1"),
            ("v1", "ghcr.io/owner/tools:v1"),
            ("tools", "docker.io/library/tools:latest"),
            ("docker.io/tools:latest", "tools"),
            ("no reference at all", "no reference at all"),
        ] {
            assert!(is_named(wanted, given), "{wanted} {given}");
        }
        for (wanted, given) in
            [("v1", "v2"), ("tools", "tools:v1"), ("a/tools", "ghcr.io/a/tools"), ("x", "x y")]
        {
            assert!(!is_named(wanted, given), "{wanted} {given}");
        }
    }

    fn entry(byte: &str, rest: &serde_json::Value) -> Descriptor {
        let mut entry = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 3,
            "digest": format!("sha256:{}", byte.repeat(32)),
        });
        entry.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    }

    #[test]
    fn what_fits_best_is_chosen_and_only_equals_are_several() {
        use serde_json::json;
        let machine = |variant: Option<&str>| match variant {
            Some(variant) => {
                json!({"platform": {"os": "linux", "architecture": "amd64", "variant": variant}})
            }
            None => json!({"platform": {"os": "linux", "architecture": "amd64"}}),
        };
        let (plain, v2, v3) = (
            entry("01", &machine(None)),
            entry("02", &machine(Some("v2"))),
            entry("03", &machine(Some("v3"))),
        );
        let unsaid = entry("04", &json!({}));
        let also_unsaid = entry("05", &json!({}));
        let mut attested = machine(None);
        attested["annotations"] = json!({ATTESTATION: "attestation-manifest"});
        let attested = entry("06", &attested);
        let unknown = entry("07", &json!({"platform": {"os": "unknown", "architecture": "unknown"}}));
        let mut artifact = machine(None);
        artifact["artifactType"] = "application/vnd.example.sbom".into();
        let artifact = entry("08", &artifact);
        let mut image = machine(None);
        image["artifactType"] = IMAGE_CONFIGS[0].into();
        let image = entry("09", &image);
        let platform = |variant: &str| Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: variant.to_owned(),
        };
        for (entries, variant, expected) in [
            (vec![&v2, &plain], "", Some(&plain)),
            (vec![&plain, &v2], "v2", Some(&v2)),
            (vec![&v2, &plain], "v3", Some(&plain)),
            (vec![&v2], "", Some(&v2)),
            (vec![&v2, &v3], "", None),
            (vec![&unsaid, &v2, &also_unsaid], "", Some(&v2)),
            (vec![&unsaid, &also_unsaid], "", None),
            (vec![&attested, &unsaid, &unknown, &artifact], "", Some(&unsaid)),
            (vec![&attested, &plain, &plain, &unknown, &artifact], "", Some(&plain)),
            (vec![&artifact, &image], "", Some(&image)),
            // The same image under two names, with another one between.
            (vec![&v2, &unsaid, &v2], "", Some(&v2)),
        ] {
            let entries: Vec<Descriptor> = entries.into_iter().cloned().collect();
            match (choose(&entries, None, &platform(variant)), expected) {
                (Ok(chosen), Some(expected)) => assert_eq!(chosen.digest(), expected.digest()),
                (Err(Choice::Several(_)), None) => {}
                (other, _) => panic!("{other:?} of {entries:?}"),
            }
        }
        let none = choose(&[attested, artifact], None, &platform(""));
        assert!(matches!(none, Err(Choice::Platform(_))), "{none:?}");
    }
}
