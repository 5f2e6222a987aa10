//! The messages of the SSH agent protocol (RFC 9987, draft-ietf-sshm-ssh-agent), as pure functions.
//!
//! Only what a client asks of an agent that lists and signs is understood. Nothing is allocated by a length that a client
//! says: [`MAX_MESSAGE`] bounds it first, and the rest are slices of what came.

use shed_extensions::ssh::{Key, Signature};

/// Longest message in bytes without its length, as OpenSSH's own agent has it (authfd.h, AGENT_MAX_LEN; spec J.3).
pub const MAX_MESSAGE: usize = 256 << 10;

/// Most keys of a list, as OpenSSH's client takes them (authfd.c, MAX_AGENT_IDENTITIES).
const MAX_KEYS: u32 = 2048;

/// Longest comment of a key, in bytes.
const MAX_COMMENT: usize = 1024;

/// Numbers of messages (RFC 9987, section 6.1).
mod number {
    pub(super) const FAILURE: u8 = 5;
    pub(super) const SUCCESS: u8 = 6;
    pub(super) const REQUEST_IDENTITIES: u8 = 11;
    pub(super) const IDENTITIES_ANSWER: u8 = 12;
    pub(super) const SIGN_REQUEST: u8 = 13;
    pub(super) const SIGN_RESPONSE: u8 = 14;
    pub(super) const EXTENSION: u8 = 27;
    pub(super) const EXTENSION_FAILURE: u8 = 28;
}

/// The extension by which a client tells for which server it will sign (OpenSSH's PROTOCOL.agent, section 1).
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// The keys.
    List,
    /// A signature.
    Sign {
        /// The key's public part.
        key: &'a [u8],
        /// What is to be signed.
        data: &'a [u8],
        /// How.
        flags: u32,
    },
    /// For which server it will sign. Keys here are bound to none, so it is taken and changes nothing.
    SessionBind,
    /// An extension that is known, with a body that is wrong.
    BadExtension,
    /// Anything else, broken requests among it.
    Other,
}

/// Reads a message, without its length.
#[must_use]
pub fn parse(message: &[u8]) -> Request<'_> {
    let Some((&kind, body)) = message.split_first() else { return Request::Other };
    match kind {
        // Some clients send bytes behind it, which mean nothing.
        number::REQUEST_IDENTITIES => Request::List,
        number::SIGN_REQUEST => sign(body).unwrap_or(Request::Other),
        number::EXTENSION => match string(body) {
            Some((SESSION_BIND, body)) if is_binding(body) => Request::SessionBind,
            Some((SESSION_BIND, _)) => Request::BadExtension,
            Some(_) | None => Request::Other,
        },
        _ => Request::Other,
    }
}

fn sign(body: &[u8]) -> Option<Request<'_>> {
    let (key, body) = string(body)?;
    let (data, body) = string(body)?;
    let flags = u32::from_be_bytes(body.try_into().ok()?);
    Some(Request::Sign { key, data, flags })
}

/// Host key, session identifier, signature, and whether it is for forwarding.
fn is_binding(body: &[u8]) -> bool {
    let rest = string(body).and_then(|(_, rest)| string(rest)).and_then(|(_, rest)| string(rest));
    matches!(rest, Some((_, [_])))
}

/// Takes a string off the front (RFC 4251, section 5).
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Says that it is not done.
#[must_use]
pub fn failure() -> Vec<u8> {
    framed(&[number::FAILURE])
}

/// Says that it is done.
#[must_use]
pub fn success() -> Vec<u8> {
    framed(&[number::SUCCESS])
}

/// Says that a known extension could not be done.
#[must_use]
pub fn extension_failure() -> Vec<u8> {
    framed(&[number::EXTENSION_FAILURE])
}

/// Lists keys; returns how many were left out because they do not fit into a message.
#[must_use]
pub fn keys(keys: &[Key]) -> (Vec<u8>, usize) {
    let mut listed = Vec::new();
    let mut count = 0;
    for key in keys {
        let mut entry = Vec::new();
        put_string(&mut entry, &key.blob.0);
        put_string(&mut entry, comment(&key.comment).as_bytes());
        let fits = 5 + listed.len() + entry.len() <= MAX_MESSAGE && count < MAX_KEYS;
        if fits && !key.blob.0.is_empty() {
            listed.extend(entry);
            count += 1;
        }
    }
    let mut message = vec![number::IDENTITIES_ANSWER];
    message.extend(count.to_be_bytes());
    message.extend(listed);
    (framed(&message), keys.len() - usize::try_from(count).unwrap_or(usize::MAX))
}

/// Hands over a signature; nothing when it does not fit into a message.
#[must_use]
pub fn signature(signature: &Signature) -> Option<Vec<u8>> {
    let mut inner = Vec::new();
    put_string(&mut inner, signature.format.as_bytes());
    put_string(&mut inner, &signature.blob.0);
    // Flags and counter of a security key follow its signature within the same string (PROTOCOL.u2f).
    inner.extend(signature.rest.iter().flat_map(|rest| &rest.0));
    let mut message = vec![number::SIGN_RESPONSE];
    put_string(&mut message, &inner);
    (message.len() <= MAX_MESSAGE).then(|| framed(&message))
}

/// A comment that moves no terminal's cursor and is not too long.
fn comment(text: &str) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    text.truncate(text.floor_char_boundary(MAX_COMMENT));
    text
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // What comes over the bus is bounded far below 4 GiB.
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 4);
    put_string(&mut out, message);
    out
}

#[cfg(test)]
mod tests;
