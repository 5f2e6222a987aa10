//! Sends files of the guest to the host: plain files beneath one directory, and nothing else.
//!
//! Links are not followed and not sent, so that a name means the same file at both ends. It reads as root: whoever has put
//! a file there could become root as well, and the host trusts none of it. The archive is made on a thread and goes out
//! piece by piece, as fast as the host takes it.

use std::{
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::SinkExt;
use shed_files::{Beneath, EntryPath, Excludes, Pieces, ReachError, TarWriter, Warnings, pack_file, shown};
use shed_protocol::{FilesErrorKind, FilesReply, Frame, FrameCodec, FrameKind};
use shed_types::error_chain;
use tokio::{io::AsyncWrite, sync::mpsc};
use tokio_util::codec::FramedWrite;

use super::{Place, cut, finish};

/// Pieces on their way to the host.
const QUEUE: usize = 4;

/// Most files that one request is answered with.
const MAX_FILES: usize = 100_000;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) source: Place,
    pub(super) excludes: Vec<String>,
    pub(super) only: Vec<String>,
    /// 0 means no limit, here and below.
    pub(super) max_file: u64,
    pub(super) max_total: u64,
}

/// Sends what is asked for, and how that went. A host that goes away ends it.
pub(super) async fn get(writer: impl AsyncWrite + Unpin, wanted: Wanted) {
    let (pieces, mut queue) = mpsc::channel(QUEUE);
    let packing = tokio::task::spawn_blocking(move || {
        let take = |piece: &[u8]| pieces.blocking_send(Bytes::copy_from_slice(piece)).is_ok();
        pack(&wanted, Pieces::buffered(take))
    });
    let mut frames = FramedWrite::new(writer, FrameCodec);
    while let Some(piece) = queue.recv().await {
        if frames.send(Frame::new(FrameKind::Data, piece)).await.is_err() {
            // The thread learns it by its next piece.
            return;
        }
    }
    let reply = match packing.await {
        Ok(Ok(reply)) => reply,
        // Nobody else closes the queue.
        Ok(Err(_host_gone)) => return,
        Err(_panic) => FilesReply::failed(FilesErrorKind::Failed, "the agent has a bug; see its log"),
    };
    finish(frames.into_inner(), &reply).await;
}

/// Makes the archive. What cannot be sent is a warning.
fn pack(wanted: &Wanted, out: impl Write) -> io::Result<FilesReply> {
    let excludes = match Excludes::parse(&wanted.excludes) {
        Ok(excludes) => excludes,
        Err(error) => return Ok(FilesReply::failed(FilesErrorKind::Failed, cut(&error.to_string()))),
    };
    let opened = match wanted.source.below() {
        Some((anchor, below)) => Beneath::open_below(anchor, below),
        None => Beneath::open_no_link(&wanted.source.path),
    };
    let root = match opened {
        Ok(root) => root,
        // What is not there holds nothing yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            TarWriter::new(out).finish()?.flush()?;
            return Ok(FilesReply::default());
        }
        Err(error) => {
            let message =
                format!("{} is no directory that can be read: {error}", wanted.source.path.display());
            return Ok(FilesReply::failed(FilesErrorKind::BadPath, cut(&message)));
        }
    };
    let mut warnings = Warnings::default();
    let names = if wanted.only.is_empty() {
        root.files(&|path| excludes.leave_out(path), MAX_FILES, &mut warnings)
    } else {
        wanted.only.iter().take(MAX_FILES).map(PathBuf::from).collect()
    };
    let mut out = TarWriter::new(out);
    let mut reply = FilesReply::default();
    for name in names {
        let text = shown(name.as_os_str().as_bytes());
        if excludes.leave_out(&name) || !is_plain(&name) {
            warnings.add(format!("{text}: left out"));
            continue;
        }
        let (mut file, meta) = match root.file(&name) {
            Ok(found) => found,
            // Files come and go; the host asks for those it was told of a moment ago.
            Err(ReachError::Missing) => continue,
            Err(error) => {
                warnings.add(format!("{text}: left out: {}", error_chain(&error)));
                continue;
            }
        };
        if wanted.max_file > 0 && meta.len() > wanted.max_file {
            warnings.add(format!("{text}: left out: it is longer than {} bytes", wanted.max_file));
            continue;
        }
        if wanted.max_total > 0 && reply.bytes + meta.len() > wanted.max_total {
            // Whoever names files asks again for those that did not come.
            if wanted.only.is_empty() {
                let most = wanted.max_total;
                warnings.add(format!("{text}: left out: all together are more than {most} bytes"));
            }
            continue;
        }
        let whole = pack_file(&name, &mut file, &meta, &mut out, &mut |_| ())?;
        if !whole {
            warnings.add(format!("{text}: changed while it was sent"));
        }
        reply.files += 1;
        reply.bytes += meta.len();
    }
    out.finish()?.flush()?;
    reply.warnings = warnings.into_texts().iter().map(|text| cut(text)).collect();
    Ok(reply)
}

/// Whether the archive may name it so.
fn is_plain(name: &Path) -> bool {
    EntryPath::parse(name.as_os_str().as_bytes()).is_ok_and(|path| path.as_path() == name)
}
