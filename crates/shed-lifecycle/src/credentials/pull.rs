//! Takes files of a guest into the source of a credential.
//!
//! The archive is read on a thread, file by file and never more than one in memory, while it comes. The guest is trusted
//! with nothing: how long it may take, how much it sends and what the names are is checked here and in `source`.

use std::{
    collections::{BTreeSet, HashSet},
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use shed_backend::{ConnectGuestError, Vm};
use shed_files::{Entry as TarEntry, EntryKind, TarError, TarReader, shown};
use shed_protocol::{FilesReply, FilesRequest, Frame, FrameCodec, FrameError, FrameKind};
use shed_types::{GuestPath, GuestPort};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    task::consume_budget,
    time::{Instant, timeout_at},
};
use tokio_util::{
    bytes::{Buf, Bytes},
    codec::Framed,
};

use super::{
    policy::{Content, Judgement, Known, judge},
    source::{Entry, Landed, MAX_FILE, MAX_TOTAL, Refusal, Share},
};
use crate::{context::blocking, guest_command::quote};

/// How long a guest may take (spec E.2).
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an archive beyond its files: headers, long names, padding.
const HEADERS: u64 = 80 << 20;

/// Pieces on their way to the thread.
const QUEUE: usize = 4;

/// Reports of one pull; of more only the number is told.
const MAX_REPORTS: usize = 10;

