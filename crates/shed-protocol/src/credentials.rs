//! What the message channel says of credentials that are synced both ways (spec B.5, E.2). The files themselves go over the
//! file service.

use serde::{Deserialize, Serialize};
use shed_types::GuestPath;

/// Most paths of one [`CredentialChanged`].
pub const MAX_CHANGED: usize = 1000;

/// Tells the guest what to watch, instead of what it was told before. The answer is [`CredentialsWatched`].
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

/// Says what is watched now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CredentialsWatched {
    /// What was written and no host has taken yet, whether it was told before or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<CredentialChanged>,
    /// What cannot be watched, and why; a bounded list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Tells the guest that the host has what a [`CredentialChanged`] named; the next one of this credential comes only then.
/// The reply's payload is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialTaken {
    /// The credential's name.
    pub credential: String,
    /// What [`CredentialChanged::serial`] was.
    pub serial: u64,
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
    /// Counts these messages; given back when the files are taken.
    #[serde(default)]
    pub serial: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_each_payload_stays_what_it_was() {
        let watch = WatchCredentials {
            credentials: vec![WatchedCredential {
                name: "claude".into(),
                target: "~/.claude".parse().unwrap(),
                file: false,
                excludes: vec!["cache/*".into()],
            }],
        };
        let text = r#"{"credentials":[{"name":"claude","target":"~/.claude","excludes":["cache/*"]}]}"#;
        assert_eq!(serde_json::to_string(&watch).unwrap(), text);
        assert_eq!(serde_json::from_str::<WatchCredentials>(text).unwrap(), watch);
        let changed = CredentialChanged {
            credential: "claude".into(),
            files: vec!["a/b".into()],
            more: false,
            serial: 7,
        };
        let text = r#"{"credential":"claude","files":["a/b"],"serial":7}"#;
        assert_eq!(serde_json::to_string(&changed).unwrap(), text);
        assert_eq!(serde_json::from_str::<CredentialChanged>(text).unwrap(), changed);
        let taken = CredentialTaken { credential: "claude".into(), serial: 7 };
        assert_eq!(serde_json::to_string(&taken).unwrap(), r#"{"credential":"claude","serial":7}"#);
        // What an agent says that has nothing to tell, and one of tomorrow.
        let nothing: CredentialsWatched = serde_json::from_str(r#"{"tomorrow":1}"#).unwrap();
        assert_eq!(nothing, CredentialsWatched::default());
        assert_eq!(serde_json::to_string(&nothing).unwrap(), "{}");
    }
}
