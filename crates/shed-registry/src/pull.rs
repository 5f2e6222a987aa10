//! From a reference to all blobs of an image in the store.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, StatusCode, header};
use shed_image::{BlobError, BlobId, BlobStore, BlobUse, DigestHasher, ImageStep, ImageWatch, Platform};
use shed_types::{Digest, DigestAlgorithm, ImageReference};

use crate::{
    blocking::blocking,
    download::{Flaw, download},
    error::{RequestError, clean},
    manifest::{
        ACCEPTED, ConfigProblem, Descriptor, Image, MAX_MANIFEST, Manifest, check_config, choose, written,
    },
    progress::Progress,
    repository::Version,
    retry::Tries,
    session::{Access, Ordinary, Session, Shared},
    sink::Sink,
};

/// How many blobs come at once; more make few registries faster, and some refuse.
const AT_ONCE: usize = 3;

/// How many indexes may lie within each other.
const MAX_DEPTH: usize = 4;

/// Says why an image was not pulled. Nothing that is wrong has got into the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("the pull was cancelled")]
    Cancelled,
    #[error("cannot pull {reference}: {what} did not come from {registry}")]
    Request {
        reference: Box<ImageReference>,
        what: String,
        registry: String,
        #[source]
        source: Box<RequestError>,
    },
    #[error("cannot pull {reference}: what {registry} has there is no image: {reason}")]
    Manifest { reference: Box<ImageReference>, registry: String, reason: String },
    #[error("cannot pull {reference}: {registry} gave other content for {expected}, its digest is {found}")]
    Lie { reference: Box<ImageReference>, registry: String, expected: Digest, found: String },
    #[error("cannot pull {reference}: it is not there for {wanted}, but for {available}")]
    NoPlatform { reference: Box<ImageReference>, wanted: String, available: String },
    #[error("cannot pull {reference}: its layers have {size} bytes, more than the {limit} that are allowed")]
    TooLarge { reference: Box<ImageReference>, size: u64, limit: u64 },
    #[error("cannot pull {reference}: the store of blobs cannot be used")]
    Store {
        reference: Box<ImageReference>,
        #[source]
        source: BlobError,
    },
    #[error("cannot pull {reference}: the store of blobs {dir} cannot be locked")]
    Lock {
        reference: Box<ImageReference>,
        dir: camino::Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One pull.
pub(crate) struct Pull<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) reference: &'a ImageReference,
    pub(crate) platform: &'a Platform,
    pub(crate) blobs: &'a BlobStore,
    /// The most that all blobs may have together, in bytes.
    pub(crate) max_bytes: u64,
}

