//! A TCP connection as a side of a relay.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// How long what a peer has said before it vanished is still passed on.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A TCP connection that is read, written and watched at once, which tokio's own halves do not allow.
#[derive(Debug, Clone, Copy)]
pub struct TcpSide<'a>(&'a TcpStream);

impl<'a> TcpSide<'a> {
    /// Wraps a connection.
    #[must_use]
    pub const fn new(stream: &'a TcpStream) -> Self {
        Self(stream)
    }

    /// Resolves some time after the peer has broken the connection off, which a relay does not see itself when it has
    /// heard the peer's end already, or waits for the other side to take what the peer has said.
    pub async fn gone(self) -> io::Error {
        match self.0.ready(Interest::ERROR).await {
            Ok(_) => {
                // A relay that still reads learns it by itself, behind the last of what the peer has sent.
                tokio::time::sleep(LAST_WORDS).await;
                io::ErrorKind::ConnectionReset.into()
            }
            Err(error) => error,
        }
    }

    /// Makes the close of the connection a reset, so that its peer cannot take what it got for all there is.
    pub fn break_off(self) {
        // What cannot be set is not connected any more.
        let _gone = rustix::net::sockopt::set_socket_linger(self.0, Some(Duration::ZERO));
    }
}

impl AsyncRead for TcpSide<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(length) => {
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for TcpSide<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// A socket sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(self.0, rustix::net::Shutdown::Write).map_err(io::Error::from))
    }
}
