//! What a manifest says of an image, checked as far as that is possible without its layers.

use std::collections::BTreeMap;

use oci_spec::image::Descriptor;
use shed_types::Digest;

use super::problem::ConvertError;
use crate::{
    BlobId, BlobStore, ImageConfig, Platform, RunConfig, Trailer,
    document::{Document, blob_id, read_config, read_document},
};

/// Most layers of an image; container runtimes take 128.
const MAX_LAYERS: usize = 1000;

/// A layer of an image.
#[derive(Debug)]
pub(super) struct LayerBlob {
    /// Which one it is, from 1.
    pub(super) number: usize,
    pub(super) id: BlobId,
    /// Digest of what it unpacks to.
    pub(super) diff_id: Digest,
}

/// An image that consists of layers.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) layers: Vec<LayerBlob>,
    pub(super) trailer: Trailer,
}

/// Reads manifest and config.
pub(super) fn read(blobs: &BlobStore, digest: &Digest) -> Result<Image, ConvertError> {
    let manifest = match read_document(blobs, digest)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => return Err(ConvertError::Index(digest.clone())),
    };
    let found = manifest.layers().len();
    if found > MAX_LAYERS {
        return Err(ConvertError::Layers { found, limit: MAX_LAYERS });
    }
    for (number, layer) in (1..).zip(manifest.layers()) {
        check_media_type(number, layer)?;
    }
    let config = read_config(blobs, &blob_id(manifest.config(), digest)?.digest)?;
    check_platform(&config)?;
    let diff_ids = &config.diff_ids;
    if diff_ids.len() != found {
        return Err(ConvertError::DiffIds { layers: found, diff_ids: diff_ids.len() });
    }
    let layers = (1..).zip(manifest.layers()).zip(diff_ids).map(|((number, layer), diff_id)| {
        let id = blob_id(layer, digest)?;
        let diff_id = diff_id.parse().map_err(|source| ConvertError::DiffId { number, source })?;
        Ok(LayerBlob { number, id, diff_id })
    });
    let layers = layers.collect::<Result<Vec<_>, ConvertError>>()?;
    Ok(Image { layers, trailer: trailer(digest, &config) })
}

/// Refuses layers that nobody has or can read. Any other type may be wrong, and what the layer is shows when it is read.
fn check_media_type(number: usize, layer: &Descriptor) -> Result<(), ConvertError> {
    let media_type = layer.media_type().to_string();
    let refused = |why| Err(ConvertError::MediaType { number, media_type: media_type.clone(), why });
    if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        return refused("its content is not in the registry, but somewhere else");
    }
    if media_type.ends_with("+encrypted") {
        return refused("it is encrypted");
    }
    Ok(())
}

fn check_platform(config: &ImageConfig) -> Result<(), ConvertError> {
    let host = Platform::of_host();
    if config.is_for(&host) {
        return Ok(());
    }
    let Platform { os, architecture, .. } = config.platform.clone();
    Err(ConvertError::Platform { os, architecture, needed: format!("{}/{}", host.os, host.architecture) })
}

fn trailer(digest: &Digest, config: &ImageConfig) -> Trailer {
    let Some(run) = &config.run else {
        return Trailer { manifest: Some(digest.clone()), ..Trailer::default() };
    };
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let labels: BTreeMap<String, String> =
        run.labels().iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    Trailer {
        manifest: Some(digest.clone()),
        config: RunConfig {
            user: run.user().clone().unwrap_or_default(),
            env: list(run.env()),
            entrypoint: list(run.entrypoint()),
            cmd: list(run.cmd()),
            working_dir: run.working_dir().clone().unwrap_or_default(),
        },
        labels,
    }
}

impl LayerBlob {
    /// Opens the layer and compares its length with what the manifest says.
    pub(super) fn open(&self, blobs: &BlobStore) -> Result<std::fs::File, ConvertError> {
        let (number, digest) = (self.number, self.id.digest.clone());
        let file = blobs.open(&digest).map_err(|source| ConvertError::Blob {
            number,
            digest: digest.clone(),
            source,
        })?;
        let found = blobs.size_of(&digest).unwrap_or(0);
        if found != self.id.size {
            return Err(ConvertError::Size { number, digest, found, expected: self.id.size });
        }
        Ok(file)
    }
}
