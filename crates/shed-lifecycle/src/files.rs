//! Puts files into a running shed, through the file service of its agent.
//!
//! The HTTP server calls it with the body of a request. The archive is passed on as it comes, piece by piece and no faster
//! than the guest takes it. What the guest says is bounded, and its words are cleaned before anybody prints them.

use std::time::Duration;

use futures::{SinkExt, Stream, StreamExt};
use shed_protocol::{FilesErrorKind, FilesReply, FilesRequest, Frame, FrameCodec, FrameError, FrameKind};
use shed_types::{GuestPath, GuestPort, ShedName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::Framed,
};

use crate::{ReachGuestError, Sheds, guest_command::quote};

/// Longest piece of an archive that is sent in one frame, in bytes: as long as a frame of the link below.
const PIECE: usize = 64 << 10;

/// How long a guest may take over one piece, and over its last word. A disk under software emulation that writes back what
/// it has cached may stand still for a long time.
pub(crate) const STALL: Duration = Duration::from_secs(120);

/// Most warnings that are taken from a guest.
const MAX_WARNINGS: usize = 200;

/// What was written in a shed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilesPut {
    /// Files.
    pub files: u64,
    /// Directories that the archive names.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Content of the files, in bytes.
    pub bytes: u64,
    /// What was left out, and why, in the guest's words.
    pub warnings: Vec<String>,
}

/// Why files were not put into a shed, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum PutFilesError {
    #[error(transparent)]
    Reach(#[from] ReachGuestError),
    #[error("the archive could not be read to its end")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the archive for shed `{shed}` is refused: {reason}")]
    BadArchive { shed: ShedName, reason: String },
    #[error("{target} in shed `{shed}` cannot be written to: {reason}")]
    BadPath { shed: ShedName, target: GuestPath, reason: String },
    #[error("the disk of shed `{shed}` is full: {reason}")]
    NoSpace { shed: ShedName, reason: String },
    #[error("the agent of shed `{shed}` could not take the files: {reason}")]
    Failed { shed: ShedName, reason: String },
    #[error("shed `{shed}` took no more of the files for {} s; the transfer was given up", .waited.as_secs())]
    Stalled { shed: ShedName, waited: Duration },
    #[error("the agent of shed `{shed}` hung up before it said what became of the files")]
    HungUp { shed: ShedName },
    #[error("the stream of files into shed `{shed}` broke")]
    Broken {
        shed: ShedName,
        #[source]
        source: FrameError,
    },
    #[error("the agent of shed `{shed}` did not say readably what became of the files: {said:?}")]
    Unreadable { shed: ShedName, said: String },
}

impl Sheds {
    /// Unpacks a tar archive in a directory of a running shed, which is made when it is missing.
    ///
    /// What is written belongs to user `shed`. The caller bounds how long `archive` may take between two pieces.
    ///
    /// # Errors
    /// When the shed does not run, its agent does not answer, or the archive cannot be unpacked; what was unpacked before
    /// stays.
    ///
    /// # Cancel safety
    /// Dropping the future gives the transfer up; no file is left half-written.
    pub async fn put_files<E>(
        &self,
        shed: &ShedName,
        target: &GuestPath,
        archive: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<FilesPut, PutFilesError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.connect_guest(shed, GuestPort::Files).await?;
        put(stream, archive, &Whose { shed, target }, STALL).await
    }
}

/// Whose transfer it is, for errors.
pub(crate) struct Whose<'a> {
    pub(crate) shed: &'a ShedName,
    pub(crate) target: &'a GuestPath,
}

impl Whose<'_> {
    fn name(&self) -> ShedName {
        self.shed.clone()
    }

    fn broken(&self, source: FrameError) -> PutFilesError {
        PutFilesError::Broken { shed: self.name(), source }
    }
}

/// Unpacks an archive in a directory of the guest at the other end of the stream.
pub(crate) async fn put<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    archive: impl Stream<Item = Result<Bytes, E>>,
    whose: &Whose<'_>,
    stall: Duration,
) -> Result<FilesPut, PutFilesError> {
    let (mut sink, mut replies) = Framed::new(stream, FrameCodec).split();
    let stalled = |_| PutFilesError::Stalled { shed: whose.name(), waited: stall };
    let sending = async {
        let mut archive = std::pin::pin!(archive);
        let request = FilesRequest::Put { target: whose.target.clone() };
        let mut send = async |frame| timeout(stall, sink.send(frame)).await.map_err(stalled);
        // A guest that has gone may have said why, so a send that fails waits for the other half's judgement.
        if send(Frame::json(FrameKind::FilesRequest, &request)).await?.is_err() {
            return Ok::<(), PutFilesError>(());
        }
        // Clients send in small pieces, and each frame costs the guest some work.
        let mut waiting = BytesMut::new();
        while let Some(piece) = archive.next().await {
            waiting.extend_from_slice(&piece.map_err(|error| PutFilesError::Body(error.into()))?);
            while waiting.len() >= PIECE {
                if send(Frame::new(FrameKind::Data, waiting.split_to(PIECE).freeze())).await?.is_err() {
                    return Ok(());
                }
            }
        }
        if !waiting.is_empty() && send(Frame::new(FrameKind::Data, waiting.freeze())).await?.is_err() {
            return Ok(());
        }
        let _gone = send(Frame::empty(FrameKind::StdinEof)).await?;
        Ok(())
    };
    let reply = async {
        while let Some(frame) = replies.next().await {
            let frame = frame.map_err(|source| whose.broken(source))?;
            if frame.kind == FrameKind::FilesReply {
                return frame.parse::<FilesReply>().map_err(|_| PutFilesError::Unreadable {
                    shed: whose.name(),
                    said: quote(&frame.payload),
                });
            }
        }
        Err(PutFilesError::HungUp { shed: whose.name() })
    };
    let (mut sending, mut reply) = (std::pin::pin!(sending), std::pin::pin!(reply));
    let reply = tokio::select! {
        // A guest that has failed says so early, and takes no more.
        biased;
        reply = &mut reply => reply?,
        sent = &mut sending => {
            sent?;
            timeout(stall, reply).await.map_err(stalled)??
        }
    };
    judge(reply, whose)
}

fn judge(reply: FilesReply, whose: &Whose<'_>) -> Result<FilesPut, PutFilesError> {
    let shed = whose.name();
    let FilesReply { files, directories, links, bytes, warnings, error } = reply;
    let Some(error) = error else {
        let warnings = warnings.iter().take(MAX_WARNINGS).map(|text| quote(text.as_bytes())).collect();
        return Ok(FilesPut { files, directories, links, bytes, warnings });
    };
    let reason = match quote(error.message.as_bytes()) {
        text if text.trim().is_empty() => "the guest does not say why".to_owned(),
        text => text,
    };
    Err(match error.kind {
        FilesErrorKind::BadArchive => PutFilesError::BadArchive { shed, reason },
        FilesErrorKind::BadPath => PutFilesError::BadPath { shed, target: whose.target.clone(), reason },
        FilesErrorKind::NoSpace => PutFilesError::NoSpace { shed, reason },
        FilesErrorKind::Failed => PutFilesError::Failed { shed, reason },
    })
}

#[cfg(test)]
mod tests;
