//! What a client has sent on a channel and nobody has used yet.
//!
//! russh would hand it over through a queue of its own that stops the whole connection when it is full, and grants the
//! client new space on receipt, not on use. So the handler drops that queue's reading end and puts the bytes here; the
//! channel's task takes them out. How much comes in is [`windows`](super::windows)' to steer: nothing here refuses or
//! waits for space.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
};

/// Bytes that are kept in one piece at most. A client may send a byte a packet, and each piece costs some of its own.
const PIECE: usize = 32 << 10;

/// The bytes of one channel. One task takes them out.
#[derive(Debug)]
pub(super) struct Intake {
    queue: Mutex<Queue>,
    taken: Notify,
    /// What all channels of the connection hold.
    all: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<BytesMut>,
    length: usize,
    ended: bool,
    reader: Option<Waker>,
}

impl Intake {
    /// Makes an empty one, whose bytes are counted in `all`, too.
    pub(super) fn counted_in(all: Arc<AtomicUsize>) -> Self {
        Self { queue: Mutex::default(), taken: Notify::new(), all }
    }

    /// Adds bytes behind those that wait.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut queue = self.lock();
        if queue.ended || bytes.is_empty() {
            return;
        }
        queue.length += bytes.len();
        let _before = self.all.fetch_add(bytes.len(), Relaxed);
        match queue.pieces.back_mut() {
            Some(last) if last.len() + bytes.len() <= PIECE => last.extend_from_slice(bytes),
            Some(_) | None => queue.pieces.push_back(bytes.into()),
        }
        queue.wake();
    }

    /// Notes that no more comes; what waits is still there to be taken.
    pub(super) fn end(&self) {
        let mut queue = self.lock();
        queue.ended = true;
        queue.wake();
    }

    /// Returns how many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.lock().length
    }

    /// Returns the oldest bytes, as many as came together; nothing when there is no more to come.
    pub(super) async fn next(&self) -> Option<Bytes> {
        std::future::poll_fn(|cx| {
            let mut queue = self.lock();
            match queue.pieces.pop_front() {
                Some(piece) => {
                    queue.length -= piece.len();
                    self.was_taken(piece.len());
                    Poll::Ready(Some(piece.freeze()))
                }
                None if queue.ended => Poll::Ready(None),
                None => queue.wait(cx),
            }
        })
        .await
    }

    /// Returns when fewer bytes than this wait.
    pub(super) async fn falls_below(&self, length: usize) {
        while self.len() >= length {
            self.taken.notified().await;
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.lock();
        let mut count = 0;
        while let Some(piece) = queue.pieces.front_mut() {
            let part = piece.len().min(buffer.remaining());
            if part == 0 {
                break;
            }
            buffer.put_slice(&piece[..part]);
            piece.advance(part);
            count += part;
            if piece.is_empty() {
                let _empty = queue.pieces.pop_front();
            }
        }
        if count == 0 && !queue.ended {
            return queue.wait(cx);
        }
        queue.length -= count;
        self.was_taken(count);
        Poll::Ready(Ok(()))
    }

    fn was_taken(&self, length: usize) {
        let _before = self.all.fetch_sub(length, Relaxed);
        self.taken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics while it holds this lock")
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let _before = self.all.fetch_sub(self.len(), Relaxed);
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The same as a stream of bytes; at its end when the client has said all.
#[derive(Debug)]
pub(super) struct IntakeReader(pub(super) Arc<Intake>);

impl AsyncRead for IntakeReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_and_then_the_end() {
        let intake = Arc::new(Intake::counted_in(Arc::default()));
        let reading = tokio::spawn({
            let intake = Arc::clone(&intake);
            async move {
                let mut all = Vec::new();
                while let Some(piece) = intake.next().await {
                    all.extend_from_slice(&piece);
                }
                all
            }
        });
        for byte in 0..=255u8 {
            intake.push(&[byte]);
            tokio::task::yield_now().await;
        }
        intake.end();
        intake.push(b"too late");
        assert_eq!(reading.await.unwrap(), (0..=255u8).collect::<Vec<_>>());
        assert_eq!((intake.len(), intake.all.load(Relaxed)), (0, 0));
        assert_eq!(intake.next().await, None);
    }

    #[tokio::test]
    async fn many_small_packets_take_few_pieces() {
        let intake = Intake::counted_in(Arc::default());
        for _ in 0..100_000 {
            intake.push(b"x");
        }
        assert_eq!(intake.len(), 100_000);
        assert!(intake.lock().pieces.len() <= 100_000 / PIECE + 1);
    }

    #[test]
    fn what_a_channel_leaves_behind_is_counted_no_more() {
        let all = Arc::new(AtomicUsize::new(0));
        let (one, other) = (Intake::counted_in(Arc::clone(&all)), Intake::counted_in(Arc::clone(&all)));
        one.push(&[0; 100]);
        other.push(&[0; 10]);
        assert_eq!(all.load(Relaxed), 110);
        drop(one);
        assert_eq!(all.load(Relaxed), 10);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told() {
        let intake = Arc::new(Intake::counted_in(Arc::default()));
        intake.push(&[0; 100]);
        intake.push(&[0; PIECE]);
        let waiting = tokio::spawn({
            let intake = Arc::clone(&intake);
            async move { intake.falls_below(100).await }
        });
        assert_eq!(intake.next().await.map(|piece| piece.len()), Some(100));
        assert_eq!(intake.next().await.map(|piece| piece.len()), Some(PIECE));
        waiting.await.unwrap();
    }

    proptest! {
        #[test]
        fn reads_of_any_size_return_the_same_bytes(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50),
            size in 1usize..300,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let intake = Arc::new(Intake::counted_in(Arc::default()));
                for packet in &packets {
                    intake.push(packet);
                }
                intake.end();
                let mut reader = IntakeReader(Arc::clone(&intake));
                let (mut all, mut buffer) = (Vec::new(), vec![0; size]);
                loop {
                    let count = reader.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    all.extend_from_slice(&buffer[..count]);
                }
                assert_eq!(all, packets.concat());
                assert_eq!(intake.len(), 0);
            });
        }
    }
}
