//! What the server has sent and nobody has taken yet: a queue that counts its bytes.
//!
//! russh hands data to a handler in the one task that serves the whole connection. A handler that waits there stops
//! everything else on the connection, the keys on their way to the server included; one that does not wait needs a place
//! for what comes. This is the place: [`Sender::push`] never waits, and from [`Marks::high`] until the reader is back below
//! [`Marks::low`] the [`stream`](super::stream) reads no more from the server.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// What a piece takes beside its bytes: its place in the queue, and its allocation.
const PIECE: usize = 64;

/// When a queue is full, and when it is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// From this many bytes on the queue is full.
    pub(super) high: usize,
    /// At this many bytes or fewer it has room again; less than `high`, so that it does not change with every packet.
    pub(super) low: usize,
}

/// Makes an empty queue.
#[must_use]
pub(super) fn intake(marks: Marks) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        marks,
        state: Mutex::new(State {
            chunks: VecDeque::new(),
            bytes: 0,
            full: false,
            ended: false,
            failure: None,
            deserted: false,
            reader: None,
            waiting: Vec::new(),
        }),
    });
    (Sender(Arc::clone(&shared)), Receiver { shared, rest: Bytes::new() })
}

#[derive(Debug)]
struct Shared {
    marks: Marks,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Bytes>,
    /// The sum of their costs.
    bytes: usize,
    /// Above the high mark since it was last below the low one.
    full: bool,
    /// Nothing will be pushed any more.
    ended: bool,
    /// Why it ended, when that was no proper end.
    failure: Option<io::Error>,
    /// There is no receiver any more.
    deserted: bool,
    reader: Option<Waker>,
    waiting: Vec<Waker>,
}

/// The end that takes in what the peer sends. Clones are of the same queue; dropping them does not end it.
#[derive(Debug, Clone)]
pub(super) struct Sender(Arc<Shared>);

/// The end that is read. Dropping it empties the queue, and what is pushed later is dropped as well.
#[derive(Debug)]
pub(super) struct Receiver {
    shared: Arc<Shared>,
    /// What a read into a smaller buffer has left.
    rest: Bytes,
}

