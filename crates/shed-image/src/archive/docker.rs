//! What `docker save` writes without an OCI index: a list of images, each a config and tars of layers.
//!
//! Such an image has no manifest. One is made of its parts, always the same one of the same archive.

use oci_spec::image::{Descriptor, DescriptorBuilder, Digest as OciDigest, ImageManifestBuilder, MediaType};
use serde::Deserialize;
use shed_types::Digest;

use super::{
    import::{Import, ImportError},
    index::{is_named, list},
    source::read_some,
};
use crate::{BlobId, DigestHasher, ImageConfig, convert::Compression, document::MAX_DOCUMENT};

/// The file with the list of images.
pub(super) const LIST: &str = "manifest.json";

/// Most layers of an image that are taken.
const MAX_LAYERS: usize = 1000;

/// An image in the list.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

/// Copies an image and returns the manifest that was made for it.
pub(super) fn import(task: &Import<'_>, wanted: Option<&str>) -> Result<Digest, ImportError> {
    let listed = choose(task, wanted)?;
    let config = task.files.read(&listed.config, MAX_DOCUMENT)?;
    let parsed = ImageConfig::parse(&config).map_err(|source| ImportError::Parse {
        path: task.path(),
        name: listed.config.clone(),
        source,
    })?;
    let layers = listed.layers.unwrap_or_default();
    let diff_ids = &parsed.diff_ids;
    if layers.len() > MAX_LAYERS || layers.len() != diff_ids.len() {
        return Err(ImportError::Layers { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    task.check_platform(&parsed)?;
    let sizes = layers.iter().map(|layer| Ok(task.files.open_file(layer)?.length()));
    let total = sizes.sum::<Result<u64, ImportError>>()?;
    if total > task.limits.max_bytes {
        return Err(ImportError::TooLarge(task.limits.max_bytes));
    }
    task.expect(total, layers.len());

    let config = descriptor(MediaType::ImageConfig, &task.insert(&config)?)?;
    let mut descriptors = Vec::new();
    for (name, diff_id) in layers.iter().zip(diff_ids) {
        let mut begin = [0; 6];
        let mut file = task.files.open_file(name)?;
        let there = read_some(&mut file, &mut begin).map_err(|source| task.read_error(source))?;
        let (media_type, known) = match Compression::of(&begin[..there]) {
            // The digest of a layer that is not compressed stands in the config.
            Compression::None => (MediaType::ImageLayer, diff_id.parse().ok()),
            Compression::Gzip => (MediaType::ImageLayerGzip, None),
            Compression::Zstd => (MediaType::ImageLayerZstd, None),
            Compression::Other(with) => {
                return Err(ImportError::Compressed { path: task.path(), name: name.clone(), with });
            }
        };
        let size = task.files.open_file(name)?.length();
        let digest = match known {
            Some(digest) => digest,
            None => digest_of(task, name)?,
        };
        let id = BlobId { digest, size };
        task.copy_layer(&id, name)?;
        descriptors.push(descriptor(media_type, &id)?);
    }
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(descriptors)
        .build()?;
    Ok(task.insert(manifest.to_string()?.as_bytes())?.digest)
}

fn choose(task: &Import<'_>, wanted: Option<&str>) -> Result<Listed, ImportError> {
    let bytes = task.files.read(LIST, MAX_DOCUMENT)?;
    let all: Vec<Listed> = serde_json::from_slice(&bytes).map_err(|source| ImportError::Parse {
        path: task.path(),
        name: LIST.to_owned(),
        source,
    })?;
    let names = list(all.iter().flat_map(|listed| listed.tags.iter().flatten().cloned()));
    let named = |listed: &Listed| {
        wanted.is_none_or(|wanted| listed.tags.iter().flatten().any(|given| is_named(wanted, given)))
    };
    let mut fitting: Vec<Listed> = all.into_iter().filter(named).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(_), false) => Err(ImportError::Several { path: task.path(), names }),
        (None, _) => Err(ImportError::NoSuch { path: task.path(), names }),
    }
}

fn digest_of(task: &Import<'_>, name: &str) -> Result<Digest, ImportError> {
    let mut file = task.files.open_file(name)?;
    let mut hasher = DigestHasher::new(shed_types::DigestAlgorithm::Sha256);
    task.read(&mut file, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(hasher.finish())
}

fn descriptor(media_type: MediaType, id: &BlobId) -> Result<Descriptor, ImportError> {
    let digest: OciDigest = id.digest.as_str().parse()?;
    Ok(DescriptorBuilder::default().media_type(media_type).digest(digest).size(id.size).build()?)
}
