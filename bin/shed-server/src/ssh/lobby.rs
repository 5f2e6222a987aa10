//! Where connections wait that have not logged in: few at once, and who does nothing gives way.
//!
//! A handshake costs the server some kilobytes and a key exchange, and strangers may begin as many as they like. So
//! there is a fixed number of places. When all are taken a newcomer gets the place of one that has been there longer than
//! half of the others: of the one that has come least far, the oldest of those. So half-open handshakes push out each
//! other, and not the owner who is logging in; and nobody is pushed out who had no time to say anything.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio_util::sync::CancellationToken;

/// Bytes of a client that has said more than its version, and so has begun a key exchange. A version is at most 255
/// bytes long (RFC 4253 4.2), and a proposal of algorithms is longer in every client.
const PROPOSED: u64 = 256;

/// The places of connections that have not logged in.
#[derive(Debug)]
pub(super) struct Lobby {
    places: usize,
    taken: Mutex<Vec<Place>>,
}

#[derive(Debug)]
struct Place {
    /// Tells places apart.
    received: Arc<AtomicU64>,
    exchanged: Arc<AtomicU64>,
    cut: CancellationToken,
}

/// How far a stranger has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Silent,
    Greeted,
    Proposed,
    Exchanged,
}

/// A place in the lobby, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    lobby: Arc<Lobby>,
    received: Arc<AtomicU64>,
    exchanged: Arc<AtomicU64>,
}

impl Lobby {
    /// Makes a lobby with this many places, at least one.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: places.max(1), taken: Mutex::default() })
    }

    /// Takes a place for a connection that `cut` ends. If there is none left, another connection is cut for it.
    pub(super) fn enter(self: &Arc<Self>, cut: CancellationToken) -> Seat {
        let (received, exchanged) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut taken = self.lock();
        if taken.len() >= self.places {
            // The first of equals is the oldest.
            let least = (0..taken.len().div_ceil(2)).min_by_key(|&index| taken[index].progress());
            if let Some(index) = least {
                taken.remove(index).cut.cancel();
            }
        }
        taken.push(Place { received: Arc::clone(&received), exchanged: Arc::clone(&exchanged), cut });
        Seat { lobby: Arc::clone(self), received, exchanged }
    }

    /// Tells whether the next newcomer will cost somebody a place.
    pub(super) fn is_full(&self) -> bool {
        self.lock().len() >= self.places
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.taken.lock().expect("no code panics while it holds this lock")
    }
}

impl Place {
    fn progress(&self) -> Progress {
        match (self.exchanged.load(Relaxed), self.received.load(Relaxed)) {
            (1.., _) => Progress::Exchanged,
            (0, 0) => Progress::Silent,
            (0, received) if received < PROPOSED => Progress::Greeted,
            (0, _) => Progress::Proposed,
        }
    }
}

impl Seat {
    /// Returns the count of the bytes that came in on the connection, for the socket to add to.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Notes that the connection has come through the key exchange.
    pub(super) fn has_exchanged_keys(&self) {
        self.exchanged.store(1, Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.lock().retain(|place| !Arc::ptr_eq(&place.received, &self.received));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(lobby: &Arc<Lobby>) -> (Seat, CancellationToken) {
        let cut = CancellationToken::new();
        (lobby.enter(cut.clone()), cut)
    }

    #[test]
    fn the_oldest_of_the_idle_gives_way() {
        let lobby = Lobby::new(3);
        let (owner, owner_cut) = enter(&lobby);
        let strangers: Vec<_> = (0..10).map(|_| enter(&lobby)).collect();
        let cut: Vec<bool> = strangers.iter().map(|(_, cut)| cut.is_cancelled()).collect();
        // They are all equal, so the owner, who came first, was the first to go.
        assert!(owner_cut.is_cancelled());
        assert_eq!(cut, [true, true, true, true, true, true, true, false, false, false]);
        drop((owner, strangers));
        assert!(lobby.lock().is_empty());
    }

    #[test]
    fn who_has_come_further_stays() {
        let lobby = Lobby::new(8);
        let (greeted, greeted_cut) = enter(&lobby);
        greeted.received().store(30, Relaxed);
        let (proposed, proposed_cut) = enter(&lobby);
        proposed.received().store(1500, Relaxed);
        let (exchanged, exchanged_cut) = enter(&lobby);
        exchanged.has_exchanged_keys();
        let silent: Vec<_> = (0..1000).map(|_| enter(&lobby)).collect();
        assert!(![&greeted_cut, &proposed_cut, &exchanged_cut].iter().any(|cut| cut.is_cancelled()));
        assert_eq!(silent.iter().filter(|(_, cut)| !cut.is_cancelled()).count(), 5);
        for (seat, _) in &silent {
            seat.received().store(1500, Relaxed);
        }
        let more = enter(&lobby);
        assert!(greeted_cut.is_cancelled() && !proposed_cut.is_cancelled() && !exchanged_cut.is_cancelled());
        drop((silent, more));
        assert_eq!(lobby.lock().len(), 2);
    }

    #[test]
    fn a_newcomer_has_time_to_say_something() {
        let lobby = Lobby::new(8);
        let talkers: Vec<_> = (0..8).map(|_| enter(&lobby)).collect();
        talkers.iter().for_each(|(seat, _)| seat.received().store(30, Relaxed));
        let (newcomer, newcomer_cut) = enter(&lobby);
        let others: Vec<_> = (0..3).map(|_| enter(&lobby)).collect();
        assert!(!newcomer_cut.is_cancelled());
        drop((newcomer, others));
    }

    #[test]
    fn a_place_that_was_left_is_free_again() {
        let lobby = Lobby::new(1);
        let (first, first_cut) = enter(&lobby);
        drop(first);
        let (_second, second_cut) = enter(&lobby);
        assert!(!first_cut.is_cancelled() && !second_cut.is_cancelled());
    }
}
