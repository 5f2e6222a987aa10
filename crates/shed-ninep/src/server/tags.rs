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
            // A flush of itself would wait for ever; its tag is taken by whatever it names.
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