impl Sender {
    /// Appends a piece. One for a full queue is kept all the same: the server was allowed to send it.
    pub(super) fn push(&self, piece: Bytes) {
        let mut state = self.0.lock();
        if state.ended || state.deserted || piece.is_empty() {
            return;
        }
        state.bytes += cost(&piece);
        state.chunks.push_back(piece);
        state.full |= state.bytes >= self.0.marks.high;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Ends the queue: the reader gets what there is, and then the end. Later calls change nothing.
    pub(super) fn end(&self) {
        self.finish(None);
    }

    /// Ends the queue with an error, which the reader gets after what there is.
    pub(super) fn fail(&self, failure: io::Error) {
        self.finish(Some(failure));
    }

    fn finish(&self, failure: Option<io::Error>) {
        let mut state = self.0.lock();
        if state.ended {
            return;
        }
        state.ended = true;
        state.failure = failure;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Is ready when the queue has room. One without a reader always has. The waker is used once.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.full {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Receiver {
    /// Is ready with the next piece; none is the end, and an error, which comes once, says why it is one.
    pub(super) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        let mut state = self.shared.lock();
        let Some(piece) = state.chunks.pop_front() else {
            return match (state.failure.take(), state.ended) {
                (Some(failure), _) => Poll::Ready(Err(failure)),
                (None, true) => Poll::Ready(Ok(None)),
                (None, false) => {
                    state.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        };
        state.bytes -= cost(&piece);
        let mut waiting = Vec::new();
        if state.full && state.bytes <= self.shared.marks.low {
            state.full = false;
            waiting = std::mem::take(&mut state.waiting);
        }
        drop(state);
        wake(waiting);
        Poll::Ready(Ok(Some(piece)))
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(failure)) => Poll::Ready(Err(failure)),
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(Some(mut piece))) => {
                let fits = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece.split_to(fits));
                self.rest = piece;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.deserted = true;
        state.full = false;
        state.bytes = 0;
        let pieces = std::mem::take(&mut state.chunks);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(pieces);
        wake(waiting);
    }
}

impl Shared {
    /// No code panics while it holds the lock, and the state is whole at any moment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what a piece takes in memory, in about: a program may write a byte at a time.
fn cost(piece: &Bytes) -> usize {
    piece.len() + PIECE
}

/// Wakes outside the lock.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// Two pieces of four bytes, and one.
    const MARKS: Marks = Marks { high: 2 * (4 + PIECE), low: 4 + PIECE };

    async fn recv(receiver: &mut Receiver) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|context| receiver.poll_recv(context)).await
    }

    fn has_room(sender: &Sender) -> bool {
        sender.poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn push(sender: &Sender, text: &'static str) {
        sender.push(Bytes::from_static(text.as_bytes()));
    }

    #[tokio::test]
    async fn it_is_full_from_the_high_mark_until_the_low_one() {
        let (sender, mut receiver) = intake(MARKS);
        push(&sender, "aaaa");
        assert!(has_room(&sender));
        push(&sender, "bbbb");
        assert!(!has_room(&sender));
        push(&sender, "cccc");
        recv(&mut receiver).await.unwrap();
        assert!(!has_room(&sender), "not yet below the low mark");
        recv(&mut receiver).await.unwrap();
        assert!(has_room(&sender));
        assert_eq!(recv(&mut receiver).await.unwrap().unwrap(), "cccc", "kept although it was full");
    }

    #[tokio::test]
    async fn a_reader_that_makes_room_wakes_whoever_waits_for_it() {
        let (sender, mut receiver) = intake(Marks { high: 1, low: 0 });
        push(&sender, "a");
        let waiting = tokio::spawn(std::future::poll_fn(move |context| sender.poll_room(context)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        recv(&mut receiver).await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_leaves_room_and_nothing_behind() {
        let (sender, receiver) = intake(Marks { high: 1, low: 0 });
        push(&sender, "a");
        drop(receiver);
        push(&sender, "b");
        assert!(has_room(&sender));
        assert_eq!(sender.0.lock().chunks.len(), 0);
    }

    #[tokio::test]
    async fn what_was_pushed_before_the_end_is_read_before_it() {
        let (sender, mut receiver) = intake(MARKS);
        push(&sender, "ab");
        push(&sender, "cd");
        sender.end();
        push(&sender, "too late");
        let mut first = [0; 1];
        receiver.read_exact(&mut first).await.unwrap();
        assert_eq!(recv(&mut receiver).await.unwrap().unwrap(), "b", "what the read has left");
        let mut rest = String::new();
        receiver.read_to_string(&mut rest).await.unwrap();
        assert_eq!((first, rest.as_str()), (*b"a", "cd"));
    }

    #[tokio::test]
    async fn a_failure_comes_after_the_data_and_once() {
        let (sender, mut receiver) = intake(MARKS);
        push(&sender, "ab");
        sender.fail(io::Error::other("gone"));
        sender.end();
        assert_eq!(recv(&mut receiver).await.unwrap().unwrap(), "ab");
        assert_eq!(recv(&mut receiver).await.unwrap_err().to_string(), "gone");
        assert_eq!(recv(&mut receiver).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_by_data_and_by_the_end() {
        let (sender, mut receiver) = intake(MARKS);
        let reading = tokio::spawn(async move { (recv(&mut receiver).await, recv(&mut receiver).await) });
        tokio::task::yield_now().await;
        push(&sender, "x");
        tokio::task::yield_now().await;
        sender.end();
        let (first, second) = reading.await.unwrap();
        assert_eq!((first.unwrap().unwrap(), second.unwrap()), (Bytes::from_static(b"x"), None));
    }
}
