//! Credentials: files of the host that sheds get, and give back when they change them (spec E).
//!
//! The boot has them copied before the project is cloned; while the machine runs, a task keeps the writable ones in step.
//! What comes back from a guest is not trusted: it lands beneath the credential's own source, or nowhere.

use std::{collections::BTreeMap, sync::Arc};

use camino::Utf8PathBuf;
use shed_backend::Vm;
use shed_types::{CredentialName, GuestPath, ShedName};
use tokio_util::task::AbortOnDropHandle;

use crate::{Progress, guest_channel::GuestChannel};

/// One entry of `credentials:` in server.yaml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// A directory or a file on the host; it may be missing.
    pub source: Utf8PathBuf,
    /// Where it is in each shed.
    pub target: GuestPath,
    /// Whether it is only copied at create and start; otherwise changes go both ways while a shed runs.
    pub read_only: bool,
    /// What is left out, with paths relative to the source: shell globs, where `dir/*` means `dir` and all below it.
    pub exclude: Vec<String>,
}

/// The credentials of a server, and the sheds that they are kept in step with.
#[derive(Debug)]
pub(crate) struct Credentials {
    configured: BTreeMap<CredentialName, Credential>,
}

impl Credentials {
    /// Watches nothing yet.
    pub(crate) fn new(configured: BTreeMap<CredentialName, Credential>) -> Self {
        Self { configured }
    }

    /// Tells whether there is nothing to copy.
    pub(crate) fn is_empty(&self) -> bool {
        self.configured.is_empty()
    }

    /// Copies all of them into a guest. What fails is a warning in `progress` (spec C.2, step 11).
    pub(crate) async fn deliver(&self, _shed: &ShedName, _vm: &dyn Vm, _progress: &Progress) {}

    /// Keeps the writable ones in step with a guest until the machine ends or the handle is dropped.
    pub(crate) fn attend(
        self: &Arc<Self>,
        _shed: ShedName,
        _vm: Arc<dyn Vm>,
        _channel: GuestChannel,
    ) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(async {}))
    }
}
