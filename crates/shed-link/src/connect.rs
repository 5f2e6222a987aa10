//! The line that opens a stream, on a real stream: asked by the host, answered by the guest.

use std::{io, time::Duration};

use shed_protocol::{ConnectReply, ParseConnectError, connect, timeouts};
use shed_types::GuestPort;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Says why a stream to a service in the guest could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pipe is gone; connect it again.
    #[error("the link to the guest agent is gone")]
    Gone,
    /// So many streams are open that the limit is reached.
    #[error("{limit} streams to the guest are open already; wait until some have ended")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The agent answered that it will not.
    #[error("the guest agent refused port {port}: {reason}")]
    Refused {
        /// The port asked for.
        port: GuestPort,
        /// The agent's words.
        reason: String,
    },
    /// No answer in time.
    #[error("the guest agent did not answer on port {port} within {} s", waited.as_secs())]
    Timeout {
        /// The port asked for.
        port: GuestPort,
        /// How long was waited.
        waited: Duration,
    },
    /// The answer was none of the protocol's.
    #[error("the guest agent answered on port {port} in another protocol")]
    Protocol {
        /// The port asked for.
        port: GuestPort,
        /// What was wrong.
        #[source]
        source: ParseConnectError,
    },
    /// The stream broke before the answer.
    #[error("the stream to port {port} of the guest broke while it was opened")]
    Io {
        /// The port asked for.
        port: GuestPort,
        /// What the stream says.
        #[source]
        source: io::Error,
    },
}

/// Says why a stream that the host began did not become one to a service.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// No whole line in time.
    #[error("the host opened a stream and did not say which port")]
    Timeout,
    /// The line was no `CONNECT` to a known port. It has been refused.
    #[error("the host opened a stream with a bad line")]
    Protocol(#[source] ParseConnectError),
    /// The stream broke.
    #[error("a stream broke while the host opened it")]
    Io(#[source] io::Error),
}

/// Asks for `port` on a fresh stream and waits for the answer; returns the stream at the first byte behind it.
///
/// # Errors
/// When the agent refuses, does not answer within [`timeouts::CONNECT_LINE`], or the stream breaks.
pub async fn open_stream<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    port: GuestPort,
) -> Result<S, OpenError> {
    let broken = |source| OpenError::Io { port, source };
    let waited = timeouts::CONNECT_LINE;
    let line = timeout(waited, async {
        stream.write_all(connect::request_line(port).as_bytes()).await?;
        stream.flush().await?;
        read_line(&mut stream).await
    })
    .await
    .map_err(|_| OpenError::Timeout { port, waited })?
    .map_err(broken)?;
    match ConnectReply::parse(&line).map_err(|source| OpenError::Protocol { port, source })? {
        ConnectReply::Ok => Ok(stream),
        ConnectReply::Refused(reason) => Err(OpenError::Refused { port, reason }),
    }
}

/// A stream that the host has begun; its port is known, and the host waits for the answer.
#[derive(Debug)]
pub struct Incoming<S> {
    port: GuestPort,
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Incoming<S> {
    /// Reads the line that opens a stream. A bad line is refused here.
    ///
    /// # Errors
    /// When no good line comes within [`timeouts::CONNECT_LINE`].
    pub async fn read(mut stream: S) -> Result<Self, AcceptError> {
        let line = timeout(timeouts::CONNECT_LINE, read_line(&mut stream))
            .await
            .map_err(|_| AcceptError::Timeout)?
            .map_err(AcceptError::Io)?;
        match connect::parse_request(&line) {
            Ok(port) => Ok(Self { port, stream }),
            Err(error) => {
                say(&mut stream, &ConnectReply::Refused(error.to_string())).await.map_err(AcceptError::Io)?;
                stream.shutdown().await.map_err(AcceptError::Io)?;
                Err(AcceptError::Protocol(error))
            }
        }
    }

    /// Which service the host wants.
    pub const fn port(&self) -> GuestPort {
        self.port
    }

    /// Tells the host that the service is there and returns the stream.
    ///
    /// # Errors
    /// When the stream has broken.
    pub async fn accept(mut self) -> io::Result<S> {
        say(&mut self.stream, &ConnectReply::Ok).await?;
        Ok(self.stream)
    }

    /// Tells the host that it is not.
    ///
    /// # Errors
    /// When the stream has broken.
    pub async fn refuse(mut self, reason: &str) -> io::Result<()> {
        say(&mut self.stream, &ConnectReply::Refused(reason.to_owned())).await?;
        self.stream.shutdown().await
    }
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, reply: &ConnectReply) -> io::Result<()> {
    stream.write_all(reply.line().as_bytes()).await?;
    stream.flush().await
}

/// Reads a line of at most [`connect::MAX_LINE`] bytes and not one byte more; returns it without its line feed. What
/// comes behind it belongs to the stream.
///
/// # Errors
/// `InvalidData` when the line is longer; otherwise what the stream says, `UnexpectedEof` at its end among it.
pub async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(connect::MAX_LINE);
    while line.len() < connect::MAX_LINE {
        match stream.read_u8().await? {
            b'\n' => return Ok(line),
            byte => line.push(byte),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"))
}
