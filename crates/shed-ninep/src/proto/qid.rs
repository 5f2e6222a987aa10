//! What a server says of which file something is.

use super::{
    name::MAX_NAMES,
    wire::{Input, Refusal, Wire},
};

/// Identity of a file: the same path is the same file, another version says that it has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qid {
    /// [`bits::QID_DIRECTORY`](super::bits::QID_DIRECTORY), [`bits::QID_LINK`](super::bits::QID_LINK), or 0.
    pub kind: u8,
    pub version: u32,
    pub path: u64,
}

impl Wire<'_> for Qid {
    fn take(input: &mut Input<'_>) -> Result<Self, Refusal> {
        Ok(Self { kind: u8::take(input)?, version: u32::take(input)?, path: u64::take(input)? })
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.kind.put(out);
        self.version.put(out);
        self.path.put(out);
    }
}

/// What a walk found: one for each name, up to the first that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qids {
    qids: [Qid; MAX_NAMES],
    count: usize,
}

impl Qids {
    /// Adds one; what is beyond [`MAX_NAMES`] is left out.
    pub fn push(&mut self, qid: Qid) {
        if let Some(place) = self.qids.get_mut(self.count) {
            *place = qid;
            self.count += 1;
        }
    }

    /// All of them, in order.
    pub fn as_slice(&self) -> &[Qid] {
        &self.qids[..self.count]
    }
}

impl Wire<'_> for Qids {
    fn take(input: &mut Input<'_>) -> Result<Self, Refusal> {
        let count = u16::take(input)?;
        if usize::from(count) > MAX_NAMES {
            return Err(Refusal::TooManyNames);
        }
        let mut qids = Self::default();
        for _ in 0..count {
            qids.push(Qid::take(input)?);
        }
        Ok(qids)
    }

    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.count).unwrap_or(u16::MAX).put(out);
        for qid in self.as_slice() {
            qid.put(out);
        }
    }
}
