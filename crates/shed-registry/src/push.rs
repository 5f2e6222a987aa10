//! From the store to a registry: first all blobs, last the manifest that names them.

use std::{io, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, RequestBuilder, header};
use shed_image::{BlobError, BlobId, BlobStore, ImageStep, ImageWatch};
use shed_types::{Digest, ImageReference};

use crate::{
    blocking::blocking,
    error::{RequestError, clean},
    manifest::{Descriptor, Image, MAX_MANIFEST, Manifest},
    progress::Progress,
    pull::{ask_manifest, digest_of},
    repository::Version,
    retry::Tries,
    session::{Access, Ordinary, Session, Shared},
    upload::Upload,
};

/// How many blobs go at once.
const AT_ONCE: usize = 3;

/// Says why an image was not pushed. The registry may have some of its blobs.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("the push was cancelled")]
    Cancelled,
    #[error("cannot push {reference}: {registry} did not take {what}")]
    Request {
        reference: Box<ImageReference>,
        what: String,
        registry: String,
        #[source]
        source: Box<RequestError>,
    },
    #[error("cannot push {reference}: {registry} has the digest {found} for what is {expected} here")]
    OtherDigest { reference: Box<ImageReference>, registry: String, expected: Digest, found: String },
    #[error("cannot push to {reference}: the image has the digest {manifest}, not the one of the reference")]
    OtherImage { reference: Box<ImageReference>, manifest: Digest },
    #[error(
        "cannot push {reference}: its blob {blob} is not on this host any more; pull or build the image again"
    )]
    Missing { reference: Box<ImageReference>, blob: Digest },
    #[error("cannot push {reference}: its manifest {manifest} is no image's: {reason}")]
    Manifest { reference: Box<ImageReference>, manifest: Digest, reason: String },
    #[error("cannot push {reference}: the store of blobs cannot be read")]
    Store {
        reference: Box<ImageReference>,
        #[source]
        source: BlobError,
    },
    #[error("cannot push {reference}: the store of blobs {dir} cannot be locked")]
    Lock {
        reference: Box<ImageReference>,
        dir: camino::Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One push.
pub(crate) struct Push<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) reference: &'a ImageReference,
    pub(crate) manifest: &'a Digest,
    pub(crate) blobs: &'a BlobStore,
}

