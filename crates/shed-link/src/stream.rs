//! One stream of the mux, as tokio code wants it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead as _, AsyncWrite as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, mpsc},
};

use crate::{mux::KeepAlive, pipe::Gate};

/// A byte stream to the other end. Shutting it down is a half-close; the other direction goes on.
///
/// The mux lives as long as one of its streams or handles. A stream whose pipe has broken, or that the other end has
/// thrown away, answers reads and writes with an error, never with a clean end.
#[derive(Debug)]
pub struct MuxStream {
    /// Taken by [`Drop`] alone.
    inner: Option<yamux::Stream>,
    gate: Arc<Gate>,
    keep: KeepAlive,
    permit: Option<OwnedSemaphorePermit>,
    shut: bool,
    ended: bool,
}

/// A stream whose user has half-closed it and dropped it before the other end was done: that end must not wait for
/// ever for room in the window, so the driver reads on for a while.
#[derive(Debug)]
pub(crate) struct Lingering {
    pub(crate) stream: yamux::Stream,
    /// Counts as an open stream until it is gone.
    _permit: Option<OwnedSemaphorePermit>,
}

pub(crate) type LingerSender = mpsc::UnboundedSender<Lingering>;

impl MuxStream {
    pub(crate) fn new(
        inner: yamux::Stream,
        gate: Arc<Gate>,
        keep: KeepAlive,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { inner: Some(inner), gate, keep, permit, shut: false, ended: false }
    }

    fn inner(&mut self) -> Pin<&mut yamux::Stream> {
        Pin::new(self.inner.as_mut().expect("only Drop takes the stream"))
    }

    /// Whether the end of the stream that yamux reports is none: it reports a broken pipe and a reset as an end, too.
    fn is_torn(&self) -> bool {
        let closed = self.inner.as_ref().is_some_and(yamux::Stream::is_closed);
        closed && (!self.shut || self.gate.is_dead())
    }
}

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream to the other end of the guest link was reset")
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let length = ready!(self.inner().poll_read(cx, buf.initialize_unfilled())).map_err(|_| torn())?;
        if length == 0 {
            if self.is_torn() {
                return Poll::Ready(Err(torn()));
            }
            self.ended = true;
        }
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.inner().poll_write(cx, data).map_err(|_| torn())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx).map_err(|_| torn())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.inner().poll_close(cx)).map_err(|_| torn())?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        // Without a half-close yamux tells the other end by a reset; with one it tells it nothing.
        if let Some(stream) = self.inner.take()
            && self.shut
            && !self.ended
            && !self.gate.is_dead()
        {
            self.keep.linger(Lingering { stream, _permit: self.permit.take() });
        }
    }
}
