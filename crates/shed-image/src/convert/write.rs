//! Second pass: the tree becomes a file system, and the content of what is left of each layer goes into it.

use std::{
    fs::File,
    sync::{atomic::AtomicU64, mpsc::sync_channel},
    thread,
};

use camino::Utf8Path;
use uuid::Uuid;

use super::{
    DiskOptions, ImageLimits,
    image::{Image, LayerBlob},
    problem::ConvertError,
    stream::{PIECES, Stream, produce},
    tree::{Body, Inode, InodeId, NodeId, Tree},
    unpack::{Unpacked, count, stream_error},
};
use crate::{
    BlobStore, ImageProgress, ImageStep, ImageWatch,
    ext4::{
        Attributes, Child, Ext4Writer, FIRST_INODE, FileType, Layout, ROOT, WriteError,
        directory_blocks_at_most, entry_length,
    },
    tar::{Content, EntryKind, TarError, TarReader},
};

/// Content is copied in pieces of this length, in bytes.
const BUFFER: usize = 1 << 17;

/// A tree whose inodes have numbers in a file system with room for them.
pub(super) struct Planned {
    tree: Tree,
    contents: Vec<Vec<Option<InodeId>>>,
    total: u64,
    /// Number of each inode in the file system; 0 for what is not used.
    numbers: Vec<u32>,
    layout: Layout,
}

/// Counts what the file system needs.
pub(super) fn plan(unpacked: Unpacked) -> Result<Planned, ConvertError> {
    let Unpacked { tree, contents, total } = unpacked;
    let (mut files, mut blocks) = (0_u64, 0_u64);
    let mut numbers = vec![0; tree.inodes().len()];
    for (number, inode) in numbers.iter_mut().zip(tree.inodes()) {
        if inode.links > 0 {
            // The first inode is the root's, which has a number of its own.
            *number = u32::try_from(u64::from(FIRST_INODE) + files).unwrap_or(u32::MAX) - 1;
            files += 1;
            blocks += u64::from(inode.blocks);
        }
    }
    numbers[tree.inode_of(Tree::root()) as usize] = ROOT;
    each_directory(&tree, |_, children| {
        let names: usize = children.iter().map(|child| entry_length(tree.name(*child).len())).sum();
        blocks += directory_blocks_at_most(names as u64);
        Ok::<(), ConvertError>(())
    })?;
    let layout = Layout::new(files - 1, blocks).map_err(|error| ConvertError::TooLarge(error.to_string()))?;
    Ok(Planned { tree, contents, total, numbers, layout })
}

/// Calls `visit` with each directory and what is in it, by name.
fn each_directory<E>(
    tree: &Tree,
    mut visit: impl FnMut(NodeId, &[NodeId]) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = vec![Tree::root()];
    while let Some(directory) = left.pop() {
        let children = tree.sorted_children(directory);
        visit(directory, &children)?;
        left.extend(children.into_iter().rev().filter(|child| tree.is_directory(*child)));
    }
    Ok(())
}

impl Planned {
    /// Returns what the file system takes of its disk at most, in bytes.
    pub(super) fn needed(&self) -> u64 {
        self.layout.needed()
    }

    /// Writes the file system into an empty file.
    pub(super) fn write(
        &self,
        blobs: &BlobStore,
        image: &Image,
        (path, file): (&Utf8Path, File),
        (options, uuid): (&DiskOptions, Uuid),
        limits: &ImageLimits,
        watch: &dyn ImageWatch,
    ) -> Result<File, ConvertError> {
        let failed = |error| write_error(path, error);
        let mut writer =
            Ext4Writer::new(file, self.layout.clone(), uuid).map_err(|error| failed(error.into()))?;
        self.directories(&mut writer).map_err(failed)?;
        self.others(&mut writer).map_err(failed)?;
        let read = AtomicU64::new(0);
        for (layer, contents) in image.layers.iter().zip(&self.contents) {
            let told = || {
                watch.progress(ImageProgress {
                    step: ImageStep::Write,
                    bytes_done: read.load(std::sync::atomic::Ordering::Relaxed).min(self.total),
                    bytes_total: self.total,
                    layers_done: count(layer.number as u64 - 1),
                    layers_total: count(image.layers.len() as u64),
                });
            };
            told();
            let wanted = contents.iter().flatten().any(|inode| self.tree.inode(*inode).links > 0);
            if wanted {
                let source = layer.open(blobs)?;
                let copy = Copy { planned: self, layer, contents, limits, watch, told: &told, path };
                copy.run(source, &read, &mut writer)?;
            } else {
                let _before = read.fetch_add(layer.id.size, std::sync::atomic::Ordering::Relaxed);
            }
        }
        writer.finish(options.label.as_deref(), uuid).map_err(failed)
    }

    fn number(&self, inode: InodeId) -> u32 {
        self.numbers[inode as usize]
    }

