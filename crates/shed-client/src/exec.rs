//! A stream to the exec service of a shed's agent, after the upgrade of the HTTP connection.

use std::io::Cursor;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_protocol::{Frame, FrameCodec, FrameError};
use tokio::{
    io::{AsyncReadExt, Chain},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::codec::{FramedRead, FramedWrite};

/// The frames from the guest: a `Stream` of frames. It begins with the bytes that came with the reply's headers.
pub type FrameReader = FramedRead<Chain<Cursor<Bytes>, OwnedReadHalf>, FrameCodec>;

/// The frames to the guest: a `Sink` of frames. Dropping it closes this direction, which the guest takes for a
/// host that is gone; keep it until the exit status has come.
pub type FrameWriter = FramedWrite<OwnedWriteHalf, FrameCodec>;

/// Output is read in pieces of up to this many bytes; the same as the server's buffers.
const READ_BUFFER: usize = 64 << 10;

/// Frames to and from the agent's exec service. Dropping it hangs up, which ends the command.
#[derive(Debug)]
pub struct ExecStream {
    reader: FrameReader,
    writer: FrameWriter,
}

impl ExecStream {
    /// Wraps an upgraded connection and the bytes that came with its headers.
    pub(crate) fn new(stream: TcpStream, early: Bytes) -> Self {
        let (reader, writer) = stream.into_split();
        let reader = FramedRead::with_capacity(Cursor::new(early).chain(reader), FrameCodec, READ_BUFFER);
        Self { reader, writer: FramedWrite::new(writer, FrameCodec) }
    }

    /// Sends a frame and waits until the system has taken it.
    ///
    /// # Errors
    /// When the connection is gone, or the frame is longer than the protocol allows.
    pub async fn send(&mut self, frame: Frame) -> Result<(), FrameError> {
        self.writer.send(frame).await
    }

    /// Waits for the next frame; none means that the other side has hung up.
    ///
    /// # Errors
    /// When the connection breaks or carries no frames.
    pub async fn next(&mut self) -> Option<Result<Frame, FrameError>> {
        self.reader.next().await
    }

    /// Returns the two directions, for two tasks.
    #[must_use]
    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }
}
