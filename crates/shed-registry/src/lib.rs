//! Images to and from registries, and the whole way from a reference to an image that boots.
//!
//! The server pulls what a create needs, the command line pulls and pushes for whoever builds images. Blobs go to and
//! come from the store of `shed-image`, which also converts them.

use std::{collections::BTreeSet, sync::Arc};

use camino::Utf8PathBuf;
use shed_image::{BlobStore, ImageLimits, ImageStore, ImageWatch, Platform};
use shed_types::{Digest, ImageName, ImageReference};

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistrySettings {
    /// `host` or `host:port` of registries that speak HTTP without TLS; those on loopback addresses may always.
    pub insecure: BTreeSet<String>,
    /// Docker's config directory with `config.json`; absent means `$DOCKER_CONFIG`, else `~/.docker`.
    pub docker_config: Option<Utf8PathBuf>,
}

/// Says why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("the pull was cancelled")]
    Cancelled,
}

/// Says why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("the push was cancelled")]
    Cancelled,
}

/// Says why there is no image of a reference.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Pull(#[from] PullError),
}

/// The way to all registries; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Registry {
    settings: Arc<RegistrySettings>,
}

impl Registry {
    /// Returns a way to registries; connects to none yet.
    #[must_use]
    pub fn new(settings: RegistrySettings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    /// Returns how registries are reached.
    #[must_use]
    pub fn settings(&self) -> &RegistrySettings {
        &self.settings
    }

    /// Brings all blobs of an image into the store and returns its manifest. Blobs that are there are not asked for again,
    /// those that an earlier pull began are continued.
    ///
    /// # Errors
    /// When the registry has no such image for the platform, refuses, cannot be reached, or sends other content.
    ///
    /// # Cancel safety
    /// Dropping the future ends the pull; the next one continues.
    pub async fn pull(
        &self,
        _reference: &ImageReference,
        _platform: &Platform,
        _blobs: &BlobStore,
        _watch: Arc<dyn ImageWatch>,
    ) -> Result<Digest, PullError> {
        Err(PullError::Cancelled)
    }

    /// Sends an image's blobs and manifest to a registry, under this reference.
    ///
    /// # Errors
    /// When blobs are missing, or the registry refuses or cannot be reached.
    pub async fn push(
        &self,
        _manifest: &Digest,
        _blobs: &BlobStore,
        _reference: &ImageReference,
        _watch: Arc<dyn ImageWatch>,
    ) -> Result<(), PushError> {
        Err(PushError::Cancelled)
    }

    /// Makes the image `name` from a reference, unless it is there and was made from it: waits for the image's lock,
    /// looks again, pulls, converts, and puts it in place. Returns whether it had to be made.
    ///
    /// # Errors
    /// When pull or conversion fails; what was there before is there still.
    ///
    /// # Cancel safety
    /// Dropping the future ends the work soon; the lock is free when it has ended.
    pub async fn fetch(
        &self,
        _reference: &ImageReference,
        _store: &ImageStore,
        _name: &ImageName,
        _limits: ImageLimits,
        _watch: Arc<dyn ImageWatch>,
    ) -> Result<bool, FetchError> {
        Err(PullError::Cancelled.into())
    }
}
