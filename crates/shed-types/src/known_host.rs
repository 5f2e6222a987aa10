//! A line of known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"), as `git.extra_known_hosts` of server.yaml has them.

use std::{fmt, str::FromStr};

/// Longest line in bytes; an RSA key of 16,384 bits takes 2,800.
const MAX: usize = 8192;

/// Key types of OpenSSH that a host may have (ssh-keyscan(1), sshd_config(5)); certificates of hosts stand behind
/// `@cert-authority` with the type of the authority's key.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Says why a text is no line of known_hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseKnownHostError {
    #[error("a line of known_hosts has hosts, a key type and a key: three fields or more")]
    Fields,
    #[error("{0:?} is no key type of a host; there are {types}", types = TYPES.join(", "))]
    Type(String),
    #[error("its key is not base64")]
    Key,
    #[error("{0:?} is no marker; there are @cert-authority and @revoked")]
    Marker(String),
    #[error("it has a control character")]
    Control,
    #[error("it is longer than {MAX} bytes")]
    TooLong,
}

/// A line of known_hosts: one host or pattern, its key type, its key, perhaps with a marker before and a comment after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost(String);

impl KnownHost {
    /// Returns the line, without a line feed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KnownHost {
    type Err = ParseKnownHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > MAX {
            return Err(ParseKnownHostError::TooLong);
        }
        if text.chars().any(|c| c.is_control() && c != '\t') {
            return Err(ParseKnownHostError::Control);
        }
        let mut fields = text.split_ascii_whitespace().peekable();
        if let Some(marker) = fields.next_if(|field| field.starts_with('@'))
            && !matches!(marker, "@cert-authority" | "@revoked")
        {
            return Err(ParseKnownHostError::Marker(marker.to_owned()));
        }
        let (Some(host), Some(kind), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(ParseKnownHostError::Fields);
        };
        if host.starts_with('#') {
            return Err(ParseKnownHostError::Fields);
        }
        if !TYPES.contains(&kind) {
            return Err(ParseKnownHostError::Type(kind.to_owned()));
        }
        // Every key begins with the length of its type, whose first bytes are zero.
        let is_base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if !key.starts_with("AAAA") || !key.bytes().all(is_base64) {
            return Err(ParseKnownHostError::Key);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KnownHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_known_hosts_are_told_from_others() {
        for line in [
            "git.lan ssh-ed25519 AAAAC3Nz",
            "  [10.0.2.2]:2222,git.lan ssh-rsa AAAAB3Nz= a comment  ",
            "|1|abc=|def= ecdsa-sha2-nistp256 AAAAE2",
            "@cert-authority *.lan ssh-ed25519 AAAAC3Nz",
        ] {
            assert_eq!(line.parse::<KnownHost>().unwrap().as_str(), line.trim());
        }
        for (line, error) in [
            ("", ParseKnownHostError::Fields),
            ("git.lan ssh-ed25519", ParseKnownHostError::Fields),
            ("# git.lan ssh-ed25519 AAAA", ParseKnownHostError::Fields),
            ("#git.lan ssh-ed25519 AAAA", ParseKnownHostError::Fields),
            ("git.lan ssh-dss AAAA", ParseKnownHostError::Type("ssh-dss".into())),
            ("git.lan ssh-ed25519 key!", ParseKnownHostError::Key),
            ("@trusted git.lan ssh-ed25519 AAAA", ParseKnownHostError::Marker("@trusted".into())),
            ("@revoked git.lan ssh-ed25519", ParseKnownHostError::Fields),
            ("git.lan ssh-ed25519 AAAA\nevil ssh-ed25519 AAAA", ParseKnownHostError::Control),
        ] {
            assert_eq!(line.parse::<KnownHost>(), Err(error), "{line:?}");
        }
        assert_eq!("x".repeat(MAX + 1).parse::<KnownHost>(), Err(ParseKnownHostError::TooLong));
    }
}