impl Pull<'_> {
    /// Does it all.
    pub(crate) async fn run(&self, watch: &dyn ImageWatch) -> Result<Digest, PullError> {
        let progress = Progress::at(ImageStep::Resolve);
        let work = self.work(&progress);
        progress.watched(watch, work).await.unwrap_or(Err(PullError::Cancelled))
    }

    async fn work(&self, progress: &Arc<Progress>) -> Result<Digest, PullError> {
        let blobs = self.blobs.clone();
        let hold = blocking(move || blobs.hold()).await.map_err(|source| PullError::Lock {
            reference: self.reference(),
            dir: self.blobs.dir().to_owned(),
            source,
        })?;
        let hold = Arc::new(hold);
        let session = Session::new(self.shared, self.reference, Access::Pull)
            .map_err(|source| self.request("it".to_owned(), source))?;
        let (digest, image) = self.resolve(&session, &hold).await?;
        let all = image.blobs();
        let size = all.iter().map(|blob| blob.size).sum();
        if size > self.max_bytes {
            let (reference, limit) = (self.reference(), self.max_bytes);
            return Err(PullError::TooLarge { reference, size, limit });
        }
        progress.begin(size, image.layers.len());
        // The config first: it tells whether the rest is wanted at all.
        let (config, layers) = all.split_first().expect("an image has a config");
        // It is read at once, and small, so that a damaged one can be noticed before it is taken for present.
        self.discard_if_damaged(&config.digest).await?;
        self.blob(&session, &hold, config, progress).await?;
        self.check_config(config, image.layers.len()).await?;
        let mut coming = Vec::new();
        for layer in layers {
            coming.push(self.layer(&session, &hold, layer, &image, progress));
        }
        stream::iter(coming).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(digest)
    }

    /// Finds the image that the reference means for the platform; its manifest and all indexes above it are stored.
    async fn resolve(&self, session: &Session, hold: &Arc<BlobUse>) -> Result<(Digest, Image), PullError> {
        let mut version = Version::of(self.reference);
        for _ in 0..MAX_DEPTH {
            let (digest, bytes) = self.manifest(session, hold, &version).await?;
            let manifest = Manifest::parse(&bytes).map_err(|reason| self.no_image(reason))?;
            match manifest {
                Manifest::Image(image) => return Ok((digest, image)),
                Manifest::Index(entries) => {
                    let chosen =
                        choose(&entries, self.platform).map_err(|available| self.no_platform(available))?;
                    version = Version::Digest(chosen.digest.clone());
                }
            }
        }
        Err(self.no_image(format!("more than {MAX_DEPTH} indexes lie within each other")))
    }

    /// Brings a manifest into the store and returns its digest and its bytes.
    async fn manifest(
        &self,
        session: &Session,
        hold: &Arc<BlobUse>,
        version: &Version,
    ) -> Result<(Digest, Vec<u8>), PullError> {
        if let Version::Digest(digest) = version {
            let (blobs, wanted) = (self.blobs.clone(), digest.clone());
            // One that is damaged is asked for again.
            if let Ok(bytes) = blocking(move || blobs.read(&wanted, MAX_MANIFEST)).await {
                return Ok((digest.clone(), bytes));
            }
        }
        let mut tries = Tries::new(session.patience());
        let (bytes, told) = loop {
            match ask_manifest(session, version).await {
                Ok(found) => break found,
                Err(error) => {
                    let failed = tries.failed(error).await;
                    failed.map_err(|source| self.request(format!("manifest {version}"), source))?;
                }
            }
        };
        let expected = match version {
            Version::Digest(digest) => Some(digest.clone()),
            Version::Tag(_) => None,
        };
        let digest = expected.clone().unwrap_or_else(|| digest_of(DigestAlgorithm::Sha256, &bytes));
        let claims = expected.into_iter().map(|digest| (digest.algorithm(), digest.to_string()));
        let told = told.map(|text| match text.parse::<Digest>() {
            Ok(told) => (told.algorithm(), told.to_string()),
            // Compared as it is, which it will not survive.
            Err(_) => (DigestAlgorithm::Sha256, clean(&text)),
        });
        for (algorithm, expected) in claims.chain(told) {
            let found = digest_of(algorithm, &bytes);
            if found.as_str() != expected {
                return Err(self.lie(digest, format!("{found} where it says {expected}")));
            }
        }
        // One that is damaged would be taken for present.
        self.discard_if_damaged(&digest).await?;
        self.store(hold, &digest, bytes.clone()).await.map_err(|source| self.broken_store(source))?;
        Ok((digest, bytes))
    }

    /// Puts bytes that are all there into the store.
    async fn store(&self, hold: &Arc<BlobUse>, digest: &Digest, bytes: Vec<u8>) -> Result<(), BlobError> {
        let id = BlobId { digest: digest.clone(), size: bytes.len() as u64 };
        let Some(mut sink) = Sink::begin(self.blobs, hold, id).await? else { return Ok(()) };
        sink.restart().await?;
        sink.write(Bytes::from(bytes)).await?;
        sink.commit().await
    }

    /// Removes a blob that was damaged in the store.
    async fn discard_if_damaged(&self, digest: &Digest) -> Result<(), PullError> {
        let (blobs, wanted) = (self.blobs.clone(), digest.clone());
        let removed = blocking(move || blobs.discard_if_damaged(&wanted)).await;
        if removed.map_err(|source| self.broken_store(source))? {
            tracing::warn!(%digest, "a blob was damaged in the store and is fetched again");
        }
        Ok(())
    }

    async fn layer(
        &self,
        session: &Session,
        hold: &Arc<BlobUse>,
        layer: &Descriptor,
        image: &Image,
        progress: &Arc<Progress>,
    ) -> Result<(), PullError> {
        self.blob(session, hold, layer, progress).await?;
        progress.layers(image.layers_with(layer));
        Ok(())
    }

    async fn blob(
        &self,
        session: &Session,
        hold: &Arc<BlobUse>,
        blob: &Descriptor,
        progress: &Arc<Progress>,
    ) -> Result<(), PullError> {
        let done = download(session, self.blobs, hold, blob, progress.share()).await;
        done.map_err(|flaw| match flaw {
            Flaw::Request(source) => self.request(format!("blob {}", blob.digest), source),
            Flaw::Store(source) => self.broken_store(source),
            Flaw::Lie { found } => self.lie(blob.digest.clone(), found.to_string()),
        })
    }

    /// Looks into the config whether the image is for the platform, which without an index nothing else says, and whether
    /// it can be converted when its layers have come.
    async fn check_config(&self, config: &Descriptor, layers: usize) -> Result<(), PullError> {
        let (blobs, digest) = (self.blobs.clone(), config.digest.clone());
        let bytes = blocking(move || blobs.read(&digest, MAX_MANIFEST)).await;
        let bytes = bytes.map_err(|source| self.broken_store(source))?;
        check_config(&bytes, self.platform, layers).map_err(|problem| match problem {
            ConfigProblem::NoConfig(reason) => self.no_image(reason),
            ConfigProblem::Platform(available) => self.no_platform(available),
        })
    }

    fn reference(&self) -> Box<ImageReference> {
        Box::new(self.reference.clone())
    }

    fn registry(&self) -> String {
        self.reference.registry().to_owned()
    }

    fn request(&self, what: String, source: RequestError) -> PullError {
        PullError::Request {
            reference: self.reference(),
            what,
            registry: self.registry(),
            source: Box::new(source),
        }
    }

    fn no_image(&self, reason: String) -> PullError {
        PullError::Manifest { reference: self.reference(), registry: self.registry(), reason }
    }

    fn no_platform(&self, available: String) -> PullError {
        PullError::NoPlatform { reference: self.reference(), wanted: written(self.platform), available }
    }

    fn lie(&self, expected: Digest, found: String) -> PullError {
        PullError::Lie { reference: self.reference(), registry: self.registry(), expected, found }
    }

    fn broken_store(&self, source: BlobError) -> PullError {
        PullError::Store { reference: self.reference(), source }
    }
}

/// Asks for a manifest once; returns its bytes and the digest that the registry says they have.
pub(crate) async fn ask_manifest(
    session: &Session,
    version: &Version,
) -> Result<(Vec<u8>, Option<String>), RequestError> {
    let build = |request: reqwest::RequestBuilder| request.header(header::ACCEPT, ACCEPTED.join(", "));
    let url = session.repository.manifest(version);
    let answer = session.ask(Ordinary { method: Method::GET, url, build: &build }).await?;
    if answer.response.status() != StatusCode::OK {
        return Err(session.refusal(answer).await);
    }
    let told = answer.header("docker-content-digest").map(str::to_owned);
    let bytes = answer.small_body(MAX_MANIFEST, session.patience()).await?;
    Ok((bytes, told))
}

/// Returns the digest of bytes.
pub(crate) fn digest_of(algorithm: DigestAlgorithm, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
