//! Sends files of the host to a guest: all of a credential at create and start, and what has changed while it runs.
//!
//! Archives are made on a thread and pass through a short queue, as fast as the guest takes them. What was sent is
//! remembered by its content, as it was read for the archive and not before or after.

use std::{convert::Infallible, fs, io, io::Write, path::Path, sync::Arc};

use futures::stream;
use sha2::{Digest as _, Sha256};
use shed_backend::{ConnectGuestError, Vm};
use shed_files::{
    Choice, Pieces, Scan, ScanError, ScanLimits, Sent, TarWriter, pack_file, pack_watched,
    scan_directory_within, scan_file,
};
use shed_types::{GuestPath, GuestPort, ShedName};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::bytes::Bytes;

use super::{
    mail::Names,
    policy::{Content, Known, wants},
    source::{Entry, Kind, MAX_BYTES, MAX_ITEMS, content_of, described},
};
use crate::{
    PutFilesError,
    context::blocking,
    files::{STALL, Whose, put},
};

/// Pieces on their way to the guest.
const QUEUE: usize = 4;

/// Why a credential was not sent, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error("its source {0} is not there; it is left out")]
    Missing(String),
    #[error("its source is a file, and its target {0} is no place for one")]
    NoName(GuestPath),
    #[error("its source cannot be sent")]
    Scan(#[source] ScanError),
    #[error("its source cannot be read")]
    Source(#[source] io::Error),
    #[error("the agent cannot be reached")]
    Connect(#[from] ConnectGuestError),
    #[error("the agent did not answer within {} s", STALL.as_secs())]
    Late,
    #[error(transparent)]
    Put(#[from] PutFilesError),
}

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// What the guest has now, by names there.
    pub(super) known: Known,
    /// Files that changed while they were sent, and are to be sent again.
    pub(super) again: Vec<String>,
    /// What was left out, and why.
    pub(super) warnings: Vec<String>,
}

/// Sends all of a credential.
pub(super) async fn push_all(vm: &dyn Vm, shed: &ShedName, entry: &Arc<Entry>) -> Result<Pushed, PushError> {
    let kind = {
        let entry = Arc::clone(entry);
        blocking(move || entry.kind()).await
    };
    let credential = &entry.credential;
    let (target, name) = match kind {
        Kind::Missing => return Err(PushError::Missing(described(&credential.source))),
        Kind::Directory => (credential.target.clone(), None),
        Kind::File => match credential.target.split() {
            Some((parent, name)) => (parent, Some(name.to_owned())),
            None => return Err(PushError::NoName(credential.target.clone())),
        },
    };
    let of = Arc::clone(entry);
    let scan = blocking(move || scan(&of, name.as_deref())).await.map_err(PushError::Scan)?;
    let (writer, pieces) = way();
    let packing = blocking(move || {
        let mut noted = Noted::default();
        let mut out = TarWriter::new(writer);
        let packed = pack_watched(scan, &mut out, &mut |sent| noted.note(&sent));
        let finished = out.finish().and_then(|mut out| out.flush());
        let mut pushed = noted.pushed;
        if let Ok(packed) = packed.and_then(|packed| finished.map(|()| packed)) {
            pushed.warnings = packed.warnings.into_texts();
        }
        pushed
    });
    send(vm, shed, &target, pieces, packing).await
}

fn scan(entry: &Entry, name: Option<&str>) -> Result<Scan, ScanError> {
    let source = entry.credential.source.as_std_path();
    let limits = ScanLimits { items: MAX_ITEMS, bytes: MAX_BYTES };
    if let Some(name) = name {
        let scan = scan_file(source, name)?;
        let length = fs::metadata(source).map_or(0, |meta| meta.len());
        let too_large = || ScanError::TooLarge { path: source.to_owned(), most: limits.bytes };
        return if length > limits.bytes { Err(too_large()) } else { Ok(scan) };
    }
    let choose = |path: &Path| {
        if entry.excludes.leave_out(path) { Choice::Leave } else { Choice::TakeSome }
    };
    scan_directory_within(source, &choose, limits)
}

impl PushError {
    /// Whether the guest refuses what it was sent, rather than that something went wrong: a link or something else is in
    /// the way of one of the files.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Put(PutFilesError::BadArchive { .. } | PutFilesError::BadPath { .. }))
    }
}

/// Returns the names of those of these files whose content the guest is not known to have.
pub(super) async fn wanted_of(entry: &Arc<Entry>, names: Names, known: &Known) -> Vec<String> {
    let (of, known) = (Arc::clone(entry), known.clone());
    blocking(move || wanted(&of, names, &known)).await.unwrap_or_default()
}

/// Sends those of these files whose content the guest is not known to have. Nothing is opened when there is none.
pub(super) async fn push_some(
    vm: &dyn Vm,
    shed: &ShedName,
    entry: &Arc<Entry>,
    names: Names,
    known: &Known,
) -> Result<Pushed, PushError> {
    let (of, known) = (Arc::clone(entry), known.clone());
    let wanted = blocking(move || wanted(&of, names, &known)).await.map_err(PushError::Source)?;
    if wanted.is_empty() {
        return Ok(Pushed::default());
    }
    let of = Arc::clone(entry);
    let is_file = blocking(move || of.kind() == Kind::File).await;
    let target = match entry.credential.target.split() {
        Some((parent, _)) if is_file => parent,
        _ => entry.credential.target.clone(),
    };
    let of = Arc::clone(entry);
    let (writer, pieces) = way();
    let packing = blocking(move || {
        let mut noted = Noted::default();
        let mut out = TarWriter::new(writer);
        let packed = (|| {
            let source = of.open()?;
            for name in wanted {
                if let Some((mut file, meta)) = source.file(&name) {
                    let _whole = pack_file(Path::new(&name), &mut file, &meta, &mut out, &mut |sent| {
                        noted.note(&sent);
                    })?;
                }
            }
            Ok::<(), io::Error>(())
        })();
        // Without its end the guest takes the archive for one that was cut off; a source that has gone is none of that.
        if packed.is_ok() {
            let _gone = out.finish().and_then(|mut out| out.flush());
        }
        noted.pushed
    });
    send(vm, shed, &target, pieces, packing).await
}

fn wanted(entry: &Entry, names: Names, known: &Known) -> io::Result<Vec<String>> {
    let source = match entry.open() {
        Ok(source) => source,
        // It will be looked at again when it is back.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = match names {
        Names::Some(names) => names.into_iter().collect(),
        Names::All => source.names(),
    };
    let mut wanted = Vec::new();
    let mut bytes = 0_u64;
    for name in names {
        let Some((mut file, meta)) = source.file(&name) else { continue };
        // What cannot be read now is looked at when it is written again.
        let Ok(content) = content_of(&mut file) else { continue };
        if wants(content, known.get(&name).copied()) {
            bytes = bytes.saturating_add(meta.len());
            if bytes > MAX_BYTES {
                break;
            }
            wanted.push(name);
        }
    }
    Ok(wanted)
}

/// Passes an archive on to a guest while it is made.
async fn send(
    vm: &dyn Vm,
    shed: &ShedName,
    target: &GuestPath,
    mut pieces: mpsc::Receiver<Bytes>,
    packing: impl Future<Output = Pushed>,
) -> Result<Pushed, PushError> {
    let sending = async move {
        let stream =
            timeout(STALL, vm.connect_guest(GuestPort::Files)).await.map_err(|_| PushError::Late)??;
        let archive = stream::poll_fn(move |context| {
            pieces.poll_recv(context).map(|piece| piece.map(Ok::<_, Infallible>))
        });
        // When this has ended nobody takes pieces any more, and so the thread ends.
        Ok::<_, PushError>(put(stream, archive, &Whose { shed, target }, STALL).await?)
    };
    let (sent, mut pushed) = tokio::join!(sending, packing);
    pushed.warnings.extend(sent?.warnings);
    Ok(pushed)
}

/// Returns the way to the guest, as the packing thread writes to it, and its other end.
fn way() -> (impl Write + Send + use<>, mpsc::Receiver<Bytes>) {
    let (pieces, queue) = mpsc::channel(QUEUE);
    (Pieces::buffered(move |piece| pieces.blocking_send(Bytes::copy_from_slice(piece)).is_ok()), queue)
}

/// Notes what is sent.
#[derive(Default)]
struct Noted {
    hasher: Sha256,
    pushed: Pushed,
}

impl Noted {
    fn note(&mut self, sent: &Sent<'_>) {
        match sent {
            Sent::Piece(piece) => self.hasher.update(piece),
            Sent::File { name, whole } => {
                let content = Content::end(std::mem::take(&mut self.hasher));
                let Some(name) = name.to_str() else { return };
                if *whole {
                    let _before = self.pushed.known.insert(name.to_owned(), content);
                } else {
                    self.pushed.again.push(name.to_owned());
                }
            }
        }
    }
}
