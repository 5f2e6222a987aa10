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
    let channel = handle.channel_open_session().await.map_err(|error| match error {
        russh::Error::ChannelOpenFailure(reason) => ExecError::NoSession { reason: format!("{reason:?}") },
        error => ExecError::Gone { source: Some(FrameError::Io(io::Error::other(error))) },
    })?;
    // The handler queues the data. A reader here would be one more queue, and stop the connection when it is full.
    let (unread, channel) = channel.split();
    drop(unread);
    let gone = |error| ExecError::Gone { source: Some(error) };
    channel
        .request_subsystem(true, EXEC_SUBSYSTEM)
        .await
        .map_err(|error| gone(FrameError::Io(io::Error::other(error))))?;
    let connection = Arc::new(handle);
    let frames = FramedRead::with_capacity(intake, FrameCodec, READ_BUFFER);
    let mut reader = ExecReader { first: None, frames, _connection: Arc::clone(&connection) };
    let mut writer = ExecWriter { channel, _connection: connection };
    writer.send(Frame::json(FrameKind::ExecRequest, request)).await.map_err(gone)?;
    let answer = tokio::select! {
        biased;
        answer = accepted => answer,
        // A server that has something to say first has found the shed, or says why it has not.
        frame = reader.next() => match frame {
            Some(Ok(frame)) => match Refusal::from_frame(&frame) {
                Some(refusal) => return Err(ExecError::Refused(refusal)),
                None => {
                    reader.first = Some(frame);
                    Ok(true)
                }
            },
            Some(Err(error)) => return Err(gone(error)),
            None => return Err(ExecError::Gone { source: None }),
        },
    };
    match answer {
        Ok(true) => Ok((reader, writer)),
        Ok(false) => match reader.next().await {
            Some(Ok(frame)) => match Refusal::from_frame(&frame) {
                Some(refusal) => Err(ExecError::Refused(refusal)),
                None => Err(ExecError::NoSubsystem),
            },
            Some(Err(_)) | None => Err(ExecError::NoSubsystem),
        },
        // The connection has ended, and the reader says how.
        Err(_) => match reader.next().await {
            Some(Err(error)) => Err(gone(error)),
            Some(Ok(_)) | None => Err(ExecError::Gone { source: None }),
        },
    }
}

impl ExecReader {
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
