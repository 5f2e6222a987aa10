//! Messages on a stream: their size comes first, and says how much follows.
//!
//! Called by the server's threads. A size that was not agreed on ends the stream; a size alone takes no memory, which grows
//! with what has come.

use std::io::{self, IoSlice, Read, Write};

use crate::proto::HEADER;

/// How much is read before more room is made.
const STEP: usize = 64 * 1024;

/// Bytes that are used again and again, without being cleared in between.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// The first bytes; what is in them is what was there before.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        if self.0.len() < length {
            self.0.resize(length, 0);
        }
        &mut self.0[..length]
    }

    pub(super) fn first(&self, length: usize) -> &[u8] {
        self.0.get(..length).unwrap_or_default()
    }
}

pub(super) fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads a message, without its size; nothing when the stream ends before it begins.
///
/// # Errors
/// When the stream fails or ends within the message, or its size is below a header's or above `limit`.
pub(super) fn next_message<'a>(
    stream: &mut impl Read,
    buffer: &'a mut Buffer,
    limit: u32,
) -> io::Result<Option<&'a [u8]>> {
    let mut size = [0; 4];
    if !fill_or_end(stream, &mut size)? {
        return Ok(None);
    }
    let size = u32::from_le_bytes(size);
    let length = match usize::try_from(size) {
        Ok(size) if size < HEADER => return Err(broken("a 9P message that is too short to be one")),
        Ok(length) if limit >= size => length - 4,
        _ => return Err(broken("a 9P message that is larger than agreed on")),
    };
    let mut have = 0;
    while have < length {
        // Room that is there from earlier messages costs nothing.
        let end = length.min(buffer.0.len().max(have + STEP));
        stream.read_exact(&mut buffer.room(end)[have..])?;
        have = end;
    }
    Ok(Some(buffer.first(length)))
}

/// Fills `bytes`, or says that the stream has ended before the first of them.
fn fill_or_end(stream: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    loop {
        match stream.read(bytes) {
            Ok(0) => return Ok(false),
            Ok(read) => {
                stream.read_exact(&mut bytes[read..])?;
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes the two parts of a message.
///
/// # Errors
/// When the stream fails, or takes nothing more.
pub(super) fn write_message(stream: &mut impl Write, head: &[u8], data: &[u8]) -> io::Result<()> {
    let mut parts = [IoSlice::new(head), IoSlice::new(data)];
    let mut left = &mut parts[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match stream.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}
