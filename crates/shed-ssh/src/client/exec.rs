//! The exec stream: frames on a channel.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use russh::{
    ChannelWriteHalf,
    client::{Handle, Msg},
};
use shed_protocol::{ExecRequest, Frame, FrameCodec, FrameError, FrameKind};
use tokio::sync::oneshot;
use tokio_util::codec::{Encoder, FramedRead};

use super::{error::ExecError, handler::Handler, intake};
use crate::{EXEC_SUBSYSTEM, Refusal};

/// Output is read in pieces of up to this many bytes.
const READ_BUFFER: usize = 64 << 10;

/// The frames from the server.
pub struct ExecReader {
    /// Read already, to find out whether there is a command.
    first: Option<Frame>,
    frames: FramedRead<intake::Receiver, FrameCodec>,
    _connection: Arc<Handle<Handler>>,
}

/// The frames to the server. The connection stands as long as this or the reader.
pub struct ExecWriter {
    channel: ChannelWriteHalf<Msg>,
    _connection: Arc<Handle<Handler>>,
}

/// Opens a channel, asks for the subsystem and for the command, and waits for the answer to the first.
pub(super) async fn open(
    handle: Handle<Handler>,
    intake: intake::Receiver,
    accepted: oneshot::Receiver<bool>,
    request: &ExecRequest,
) -> Result<(ExecReader, ExecWriter), ExecError> {
    let connection = Arc::new(handle);
    let frames = FramedRead::with_capacity(intake, FrameCodec, READ_BUFFER);
    let mut reader = ExecReader { first: None, frames, _connection: Arc::clone(&connection) };
    let channel = match connection.channel_open_session().await {
        Ok(channel) => channel,
        Err(russh::Error::ChannelOpenFailure(reason)) => {
            return Err(ExecError::NoSession { reason: format!("{reason:?}") });
        }
        Err(_) => return Err(reader.gone().await),
    };
    // The handler queues the data. A reader here would be one more queue, and stop the connection when it is full.
    let (unread, channel) = channel.split();
    drop(unread);
    if channel.request_subsystem(true, EXEC_SUBSYSTEM).await.is_err() {
        return Err(reader.gone().await);
    }
    let mut writer = ExecWriter { channel, _connection: connection };
    if let Err(error) = writer.send(Frame::json(FrameKind::ExecRequest, request)).await {
        return Err(match error {
            FrameError::Io(_) => reader.gone().await,
            FrameError::TooLong { .. } | FrameError::Payload { .. } => {
                ExecError::Gone { source: Some(error) }
            }
        });
    }
    tokio::select! {
        biased;
        answer = accepted => match answer {
            Ok(true) => Ok((reader, writer)),
            Ok(false) => match reader.next().await.and_then(Result::ok).as_ref().and_then(Refusal::from_frame) {
                Some(refusal) => Err(ExecError::Refused(refusal)),
                None => Err(ExecError::NoSubsystem),
            },
            // The connection has ended.
            Err(_) => Err(reader.gone().await),
        },
        // A server that has something to say first has found the shed, or says why it has not.
        frame = reader.next() => match frame {
            Some(Ok(frame)) => match Refusal::from_frame(&frame) {
                Some(refusal) => Err(ExecError::Refused(refusal)),
                None => {
                    reader.first = Some(frame);
                    Ok((reader, writer))
                }
            },
            Some(Err(error)) => Err(ExecError::Gone { source: Some(error) }),
            None => Err(ExecError::Gone { source: None }),
        },
    }
}

impl ExecReader {
    /// Returns how a connection that has ended did so.
    async fn gone(&mut self) -> ExecError {
        match self.next().await {
            Some(Err(error)) => ExecError::Gone { source: Some(error) },
            Some(Ok(_)) | None => ExecError::Gone { source: None },
        }
    }

    /// Waits for the next frame; none is the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks or carries no frames.
    ///
    /// # Cancel safety
    /// No frame is lost.
    pub async fn next(&mut self) -> Option<Result<Frame, FrameError>> {
        match self.first.take() {
            Some(frame) => Some(Ok(frame)),
            None => self.frames.next().await,
        }
    }
}

impl ExecWriter {
    /// Sends a frame, as far as the server's window lets it.
    ///
    /// # Errors
    /// When the connection is gone, or the frame is longer than the protocol allows.
    ///
    /// # Cancel safety
    /// None: a frame that is cut leaves a stream that nobody can read.
    pub async fn send(&mut self, frame: Frame) -> Result<(), FrameError> {
        let mut bytes = BytesMut::new();
        FrameCodec.encode(frame, &mut bytes)?;
        let bytes: Bytes = bytes.freeze();
        self.channel.data_bytes(bytes).await.map_err(|error| FrameError::Io(io::Error::other(error)))
    }
}

impl std::fmt::Debug for ExecReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecReader").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ExecWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecWriter").finish_non_exhaustive()
    }
}
