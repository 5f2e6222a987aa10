//! What can go wrong between us and a registry, in words for whoever wanted the image.
//!
//! An error names the host, never a whole address: storage behind registries has secrets in its addresses. What a
//! registry says of itself is shortened and stripped of what could move a terminal's cursor.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::Url;
use serde::Deserialize;

use crate::{credentials::CredentialError, repository::host_of};

/// Longest text of a registry that is repeated, in characters.
const MAX_SAID: usize = 300;

/// Says why a registry did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{host} is no host")]
    BadHost { host: String },
    #[error(
        "the server's config does not allow to ask {registry}; add it to `registries.allow` in server.yaml"
    )]
    NotAllowed { registry: String },
    #[error("cannot prepare encrypted connections; are there certificates of authorities on this host?")]
    Setup(#[source] reqwest::Error),
    #[error("cannot reach {host}")]
    Unreachable {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the connection to {host} broke")]
    Broken {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{host} stalled: next to nothing came for {} seconds", quiet.as_secs_f32())]
    Stalled { host: String, quiet: Duration },
    #[error("{host} sent {got} of {size} bytes and ended")]
    Short { host: String, got: u64, size: u64 },
    #[error("{host} continued elsewhere than it was asked to")]
    OtherRange { host: String },
    #[error("{host} forgot an upload")]
    UploadLost { host: String },
    #[error("{host} wants a login ({said}), and there is none in {config}; run `docker login {registry}`")]
    NoLogin { host: String, registry: String, config: String, said: Said },
    #[error("{host} did not accept the login in {config} ({said}); run `docker login {registry}` again")]
    BadLogin { host: String, registry: String, config: String, said: Said },
    #[error(
        "{host} refuses it ({said}); check the name, or run `docker login {registry}` with an account that may"
    )]
    Denied { host: String, registry: String, said: Said },
    #[error(
        "{host} has no such thing ({said}); check the name, or run `docker login {registry}` if it is private"
    )]
    NotFound { host: String, registry: String, said: Said },
    #[error("{host} answered {said}")]
    Refused { host: String, said: Said },
    #[error("{host} is not understood: {reason}")]
    Nonsense { host: String, reason: String },
    #[error(transparent)]
    Credentials(Arc<CredentialError>),
}

impl RequestError {
    /// Makes the error of an answer that no registry should give.
    pub(crate) fn nonsense(url: &Url, reason: impl Into<String>) -> Self {
        Self::Nonsense { host: host_of(url), reason: reason.into() }
    }

    /// Tells whether the same may well succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Short { .. }
            | Self::OtherRange { .. }
            | Self::UploadLost { .. } => true,
            Self::Refused { said, .. } => matches!(said.status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::BadHost { .. }
            | Self::NotAllowed { .. }
            | Self::Setup(_)
            | Self::NoLogin { .. }
            | Self::BadLogin { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Nonsense { .. }
            | Self::Credentials(_) => false,
        }
    }

    /// Returns how long the registry asks to be left alone.
    pub(crate) fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::Refused { said, .. } => said.retry_after,
            Self::BadHost { .. }
            | Self::NotAllowed { .. }
            | Self::Setup(_)
            | Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Short { .. }
            | Self::OtherRange { .. }
            | Self::UploadLost { .. }
            | Self::NoLogin { .. }
            | Self::BadLogin { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Nonsense { .. }
            | Self::Credentials(_) => None,
        }
    }
}

/// What a registry answered instead of what it was asked for: its status, and its own words when it has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// HTTP's status.
    pub status: u16,
    /// Code and message of the first error in the body, cleaned and shortened; empty when there is none.
    pub words: String,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Said {
    /// Reads an answer.
    pub(crate) fn new(status: reqwest::StatusCode, body: &[u8], retry_after: Option<Duration>) -> Self {
        Self { status: status.as_u16(), words: words_in(body), retry_after }
    }

    /// Takes a secret out of the words, should the registry have repeated it.
    pub(crate) fn without(mut self, secret: &str) -> Self {
        if !secret.is_empty() && self.words.contains(secret) {
            self.words = self.words.replace(secret, "…");
        }
        self
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let known = reqwest::StatusCode::from_u16(self.status).ok();
        if let Some(reason) = known.and_then(|status| status.canonical_reason()) {
            write!(f, " {reason}")?;
        }
        if self.words.is_empty() { Ok(()) } else { write!(f, ", {}", self.words) }
    }
}

/// Returns code and message of the first error in a body (OCI distribution specification, "Error Codes").
fn words_in(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return String::new() };
    let Some(Entry { code, message }) = envelope.errors.into_iter().next() else { return String::new() };
    let separator = if code.is_empty() || message.is_empty() { "" } else { ": " };
    clean(&format!("{code}{separator}{message}"))
}

/// Makes a text of others fit for a terminal and a log: one line, not long, nothing that moves or reverses anything.
pub(crate) fn clean(text: &str) -> String {
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut cleaned: String =
        text.chars().take(MAX_SAID).map(|c| if is_odd(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MAX_SAID).is_some() {
        cleaned.push('…');
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn a_registrys_words_are_one_short_harmless_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no \u001b[2J\r\nway \u202e","detail":{}}]}"#;
        let said = Said::new(StatusCode::FORBIDDEN, body, None);
        assert_eq!(said.to_string(), "403 Forbidden, DENIED: no \u{fffd}[2J\u{fffd}\u{fffd}way \u{fffd}");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        let said = Said::new(StatusCode::INTERNAL_SERVER_ERROR, long.as_bytes(), None);
        assert_eq!(said.words.chars().count(), MAX_SAID + 1);
        for body in ["", "<html>", "{}", r#"{"errors":[]}"#, r#"{"errors":[{"code":7}]}"#] {
            let said = Said::new(StatusCode::NOT_FOUND, body.as_bytes(), None);
            assert_eq!(said.to_string(), "404 Not Found", "{body}");
        }
        let echo = br#"{"errors":[{"code":"UNAUTHORIZED","message":"hunter2 is wrong"}]}"#;
        let said = Said::new(StatusCode::UNAUTHORIZED, echo, None).without("hunter2");
        assert_eq!(said.words, "UNAUTHORIZED: … is wrong");
    }
}
