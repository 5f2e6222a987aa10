//! Which requests are being answered, and which flushes wait for them.
//!
//! A flush asks that nothing more comes of an older request. Operations here are short, so none is interrupted: a flush is
//! answered right behind the request that it names, as flush(5) of Plan 9 allows. No thread waits for that.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{Condvar, Mutex, PoisonError},
};

use super::{frames::broken, lock};
use crate::proto::Tag;

#[derive(Debug, Default)]
pub(super) struct Tags {
    /// What waits for each tag that is not answered yet. A flush that waits is one of them itself.
    pending: Mutex<HashMap<Tag, Vec<Tag>>>,
    idle: Condvar,
}

impl Tags {
    /// Begins a request.
    ///
    /// # Errors
    /// When one with its tag is not answered yet: nobody could tell which of the two an answer is for.
    pub(super) fn begin(&self, tag: Tag) -> io::Result<()> {
        match lock(&self.pending).entry(tag) {
            Entry::Occupied(_) => Err(broken("a 9P request with the tag of another one")),
            Entry::Vacant(place) => {
                place.insert(Vec::new());
                Ok(())
            }
        }
    }

    /// Has a flush wait for the request `old`; says whether that is needed.
    ///
    /// # Errors
    /// When its own tag is that of another request.
    pub(super) fn defer(&self, flush: Tag, old: Tag) -> io::Result<bool> {
        let mut pending = lock(&self.pending);
        if pending.contains_key(&flush) {
            return Err(broken("a 9P flush with the tag of another request"));
        }
        let Some(waiting) = pending.get_mut(&old) else { return Ok(false) };
        waiting.push(flush);
        pending.insert(flush, Vec::new());
        Ok(true)
    }

    /// Ends a request, and returns the flushes that are to be answered now, in this order.
    pub(super) fn end(&self, tag: Tag) -> Vec<Tag> {
        let mut pending = lock(&self.pending);
        let mut flushes = pending.remove(&tag).unwrap_or_default();
        let mut next = 0;
        while let Some(flush) = flushes.get(next).copied() {
            flushes.extend(pending.remove(&flush).unwrap_or_default());
            next += 1;
        }
        if pending.is_empty() {
            self.idle.notify_all();
        }
        flushes
    }

    /// Waits until nothing is being answered. The caller sees to it that nothing begins.
    pub(super) fn wait_until_idle(&self) {
        let pending = lock(&self.pending);
        let _idle = self
            .idle
            .wait_while(pending, |pending| !pending.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_wait_for_what_they_name_and_for_each_other() {
        let tags = Tags::default();
        tags.begin(Tag(1)).unwrap();
        tags.begin(Tag(2)).unwrap();
        assert!(tags.begin(Tag(1)).is_err());
        assert!(tags.defer(Tag(3), Tag(1)).unwrap());
        assert!(tags.defer(Tag(4), Tag(3)).unwrap());
        assert!(tags.defer(Tag(5), Tag(1)).unwrap());
        assert!(!tags.defer(Tag(6), Tag(9)).unwrap(), "nobody has the tag");
        assert!(!tags.defer(Tag(6), Tag(6)).unwrap(), "it is its own");
        assert!(tags.defer(Tag(4), Tag(2)).is_err(), "it waits already");
        assert!(tags.begin(Tag(5)).is_err());
        assert_eq!(tags.end(Tag(1)), [Tag(3), Tag(5), Tag(4)]);
        assert!(tags.end(Tag(2)).is_empty());
        tags.wait_until_idle();
        tags.begin(Tag(4)).unwrap();
    }
}
