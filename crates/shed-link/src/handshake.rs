//! The handshake before the mux, on a real pipe: the lines of [`sync`](crate::sync), when they are sent and repeated.
//!
//! Called by both ends each time they start afresh. Neither function gives up by itself: a guest that boots takes
//! its time, so the caller bounds the wait. Dropping the future drops the pipe, which is how a try is given up.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, sleep_until},
};

use crate::{
    mux::MAX_FRAME,
    sync::{GuestLine, GuestScanner, HostLine, HostScanner, Nonce},
};

/// How long an end waits for an answer before it repeats its line. A guest that is up answers within a few
/// milliseconds; only one that has lost the line in the middle of an old frame does not.
const FIRST_REPEAT: Duration = Duration::from_millis(300);

/// Pause between later repetitions.
const REPEAT: Duration = Duration::from_secs(1);

/// Hellos of the guest that the host answers at once; further ones wait for the timer, so that a hostile guest
/// cannot keep the host writing.
const PROMPT_ANSWERS: u32 = 8;

/// Says why no fresh start was agreed on. The pipe is of no use afterwards; connect again.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other end closed the pipe.
    #[error("the pipe to the guest agent closed during the handshake")]
    Closed,
    /// Reading or writing failed.
    #[error("the pipe to the guest agent broke during the handshake")]
    Io(#[source] io::Error),
}

/// A pipe after the handshake: its first byte is the first of the mux.
#[derive(Debug)]
pub struct Synced<T> {
    read_ahead: Bytes,
    io: T,
}

impl<T> Synced<T> {
    /// Takes it apart: bytes that were read already, then the pipe.
    pub(crate) fn into_parts(self) -> (Bytes, T) {
        (self.read_ahead, self.io)
    }

