//! Reads tar archives from strangers: layers of images, and archives that hold images.
//!
//! Conversion and import use it. The crate `tar` knows neither pax's sparse files nor fractions of times, and reads what
//! two readers could understand in two ways; so headers are read here. What is taken: ustar, GNU and pax with their
//! long names, large numbers and sparse files. What is refused is in [`TarError`]. Nothing is written here.

mod fields;
mod pax;
mod reader;
#[cfg(test)]
mod reader_tests;
mod sparse;

pub(crate) use reader::{Content, Entry, EntryKind, TarReader};

use std::io;

/// Length of a header, and what content is padded to, in bytes.
pub(crate) const RECORD: usize = 512;

/// Longest that long names, pax records and maps of sparse files of one entry are together, in bytes.
pub(crate) const MAX_EXTENSIONS: u64 = 1 << 20;

/// Says why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error(transparent)]
    Read(io::Error),
    #[error("this is no tar archive")]
    NoArchive,
    #[error("it is cut off at byte {offset}")]
    CutOff { offset: u64 },
    #[error("garbage follows its end, at byte {offset}")]
    Garbage { offset: u64 },
    #[error("the header at byte {offset} is damaged: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("the headers of the entry at byte {offset} have more than 1 MiB")]
    Extensions { offset: u64 },
    #[error("the entry {name:?} at byte {offset} is of the unknown type {kind:?}")]
    Unknown { offset: u64, name: String, kind: char },
}

/// Where an archive comes from.
pub(crate) trait Source {
    /// Fills a buffer; returns how much there was, less only at the end.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Passes over bytes; tells whether there were as many.
    fn skip(&mut self, length: u64) -> io::Result<bool>;
}
