//! How many requests are answered at the same time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::approval::ShedKey;

/// Most requests of one shed; it may ask for many signatures at once, but not occupy the others' places.
const PER_SHED: usize = 16;

/// Most requests of all.
const IN_ALL: usize = 128;

/// Counts requests that are being answered. Clones are the same count.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds(Arc<Mutex<HashMap<ShedKey, usize>>>);

/// The place of one request; dropping it makes it free.
#[derive(Debug)]
pub(super) struct Place {
    bounds: Bounds,
    who: ShedKey,
}

impl Bounds {
    /// Takes a place, unless there is none for this shed.
    pub(super) fn enter(&self, who: &ShedKey) -> Option<Place> {
        let mut counts = self.lock();
        if counts.values().sum::<usize>() >= IN_ALL || counts.get(who).is_some_and(|count| *count >= PER_SHED)
        {
            return None;
        }
        *counts.entry(who.clone()).or_default() += 1;
        Some(Place { bounds: self.clone(), who: who.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShedKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.bounds.lock();
        if let Some(count) = counts.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                let _zero = counts.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(shed: usize) -> ShedKey {
        ShedKey { server: "s".into(), shed: shed.to_string() }
    }

    #[test]
    fn neither_a_shed_nor_all_of_them_get_more_than_their_places() {
        let bounds = Bounds::default();
        let mut places: Vec<_> = (0..PER_SHED).map(|_| bounds.enter(&who(0)).unwrap()).collect();
        assert!(bounds.enter(&who(0)).is_none());
        for shed in 1..IN_ALL / PER_SHED {
            places.extend((0..PER_SHED).map(|_| bounds.enter(&who(shed)).unwrap()));
        }
        assert!(bounds.enter(&who(1000)).is_none());
        let _free = places.pop();
        drop(_free);
        let last = bounds.enter(&who(1000)).unwrap();
        drop((places, last));
        assert!(bounds.lock().is_empty());
    }
}
