//! Commands in the guest, over a stream to the agent's exec service (spec B.3).

use std::{io, time::Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_link::MuxStream;
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind};
use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::Finished;

/// How much of stdin goes into one frame, in bytes.
const PIECE: usize = 256 << 10;

/// The two directions of an exec stream.
pub(super) type Frames =
    (FramedRead<ReadHalf<MuxStream>, FrameCodec>, FramedWrite<WriteHalf<MuxStream>, FrameCodec>);

/// Asks for a command.
pub(super) async fn begin(stream: MuxStream, user: &str, command: &[&str]) -> io::Result<Frames> {
    let (reader, writer) = tokio::io::split(stream);
    let (reader, mut writer) = (FramedRead::new(reader, FrameCodec), FramedWrite::new(writer, FrameCodec));
    let cmd = command.iter().map(ToString::to_string).collect();
    let request = ExecRequest { cmd, user: user.into(), working_dir: "/".into(), ..ExecRequest::default() };
    writer.send(Frame::json(FrameKind::ExecRequest, &request)).await.map_err(io::Error::other)?;
    Ok((reader, writer))
}

/// Runs a command to its end. Its stdin is fed, and ended, while its output is read.
pub(crate) async fn run(
    stream: MuxStream,
    user: &str,
    command: &[&str],
    input: Vec<u8>,
) -> io::Result<Finished> {
    let began = Instant::now();
    let (mut reader, mut writer) = begin(stream, user, command).await?;
    let feed = async {
        let mut left = Bytes::from(input);
        while !left.is_empty() {
            let piece = left.split_to(PIECE.min(left.len()));
            writer.send(Frame::new(FrameKind::Data, piece)).await?;
        }
        writer.send(Frame::empty(FrameKind::StdinEof)).await
    };
    let read = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(frame) = reader.next().await {
            let frame = frame.map_err(io::Error::other)?;
            match frame.kind {
                FrameKind::Data => stdout.extend_from_slice(&frame.payload),
                FrameKind::Stderr => stderr.extend_from_slice(&frame.payload),
                FrameKind::ExitStatus => {
                    let status: ExitStatus = frame.parse().map_err(io::Error::other)?;
                    if let Some(error) = status.error {
                        stderr.extend_from_slice(error.as_bytes());
                    }
                    return Ok(Finished { code: status.code, stdout, stderr, took: began.elapsed() });
                }
                other => return Err(io::Error::other(format!("the agent sent {other:?}"))),
            }
        }
        let said = String::from_utf8_lossy(&stderr).into_owned();
        Err(io::Error::other(format!("the stream ended before the command: {said}")))
    };
    // A command may end without having read all.
    let (_fed, finished) = tokio::join!(feed, read);
    finished
}