impl Push<'_> {
    /// Does it all.
    pub(crate) async fn run(&self, watch: &dyn ImageWatch) -> Result<(), PushError> {
        let progress = Progress::at(ImageStep::Resolve);
        let work = self.work(&progress);
        progress.watched(watch, work).await.unwrap_or(Err(PushError::Cancelled))
    }

    async fn work(&self, progress: &Arc<Progress>) -> Result<(), PushError> {
        if self.reference.digest().is_some_and(|digest| digest != self.manifest.as_str()) {
            let (reference, manifest) = (self.reference(), self.manifest.clone());
            return Err(PushError::OtherImage { reference, manifest });
        }
        let blobs = self.blobs.clone();
        let _hold = blocking(move || blobs.hold()).await.map_err(|source| PushError::Lock {
            reference: self.reference(),
            dir: self.blobs.dir().to_owned(),
            source,
        })?;
        let (bytes, image) = self.read().await?;
        let session = Session::new(self.shared, self.reference, Access::Push)
            .map_err(|source| self.request("it".to_owned(), source))?;
        let all = image.blobs();
        progress.begin(all.iter().map(|blob| blob.size).sum(), image.layers.len());
        let mut going = Vec::new();
        for blob in all {
            going.push(self.upload(&session, blob, &image, progress));
        }
        stream::iter(going).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        self.put_manifest(&session, &bytes, &image.media_type).await
    }

    /// Reads the manifest, and looks whether all that it names is there in full length.
    async fn read(&self) -> Result<(Vec<u8>, Image), PushError> {
        let (blobs, digest) = (self.blobs.clone(), self.manifest.clone());
        let read = blocking(move || blobs.size_of(&digest).map(|_| blobs.read(&digest, MAX_MANIFEST))).await;
        let bytes = read
            .ok_or_else(|| self.missing(self.manifest))?
            .map_err(|source| PushError::Store { reference: self.reference(), source })?;
        let no_image = |reason| PushError::Manifest {
            reference: self.reference(),
            manifest: self.manifest.clone(),
            reason,
        };
        let image = match Manifest::parse(&bytes).map_err(no_image)? {
            Manifest::Image(image) => image,
            Manifest::Index(_) => return Err(no_image("it is an index of several images".to_owned())),
        };
        let (blobs, wanted) = (self.blobs.clone(), ids(&image));
        let absent = move || wanted.into_iter().find(|id| blobs.size_of(&id.digest) != Some(id.size));
        match blocking(absent).await {
            Some(id) => Err(self.missing(&id.digest)),
            None => Ok((bytes, image)),
        }
    }

    async fn upload(
        &self,
        session: &Session,
        blob: &Descriptor,
        image: &Image,
        progress: &Arc<Progress>,
    ) -> Result<(), PushError> {
        let id = BlobId { digest: blob.digest.clone(), size: blob.size };
        let path = self.blobs.path(&id.digest);
        let upload = Upload { session, id: &id, path, share: progress.share() };
        upload.run().await.map_err(|source| self.request(format!("blob {}", id.digest), source))?;
        progress.layers(image.layers_with(blob));
        Ok(())
    }

    /// Sends the manifest, byte for byte, and checks that the registry has it under the same digest.
    async fn put_manifest(&self, session: &Session, bytes: &[u8], media_type: &str) -> Result<(), PushError> {
        let version = match self.reference.tag() {
            Some(tag) => Version::Tag(tag.to_owned()),
            None => Version::of(self.reference),
        };
        let failed = |source| self.request(format!("manifest {version}"), source);
        let mut tries = Tries::new(session.patience());
        let told = loop {
            match put(session, &version, bytes, media_type).await {
                Ok(told) => break told,
                Err(error) => tries.failed(error).await.map_err(failed)?,
            }
        };
        let found = match told {
            Some(told) => told,
            // It does not say, so it is asked what it has.
            None => loop {
                match ask_manifest(session, &version).await {
                    Ok((bytes, _)) => break digest_of(self.manifest.algorithm(), &bytes).to_string(),
                    Err(error) => tries.failed(error).await.map_err(failed)?,
                }
            },
        };
        // It may compute another kind of digest than ours.
        let expected = found
            .parse::<Digest>()
            .map_or_else(|_| self.manifest.clone(), |found| digest_of(found.algorithm(), bytes));
        if found == expected.as_str() {
            return Ok(());
        }
        Err(PushError::OtherDigest {
            reference: self.reference(),
            registry: self.reference.registry().to_owned(),
            expected,
            found: clean(&found),
        })
    }

    fn reference(&self) -> Box<ImageReference> {
        Box::new(self.reference.clone())
    }

    fn missing(&self, blob: &Digest) -> PushError {
        PushError::Missing { reference: self.reference(), blob: blob.clone() }
    }

    fn request(&self, what: String, source: RequestError) -> PushError {
        let registry = self.reference.registry().to_owned();
        PushError::Request { reference: self.reference(), what, registry, source: Box::new(source) }
    }
}

fn ids(image: &Image) -> Vec<BlobId> {
    let id = |blob: &Descriptor| BlobId { digest: blob.digest.clone(), size: blob.size };
    image.blobs().into_iter().map(id).collect()
}

/// Sends a manifest once; returns the digest that the registry says it has.
async fn put(
    session: &Session,
    version: &Version,
    bytes: &[u8],
    media_type: &str,
) -> Result<Option<String>, RequestError> {
    let build =
        |request: RequestBuilder| request.header(header::CONTENT_TYPE, media_type).body(bytes.to_owned());
    let url = session.repository.manifest(version);
    let answer = session.ask(Ordinary { method: Method::PUT, url, build: &build }).await?;
    if !answer.response.status().is_success() {
        return Err(session.refusal(answer).await);
    }
    Ok(answer.header("docker-content-digest").map(str::to_owned))
}
