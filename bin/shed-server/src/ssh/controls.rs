//! What a client asks of a running program besides its input: a new size of its terminal, signals.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use shed_protocol::{Frame, FrameKind, Resize, Signal};
use tokio::sync::Notify;

/// Signals that wait for a guest that takes nothing at the moment; more are dropped, as a process drops those that it
/// has pending already.
const MAX_SIGNALS: usize = 32;

/// What waits for the guest. One task takes it out.
#[derive(Debug, Default)]
pub(super) struct Controls {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Only the last size counts.
    size: Option<Resize>,
    signals: VecDeque<i32>,
}

impl Controls {
    /// Asks for a new size.
    pub(super) fn resize(&self, rows: u16, cols: u16) {
        self.lock().size = Some(Resize { rows, cols });
        self.added.notify_one();
    }

    /// Asks for a signal, by its number.
    pub(super) fn signal(&self, number: i32) {
        let mut waiting = self.lock();
        if waiting.signals.len() < MAX_SIGNALS {
            waiting.signals.push_back(number);
            self.added.notify_one();
        }
    }

    /// Returns the next thing that is asked for, as the agent is told.
    pub(super) async fn next(&self) -> Frame {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            self.added.notified().await;
        }
    }

    fn take(&self) -> Option<Frame> {
        let mut waiting = self.lock();
        if let Some(size) = waiting.size.take() {
            return Some(Frame::json(FrameKind::Resize, &size));
        }
        let signal = waiting.signals.pop_front()?;
        Some(Frame::json(FrameKind::Signal, &Signal { signal }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_size_and_the_first_signals_get_through() {
        let controls = Controls::default();
        for size in 1..=100 {
            controls.resize(size, size);
            controls.signal(i32::from(size));
        }
        assert_eq!(controls.next().await.parse::<Resize>().unwrap(), Resize { rows: 100, cols: 100 });
        for number in 1..=32 {
            assert_eq!(controls.next().await.parse::<Signal>().unwrap(), Signal { signal: number });
        }
        assert_eq!(controls.take(), None);
    }
}
