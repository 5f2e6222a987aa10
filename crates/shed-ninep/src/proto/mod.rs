//! The messages of 9P2000.L: bytes to types and back, as pure functions.
//!
//! Called by the server for each message, and by tests, which are the client. Numbers and layouts are those of
//! include/net/9p/9p.h and net/9p/protocol.c of Linux, and of diod's protocol.md. What a request carries is borrowed from the
//! message; nothing is allocated here, and nothing panics, whatever the bytes are. A message that is not whole, has bytes
//! left over, or is of an unknown type is refused as one; whether a fid exists is the server's business.

mod message;
mod name;
mod qid;
mod wire;

pub mod bits;

#[cfg(test)]
mod tests;

pub use message::{Attributes, Entry, Reply, Request, SetAttributes, Statfs};
pub use name::{MAX_NAME, MAX_NAMES, Name, Names};
pub use qid::{Qid, Qids};
pub use wire::{Bytes, Data, Fid, Refusal, Tag};

/// Size, type and tag of every message.
pub const HEADER: usize = 7;

/// The version that is spoken.
pub const VERSION: &[u8] = b"9P2000.L";

/// What a server says of versions that it does not speak (version(5) of Plan 9).
pub const UNKNOWN_VERSION: &[u8] = b"unknown";

/// Room beside the data of a read or write (`P9_IOHDRSZ`).
pub const IO_HEADER: u32 = 24;

/// Starts a message: the size is left open for [`finish`].
pub fn start(out: &mut Vec<u8>, kind: u8, tag: Tag) {
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&tag.0.to_le_bytes());
}

/// Puts the size in front of the message that begins at `begin`.
pub fn finish(out: &mut [u8], begin: usize) {
    let size = u32::try_from(out.len() - begin).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = out.get_mut(begin..begin + 4) {
        place.copy_from_slice(&size);
    }
}

/// Type and tag of a message without its size; nothing when it is too short to have them.
pub fn header(message: &[u8]) -> Option<(u8, Tag)> {
    let (kind, rest) = message.split_first()?;
    let tag = rest.first_chunk()?;
    Some((*kind, Tag(u16::from_le_bytes(*tag))))
}
