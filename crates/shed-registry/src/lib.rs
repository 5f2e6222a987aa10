//! Images to and from registries, and the whole way from a reference to an image that boots.
//!
//! The server pulls what a create needs, the command line pulls and pushes for whoever builds images. Blobs go to and
//! come from the store of `shed-image`, which also converts them. Registries are not trusted: what they send is checked
//! against digests, bounded, and asked for again where that may help; a login goes only to the registry it is for and to
//! the token server that this one names.

mod blocking;
mod challenge;
mod credentials;
mod download;
mod error;
mod fetch;
mod http;
mod login;
mod manifest;
mod progress;
mod pull;
mod push;
mod repository;
mod retry;
mod secret;
mod session;
mod settings;
mod sink;
mod upload;

use std::sync::Arc;

use shed_image::{BlobStore, ImageLimits, ImageStore, ImageWatch, Platform};
use shed_types::{Digest, ImageName, ImageReference};

pub use credentials::CredentialError;
pub use error::{RequestError, Said};
pub use fetch::FetchError;
pub use pull::PullError;
pub use push::PushError;
pub use settings::{Patience, RegistrySettings};

use crate::{fetch::Fetch, pull::Pull, push::Push, session::Shared};

/// The way to all registries; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

impl Registry {
    /// Returns a way to registries; connects to none yet.
    #[must_use]
    pub fn new(settings: RegistrySettings) -> Self {
        Self::with_patience(settings, Patience::default())
    }

    /// Returns a way to registries that are waited for as long as `patience` says.
    #[must_use]
    pub fn with_patience(settings: RegistrySettings, patience: Patience) -> Self {
        Self { shared: Arc::new(Shared::new(settings, patience)) }
    }

    /// Returns how registries are reached.
    #[must_use]
    pub fn settings(&self) -> &RegistrySettings {
        &self.shared.settings
    }

    /// Brings all blobs of an image into the store and returns its manifest. Blobs that are there are not asked for again,
    /// those that an earlier pull began are continued. Of an index, the platform's image is taken; the index is stored too.
    ///
    /// # Errors
    /// When the registry has no such image for the platform, refuses, cannot be reached, or sends other content; and when
    /// all blobs together have more than the default of [`ImageLimits::max_bytes`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the pull; the next one continues.
    pub async fn pull(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        blobs: &BlobStore,
        watch: Arc<dyn ImageWatch>,
    ) -> Result<Digest, PullError> {
        let max_bytes = ImageLimits::default().max_bytes;
        Pull { shared: &self.shared, reference, platform, blobs, max_bytes }.run(&*watch).await
    }

    /// Sends an image's blobs and manifest to a registry, under this reference. The watch hears of the bytes that are there
    /// as of a download.
    ///
    /// # Errors
    /// When blobs are missing, or the registry refuses or cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future ends the push; the registry may have some of the blobs, which the next one does not send again.
    pub async fn push(
        &self,
        manifest: &Digest,
        blobs: &BlobStore,
        reference: &ImageReference,
        watch: Arc<dyn ImageWatch>,
    ) -> Result<(), PushError> {
        Push { shared: &self.shared, reference, manifest, blobs }.run(&*watch).await
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
        reference: &ImageReference,
        store: &ImageStore,
        name: &ImageName,
        limits: ImageLimits,
        watch: Arc<dyn ImageWatch>,
    ) -> Result<bool, FetchError> {
        Fetch { shared: &self.shared, reference, store, name, limits }.run(watch).await
    }
}
