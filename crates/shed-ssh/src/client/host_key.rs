//! A host key that the caller trusts.

use std::{fmt, str::FromStr};

use russh::keys::{HashAlg, PublicKey};

/// A public key as `known_hosts` has it behind the host: type and base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey(PublicKey);

/// Says why a text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no SSH public key")]
pub struct ParseHostKeyError(#[source] russh::keys::ssh_key::Error);

impl HostKey {
    pub(super) fn new(key: &PublicKey) -> Self {
        // Without a comment, which takes part in comparisons.
        Self(PublicKey::new(key.key_data().clone(), ""))
    }

    /// Returns the fingerprint as ssh prints it, `SHA256:` and base64.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl FromStr for HostKey {
    type Err = ParseHostKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        PublicKey::from_openssh(text).map(|key| Self::new(&key)).map_err(ParseHostKeyError)
    }
}

/// Writes type and base64.
impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.0.to_openssh().map_err(|_| fmt::Error)?;
        f.write_str(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_key_is_what_it_is_whatever_the_comment() {
        let key: HostKey = format!("{LINE} me@mini").parse().unwrap();
        assert_eq!(key, LINE.parse().unwrap());
        assert_eq!(key.to_string(), LINE);
        assert_eq!(key.fingerprint(), "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 !!", "AAAA ssh-ed25519"] {
            assert!(text.parse::<HostKey>().is_err(), "{text:?}");
        }
    }
}
