//! The pipe as yamux sees it: small writes joined into large ones, reads taken in large pieces, and never a deadlock.
//!
//! yamux writes a frame's header and body apart and reads them apart; each would be a system call. It also stops
//! reading while it holds an answer to a ping that it cannot write (its issue 227). If both ends do so at once, with
//! both directions of the pipe full, neither moves again. [`Gate`] lets the driver see that moment, and lets the
//! blocked frame and the answer pass into memory, so that reading goes on.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{handshake::Synced, mux::MAX_FRAME};

/// Bytes read ahead at most.
const READ_AHEAD: usize = 64 * 1024;

/// Bytes that wait for the pipe at most, except for those that [`Gate::grant`] lets through.
const WRITE_BEHIND: usize = 128 * 1024;

/// Writes from this size on go out without being copied first.
const DIRECT: usize = 4 * 1024;

/// What driver and pipe tell each other. Both run in one task, so no ordering is needed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    read_polled: AtomicBool,
    write_blocked: AtomicBool,
    grant: AtomicUsize,
    dead: AtomicBool,
}

impl Gate {
    /// Call before yamux is polled.
    pub(crate) fn begin(&self) {
        self.read_polled.store(false, Ordering::Relaxed);
        self.write_blocked.store(false, Ordering::Relaxed);
    }

    /// Whether yamux has stopped reading because it cannot write. Call after it returned pending.
    pub(crate) fn is_shut(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed) && !self.read_polled.load(Ordering::Relaxed)
    }

    /// Lets one frame and one answer pass into memory although the pipe is full.
    pub(crate) fn grant(&self) {
        self.grant.store(MAX_FRAME + 1024, Ordering::Relaxed);
    }

    /// Whether the pipe has ended or broken.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn set_dead(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    io: T,
    ahead: BytesMut,
    behind: BytesMut,
    gate: Arc<Gate>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Pipe<T> {
    pub(crate) fn new(synced: Synced<T>, gate: Arc<Gate>) -> Self {
        let (read_ahead, io) = synced.into_parts();
        Self { io, ahead: BytesMut::from(&read_ahead[..]), behind: BytesMut::new(), gate }
    }

    /// Writes out what waits. Pending when the pipe takes no more.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.behind.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.behind))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.behind.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_inner(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.len() >= DIRECT && self.behind.len() < DIRECT {
            let slices = [io::IoSlice::new(&self.behind), io::IoSlice::new(data)];
            if let Poll::Ready(written) = Pin::new(&mut self.io).poll_write_vectored(cx, &slices) {
                let written = written?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                let joined = written.min(self.behind.len());
                self.behind.advance(joined);
                if written > joined {
                    return Poll::Ready(Ok(written - joined));
                }
            }
        } else if self.behind.len() + data.len() > WRITE_BEHIND
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        let mut room = WRITE_BEHIND.saturating_sub(self.behind.len());
        if room == 0 {
            room = self.gate.grant.load(Ordering::Relaxed);
            self.gate.grant.store(room.saturating_sub(data.len()), Ordering::Relaxed);
        }
        if room == 0 {
            // The drain above has registered the waker.
            self.gate.write_blocked.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        let taken = room.min(data.len());
        self.behind.extend_from_slice(&data[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_read_inner(&mut self, cx: &mut Context<'_>, data: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.ahead.is_empty() && data.len() >= READ_AHEAD / 2 {
            let mut buffer = ReadBuf::new(data);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            return Poll::Ready(Ok(buffer.filled().len()));
        }
        if self.ahead.is_empty() {
            self.ahead.resize(READ_AHEAD, 0);
            let mut buffer = ReadBuf::new(&mut self.ahead);
            let result = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
            let length = if matches!(result, Poll::Ready(Ok(()))) { buffer.filled().len() } else { 0 };
            self.ahead.truncate(length);
            ready!(result)?;
        }
        let length = data.len().min(self.ahead.len());
        data[..length].copy_from_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(length))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> futures::AsyncRead for Pipe<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &mut [u8]) -> Poll<io::Result<usize>> {
        self.gate.read_polled.store(true, Ordering::Relaxed);
        self.gate.grant.store(0, Ordering::Relaxed);
        let result = ready!(self.poll_read_inner(cx, data));
        if matches!(result, Ok(0) | Err(_)) {
            self.gate.set_dead();
        }
        Poll::Ready(result)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> futures::AsyncWrite for Pipe<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(self.poll_write_inner(cx, data));
        if result.is_err() {
            self.gate.set_dead();
        }
        Poll::Ready(result)
    }

    /// Hands everything to the pipe. The pipe itself is not flushed: it must send by itself what it takes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.poll_drain(cx));
        if result.is_err() {
            self.gate.set_dead();
        }
        Poll::Ready(result)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{
        AsyncRead as _, AsyncWrite as _,
        task::{Context, noop_waker},
    };
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    /// Writes frames until one has to wait; returns how many bytes were taken.
    fn fill<T: AsyncRead + AsyncWrite + Unpin>(pipe: &mut Pipe<T>) -> usize {
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut taken = 0;
        while let Poll::Ready(written) = Pin::new(&mut *pipe).poll_write(&mut cx, &[7; 16 * 1024]) {
            taken += written.unwrap();
        }
        taken
    }

    fn noop_waker_ref() -> &'static std::task::Waker {
        static WAKER: std::sync::LazyLock<std::task::Waker> = std::sync::LazyLock::new(noop_waker);
        &WAKER
    }

    #[tokio::test]
    async fn a_full_pipe_lets_one_frame_and_its_answer_pass_when_reading_has_stopped() {
        let (ours, mut theirs) = duplex(1000);
        let gate = Arc::new(Gate::default());
        let mut pipe = Pipe::new(Synced::fresh(ours), Arc::clone(&gate));
        gate.begin();
        let first = fill(&mut pipe);
        assert!((WRITE_BEHIND..=WRITE_BEHIND + 1000 + 16 * 1024).contains(&first), "{first}");
        assert!(gate.is_shut());
        gate.grant();
        let second = fill(&mut pipe);
        assert!((MAX_FRAME..MAX_FRAME + 32 * 1024).contains(&second), "{second}");
        // Reading again ends the exception.
        gate.begin();
        gate.grant();
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(Pin::new(&mut pipe).poll_read(&mut cx, &mut [0; 12]).is_pending());
        assert_eq!(fill(&mut pipe), 0);
        assert!(!gate.is_shut(), "reading goes on");
        // Nothing of it is lost.
        let mut received = vec![0; first + second];
        let draining = std::future::poll_fn(|cx| Pin::new(&mut pipe).poll_flush(cx));
        let (drained, read) = tokio::join!(draining, theirs.read_exact(&mut received));
        drained.unwrap();
        read.unwrap();
        assert!(received.iter().all(|&byte| byte == 7));
    }

    #[tokio::test]
    async fn the_end_of_the_pipe_is_noted() {
        let (ours, theirs) = duplex(1000);
        let gate = Arc::new(Gate::default());
        let mut pipe = Pipe::new(Synced::fresh(ours), Arc::clone(&gate));
        drop(theirs);
        assert!(!gate.is_dead());
        let length =
            std::future::poll_fn(|cx| Pin::new(&mut pipe).poll_read(cx, &mut [0; 12])).await.unwrap();
        assert_eq!(length, 0);
        assert!(gate.is_dead());
    }
}
