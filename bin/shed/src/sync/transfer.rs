//! Sends what a scan has found: packed on a thread of its own, into a short queue that the connection empties.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use futures::stream;
use shed_api::FilesReport;
use shed_client::{Client, ClientError};
use shed_files::{Packed, Scan, TarWriter, pack};
use shed_types::{GuestPath, ShedName};
use tokio::sync::mpsc;

/// Bytes of the archive in one piece.
const PIECE: usize = 256 << 10;

/// Pieces that wait to be sent.
const QUEUE: usize = 4;

/// What was sent, and what the shed says of it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) report: FilesReport,
    /// What was left out at this end.
    pub(crate) warnings: Vec<String>,
}

/// Sends it; `progress` is told how many bytes of content have been sent.
pub(crate) async fn send(
    client: &Client,
    shed: &ShedName,
    directory: &GuestPath,
    scan: Scan,
    progress: impl Fn(u64) + Send + 'static,
) -> Result<Sent, ClientError> {
    let (queue, pieces) = mpsc::channel(QUEUE);
    let packed: Arc<Mutex<Option<Packed>>> = Arc::default();
    let result = Arc::clone(&packed);
    let packing = tokio::task::spawn_blocking(move || {
        let pipe = Pipe { queue: queue.clone(), piece: BytesMut::new() };
        let mut out = TarWriter::new(pipe);
        match pack(scan, &mut out, &mut |sent| progress(sent)).and_then(|packed| out.finish().map(|_| packed))
        {
            Ok(packed) => {
                if let Ok(mut place) = result.lock() {
                    *place = Some(packed);
                }
            }
            // Never a clean end: the archive is not whole. When nobody takes it any more, the reply says why.
            Err(error) => drop(queue.blocking_send(Err(error))),
        }
    });
    let body = stream::unfold(pieces, async |mut pieces| Some((pieces.recv().await?, pieces)));
    let report = client.put_files(shed, directory, body).await?;
    // The archive was taken to its end, so this is about to be over.
    let _panicked = packing.await;
    let packed = packed.lock().ok().and_then(|mut packed| packed.take()).unwrap_or_default();
    Ok(Sent { report, warnings: packed.warnings.into_texts() })
}

/// Where the packing thread writes to.
struct Pipe {
    queue: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
}

impl Pipe {
    fn pass_on(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        self.queue.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.pass_on() }
    }
}
