//! A writer that hands on what is written piece by piece: the end of an archive that a thread makes, whose pieces a task
//! sends elsewhere. The agent and the host's credentials write theirs to it. It keeps nothing but the piece being filled.

use std::io::{self, BufWriter, Write};

/// Longest piece, in bytes: as long as a frame of the guest link.
const PIECE: usize = 64 << 10;

/// Hands pieces on to a function, which says whether anybody still takes them.
#[derive(Debug)]
pub struct Pieces<F>(F);

impl<F: FnMut(&[u8]) -> bool> Pieces<F> {
    /// Returns a writer that gathers pieces of 64 KiB and hands each to `take`; the last may be shorter, and comes with a
    /// flush. When `take` says `false`, writing fails with [`io::ErrorKind::BrokenPipe`].
    pub fn buffered(take: F) -> BufWriter<Self> {
        BufWriter::with_capacity(PIECE, Self(take))
    }
}

impl<F: FnMut(&[u8]) -> bool> Write for Pieces<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let length = buffer.len().min(PIECE);
        if (self.0)(&buffer[..length]) { Ok(length) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_lose_nothing() {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        let mut out = Pieces::buffered(|piece| {
            taken.push(piece.to_vec());
            true
        });
        let content: Vec<u8> = (0..3 * PIECE + 5).map(|at| at.to_le_bytes()[0]).collect();
        out.write_all(&content[..10]).unwrap();
        out.write_all(&content[10..]).unwrap();
        out.flush().unwrap();
        drop(out);
        assert!(taken.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
        assert_eq!(taken.concat(), content);
    }

    #[test]
    fn nobody_to_take_them_is_a_broken_pipe() {
        let mut out = Pieces::buffered(|_| false);
        out.write_all(b"x").unwrap();
        assert_eq!(out.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
