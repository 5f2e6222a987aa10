//! Trees of files as tar streams: chosen and packed at one end, unpacked beneath a directory at the other.
//!
//! The client packs what `shed sync` sends, the server its credentials; the agent unpacks both in the guest, and sends files
//! back, which [`Beneath`] puts in their place on the host. Everything here blocks and belongs on a
//! thread of its own. Memory is bounded whatever a stream says, and what is read from one is not trusted: no name in it
//! leads out of the target, and no file is seen half-written.
//!
//! The format is POSIX ustar with the long names of GNU and the records of pax, uncompressed. What it carries beyond
//! names, modes, times and content (owners, devices, hard links, extended attributes) is not taken over.

mod beneath;
mod exclude;
mod pack;
mod path;
mod pieces;
mod read;
mod scan;
mod temporary;
#[cfg(target_os = "linux")]
mod unpack;
mod write;

pub use beneath::{Beneath, ReachError, WriteError};
pub use exclude::{Excludes, ParseExcludeError};
pub use pack::{Packed, Sent, pack, pack_file, pack_watched};
pub use path::{EntryPath, MAX_NAME, MAX_PATH, ParseEntryPathError, shown};
pub use pieces::Pieces;
pub use read::{Entry, EntryKind, TarError, TarReader, Time};
pub use scan::{
    Choice, Item, ItemKind, Scan, ScanError, ScanLimits, scan_directory, scan_directory_within, scan_file,
};
pub use temporary::is_temporary;
#[cfg(target_os = "linux")]
pub use unpack::{Failure, Owner, UnpackError, Unpacked, unpack, unpack_below};
pub use write::TarWriter;

/// Bytes that are moved at a time.
const CHUNK: usize = 64 << 10;

/// Warnings that are kept of one transfer; of more only the number is known.
const MAX_WARNINGS: usize = 100;

/// What went wrong on the way and did not end the transfer. Only so many are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Warnings {
    texts: Vec<String>,
    more: u64,
}

impl Warnings {
    /// Adds one.
    pub fn add(&mut self, text: String) {
        if self.texts.len() < MAX_WARNINGS {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    /// Returns them; the last one says how many were left out, if any were.
    #[must_use]
    pub fn into_texts(self) -> Vec<String> {
        let Self { mut texts, more } = self;
        if more > 0 {
            texts.push(format!("and {more} more"));
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_warnings_some_are_kept_and_all_are_counted() {
        let mut warnings = Warnings::default();
        for number in 0..MAX_WARNINGS + 7 {
            warnings.add(number.to_string());
        }
        let texts = warnings.into_texts();
        assert_eq!(texts.len(), MAX_WARNINGS + 1);
        assert_eq!(texts.last().unwrap(), "and 7 more");
    }
}
