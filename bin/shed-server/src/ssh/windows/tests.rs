//! Clients that always have something to send, against russh's arithmetic, played with the real policy in between.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Largest packet of a client, as russh asks for it.
const PACKET: u32 = 32 << 10;

/// A connection: what russh does with each packet, and clients that fill their windows.
struct Play {
    windows: Windows<usize>,
    /// russh's own: the target of all, and the window of each.
    target: u32,
    left: Vec<u32>,
    held: Vec<usize>,
    taken: Vec<usize>,
    /// Takes nothing out.
    deaf: Vec<bool>,
    /// Channels whose client may send, in the order in which they got to know.
    turns: VecDeque<usize>,
    /// Grants that have not reached the client.
    on_the_way: VecDeque<usize>,
}

impl Play {
    fn new(deaf: Vec<bool>) -> Self {
        let count = deaf.len();
        let mut windows = Windows::default();
        (0..count).for_each(|channel| windows.open(channel));
        Self {
            windows,
            target: WINDOW,
            left: vec![WINDOW; count],
            held: vec![0; count],
            taken: vec![0; count],
            deaf,
            turns: (0..count).collect(),
            on_the_way: VecDeque::new(),
        }
    }

    /// A packet of the channel whose turn it is, or of one that pushes in. Returns whether there was one.
    fn packet(&mut self, pushes_in: usize) -> bool {
        if self.turns.is_empty() {
            let Some(channel) = self.on_the_way.pop_front() else { return false };
            self.turns.push_back(channel);
        }
        let channel = self.turns.remove(pushes_in % self.turns.len()).unwrap();
        let length = self.left[channel].min(PACKET);
        assert!(length > 0);
        // russh, `adjust_window_size`.
        self.left[channel] -= length;
        if self.left[channel] < self.target / 2 {
            self.left[channel] = self.target;
            let held = &self.held;
            self.target = self.windows.granted(channel, self.target, |channel| held[channel]);
            assert!(self.target >= 2, "a smaller target never grants again");
        }
        // The handler.
        let length = length as usize;
        let piles_up = self.windows.received(channel, length, self.held[channel]).unwrap();
        self.held[channel] += length;
        assert_eq!(self.windows.channels[&channel].left, self.left[channel]);
        if piles_up {
            // It waits, and all that was on the way arrives.
            self.turns.extend(self.on_the_way.drain(..));
        }
        if !self.deaf[channel] {
            self.taken[channel] += std::mem::take(&mut self.held[channel]);
        }
        if self.left[channel] > 0 {
            // The rest of a window needs no answer of the server's.
            if self.left[channel] > 2 {
                self.turns.push_back(channel);
            } else {
                self.on_the_way.push_back(channel);
            }
        }
        true
    }
}

#[test]
fn a_channel_that_is_used_gets_whole_windows() {
    let mut play = Play::new(vec![false]);
    for _ in 0..1000 {
        assert!(play.packet(0));
        assert_eq!(play.target, WINDOW);
    }
    assert_eq!(play.taken[0], 1000 * PACKET as usize);
}

#[test]
fn a_channel_that_nobody_reads_stops_by_itself_and_comes_back() {
    let mut play = Play::new(vec![true]);
    for _ in 0..100_000 {
        assert!(play.packet(0), "the question stays alive");
    }
    assert!(play.held[0] < LIMIT, "{}", play.held[0]);
    play.deaf[0] = false;
    for _ in 0..10 {
        assert!(play.packet(0));
    }
    assert_eq!((play.target, play.held[0]), (WINDOW, 0));
    assert!(play.left[0] > WINDOW / 2);
}

#[test]
fn beside_channels_that_nobody_reads_others_go_on() {
    for deaf in [1, 3, 20] {
        let mut play = Play::new((0..deaf + 2).map(|channel| channel < deaf).collect());
        for _ in 0..200_000 {
            assert!(play.packet(0));
        }
        let moved: Vec<usize> = play.taken[deaf..].iter().map(|taken| taken >> 20).collect();
        assert!(moved.iter().all(|&megabytes| megabytes >= 50), "{deaf} deaf ones: {moved:?}");
    }
}

#[test]
fn a_client_that_ignores_its_window_is_seen() {
    let mut windows = Windows::default();
    windows.open(1);
    let sent = WINDOW as usize;
    assert_eq!(windows.received(1, sent, 0), Ok(true));
    assert_eq!(windows.received(1, 1, sent), Err(Overrun));
    assert_eq!(windows.received(2, sent * 10, 0), Ok(false), "a channel that is closed already");
}

proptest! {
    #[test]
    fn no_order_of_packets_brings_a_channel_above_its_limit(
        deaf in prop::collection::vec(any::<bool>(), 1..6),
        order in prop::collection::vec(any::<u8>(), 2000..8000),
    ) {
        let mut play = Play::new(deaf);
        for pushes_in in order {
            if !play.packet(usize::from(pushes_in)) {
                break;
            }
            for (channel, &held) in play.held.iter().enumerate() {
                prop_assert!(held <= LIMIT + PACKET as usize, "channel {channel} holds {held}");
            }
        }
    }
}
