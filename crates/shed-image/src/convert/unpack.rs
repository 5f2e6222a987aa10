//! First pass: what the layers consist of, put on each other in memory. Content is read and compared with its digest, and
//! forgotten.
//!
//! Several layers are decompressed at once; their entries are applied in order.

use std::{
    collections::VecDeque,
    fs::File,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Scope},
};

use super::{
    ImageLimits,
    apply::{ApplyError, apply},
    image::{Image, LayerBlob},
    problem::{ConvertError, EntryProblem},
    stream::{Compression, PIECES, Stop, Stream, produce},
    tree::{InodeId, Layer, Tree},
};
use crate::{
    BlobStore, DigestHasher, ImageProgress, ImageStep, ImageWatch,
    tar::{Entry, EntryKind, TarReader},
};

/// Entries that travel together, and how many such batches of a layer wait at most.
const BATCH: usize = 256;
const BATCHES: usize = 16;

/// Names and values that travel together, in bytes; a batch ends where it reaches this.
const BATCH_BYTES: usize = 256 << 10;

/// Longest piece of a name in an error, in bytes.
const MAX_SHOWN: usize = 300;

/// What the layers add up to.
pub(super) struct Unpacked {
    pub(super) tree: Tree,
    /// For each layer, and each entry in it that has content, the inode that gets it; none for a whiteout.
    pub(super) contents: Vec<Vec<Option<InodeId>>>,
    /// Length of the layers in bytes, compressed as they are.
    pub(super) total: u64,
}

/// Entries that are to travel together.
#[derive(Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    /// About what their names and attributes take in memory, in bytes.
    memory: usize,
}

impl Batch {
    pub(super) fn push(&mut self, entry: Entry) {
        self.memory += entry.memory();
        self.entries.push(entry);
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= BATCH || self.memory >= BATCH_BYTES
    }

    pub(super) fn take(&mut self) -> Vec<Entry> {
        std::mem::take(self).entries
    }
}

/// What a layer's reader tells.
enum Message {
    Entries(Vec<Entry>),
    /// It was read to its end, and had the content it should have.
    Whole,
    Failed(ConvertError),
}

/// What all readers share.
struct Shared<'a> {
    blobs: &'a BlobStore,
    limits: &'a ImageLimits,
    watch: &'a dyn ImageWatch,
    /// Compressed bytes that were read, uncompressed bytes, and layers that are done.
    read: AtomicU64,
    unpacked: AtomicU64,
    layers_done: AtomicU64,
    layers_total: usize,
    total: u64,
}

impl Shared<'_> {
    fn tell(&self) {
        self.watch.progress(ImageProgress {
            step: ImageStep::Unpack,
            bytes_done: self.read.load(Ordering::Relaxed).min(self.total),
            bytes_total: self.total,
            layers_done: count(self.layers_done.load(Ordering::Relaxed)),
            layers_total: count(self.layers_total as u64),
        });
    }
}

pub(super) fn count(layers: u64) -> u32 {
    u32::try_from(layers).expect("there are at most 1000 layers")
}

/// Reads all layers of an image.
pub(super) fn unpack(
    blobs: &BlobStore,
    image: &Image,
    limits: &ImageLimits,
    watch: &dyn ImageWatch,
) -> Result<Unpacked, ConvertError> {
    let shared = Shared {
        blobs,
        limits,
        watch,
        read: AtomicU64::new(0),
        unpacked: AtomicU64::new(0),
        layers_done: AtomicU64::new(0),
        layers_total: image.layers.len(),
        total: image.layers.iter().map(|layer| layer.id.size).sum(),
    };
    let at_once = at_once(blobs, image);
    let mut unpacked = Unpacked { tree: Tree::new(), contents: Vec::new(), total: shared.total };
    shared.tell();
    thread::scope(|scope| {
        let mut waiting = image.layers.iter();
        let mut readers = VecDeque::new();
        let mut entries = 0;
        for (number, layer) in (1..).zip(&image.layers) {
            while readers.len() < at_once {
                let Some(next) = waiting.next() else { break };
                readers.push_back(start(scope, next, &shared));
            }
            let messages: Receiver<Message> = readers.pop_front().expect("one was started for this layer");
            let contents = take(&mut unpacked.tree, number, layer, &messages, &mut entries, &shared)?;
            unpacked.contents.push(contents);
            let _before = shared.layers_done.fetch_add(1, Ordering::Relaxed);
            shared.tell();
        }
        Ok::<(), ConvertError>(())
    })?;
    Ok(unpacked)
}

