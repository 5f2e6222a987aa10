//! The way of a blob's bytes from the network into the store: a queue to a thread that hashes and writes.
//!
//! So the next bytes come while the last are written, and the queue's bound slows the network down to the disk. Dropping
//! a sink leaves what has come to whoever continues it.

use std::sync::Arc;

use bytes::Bytes;
use shed_image::{BeginBlob, BlobError, BlobId, BlobStore, BlobUse};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
};

use crate::blocking::finished;

/// How many pieces wait for the disk; one has at most some hundred KiB.
const QUEUE: usize = 16;

enum Piece {
    Bytes(Bytes),
    Restart,
    Commit,
}

/// A blob on its way into the store.
#[derive(Debug)]
pub(crate) struct Sink {
    pieces: mpsc::Sender<Piece>,
    task: JoinHandle<Result<(), BlobError>>,
    received: u64,
}

impl Sink {
    /// Begins or continues a blob; `None` when it is there. Waits while another process writes the same one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) async fn begin(
        blobs: &BlobStore,
        hold: &Arc<BlobUse>,
        id: BlobId,
    ) -> Result<Option<Self>, BlobError> {
        let (pieces, queue) = mpsc::channel(QUEUE);
        let (ready, is_ready) = oneshot::channel();
        let (blobs, hold) = (blobs.clone(), Arc::clone(hold));
        let mut task = spawn_blocking(move || {
            // To the end of the writing, which may be after that of the pull.
            let _hold = hold;
            write(&blobs, &id, ready, queue)
        });
        match is_ready.await {
            Ok(received) => Ok(Some(Self { pieces, task, received })),
            Err(_) => finished(&mut task).await.map(|()| None),
        }
    }

    /// Returns how many bytes are there, those on the way to the disk included.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// Adds the next bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let length = bytes.len() as u64;
        self.send(Piece::Bytes(bytes)).await?;
        self.received += length;
        Ok(())
    }

    /// Throws away what is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn restart(&mut self) -> Result<(), BlobError> {
        self.send(Piece::Restart).await?;
        self.received = 0;
        Ok(())
    }

    /// Checks the blob and puts it into the store.
    ///
    /// # Errors
    /// When it is too short or has other content, or the disk refuses.
    pub(crate) async fn commit(mut self) -> Result<(), BlobError> {
        self.send(Piece::Commit).await?;
        finished(&mut self.task).await
    }

    async fn send(&mut self, piece: Piece) -> Result<(), BlobError> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        match finished(&mut self.task).await {
            Err(error) => Err(error),
            // It ends well only after a commit, and nothing is sent after that.
            Ok(()) => unreachable!("the writer of a blob ended before its blob"),
        }
    }
}

fn write(
    blobs: &BlobStore,
    id: &BlobId,
    ready: oneshot::Sender<u64>,
    mut queue: mpsc::Receiver<Piece>,
) -> Result<(), BlobError> {
    let mut writer = match blobs.begin(id)? {
        BeginBlob::Present => return Ok(()),
        BeginBlob::Write(writer) => writer,
    };
    if ready.send(writer.written()).is_err() {
        return Ok(());
    }
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => writer.write(&bytes)?,
            Piece::Restart => writer.restart()?,
            Piece::Commit => return writer.commit(),
        }
    }
    Ok(())
}
