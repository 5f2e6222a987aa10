//! A layer as a stream of its uncompressed bytes: one thread decompresses, another one takes.
//!
//! What a layer is compressed with is told by its first bytes, because media types lie. The taker counts, watches for
//! the end of patience, and computes the digest where that is wanted.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender},
    },
};

use crate::{DigestHasher, ImageWatch, tar::Source};

/// Bytes that travel together, and how many such pieces wait at most.
const PIECE: usize = 1 << 16;
pub(super) const PIECES: usize = 16;

/// How much of the file is read at once, in bytes.
const READ: usize = 1 << 18;

/// A piece of the stream, or why it ends.
pub(super) type Piece = io::Result<Vec<u8>>;

/// What a file is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Something that is not decompressed here.
    Other(&'static str),
}

impl Compression {
    /// Tells it from the first bytes of a file.
    pub(crate) fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one to be skipped (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Other("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            _ => Self::None,
        }
    }
}

/// Decompresses what a reader has, however many members or frames it consists of.
pub(crate) fn decompress<'r>(source: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut source = BufReader::with_capacity(READ, source);
    Ok(match Compression::of(source.fill_buf()?) {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        Compression::Other(name) => {
            let message = format!("it is compressed with {name}, and only gzip and zstd are known");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    })
}

/// Counts what was read of compressed files.
struct Counting<'c> {
    file: File,
    count: &'c AtomicU64,
}

impl Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let _before = self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Decompresses a layer to its end, or until nobody takes it any more. Adds to `read` what it took of the file.
pub(super) fn produce(file: File, read: &AtomicU64, pieces: &SyncSender<Piece>) {
    let produced = || -> io::Result<()> {
        let mut source = decompress(Counting { file, count: read })?;
        loop {
            let mut piece = vec![0; PIECE];
            let mut filled = 0;
            while filled < PIECE {
                match source.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            piece.truncate(filled);
            if filled == 0 || pieces.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    };
    if let Err(error) = produced() {
        // Nobody may be there to hear it; then it does not matter.
        let _ignored = pieces.send(Err(error));
    }
}

/// Why a stream was stopped from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Bytes,
}

/// The taking side of a stream.
pub(super) struct Stream<'s> {
    pieces: Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    hasher: Option<DigestHasher>,
    watch: &'s dyn ImageWatch,
    /// Hears of every piece.
    told: &'s (dyn Fn() + Sync),
    /// Bytes of all layers so far, and how many there may be.
    budget: (&'s AtomicU64, u64),
    stopped: Option<Stop>,
}

impl<'s> Stream<'s> {
    pub(super) fn new(
        pieces: Receiver<Piece>,
        hasher: Option<DigestHasher>,
        watch: &'s dyn ImageWatch,
        told: &'s (dyn Fn() + Sync),
        budget: (&'s AtomicU64, u64),
    ) -> Self {
        Self { pieces, piece: Vec::new(), at: 0, hasher, watch, told, budget, stopped: None }
    }

    /// Returns why it was stopped from this side, if it was.
    pub(super) const fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    /// Returns the digest of all that was taken.
    pub(super) fn into_hasher(self) -> Option<DigestHasher> {
        self.hasher
    }

    /// Waits for the next piece; tells whether there is one.
    fn next(&mut self) -> io::Result<bool> {
        let Ok(piece) = self.pieces.recv() else { return Ok(false) };
        self.piece = piece?;
        self.at = 0;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.piece);
        }
        let (taken, limit) = self.budget;
        let length = self.piece.len() as u64;
        let stop = if self.watch.is_cancelled() {
            Some(Stop::Cancelled)
        } else if taken.fetch_add(length, Ordering::Relaxed) + length > limit {
            Some(Stop::Bytes)
        } else {
            None
        };
        self.stopped = stop;
        if stop.is_some() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        (self.told)();
        Ok(true)
    }
}

impl Source for Stream<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.at == self.piece.len() && !self.next()? {
                break;
            }
            let count = (self.piece.len() - self.at).min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&self.piece[self.at..self.at + count]);
            self.at += count;
            filled += count;
        }
        Ok(filled)
    }

    fn skip(&mut self, mut length: u64) -> io::Result<bool> {
        while length > 0 {
            if self.at == self.piece.len() && !self.next()? {
                return Ok(false);
            }
            let there = self.piece.len() - self.at;
            let count = usize::try_from(length).map_or(there, |length| length.min(there));
            self.at += count;
            length -= count as u64;
        }
        Ok(true)
    }
}
