//! Who asks for the same thing at the same time gets the same answer; and an answer is kept while it lasts.
//!
//! It knows nothing of AWS: a key has a value with an end, or a failure, which is also kept for a moment, so that a guest
//! that asks again and again does not become a flood of requests to AWS.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// What came out, and until when it is told again.
pub(crate) struct Kept<T, E> {
    pub(crate) result: Result<T, E>,
    pub(crate) until: Timestamp,
}

impl<T: Clone, E: Clone> Clone for Kept<T, E> {
    fn clone(&self) -> Self {
        Self { result: self.result.clone(), until: self.until }
    }
}

enum Slot<T, E> {
    /// Somebody asks; all who come meanwhile wait for it.
    Flying(watch::Receiver<Option<Kept<T, E>>>),
    Landed(Kept<T, E>),
}

/// Why there is no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoFlight {
    /// Every entry is taken by one who still asks.
    Full,
    /// Who asked has died.
    Lost,
}

/// Answers by key, at most a number of them.
pub(crate) struct Flights<K, T, E> {
    slots: Arc<Mutex<HashMap<K, Slot<T, E>>>>,
    most: usize,
}

impl<K, T, E> Flights<K, T, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(most: usize) -> Self {
        Self { slots: Arc::default(), most }
    }

    /// Returns what is kept for `key`, or what `ask` gives, which runs once for all who wait, and to its end when they go away.
    pub(crate) async fn get<F>(&self, key: K, ask: impl FnOnce() -> F) -> Result<Result<T, E>, NoFlight>
    where
        F: Future<Output = Kept<T, E>> + Send + 'static,
    {
        let mut landing = match self.board(&key, Timestamp::now())? {
            Boarded::Landed(kept) => return Ok(kept.result),
            Boarded::Passenger(landing) => landing,
            Boarded::Pilot { land, landing } => {
                let (slots, flight) = (Arc::clone(&self.slots), ask());
                // Not awaited: it lives as long as the request to AWS, which has a limit of its own.
                drop(tokio::spawn(async move {
                    let ticket = Ticket { slots, key: Some(key) };
                    let kept = flight.await;
                    ticket.land(kept.clone());
                    drop(land.send(Some(kept)));
                }));
                landing
            }
        };
        let landed = landing.wait_for(Option::is_some).await.map_err(|_died| NoFlight::Lost)?;
        landed.as_ref().map(|kept| kept.result.clone()).ok_or(NoFlight::Lost)
    }

    /// Returns until when a value is kept for `key`.
    pub(crate) fn kept_until(&self, key: &K) -> Option<Timestamp> {
        match lock(&self.slots).get(key) {
            Some(Slot::Landed(kept)) if kept.result.is_ok() && kept.until > Timestamp::now() => {
                Some(kept.until)
            }
            Some(Slot::Landed(_) | Slot::Flying(_)) | None => None,
        }
    }

    fn board(&self, key: &K, now: Timestamp) -> Result<Boarded<T, E>, NoFlight> {
        let mut slots = lock(&self.slots);
        match slots.get(key) {
            Some(Slot::Landed(kept)) if kept.until > now => return Ok(Boarded::Landed(kept.clone())),
            Some(Slot::Flying(landing)) => return Ok(Boarded::Passenger(landing.clone())),
            Some(Slot::Landed(_)) | None => {}
        }
        if slots.len() >= self.most && !slots.contains_key(key) {
            make_room(&mut slots, now).ok_or(NoFlight::Full)?;
        }
        let (land, landing) = watch::channel(None);
        let _replaced = slots.insert(key.clone(), Slot::Flying(landing.clone()));
        Ok(Boarded::Pilot { land, landing })
    }
}

/// What one who asks becomes.
enum Boarded<T, E> {
    Landed(Kept<T, E>),
    Passenger(watch::Receiver<Option<Kept<T, E>>>),
    Pilot { land: watch::Sender<Option<Kept<T, E>>>, landing: watch::Receiver<Option<Kept<T, E>>> },
}

/// Removes what has ended, or else what ends first. Nothing when all entries are still asked for.
fn make_room<K: Clone + Eq + Hash, T, E>(slots: &mut HashMap<K, Slot<T, E>>, now: Timestamp) -> Option<()> {
    let before = slots.len();
    slots.retain(|_key, slot| match slot {
        Slot::Flying(_) => true,
        Slot::Landed(kept) => kept.until > now,
    });
    if slots.len() < before {
        return Some(());
    }
    let ends = slots.iter().filter_map(|(key, slot)| match slot {
        Slot::Flying(_) => None,
        Slot::Landed(kept) => Some((kept.until, key)),
    });
    let first = ends.min_by_key(|(until, _key)| *until)?.1.clone();
    slots.remove(&first).map(drop)
}

/// A place in the map: it is filled, or free again when who held it has died.
struct Ticket<K: Eq + Hash, T, E> {
    slots: Arc<Mutex<HashMap<K, Slot<T, E>>>>,
    key: Option<K>,
}

impl<K: Eq + Hash, T, E> Ticket<K, T, E> {
    fn land(mut self, kept: Kept<T, E>) {
        if let Some(key) = self.key.take() {
            let _flying = lock(&self.slots).insert(key, Slot::Landed(kept));
        }
    }
}

impl<K: Eq + Hash, T, E> Drop for Ticket<K, T, E> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            drop(lock(&self.slots).remove(&key));
        }
    }
}

/// No code that holds the lock can panic and leave it half-done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the time `seconds` from now.
pub(crate) fn soon(seconds: i64) -> Timestamp {
    Timestamp::now().saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn kept(result: Result<u8, u8>, seconds: i64) -> Kept<u8, u8> {
        Kept { result, until: soon(seconds) }
    }

    #[tokio::test]
    async fn an_answer_is_told_again_while_it_lasts() {
        let flights = Flights::new(1);
        for (result, seconds, told) in
            [(Err(1), 0, Err(1)), (Ok(2), -1, Ok(2)), (Err(3), 60, Err(3)), (Ok(4), 60, Err(3))]
        {
            assert_eq!(flights.get("a", || kept(result, seconds)).await, Ok(told));
        }
        assert_eq!(flights.kept_until(&"a"), None, "a failure is no value");
        assert_eq!(flights.get("b", || kept(Ok(5), 60)).await, Ok(Ok(5)), "what has landed makes room");
        assert!(flights.kept_until(&"b").is_some());
    }

    #[tokio::test]
    async fn one_who_dies_leaves_its_place() {
        let flights = Flights::new(1);
        let dies = || async { panic!("this test wants it") };
        assert_eq!(flights.get("a", dies).await, Err(NoFlight::Lost));
        assert_eq!(flights.get("b", || kept(Ok(1), 60)).await, Ok(Ok(1)));
    }
}
