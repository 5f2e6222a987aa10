//! The socket as russh sees it: one that pauses, never blocks in a write, and notices a server that is gone.
//!
//! russh serves a connection in one task, which reads, calls the handler, writes, and does each to its end before the
//! next. Three things follow, and are put right below it:
//!
//! - It gives the server room again as soon as data has come, read or not. So while the queue of output is full
//!   nothing is read from the socket: TCP then stops the server, and a command whose output nobody takes can still be
//!   sent Ctrl-C.
//! - It reads nothing while it writes. Two ends that do so, each with more to send than the sockets hold, wait for each
//!   other for ever. So writes go to memory when the socket takes no more; the server's window bounds how much.
//! - It counts signs of life whether or not anything is read. So they are counted here.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::intake;

/// How many requests for a sign of life may stay without an answer; that of the server's keepalives.
pub(super) const MISSED: u32 = 3;

/// From this many bytes on a write waits for the socket after all. It is well above the window of a server and the
/// requests beside the data, so nobody who keeps to the protocol comes here.
const BACKLOG: usize = 8 << 20;

/// A byte stream with a memory for writes, a pause and a watch.
#[derive(Debug)]
pub(super) struct Paced<S> {
    inner: S,
    /// Written by russh, not yet taken by the socket.
    backlog: BytesMut,
    intake: intake::Sender,
    watch: Watch,
}

#[derive(Debug)]
struct Watch {
    interval: Duration,
    next: Pin<Box<Sleep>>,
    /// Something has been read since the last look.
    heard: bool,
    /// Looks in a row that found nothing.
    silent: u32,
}

impl<S> Paced<S> {
    /// Wraps a stream whose data ends up in `intake`. The watch looks every `interval`.
    pub(super) fn new(inner: S, intake: intake::Sender, interval: Duration) -> Self {
        let watch = Watch { interval, next: Box::pin(sleep(interval)), heard: false, silent: 0 };
        Self { inner, backlog: BytesMut::new(), intake, watch }
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    /// Gives the socket what it takes. Ready when there is no backlog.
    fn poll_backlog(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.backlog.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(context, &self.backlog))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.backlog.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Watch {
    /// Is ready when the server has been silent for too long. Looks, rather than time, are counted: a process that was
    /// stopped, or a machine that slept, looks once and then asks again.
    fn poll(&mut self, context: &mut Context<'_>, paused: bool) -> Poll<()> {
        while self.next.as_mut().poll(context).is_ready() {
            self.next.as_mut().reset(Instant::now() + self.interval);
            self.silent = if std::mem::take(&mut self.heard) || paused { 0 } else { self.silent + 1 };
            // The first silent look is when the first sign of life is asked for.
            if self.silent > MISSED {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // russh polls this whenever it does nothing else. An error shows in the next write.
        let _later = this.poll_backlog(context);
        let paused = this.intake.poll_room(context).is_pending();
        if !paused {
            let before = buffer.filled().len();
            if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(context, buffer) {
                this.watch.heard |= buffer.filled().len() > before;
                return Poll::Ready(result);
            }
        }
        ready!(this.watch.poll(context, paused));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer any more")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let drained = this.poll_backlog(context);
        if let Poll::Ready(result) = drained {
            result?;
            // The usual case: nothing is copied.
            if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_write(context, bytes) {
                return Poll::Ready(result);
            }
        }
        if this.backlog.len() >= BACKLOG {
            return Poll::Pending;
        }
        this.backlog.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// The backlog is not waited for: it goes on with the next read.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_backlog(context) {
            Poll::Ready(result) => {
                result?;
                Pin::new(&mut this.inner).poll_flush(context)
            }
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_backlog(context))?;
        Pin::new(&mut this.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::{
        super::intake::{Marks, Receiver, intake},
        *,
    };

    const NEVER: Duration = Duration::from_secs(3600);

    fn paced(
        buffer: usize,
        interval: Duration,
    ) -> (Paced<DuplexStream>, DuplexStream, intake::Sender, Receiver) {
        let (near, far) = duplex(buffer);
        let (sender, receiver) = intake(Marks { high: 1, low: 0 });
        (Paced::new(near, sender.clone(), interval), far, sender, receiver)
    }

    #[tokio::test]
    async fn nothing_is_read_while_the_queue_is_full() {
        let (mut stream, mut far, sender, mut receiver) = paced(64, NEVER);
        far.write_all(b"ab").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        sender.push(Bytes::from_static(b"full"));
        let reading = tokio::spawn(async move { stream.read_u8().await });
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        receiver.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), b'b');
    }

    #[tokio::test]
    async fn a_write_waits_for_nobody_and_arrives_while_something_is_read() {
        let (mut stream, mut far, _sender, _receiver) = paced(16, NEVER);
        let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        for piece in sent.chunks(30_000) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        // What reads in the meantime keeps the writes going, as russh does.
        let _reading = tokio::spawn(async move { stream.read_u8().await });
        let mut seen = vec![0; sent.len()];
        far.read_exact(&mut seen).await.unwrap();
        assert!(seen == sent);
    }

    #[tokio::test]
    async fn the_end_waits_until_all_is_written() {
        let (mut stream, mut far, _sender, _receiver) = paced(16, NEVER);
        stream.write_all(&[7; 1000]).await.unwrap();
        let ending = tokio::spawn(async move { stream.shutdown().await });
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, [7; 1000]);
        ending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_silent_for_too_long_is_an_error() {
        let (mut stream, _far, _sender, _receiver) = paced(64, Duration::from_millis(1));
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn silence_while_nothing_is_read_means_nothing() {
        let (mut stream, mut far, sender, mut receiver) = paced(64, Duration::from_millis(1));
        sender.push(Bytes::from_static(b"full"));
        let mut reading = tokio::spawn(async move { stream.read_u8().await });
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut reading).await;
        assert!(waited.is_err(), "{waited:?}");
        far.write_all(b"a").await.unwrap();
        receiver.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), b'a');
    }
}
