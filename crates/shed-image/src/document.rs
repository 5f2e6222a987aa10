//! OCI documents in the store of blobs: manifests, indexes and configs.
//!
//! Import, save, conversion and prune read them through here. Docker's older media types mean the same as OCI's and are
//! taken as such; a media type that is missing or lies is no hindrance where the content says what it is. Digests must
//! be ones that can be checked, and no document is longer than registries take.

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Deserialize, de::DeserializeOwned};
use shed_types::{Digest, ParseDigestError};

use crate::{BlobError, BlobId, BlobStore, ImageConfig};

/// Longest document that is read, in bytes: what registries accept for a manifest (distribution specification,
/// "Pushing Manifests").
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// How deep indexes lie in each other at most. Their digests cannot make a circle, but a chain can be long.
const MAX_NESTING: usize = 8;

/// How many documents one image reaches at most, so that indexes which share their content are not read for ever.
const MAX_DOCUMENTS: usize = 10_000;

/// Says why a manifest, index or config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{digest} is no {expected}")]
    Parse {
        digest: Digest,
        expected: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{digest} names a blob by a digest that cannot be checked")]
    Digest {
        digest: Digest,
        #[source]
        source: ParseDigestError,
    },
    #[error("{digest} is neither a manifest nor an index")]
    Unknown { digest: Digest },
    #[error("the indexes below {digest} lie more than {MAX_NESTING} deep in each other, or are too many")]
    Nested { digest: Digest },
}

/// What a blob that ought to describe an image is.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// What tells a manifest from an index, whatever its media type says.
#[derive(Deserialize)]
struct Shape {
    config: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index.
pub(crate) fn read_document(blobs: &BlobStore, digest: &Digest) -> Result<Document, DocumentError> {
    parse_document(&blobs.read(digest, MAX_DOCUMENT)?, digest)
}

/// Reads bytes whose digest was compared as a manifest or an index. What could be both is neither: two readers would
/// see different images.
pub(crate) fn parse_document(bytes: &[u8], digest: &Digest) -> Result<Document, DocumentError> {
    let shape: Shape = parse(bytes, digest, "manifest")?;
    match (shape.config, shape.manifests) {
        (Some(_), None) => parse(bytes, digest, "manifest").map(Document::Manifest),
        (None, Some(_)) => parse(bytes, digest, "index").map(Document::Index),
        (Some(_), Some(_)) | (None, None) => Err(DocumentError::Unknown { digest: digest.clone() }),
    }
}

/// Reads the config of an image.
pub(crate) fn read_config(blobs: &BlobStore, digest: &Digest) -> Result<ImageConfig, DocumentError> {
    parse(&blobs.read(digest, MAX_DOCUMENT)?, digest, "config of an image")
}

fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    digest: &Digest,
    expected: &'static str,
) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Parse {
        digest: digest.clone(),
        expected,
        source,
    })
}

/// Returns what a descriptor in the document `of` names.
pub(crate) fn blob_id(descriptor: &Descriptor, of: &Digest) -> Result<BlobId, DocumentError> {
    let digest = descriptor.digest().as_ref().parse();
    let digest = digest.map_err(|source| DocumentError::Digest { digest: of.clone(), source })?;
    Ok(BlobId { digest, size: descriptor.size() })
}

/// Returns the blobs that an image consists of: its manifest, config and layers; of an index, those of all its
/// manifests that are in the store. A manifest that is not there reaches nothing but itself.
///
/// # Errors
/// When a document is there and cannot be read, so that nobody can tell what it needs.
pub fn reachable(blobs: &BlobStore, manifest: &Digest) -> Result<BTreeSet<Digest>, DocumentError> {
    let mut reached = BTreeSet::from([manifest.clone()]);
    let mut documents = vec![(manifest.clone(), 0)];
    let mut read = 0;
    while let Some((digest, depth)) = documents.pop() {
        if blobs.size_of(&digest).is_none() {
            continue;
        }
        read += 1;
        if depth > MAX_NESTING || read > MAX_DOCUMENTS {
            return Err(DocumentError::Nested { digest: manifest.clone() });
        }
        match read_document(blobs, &digest)? {
            Document::Manifest(document) => {
                for descriptor in std::iter::once(document.config()).chain(document.layers()) {
                    reached.insert(blob_id(descriptor, &digest)?.digest);
                }
            }
            Document::Index(document) => {
                for descriptor in document.manifests() {
                    let child = blob_id(descriptor, &digest)?.digest;
                    if reached.insert(child.clone()) {
                        documents.push((child, depth + 1));
                    }
                }
            }
        }
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use serde_json::json;

    use super::*;
    use crate::ImageStore;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, BlobStore::of(&ImageStore::new(path)))
    }

    fn descriptor(id: &BlobId) -> serde_json::Value {
        json!({"mediaType": "application/x", "digest": id.digest, "size": id.size})
    }

    fn put(blobs: &BlobStore, value: &serde_json::Value) -> BlobId {
        blobs.insert(value.to_string().as_bytes()).unwrap()
    }

    fn manifest(blobs: &BlobStore, seed: &str) -> (BlobId, BTreeSet<Digest>) {
        let config = blobs.insert(format!("config {seed}").as_bytes()).unwrap();
        let layer = blobs.insert(format!("layer {seed}").as_bytes()).unwrap();
        let document = json!({
            "schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&layer)],
        });
        let id = put(blobs, &document);
        (id.clone(), BTreeSet::from([id.digest, config.digest, layer.digest]))
    }

    #[test]
    fn an_image_reaches_its_blobs_and_an_index_those_of_its_images() {
        let (_guard, blobs) = store();
        let (one, of_one) = manifest(&blobs, "one");
        let (two, of_two) = manifest(&blobs, "two");
        assert_eq!(reachable(&blobs, &one.digest).unwrap(), of_one);
        let absent = BlobId { digest: crate::DigestHasher::sha256_of(b"not here"), size: 8 };
        let index = put(
            &blobs,
            &json!({"schemaVersion": 2, "manifests": [descriptor(&one), descriptor(&two), descriptor(&absent)]}),
        );
        let mut all: BTreeSet<Digest> = of_one.union(&of_two).cloned().collect();
        all.extend([index.digest.clone(), absent.digest.clone()]);
        assert_eq!(reachable(&blobs, &index.digest).unwrap(), all);
        assert_eq!(reachable(&blobs, &absent.digest).unwrap(), BTreeSet::from([absent.digest]));
    }

    #[test]
    fn a_document_nobody_can_read_is_an_error() {
        let (_guard, blobs) = store();
        for content in ["", "{}", "[]", r#"{"manifests":[],"config":{}}"#, r#"{"config":3,"layers":[]}"#] {
            let id = blobs.insert(content.as_bytes()).unwrap();
            assert!(reachable(&blobs, &id.digest).is_err(), "{content}");
        }
        let md5 = json!({"schemaVersion": 2, "layers": [], "config":
            {"mediaType": "a/b", "size": 1, "digest": "md5:d41d8cd98f00b204e9800998ecf8427e"}});
        let id = put(&blobs, &md5);
        assert!(matches!(reachable(&blobs, &id.digest), Err(DocumentError::Digest { .. })));
        let mut inner = manifest(&blobs, "x").0;
        for _ in 0..MAX_NESTING + 1 {
            inner = put(&blobs, &json!({"schemaVersion": 2, "manifests": [descriptor(&inner)]}));
        }
        assert!(matches!(reachable(&blobs, &inner.digest), Err(DocumentError::Nested { .. })));
    }
}