    fn directories(&self, writer: &mut Ext4Writer) -> Result<(), WriteError> {
        let tree = &self.tree;
        each_directory(tree, |directory, children| {
            let named: Vec<Child<'_>> = children
                .iter()
                .map(|child| Child {
                    name: tree.name(*child),
                    number: self.number(tree.inode_of(*child)),
                    file_type: tree.inode(tree.inode_of(*child)).file_type(),
                })
                .collect();
            let inside = named.iter().filter(|child| child.file_type == FileType::Directory).count();
            let inode = tree.inode(tree.inode_of(directory));
            let links = u32::try_from(inside + 2).map_err(|_| WriteError::Directory)?;
            let attributes = Attributes { links, ..attributes(inode) };
            let parent = self.number(tree.inode_of(tree.parent(directory)));
            let number = self.number(tree.inode_of(directory));
            writer.directory(number, parent, &attributes, tree.xattrs(inode), &named)
        })
    }

    /// Writes what is neither file nor directory.
    fn others(&self, writer: &mut Ext4Writer) -> Result<(), WriteError> {
        for (id, inode) in (0..).zip(self.tree.inodes()).filter(|(_, inode)| inode.links > 0) {
            let (attributes, xattrs) = (attributes(inode), self.tree.xattrs(inode));
            match inode.body {
                Body::File(_) | Body::Directory => {}
                Body::Symlink(..) => {
                    let target = self.tree.target(id).unwrap_or_default();
                    writer.symlink(self.number(id), &attributes, xattrs, target)?;
                }
                Body::Special(special) => writer.special(self.number(id), &attributes, xattrs, special)?,
            }
        }
        Ok(())
    }
}

/// Copies what is left of one layer.
struct Copy<'a> {
    planned: &'a Planned,
    layer: &'a LayerBlob,
    contents: &'a [Option<InodeId>],
    limits: &'a ImageLimits,
    watch: &'a dyn ImageWatch,
    told: &'a (dyn Fn() + Sync),
    path: &'a Utf8Path,
}

/// Why copying ended.
enum CopyError {
    Tar(TarError),
    Write(WriteError),
    /// The layer is not what it was in the first pass.
    Changed,
}

impl From<TarError> for CopyError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl From<WriteError> for CopyError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl Copy<'_> {
    fn run(&self, source: File, read: &AtomicU64, writer: &mut Ext4Writer) -> Result<(), ConvertError> {
        thread::scope(|scope| {
            let (pieces, receiver) = sync_channel(PIECES);
            let _thread = scope.spawn(move || produce(source, read, &pieces));
            let unpacked = AtomicU64::new(0);
            let budget = (&unpacked, self.limits.max_bytes);
            let mut reader = TarReader::new(Stream::new(receiver, None, self.watch, self.told, budget));
            self.entries(&mut reader, writer).map_err(|error| match error {
                CopyError::Tar(source) => {
                    stream_error(self.layer, reader.into_source().stopped(), source, self.limits)
                }
                CopyError::Write(error) => write_error(self.path, error),
                CopyError::Changed => {
                    ConvertError::Changed { number: self.layer.number, digest: self.layer.id.digest.clone() }
                }
            })
        })
    }

    fn entries(&self, reader: &mut TarReader<Stream<'_>>, writer: &mut Ext4Writer) -> Result<(), CopyError> {
        let tree = &self.planned.tree;
        let mut buffer = vec![0; BUFFER];
        let mut contents = self.contents.iter();
        while let Some(entry) = reader.next_entry()? {
            let EntryKind::File { size, .. } = entry.kind else { continue };
            let id = *contents.next().ok_or(CopyError::Changed)?;
            let Some(id) = id.filter(|id| tree.inode(*id).links > 0) else { continue };
            let inode = tree.inode(id);
            if inode.body != Body::File(size) {
                return Err(CopyError::Changed);
            }
            let mut file = writer.file(self.planned.number(id), attributes(inode), tree.xattrs(inode));
            reader.content(&mut buffer, |content| match content {
                Content::Data(bytes) => file.write(bytes).map_err(CopyError::from),
                Content::Hole(length) => file.skip(length).map_err(CopyError::from),
            })?;
            file.finish()?;
        }
        if contents.next().is_none() { Ok(()) } else { Err(CopyError::Changed) }
    }
}

fn attributes(inode: &Inode) -> Attributes {
    let Inode { mode, uid, gid, seconds, nanoseconds, links, .. } = *inode;
    Attributes { mode, uid, gid, seconds, nanoseconds, links }
}

fn write_error(path: &Utf8Path, error: WriteError) -> ConvertError {
    match error {
        WriteError::Io(source) => ConvertError::Write { path: path.to_owned(), source },
        WriteError::Planned | WriteError::Directory => ConvertError::TooLarge(error.to_string()),
    }
}