    /// Wraps a pipe that needs no handshake, for tests and pipes that are fresh by nature.
    pub fn fresh(io: T) -> Self {
        Self { read_ahead: Bytes::new(), io }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Synced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.read_ahead.len().min(buf.remaining());
        buf.put_slice(&self.read_ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Synced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Agrees with the guest on a fresh start. Resolves as soon as the guest's agent answers, however long it boots.
///
/// # Errors
/// When the pipe closes or breaks. Connect again.
///
/// # Cancel safety
/// Dropping the future drops the pipe; nothing else is left behind.
pub async fn host_handshake<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> Result<Synced<T>, HandshakeError> {
    let nonce = Nonce::random();
    let line = HostLine::Host(nonce).to_line();
    let mut ends = Ends::new(io);
    let mut scanner = GuestScanner::default();
    let mut prompt_answers = PROMPT_ANSWERS;
    ends.outbox.queue(line.as_bytes());
    loop {
        let mut rest = ends.turn(&line).await?;
        while let Some((found, behind)) = scanner.scan(&rest) {
            rest = rest.slice_ref(behind);
            match found {
                // The guest reads lines only now, so the one sent before may have gone into its old mux.
                GuestLine::Hello { .. } if prompt_answers > 0 => {
                    prompt_answers -= 1;
                    ends.outbox.queue(line.as_bytes());
                }
                GuestLine::Ready(answered) if answered == nonce => {
                    let go = HostLine::Go(nonce).to_line();
                    return ends.finish(go.as_bytes(), rest).await;
                }
                GuestLine::Hello { .. } | GuestLine::Ready(_) => {}
            }
        }
    }
}

/// Agrees with the host on a fresh start; says hello first, which waits until a host is there if the pipe's `flush`
/// does. `generation` counts the starts, for logs.
///
/// # Errors
/// When the pipe closes (the host has gone again) or breaks. Start again.
pub async fn guest_handshake<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    generation: u32,
) -> Result<Synced<T>, HandshakeError> {
    let hello = GuestLine::Hello { generation }.to_line();
    let mut ends = Ends::new(io);
    let mut scanner = HostScanner::default();
    let mut answered = None;
    ends.outbox.queue(hello.as_bytes());
    loop {
        let mut rest = ends.turn(&hello).await?;
        while let Some((found, behind)) = scanner.scan(&rest) {
            rest = rest.slice_ref(behind);
            match found {
                // One answer for each nonce, however often the host repeats it.
                HostLine::Host(nonce) if answered != Some(nonce) => {
                    answered = Some(nonce);
                    ends.repeats = Repeats::Over;
                    ends.outbox.queue(GuestLine::Ready(nonce).to_line().as_bytes());
                }
                HostLine::Go(nonce) if answered == Some(nonce) => return ends.finish(b"", rest).await,
                HostLine::Host(_) | HostLine::Go(_) => {}
            }
        }
    }
}

/// When the own line is said again.
#[derive(Clone, Copy)]
enum Repeats {
    /// At this time, and so often that an old mux in the middle of a frame is thrown out of it.
    Flood(Instant),
    /// At this time, once.
    Once(Instant),
    /// Never: the other end has been heard.
    Over,
}

/// Both directions of the pipe and what is still to be written.
struct Ends<T> {
    reader: tokio::io::ReadHalf<T>,
    writer: tokio::io::WriteHalf<T>,
    outbox: Outbox,
    buffer: BytesMut,
    repeats: Repeats,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Ends<T> {
    fn new(io: T) -> Self {
        let (reader, writer) = tokio::io::split(io);
        let repeats = Repeats::Flood(Instant::now() + FIRST_REPEAT);
        Self { reader, writer, outbox: Outbox::default(), buffer: BytesMut::new(), repeats }
    }

    /// Writes what is queued and repeats `line` in time until something has been read, which it returns.
    async fn turn(&mut self, line: &str) -> Result<Bytes, HandshakeError> {
        loop {
            self.buffer.reserve(4096);
            let due = match self.repeats {
                Repeats::Flood(at) | Repeats::Once(at) => Some(at),
                Repeats::Over => None,
            };
            let idle = self.outbox.is_idle();
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.buffer) => match read {
                    Ok(0) => return Err(HandshakeError::Closed),
                    Ok(_) => return Ok(self.buffer.split().freeze()),
                    Err(source) => return Err(HandshakeError::Io(source)),
                },
                written = self.outbox.drive(&mut self.writer), if !idle => {
                    written.map_err(HandshakeError::Io)?;
                    // The wait for an answer begins when the other end can have heard the line.
                    let now = Instant::now();
                    self.repeats = match self.repeats {
                        Repeats::Flood(_) => Repeats::Flood(now + FIRST_REPEAT),
                        Repeats::Once(_) => Repeats::Once(now + REPEAT),
                        Repeats::Over => Repeats::Over,
                    };
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if idle && due.is_some() => {
                    let flood = matches!(self.repeats, Repeats::Flood(_));
                    let times = if flood { MAX_FRAME / line.len() + 2 } else { 1 };
                    self.outbox.queue(line.repeat(times).as_bytes());
                    self.repeats = Repeats::Once(Instant::now() + REPEAT);
                }
            }
        }
    }

    /// Writes the last line and puts the pipe together again. What is still queued is dropped, even in the middle of
    /// a line: scanners take the last tag of a line for its beginning.
    async fn finish(mut self, last: &[u8], read_ahead: Bytes) -> Result<Synced<T>, HandshakeError> {
        self.writer.write_all(last).await.map_err(HandshakeError::Io)?;
        Ok(Synced { read_ahead, io: self.reader.unsplit(self.writer) })
    }
}

/// Bytes to be written and flushed; writing them may be broken off and taken up again.
#[derive(Default)]
struct Outbox {
    data: BytesMut,
    unflushed: bool,
}

impl Outbox {
    fn queue(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.unflushed = true;
    }

    fn is_idle(&self) -> bool {
        self.data.is_empty() && !self.unflushed
    }

    async fn drive<W: AsyncWrite + Unpin>(&mut self, writer: &mut W) -> io::Result<()> {
        while !self.data.is_empty() {
            let written = writer.write(&self.data).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.data.advance(written);
        }
        writer.flush().await?;
        self.unflushed = false;
        Ok(())
    }
}
