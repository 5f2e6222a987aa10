//! How much clients may send on their channels, steered through the one number that russh leaves to us.
//!
//! russh keeps one target for all channels of a connection. When a packet leaves a channel's window below half of the
//! target, it grants the client what is missing, at once and whether anybody has used the bytes or not; then it asks
//! [`Windows::granted`] for the next target. Grants come with packets and never without one.
//!
//! So while nothing piles up, the target is [`WINDOW`]. While a channel holds more than [`HIGH`] the target is
//! [`TRICKLE`], with which russh grants two bytes when a window is empty: the client's window drains, and what is left
//! is a ping-pong of two bytes that keeps the question alive. The handler slows it down by waiting in between.
//!
//! That alone would starve the channels that do not pile up, because the target is theirs, too. So for single packets
//! the target is raised when the next packet with an empty window is expected to be theirs: clients answer grants in
//! the order in which they get them. When the guess is wrong, the channel that piles up gets the grant; its size is a
//! fraction of what it may still hold, so no number of wrong guesses brings it above [`LIMIT`].
//!
//! No I/O, no clock: the tests play russh and its clients.

use std::{collections::HashMap, hash::Hash};

/// What a client may send on a channel when all is well, in bytes; russh's own default and OpenSSH's (`CHAN_SES_WINDOW_DEFAULT`).
pub(super) const WINDOW: u32 = 2 << 20;

/// A channel that holds more bytes than this is one that piles up.
pub(super) const HIGH: usize = 1 << 20;

/// It stops to be one when it holds fewer than this.
pub(super) const LOW: usize = 512 << 10;

/// The smallest target that ever grants anything: russh grants when a window is below half of it.
const TRICKLE: u32 = 2;

/// What a channel holds at most through grants that were not meant for it, in bytes. One that begins to pile up may
/// have got a whole window before and one after it was seen.
const LIMIT: usize = 8 << 20;

/// The part of what is left of [`LIMIT`] that one wrong guess costs.
const RISK: usize = 16;

/// The client sent more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overrun;

/// The windows of a connection's channels, as russh keeps them.
#[derive(Debug)]
pub(super) struct Windows<K> {
    channels: HashMap<K, Window>,
    grants: u64,
}

#[derive(Debug)]
struct Window {
    /// What the client may still send.
    left: u32,
    /// What that will be after the packet that is being handled.
    granted: Option<u32>,
    /// The number of its last grant.
    grant: u64,
    piles_up: bool,
}

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self { channels: HashMap::new(), grants: 0 }
    }
}

impl<K: Copy + Eq + Hash> Windows<K> {
    /// Notes a new channel.
    pub(super) fn open(&mut self, channel: K) {
        let window = Window { left: WINDOW, granted: None, grant: 0, piles_up: false };
        let _none = self.channels.insert(channel, window);
    }

    /// Forgets a channel.
    pub(super) fn close(&mut self, channel: K) {
        let _gone = self.channels.remove(&channel);
    }

    /// Notes that the packet of `channel` that comes next through [`Self::received`] was answered by a grant up to
    /// `target`. Returns the next target, given how many bytes each channel holds.
    pub(super) fn granted(&mut self, channel: K, target: u32, held: impl Fn(K) -> usize) -> u32 {
        self.grants += 1;
        if let Some(window) = self.channels.get_mut(&channel) {
            window.granted = Some(target);
            window.grant = self.grants;
        }
        self.next_target(channel, held)
    }

    /// Notes a packet of `length` bytes. Returns whether the channel piles up, with these bytes.
    pub(super) fn received(&mut self, channel: K, length: usize, held: usize) -> Result<bool, Overrun> {
        let Some(window) = self.channels.get_mut(&channel) else { return Ok(false) };
        let rest = u32::try_from(length).ok().and_then(|length| window.left.checked_sub(length));
        window.left = match (window.granted.take(), rest) {
            (_, None) => return Err(Overrun),
            (Some(granted), Some(_)) => granted,
            (None, Some(rest)) => rest,
        };
        window.look(held + length);
        Ok(window.piles_up)
    }

    /// How many channels pile up.
    pub(super) fn piles(&self) -> usize {
        self.channels.values().filter(|window| window.piles_up).count()
    }

    fn next_target(&mut self, just_granted: K, held: impl Fn(K) -> usize) -> u32 {
        let (mut piles, mut raised) = (false, WINDOW as usize);
        for (&channel, window) in &mut self.channels {
            let held = held(channel);
            window.look(held);
            if window.piles_up {
                piles = true;
                raised = raised.min(LIMIT.saturating_sub(held) / RISK);
            }
        }
        if !piles {
            return WINDOW;
        }
        let raised = u32::try_from(raised).unwrap_or(WINDOW);
        let starves = |window: &Window| !window.piles_up && window.after() < raised / 2;
        if raised <= TRICKLE || !self.channels.values().any(starves) {
            return TRICKLE;
        }
        // Whose packet comes next, of those that may send nothing else than the answer to a grant.
        let empty = self.channels.iter().filter(|(_, window)| window.after() <= TRICKLE);
        match empty.min_by_key(|(_, window)| window.grant) {
            Some((&next, window)) if window.piles_up && next != just_granted => TRICKLE,
            Some(_) | None => raised,
        }
    }
}

impl Window {
    fn look(&mut self, held: usize) {
        if held > HIGH {
            self.piles_up = true;
        } else if held < LOW {
            self.piles_up = false;
        }
    }

    fn after(&self) -> u32 {
        self.granted.unwrap_or(self.left)
    }
}

#[cfg(test)]
mod tests;
