//! What the message channel says of credentials that are synced both ways (spec B.5, E.2). The files themselves go over the
//! file service.

use serde::{Deserialize, Serialize};
use shed_types::GuestPath;

/// Most paths of one [`CredentialChanged`].
pub const MAX_CHANGED: usize = 1000;

/// Tells the guest what to watch, instead of what it was told before. Files that changed while no host listened are told
/// of right after the reply.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WatchCredentials {
    /// The writable credentials.
    pub credentials: Vec<WatchedCredential>,
}

/// One credential in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedCredential {
    /// Its name in the server's configuration.
    pub name: String,
    /// A directory, or a single file.
    pub target: GuestPath,
    /// Whether the target is a single file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub file: bool,
    /// What is left out: shell globs, matched with paths relative to the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
}

/// Tells the host that files of a credential were written in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialChanged {
    /// Its name.
    pub credential: String,
    /// Paths relative to the target, at most [`MAX_CHANGED`]; for a single file its name. Names that are not UTF-8 are left
    /// out.
    pub files: Vec<String>,
    /// There were more; the host fetches everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}
