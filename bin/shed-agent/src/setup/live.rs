//! What a setup tells its host while it runs: events and output, in order, through a queue that is bounded.
//!
//! The setup puts pieces in, the stream's own task takes them out. A host that reads gets everything. For one that does
//! not, or hardly, the setup waits a little and then leaves live output out: a line says how much, and the log in the
//! guest has it. When the host has gone, everything is dropped.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use shed_protocol::{Frame, FrameKind, SetupEvent, SetupReply};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// Bytes of output that wait for the host at most.
const ROOM: usize = 1 << 20;

/// Bytes of one piece of output at most: with its header it fills a frame of the mux, 64 KiB.
pub(super) const PIECE: usize = 64 * 1024 - 5;

/// How long a step waits for a host that does not read, all its waits together.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that a host has to take in a second so that the setup waits for it: what it takes gives patience back.
const PACE: usize = 1 << 20;

/// The queue of one setup.
#[derive(Debug, Default)]
pub(super) struct Live {
    queue: Mutex<Queue>,
    /// Told to the stream's task: there is something to send.
    filled: Notify,
    /// Told to the setup: something has been sent.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Bytes of output in `frames`.
    bytes: usize,
    /// Bytes of output that the host has taken since a piece was put in.
    taken: usize,
    /// Bytes of output that were left out since the last piece.
    left_out: u64,
    /// Whether output is left out until there is room for half of the queue again.
    behind: bool,
    /// Whether the host has gone.
    gone: bool,
    /// Whether the reply is in.
    over: bool,
}

impl Live {
    /// Tells that a step begins or ends, or of something odd. Never waits.
    pub(super) fn event(&self, event: &SetupEvent) {
        let mut queue = self.queue();
        queue.tell_left_out();
        queue.put(Frame::json(FrameKind::SetupEvent, event));
        drop(queue);
        self.filled.notify_one();
    }

    /// Ends the queue. Never waits.
    pub(super) fn reply(&self, reply: &SetupReply) {
        let mut queue = self.queue();
        queue.tell_left_out();
        queue.put(Frame::json(FrameKind::SetupReply, reply));
        queue.over = true;
        drop(queue);
        self.filled.notify_one();
    }

    /// Passes output on; waits no longer than `patience` allows, and takes from it what it has waited.
    pub(super) async fn output(&self, piece: Bytes, patience: &mut Duration) {
        loop {
            {
                let mut queue = self.queue();
                if queue.gone || piece.is_empty() {
                    return;
                }
                let earned = Duration::from_secs_f64(queue.taken as f64 / PACE as f64);
                queue.taken = 0;
                *patience = patience.saturating_add(earned).min(PATIENCE);
                if !queue.behind && queue.bytes + piece.len() <= ROOM {
                    queue.tell_left_out();
                    queue.bytes += piece.len();
                    queue.put(Frame::new(FrameKind::Data, piece));
                    drop(queue);
                    return self.filled.notify_one();
                }
                if queue.behind || patience.is_zero() {
                    queue.behind = true;
                    queue.left_out += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    return;
                }
            }
            let begun = Instant::now();
            let waited = timeout(*patience, self.emptied.notified()).await;
            *patience =
                if waited.is_ok() { patience.saturating_sub(begun.elapsed()) } else { Duration::ZERO };
        }
    }

    /// Takes the next frame for the host; nothing after the reply. Nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> Option<Frame> {
        loop {
            {
                let mut queue = self.queue();
                if let Some(frame) = queue.frames.pop_front() {
                    if frame.kind == FrameKind::Data {
                        queue.bytes = queue.bytes.saturating_sub(frame.payload.len());
                        queue.taken = queue.taken.saturating_add(frame.payload.len());
                    }
                    if queue.bytes <= ROOM / 2 {
                        queue.behind = false;
                    }
                    drop(queue);
                    self.emptied.notify_one();
                    return Some(frame);
                }
                if queue.over {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Says that nobody takes anything any more.
    pub(super) fn host_has_gone(&self) {
        let mut queue = self.queue();
        queue.gone = true;
        queue.frames.clear();
        queue.bytes = 0;
        drop(queue);
        self.emptied.notify_one();
    }

    /// A queue is whole at every point where a holder of the lock could die.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn put(&mut self, frame: Frame) {
        if !self.gone {
            self.frames.push_back(frame);
        }
    }

    fn tell_left_out(&mut self) {
        if self.left_out > 0 {
            let line =
                format!("\n[… {} bytes not shown here; the log in the shed has them …]\n", self.left_out);
            self.left_out = 0;
            self.bytes += line.len();
            self.put(Frame::new(FrameKind::Data, line.into()));
        }
    }
}

const _: () = assert!(PIECE < ROOM / 2);

#[cfg(test)]
mod tests {
    use shed_protocol::Step;

    use super::*;

    fn piece() -> Bytes {
        Bytes::from(vec![b'x'; PIECE])
    }

    #[tokio::test]
    async fn pieces_come_out_in_order_and_the_reply_is_the_last() {
        let live = Live::default();
        live.event(&SetupEvent::Began { step: Step::Install });
        live.output("out".into(), &mut PATIENCE.clone()).await;
        live.reply(&SetupReply::default());
        let kinds: Vec<FrameKind> = [live.next().await, live.next().await, live.next().await]
            .into_iter()
            .map(|frame| frame.unwrap().kind)
            .collect();
        assert_eq!(kinds, [FrameKind::SetupEvent, FrameKind::Data, FrameKind::SetupReply]);
        assert!(live.next().await.is_none());
    }

    #[tokio::test]
    async fn a_host_that_does_not_read_costs_some_patience_once_and_learns_what_it_missed() {
        let live = Live::default();
        let mut patience = Duration::from_millis(50);
        let begun = Instant::now();
        for _ in 0..1000 {
            live.output(piece(), &mut patience).await;
        }
        assert!(patience.is_zero() && begun.elapsed() < Duration::from_secs(30));
        assert!(live.queue().bytes <= ROOM);
        live.event(&SetupEvent::Began { step: Step::Install });
        live.reply(&SetupReply::default());
        let (mut shown, mut text) = (0, String::new());
        while let Some(frame) = live.next().await {
            match frame.payload.first() {
                Some(b'x') => shown += frame.payload.len(),
                _ => text += &String::from_utf8_lossy(&frame.payload),
            }
        }
        assert!(text.contains(&format!("[… {} bytes not shown", 1000 * PIECE - shown)), "{text}");
    }

    #[tokio::test]
    async fn a_slow_host_that_reads_gets_everything() {
        let live = std::sync::Arc::new(Live::default());
        let setup = {
            let live = std::sync::Arc::clone(&live);
            tokio::spawn(async move {
                let mut patience = PATIENCE;
                for _ in 0..100 {
                    live.output(piece(), &mut patience).await;
                }
                assert!(!patience.is_zero());
                live.reply(&SetupReply::default());
            })
        };
        let mut bytes = 0;
        while let Some(frame) = live.next().await {
            bytes += if frame.kind == FrameKind::Data { frame.payload.len() } else { 0 };
            tokio::task::yield_now().await;
        }
        setup.await.unwrap();
        assert_eq!(bytes, 100 * PIECE);
    }

    #[tokio::test]
    async fn a_host_that_has_gone_holds_nobody() {
        let live = Live::default();
        live.output(piece(), &mut PATIENCE.clone()).await;
        live.host_has_gone();
        for _ in 0..1000 {
            live.output(piece(), &mut Duration::from_secs(3600)).await;
        }
        live.reply(&SetupReply::default());
        assert!(live.next().await.is_none());
    }
}