/// Returns how many layers are read at once. Zstandard may need 128 MiB to look back, so then it is one.
fn at_once(blobs: &BlobStore, image: &Image) -> usize {
    let is_zstd = |layer: &LayerBlob| {
        let mut begin = [0; 4];
        let read = blobs
            .open(&layer.id.digest)
            .ok()
            .and_then(|mut file: File| std::io::Read::read_exact(&mut file, &mut begin).ok());
        read.is_some() && Compression::of(&begin) == Compression::Zstd
    };
    if image.layers.iter().any(is_zstd) {
        return 1;
    }
    thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

/// Starts reading a layer.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    layer: &'scope LayerBlob,
    shared: &'scope Shared<'scope>,
) -> Receiver<Message> {
    let (messages, receiver) = sync_channel(BATCHES);
    let _thread = scope.spawn(move || {
        let last = match scan(layer, shared, &messages) {
            Ok(()) => Message::Whole,
            Err(error) => Message::Failed(error),
        };
        // Whoever no longer listens has another error.
        let _ignored = messages.send(last);
    });
    receiver
}

/// Reads a layer and tells its entries.
fn scan(layer: &LayerBlob, shared: &Shared<'_>, messages: &SyncSender<Message>) -> Result<(), ConvertError> {
    let file = layer.open(shared.blobs)?;
    thread::scope(|scope| {
        let (pieces, receiver) = sync_channel(PIECES);
        let _thread = scope.spawn(move || produce(file, &shared.read, &pieces));
        let hasher = DigestHasher::new(layer.diff_id.algorithm());
        let told = || shared.tell();
        let budget = (&shared.unpacked, shared.limits.max_bytes);
        let mut reader = TarReader::new(Stream::new(receiver, Some(hasher), shared.watch, &told, budget));
        let mut batch = Batch::default();
        loop {
            match reader.next_entry() {
                Ok(Some(entry)) => batch.push(entry),
                Ok(None) => break,
                Err(source) => {
                    return Err(stream_error(layer, reader.into_source().stopped(), source, shared.limits));
                }
            }
            if batch.is_full() && messages.send(Message::Entries(batch.take())).is_err() {
                // Nobody listens: an earlier layer failed.
                return Ok(());
            }
        }
        if messages.send(Message::Entries(batch.take())).is_err() {
            return Ok(());
        }
        let hasher = reader.into_source().into_hasher().expect("it was given one");
        let found = hasher.finish();
        if found == layer.diff_id {
            return Ok(());
        }
        let (number, digest) = (layer.number, layer.id.digest.clone());
        Err(ConvertError::OtherContent { number, digest, found, expected: layer.diff_id.clone() })
    })
}

/// Says why a layer could not be read further.
pub(super) fn stream_error(
    layer: &LayerBlob,
    stopped: Option<Stop>,
    source: crate::tar::TarError,
    limits: &ImageLimits,
) -> ConvertError {
    match stopped {
        Some(Stop::Cancelled) => ConvertError::Cancelled,
        Some(Stop::Bytes) => ConvertError::Bytes(limits.max_bytes),
        None => ConvertError::Archive { number: layer.number, digest: layer.id.digest.clone(), source },
    }
}

/// Applies a layer's entries as they come.
fn take(
    tree: &mut Tree,
    number: Layer,
    layer: &LayerBlob,
    messages: &Receiver<Message>,
    entries: &mut u64,
    shared: &Shared<'_>,
) -> Result<Vec<Option<InodeId>>, ConvertError> {
    let mut contents = Vec::new();
    let limits = shared.limits;
    loop {
        let batch = match messages.recv().expect("a reader says how it ended") {
            Message::Entries(batch) => batch,
            Message::Whole => {
                contents.shrink_to_fit();
                return Ok(contents);
            }
            Message::Failed(error) => return Err(error),
        };
        // What waits can take long to apply after the last byte was read.
        if shared.watch.is_cancelled() {
            return Err(ConvertError::Cancelled);
        }
        for entry in batch {
            *entries += 1;
            if *entries > limits.max_entries {
                return Err(ConvertError::Entries(limits.max_entries));
            }
            let applied = apply(tree, number, &entry).map_err(|error| match error {
                ApplyError::Entry(source) => refused(layer, &entry.name, source),
                ApplyError::Full => ConvertError::TooLarge("names and links have more than 4 GiB".to_owned()),
            })?;
            // Directories that no layer describes are inodes, too.
            if tree.made() > limits.max_entries {
                return Err(ConvertError::Entries(limits.max_entries));
            }
            if matches!(entry.kind, EntryKind::File { .. }) {
                contents.push(applied);
            }
        }
    }
}

fn refused(layer: &LayerBlob, name: &[u8], source: EntryProblem) -> ConvertError {
    let entry = String::from_utf8_lossy(&name[..name.len().min(MAX_SHOWN)]).into_owned();
    ConvertError::Entry { number: layer.number, digest: layer.id.digest.clone(), entry, source }
}
