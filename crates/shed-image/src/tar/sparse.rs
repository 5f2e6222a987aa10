//! Maps of sparse files: which parts of a file the archive has. Four forms are in use, and all come to the same.

use super::{fields::number, pax::unsigned};

/// Where content lies in a file that has holes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Map {
    /// Offset and length of each piece, in order.
    pub(super) pieces: Vec<(u64, u64)>,
    /// Length of the file.
    pub(super) length: u64,
}

impl Map {
    /// Checks that pieces lie in order inside of the file, and are together what the archive has. `None` if not.
    pub(super) fn checked(mut self, stored: u64) -> Option<Self> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &self.pieces {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        // Writers mark the end of the file by an empty piece.
        self.pieces.retain(|(_, length)| *length > 0);
        (end <= self.length && sum == stored).then_some(self)
    }
}

/// Reads pieces as the old GNU header has them: two fields of twelve bytes each.
pub(super) fn gnu(fields: &[u8], pieces: &mut Vec<(u64, u64)>) -> Option<()> {
    for field in fields.chunks_exact(24) {
        // Unused fields are empty.
        if field[0] == 0 {
            continue;
        }
        let value = |field| number(field).and_then(|value| u64::try_from(value).ok());
        pieces.push((value(&field[..12])?, value(&field[12..])?));
    }
    Some(())
}

/// Reads the list of pax form 0.1: offsets and lengths by turns, with commas between.
pub(super) fn list(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers = text.split(|byte| *byte == b',').map(unsigned).collect::<Option<Vec<_>>>()?;
    pairs(&numbers)
}

/// Reads numbers that are offsets and lengths by turns.
pub(super) fn pairs(numbers: &[u64]) -> Option<Vec<(u64, u64)>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}
