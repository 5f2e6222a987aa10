//! Writes images as OCI blobs: the layer, the config and the manifest of a recipe on top of the one below it.
//!
//! Any tool for OCI images reads them, so layers are gzip: umoci and Docker before 23 know no zstd. Nothing in them
//! tells when or where they were made; the times are those of the newest file.

use std::{
    fs::File,
    io::{self, Read as _, Write},
};

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use shed_image::{BeginBlob, BlobId, BlobStore, DigestHasher};
use shed_types::{Digest, DigestAlgorithm};

use crate::{arch::Arch, recipe::Recipe};

/// Fast rather than small: half the time of the default level, a tenth more bytes.
const LEVEL: u32 = 3;

/// How much is copied at once, in bytes.
const PIECE: usize = 1 << 20;

/// Media types (OCI image specification, "Media Types").
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Says that an image extends Shed's base, and which form of it.
const BASE_LABEL: (&str, &str) = ("io.shed.base-version", "1");

/// Where programs are looked for, as Debian's login has it for root.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A layer in the store.
#[derive(Debug)]
pub(crate) struct StoredLayer {
    pub(crate) blob: BlobId,
    /// Digest of the tar in it.
    diff_id: Digest,
}

/// An image's own words; see [`Image::write`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    manifest: Manifest,
    config: Config,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Config {
    created: String,
    architecture: String,
    os: String,
    config: Run,
    rootfs: RootFs,
    history: Vec<History>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    env: Vec<String>,
    entrypoint: Vec<String>,
    working_dir: String,
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RootFs {
    r#type: String,
    diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct History {
    created: String,
    created_by: String,
}

impl Image {
    /// Returns the image of a recipe: `layer` on top of `below`.
    pub(crate) fn new(
        recipe: &Recipe,
        arch: Arch,
        labels: &[(String, String)],
        created: &str,
        layer: &StoredLayer,
        below: Option<&Self>,
    ) -> Result<Self> {
        let mut layers = below.map_or_else(Vec::new, |below| below.manifest.layers.clone());
        layers.push(Descriptor {
            media_type: LAYER.to_owned(),
            digest: layer.blob.digest.clone(),
            size: layer.blob.size,
        });
        let mut diff_ids = below.map_or_else(Vec::new, |below| below.config.rootfs.diff_ids.clone());
        diff_ids.push(layer.diff_id.clone());
        let mut history = below.map_or_else(Vec::new, |below| below.config.history.clone());
        history.push(History {
            created: created.to_owned(),
            created_by: format!("shed-guest image {}", recipe.name),
        });
        let own = [
            BASE_LABEL,
            ("org.opencontainers.image.title", &format!("shed-{}", recipe.name)),
            ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = Config {
            created: created.to_owned(),
            architecture: arch.debian().to_owned(),
            os: "linux".to_owned(),
            config: Run {
                env: vec![PATH.to_owned()],
                entrypoint: vec!["/sbin/init".to_owned()],
                working_dir: "/workspace".to_owned(),
                labels: own.into_iter().chain(labels.iter().cloned()).collect(),
            },
            rootfs: RootFs { r#type: "layers".to_owned(), diff_ids },
            history,
        };
        let bytes = serde_json::to_vec(&config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            config: Descriptor {
                media_type: CONFIG.to_owned(),
                digest: DigestHasher::sha256_of(&bytes),
                size: bytes.len() as u64,
            },
            layers,
        };
        Ok(Self { manifest, config })
    }

    /// Puts config and manifest into the store, unless they are there, and returns the manifest's digest.
    pub(crate) fn write(&self, blobs: &BlobStore) -> Result<Digest> {
        let _config = blobs.insert(&serde_json::to_vec(&self.config)?)?;
        Ok(blobs.insert(&serde_json::to_vec(&self.manifest)?)?.digest)
    }

    /// Returns the digest of the manifest, which names the image and all that is in it.
    pub(crate) fn digest(&self) -> Result<Digest> {
        Ok(DigestHasher::sha256_of(&serde_json::to_vec(&self.manifest)?))
    }

    /// Tells whether all layers are in the store.
    pub(crate) fn is_whole(&self, blobs: &BlobStore) -> bool {
        self.manifest.layers.iter().all(|layer| blobs.size_of(&layer.digest) == Some(layer.size))
    }

    /// Returns the layers, the lowest first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Digest> {
        self.manifest.layers.iter().map(|layer| &layer.digest)
    }
}

/// Compresses what `write` writes, and puts it into the store by way of the file `work`.
pub(crate) fn store_layer(
    blobs: &BlobStore,
    work: &Utf8Path,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<StoredLayer> {
    let file = File::options().read(true).write(true).create_new(true).open(work);
    let file = file.with_context(|| format!("cannot create {work}"))?;
    let compressed = Hashed::new(io::BufWriter::with_capacity(PIECE, file));
    let mut tar = Hashed::new(GzEncoder::new(compressed, Compression::new(LEVEL)));
    write(&mut tar)?;
    let diff_id = tar.hasher.finish();
    let mut compressed = tar.inner.finish().with_context(|| format!("cannot write {work}"))?;
    compressed.flush().with_context(|| format!("cannot write {work}"))?;
    let blob = BlobId { digest: compressed.hasher.finish(), size: compressed.written };

    match blobs.begin(&blob)? {
        BeginBlob::Present => {}
        BeginBlob::Write(mut writer) => {
            writer.restart()?;
            let mut file = File::open(work).with_context(|| format!("cannot read {work}"))?;
            let mut buffer = vec![0; PIECE];
            loop {
                let count = file.read(&mut buffer).with_context(|| format!("cannot read {work}"))?;
                if count == 0 {
                    break;
                }
                writer.write(&buffer[..count])?;
            }
            writer.commit()?;
        }
    }
    Ok(StoredLayer { blob, diff_id })
}

/// Passes bytes on and computes their digest.
struct Hashed<W> {
    inner: W,
    hasher: DigestHasher,
    written: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: DigestHasher::new(DigestAlgorithm::Sha256), written: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
