//! What the agent's services share.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use shed_protocol::{Envelope, ImageConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    credentials,
    extensions::Extensions,
    identify::ENVIRONMENT_FILE,
    image,
    messages::outbox::Outbox,
    meter::Meter,
    publish::desk::Desk,
    setup::{Ground, Setups},
    share_streams::ShareStreams,
};

/// One for each agent process.
#[derive(Debug)]
pub(crate) struct State {
    /// When this process started, by the guest's clock at that time.
    pub(crate) started_at: Timestamp,
    /// The kernel's boot id, or nothing where /proc has none.
    pub(crate) boot_id: String,
    /// Clones and hooks.
    pub(crate) setups: Setups,
    /// Cancelled once the host has told this agent who the shed is.
    pub(crate) identified: CancellationToken,
    /// What the message channel tells the host, or will.
    pub(crate) outbox: Arc<Outbox>,
    /// Measures the machine.
    pub(crate) meter: Meter,
    /// Host directories that wait to be mounted.
    pub(crate) share_streams: ShareStreams,
    /// What programs of the guest say over the plugin bus.
    pub(crate) desk: Arc<Desk>,
    /// What is watched for the host.
    pub(crate) credentials: credentials::Watcher,
    /// What the host has enabled.
    pub(crate) extensions: Extensions,
    name: Mutex<Option<String>>,
    image: Mutex<Arc<ImageConfig>>,
    messages: Mutex<Option<CancellationToken>>,
}

impl State {
    /// Makes the state of a fresh process. The shed's name and its image's config are known when an earlier agent of this
    /// boot was told them.
    pub(crate) fn new() -> Self {
        let boot_id =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let name = fs::read_to_string(ENVIRONMENT_FILE)
            .ok()
            .and_then(|text| Some(text.lines().find_map(|line| line.strip_prefix("SHED_NAME="))?.to_owned()));
        let outbox: Arc<Outbox> = Arc::default();
        Self {
            started_at: Timestamp::now(),
            boot_id,
            setups: Setups::new(Ground::guest()),
            identified: CancellationToken::new(),
            meter: Meter::default(),
            share_streams: ShareStreams::default(),
            desk: Arc::default(),
            credentials: credentials::Watcher::default(),
            extensions: Extensions::new(Arc::clone(&outbox)),
            outbox,
            name: Mutex::new(name),
            image: Mutex::new(Arc::new(image::kept())),
            messages: Mutex::new(None),
        }
    }

    /// Makes one for tests, whose setups are on other ground than a guest's.
    #[cfg(test)]
    pub(crate) fn on(ground: Ground) -> Self {
        Self { setups: Setups::new(ground), ..Self::new() }
    }

    /// The shed's name, once the host has told it.
    pub(crate) fn name(&self) -> Option<String> {
        lock(&self.name).clone()
    }

    /// Remembers the shed's name.
    pub(crate) fn set_name(&self, name: &str) {
        *lock(&self.name) = Some(name.to_owned());
    }

    /// How the image wants its programs to be run; empty until the host has told it.
    pub(crate) fn image(&self) -> Arc<ImageConfig> {
        Arc::clone(&lock(&self.image))
    }

    /// Remembers how the image wants its programs to be run.
    pub(crate) fn set_image(&self, image: ImageConfig) {
        *lock(&self.image) = Arc::new(image);
    }

    /// Has an event sent to the host, now or as soon as there is one. Of too many the oldest are given up.
    pub(crate) fn post(&self, event: &Envelope) {
        self.outbox.post(event);
    }

    /// Makes the caller the one message channel and ends the one before: the newest wins (spec B.5). Nothing is
    /// cleared when a channel ends, so a late end cannot hurt a newer one.
    pub(crate) fn take_message_channel(&self) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(old) = lock(&self.messages).replace(token.clone()) {
            old.cancel();
        }
        token
    }
}

/// A value is whole at every point where a holder of these locks could die.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
