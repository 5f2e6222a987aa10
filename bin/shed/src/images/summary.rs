//! What a manifest in the store says of the image, before it is made: its base, and whether it starts an init.

use std::collections::BTreeMap;

use serde::Deserialize;
use shed_image::{BlobError, BlobStore};
use shed_types::Digest;

/// Label of images that extend Shed's own base (spec I.1).
pub(crate) const BASE_LABEL: &str = "io.shed.base-version";

/// Longest manifest or config that is read, in bytes; registries take manifests of at most 4 MiB.
const MAX_JSON: u64 = 4 << 20;

/// Says why an image cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SummaryError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{digest} is not the JSON that it should be")]
    Json {
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

#[derive(Deserialize)]
struct Config {
    config: Option<Run>,
}

/// The part of an image's config that says how it is used (OCI image specification, "Image configuration").
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    labels: Option<BTreeMap<String, String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

/// Tells whether an image is as much of a system as Shed expects: it extends Shed's base, or starts an init.
///
/// # Errors
/// When its blobs are not there or make no sense.
pub(crate) fn is_system(blobs: &BlobStore, manifest: &Digest) -> Result<bool, SummaryError> {
    let manifest: Manifest = read(blobs, manifest)?;
    let config: Config = read(blobs, &manifest.config.digest)?;
    let Run { labels, entrypoint, cmd } = config.config.unwrap_or_default();
    let first = [entrypoint, cmd].into_iter().flatten().flatten().next().unwrap_or_default();
    Ok(labels.unwrap_or_default().contains_key(BASE_LABEL) || is_init(&first))
}

fn read<T: serde::de::DeserializeOwned>(blobs: &BlobStore, digest: &Digest) -> Result<T, SummaryError> {
    let bytes = blobs.read(digest, MAX_JSON)?;
    serde_json::from_slice(&bytes).map_err(|source| SummaryError::Json { digest: digest.clone(), source })
}

fn is_init(program: &str) -> bool {
    matches!(program.rsplit('/').next(), Some("init" | "systemd"))
}

#[cfg(test)]
mod tests {
    use shed_image::ImageStore;

    use super::*;

    fn says(config: &str) -> Result<bool, SummaryError> {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::of(&ImageStore::new(dir.path().to_str().unwrap()));
        let config = blobs.insert(config.as_bytes()).unwrap();
        let manifest = format!(r#"{{"config":{{"digest":"{}"}}}}"#, config.digest);
        is_system(&blobs, &blobs.insert(manifest.as_bytes()).unwrap().digest)
    }

    #[test]
    fn the_label_or_an_init_makes_a_system() {
        for system in [
            r#"{"config":{"Labels":{"io.shed.base-version":"1"}}}"#,
            r#"{"config":{"Entrypoint":["/sbin/init"]}}"#,
            r#"{"config":{"Cmd":["/lib/systemd/systemd"],"Labels":null}}"#,
        ] {
            assert!(says(system).unwrap(), "{system}");
        }
        for other in [
            "{}",
            r#"{"config":null}"#,
            r#"{"config":{"Cmd":["sh"],"Labels":{"io.shed":"1"}}}"#,
            r#"{"config":{"Entrypoint":["tini","--"],"Cmd":["/sbin/init"]}}"#,
        ] {
            assert!(!says(other).unwrap(), "{other}");
        }
        assert!(matches!(says("[]"), Err(SummaryError::Json { .. })));
    }
}