/// Why nothing, or not all, was taken. What was taken before stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error("could not reach the agent")]
    Connect(#[from] ConnectGuestError),
    #[error("the stream from the guest broke")]
    Frame(#[from] FrameError),
    #[error("the agent did not send the files within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the agent hung up before it said that all was sent")]
    HungUp,
    #[error("the agent did not send the files: {0}")]
    Refused(String),
    #[error("the agent sends more than it was asked for")]
    TooMuch,
    #[error("what the agent sent is no archive of files")]
    Archive(#[from] TarError),
    #[error("the files could not be written on the host")]
    Host(#[source] io::Error),
}

/// What is asked of a guest.
#[derive(Debug)]
pub(super) struct Asked {
    /// These; empty means everything.
    pub(super) only: BTreeSet<String>,
    /// What the guest has said it wrote; nothing means that it may have written anything.
    pub(super) told: Option<BTreeSet<String>>,
    /// Whether the target is a single file.
    pub(super) file: bool,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    /// Written on the host.
    pub(super) taken: BTreeSet<String>,
    /// The host has something newer.
    pub(super) outdated: BTreeSet<String>,
    /// Asked for and not sent, by a guest that may have had no room for them in what one request is answered with.
    pub(super) unsent: BTreeSet<String>,
    /// What was not taken, and why; bounded.
    pub(super) reports: Reported,
}

/// A bounded list of texts.
#[derive(Debug, Default)]
pub(super) struct Reported {
    texts: Vec<String>,
    more: u64,
}

impl Reported {
    fn add(&mut self, text: String) {
        if self.texts.len() < MAX_REPORTS { self.texts.push(text) } else { self.more += 1 }
    }

    pub(super) fn into_texts(self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("and {} more files were not taken", self.more));
        self.texts.into_iter().chain(more)
    }
}

/// The state of a shed's credential that a pull changes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) known: Known,
    pub(super) share: Share,
}

/// Fetches files and puts them in their places.
pub(super) async fn pull(
    vm: &dyn Vm,
    entry: &Arc<Entry>,
    asked: Asked,
    memory: OwnedMutexGuard<Memory>,
) -> (OwnedMutexGuard<Memory>, Pulled, Result<(), PullError>) {
    let (pieces, queue) = mpsc::channel(QUEUE);
    let request = request(entry, &asked);
    let taking = Taking { entry: Arc::clone(entry), asked, memory, pulled: Pulled::default() };
    let thread = tokio::spawn(blocking(move || taking.run(queue)));
    let fetched = fetch(vm, request, pieces).await;
    // The thread sees the end of the pieces by now.
    let (memory, mut pulled, taken) = match thread.await {
        Ok(end) => end,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let result = match (fetched, taken) {
        (_, Err(error @ PullError::Host(_))) | (Err(PullError::HungUp), Err(error)) | (Err(error), _) => {
            Err(error)
        }
        (Ok(reply), taken) => {
            for warning in reply.warnings.iter().take(MAX_REPORTS) {
                pulled.reports.add(format!("the shed says: {}", quote(warning.as_bytes())));
            }
            match reply.error {
                Some(error) => Err(PullError::Refused(quote(error.message.as_bytes()))),
                None => taken,
            }
        }
    };
    (memory, pulled, result)
}

fn request(entry: &Entry, asked: &Asked) -> FilesRequest {
    let target = &entry.credential.target;
    let root: GuestPath = match target.split() {
        Some((parent, _)) if asked.file => parent,
        _ => target.clone(),
    };
    let only = if asked.file {
        entry.guest_name().map(str::to_owned).into_iter().collect()
    } else {
        asked.only.iter().cloned().collect()
    };
    FilesRequest::Get {
        source: root,
        excludes: if asked.file { Vec::new() } else { entry.credential.exclude.clone() },
        only,
        max_file: MAX_FILE,
        max_total: MAX_TOTAL,
    }
}

/// Passes the archive on to the thread, and returns the agent's last word.
async fn fetch(
    vm: &dyn Vm,
    request: FilesRequest,
    pieces: mpsc::Sender<Bytes>,
) -> Result<FilesReply, PullError> {
    let deadline = Instant::now() + PATIENCE;
    let late = |_| PullError::Late;
    let stream = timeout_at(deadline, vm.connect_guest(GuestPort::Files)).await.map_err(late)??;
    let mut frames = Framed::new(stream, FrameCodec);
    timeout_at(deadline, frames.send(Frame::json(FrameKind::FilesRequest, &request)))
        .await
        .map_err(late)??;
    let mut length = 0;
    while let Some(frame) = timeout_at(deadline, frames.next()).await.map_err(late)? {
        // A guest that sends without a pause must not keep the deadline from being looked at.
        consume_budget().await;
        let frame = frame?;
        match frame.kind {
            FrameKind::Data => {
                length += frame.payload.len() as u64;
                if length > MAX_TOTAL + HEADERS {
                    return Err(PullError::TooMuch);
                }
                // A thread that has failed takes no more, and says why.
                if timeout_at(deadline, pieces.send(frame.payload)).await.map_err(late)?.is_err() {
                    return Err(PullError::HungUp);
                }
            }
            FrameKind::FilesReply => {
                return frame.parse().map_err(|_| PullError::Refused(quote(&frame.payload)));
            }
            // Not for a host, or of a newer protocol.
            FrameKind::ExecRequest
            | FrameKind::Resize
            | FrameKind::Signal
            | FrameKind::ExitStatus
            | FrameKind::Stderr
            | FrameKind::StdinEof
            | FrameKind::HealthRequest
            | FrameKind::HealthResponse
            | FrameKind::Message
            | FrameKind::FilesRequest
            | FrameKind::SetupRequest
            | FrameKind::SetupEvent
            | FrameKind::SetupReply => {}
        }
    }
    Err(PullError::HungUp)
}

/// The thread's part.
struct Taking {
    entry: Arc<Entry>,
    asked: Asked,
    memory: OwnedMutexGuard<Memory>,
    pulled: Pulled,
}

impl Taking {
    fn run(
        mut self,
        queue: mpsc::Receiver<Bytes>,
    ) -> (OwnedMutexGuard<Memory>, Pulled, Result<(), PullError>) {
        let mut pieces = Pieces { queue, piece: Bytes::new(), any: false };
        let result = match self.take_all(&mut pieces) {
            // A guest that sends nothing at all says why in its last word.
            Err(PullError::Archive(TarError::Truncated)) if !pieces.any => Ok(()),
            result => result,
        };
        (self.memory, self.pulled, result)
    }

    fn take_all(&mut self, pieces: &mut Pieces) -> Result<(), PullError> {
        let entry = Arc::clone(&self.entry);
        let source = entry.open().map_err(PullError::Host)?;
        let mut reader = TarReader::new(pieces);
        let mut seen = HashSet::new();
        let mut total = 0;
        while let Some(present) = reader.next_entry()? {
            let name = match self.check(&present.kind, &present.name, present.size, &mut seen) {
                Ok(name) => name,
                Err(refusal) => {
                    self.pulled.reports.add(format!("{} is not taken: {refusal}", shown(&present.name)));
                    continue;
                }
            };
            total += present.size;
            if total > MAX_TOTAL {
                self.pulled
                    .reports
                    .add(format!("{} is not taken: it is too much at once", shown(&present.name)));
                continue;
            }
            let mut content = vec![0; usize::try_from(present.size).expect("no longer than is taken")];
            let mut done = 0;
            while done < content.len() {
                done += reader.read_content(&mut content[done..])?;
            }
            self.take(&source, &name, &content, &present)?;
        }
        if total > MAX_TOTAL - MAX_FILE && !self.asked.file {
            self.pulled.unsent =
                self.asked.only.iter().filter(|name| !seen.contains(*name)).cloned().collect();
        }
        reader.drain().map_err(|error| PullError::Archive(TarError::Read(error)))
    }

    /// Checks what is said of a file before any of it is read.
    fn check(
        &self,
        kind: &EntryKind,
        name: &[u8],
        size: u64,
        seen: &mut HashSet<String>,
    ) -> Result<String, Refusal> {
        match kind {
            EntryKind::File => {}
            EntryKind::Directory => return Err(Refusal::NoFile("a directory")),
            EntryKind::Symlink(_) => return Err(Refusal::NoFile("a symbolic link")),
            EntryKind::Other(what) => return Err(Refusal::NoFile(what)),
        }
        let name = std::str::from_utf8(name).map_err(|_| Refusal::Text)?.to_owned();
        let asked = self.asked.file || self.asked.only.is_empty() || self.asked.only.contains(&name);
        // A name that comes twice was asked for once.
        if !asked || !seen.insert(name.clone()) {
            return Err(Refusal::NotAsked);
        }
        if size > MAX_FILE { Err(Refusal::TooLong) } else { Ok(name) }
    }

    fn take(
        &mut self,
        source: &super::source::Source<'_>,
        name: &str,
        content: &[u8],
        sent: &TarEntry,
    ) -> Result<(), PullError> {
        let guest = Content::of(content);
        let Memory { known, share } = &mut *self.memory;
        let told = self.asked.told.as_ref().is_none_or(|told| told.contains(name));
        let before = known.get(name).copied();
        let mut judgement = Judgement::Leave;
        let landed = source.land(name, content, sent.mode, share, |host| {
            let later = host.is_none_or(|host| sent.modified.seconds > host.modified);
            judgement = judge(guest, host.map(|host| host.content), before, told, later);
            judgement == Judgement::Take
        });
        match landed.map_err(PullError::Host)? {
            Some(Landed::Refused(refusal)) => {
                // Nothing is remembered of it: what is not synced takes no memory.
                self.pulled.reports.add(format!("{} is not taken: {refusal}", shown(name.as_bytes())));
                return Ok(());
            }
            Some(Landed::Written) => {
                let _new = self.pulled.taken.insert(name.to_owned());
            }
            None if judgement == Judgement::Outdated => {
                let _new = self.pulled.outdated.insert(name.to_owned());
            }
            // Names of files that the host does not have are the guest's to make up.
            None if judgement == Judgement::Leave => return Ok(()),
            None => {}
        }
        let _before = known.insert(name.to_owned(), guest);
        Ok(())
    }
}

/// The archive as the thread reads it.
struct Pieces {
    queue: mpsc::Receiver<Bytes>,
    piece: Bytes,
    any: bool,
}

impl Read for &mut Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => (self.piece, self.any) = (piece, true),
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
