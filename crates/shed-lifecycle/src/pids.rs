//! The VMM processes of all sheds, in one list: it is asked for at every connection to the API, and among ten thousand
//! sheds a few run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The list. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pids(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    running: BTreeMap<u64, u32>,
}

impl Pids {
    /// Returns every process of the list.
    pub(crate) fn all(&self) -> Vec<u32> {
        self.list().running.values().copied().collect()
    }

    /// Returns a place for the process of one shed; it is given back when its last clone is dropped.
    pub(crate) fn place(&self) -> Place {
        let mut list = self.list();
        list.next += 1;
        Place(Arc::new(Entry { list: self.clone(), key: list.next }))
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // It is changed in single steps, so a panic elsewhere has not left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a shed's driver and its boot say which process runs. Clones are the same place.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    list: Pids,
    key: u64,
}

impl Place {
    /// Says that this process runs, or that none does.
    pub(crate) fn set(&self, pid: Option<u32>) {
        let Entry { list, key } = &*self.0;
        let mut list = list.list();
        let _before = match pid {
            Some(pid) => list.running.insert(*key, pid),
            None => list.running.remove(key),
        };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _last = self.list.list().running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_one_process_and_is_given_back() {
        let pids = Pids::default();
        let (one, other) = (pids.place(), pids.place());
        one.set(Some(7));
        one.clone().set(Some(8));
        other.set(Some(9));
        assert_eq!(pids.all(), [8, 9]);
        other.set(None);
        assert_eq!(pids.all(), [8]);
        drop(one);
        assert_eq!(pids.all(), [0; 0]);
    }
}
