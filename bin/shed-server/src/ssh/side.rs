//! A channel as one stream of bytes, for the relay that HTTP's upgraded connections use, too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{channels::Inlet, intake::IntakeReader, output::Output};

/// What the end of the guest's direction means for the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestEnd {
    /// Nothing: the client may have more to say.
    IsHalf,
    /// The end of both: nobody listens any more.
    IsAll,
}

/// The client's end of a channel. EOF of either side is the end of that direction.
pub(super) struct ChannelSide {
    reader: IntakeReader,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    guest_end: GuestEnd,
}

impl ChannelSide {
    /// Makes a stream of both halves of a channel.
    pub(super) fn new(inlet: &Inlet, output: &Output, guest_end: GuestEnd) -> Self {
        Self { reader: IntakeReader(inlet.intake.clone()), writer: output.writer(), guest_end }
    }
}

impl AsyncRead for ChannelSide {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ChannelSide {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writer.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.writer.as_mut().poll_shutdown(cx));
        match self.guest_end {
            GuestEnd::IsHalf => {}
            GuestEnd::IsAll => self.reader.0.end(),
        }
        Poll::Ready(result)
    }
}
