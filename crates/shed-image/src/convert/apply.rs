//! Puts the entries of layers on each other: whiteouts, links, and names that lead through links.
//!
//! It behaves as `umoci unpack` does. Directories that lead to an entry are followed through symbolic links inside of the
//! image, as if it were the root of a running system; unlike there, a link that would leave the image is refused.

use super::{
    problem::EntryProblem,
    tree::{Body, Full, Inode, InodeId, Layer, ManyXattrs, NodeId, Tree},
};
use crate::{
    ext4::{
        MAX_FILE, MAX_LINKS, MAX_NAME, MAX_SHORT_SYMLINK, MAX_SYMLINK, Special, Xattrs, file_blocks_at_most,
    },
    tar::{Entry, EntryKind},
};

/// Begins the name of an entry that removes, and is the one that empties a directory (OCI image specification,
/// "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Longest name of an entry or of a hard link's target in bytes: one less than the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4095;

/// Links on the way to an entry; more mean a circle.
const MAX_SYMLINKS: usize = 255;

/// Names in the targets of all links that are followed for one entry; more mean a circle, too.
const MAX_FOLLOWED: usize = 10_000;

/// Why an entry was not applied.
#[derive(Debug)]
pub(super) enum ApplyError {
    Entry(EntryProblem),
    Full,
}

impl From<EntryProblem> for ApplyError {
    fn from(problem: EntryProblem) -> Self {
        Self::Entry(problem)
    }
}

fn full(_: Full) -> ApplyError {
    ApplyError::Full
}

/// Applies an entry of a layer. Returns the inode that gets the entry's content, if it is a file with a content of its
/// own.
pub(super) fn apply(tree: &mut Tree, layer: Layer, entry: &Entry) -> Result<Option<InodeId>, ApplyError> {
    if entry.name.is_empty() {
        return Err(EntryProblem::NoName.into());
    }
    let parts = parts(&entry.name)?;
    let Some((name, directories)) = parts.split_last() else {
        let EntryKind::Directory = entry.kind else { return Err(EntryProblem::Root.into()) };
        let inode = inode(tree, entry, Body::Directory, 0)?;
        tree.set_root(inode, layer);
        return Ok(None);
    };
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        white_out(tree, layer, directories, name, hidden)?;
        return Ok(None);
    }
    let mut followed = 0;
    let link = match &entry.kind {
        EntryKind::HardLink(target) => Some(link_target(tree, target, &mut followed)?),
        EntryKind::File { .. }
        | EntryKind::Directory
        | EntryKind::Symlink(_)
        | EntryKind::Character { .. }
        | EntryKind::Block { .. }
        | EntryKind::Fifo => None,
    };
    let parent = walk(tree, directories, Missing::Make(layer), &mut followed)?;
    let parent = parent.ok_or(EntryProblem::ParentNoDirectory)?;
    let existing = tree.child(parent, name);
    if let Some(existing) = existing {
        let (set, touched) = tree.is_of(existing, layer);
        let both_directories = entry.kind == EntryKind::Directory && tree.is_directory(existing);
        if (set || touched) && !both_directories {
            return Err(EntryProblem::Twice.into());
        }
    }
    if let Some(target) = link {
        if tree.inode(target).links >= MAX_LINKS {
            return Err(EntryProblem::Links.into());
        }
        tree.put(parent, name, target, layer, true).map_err(full)?;
        return Ok(None);
    }
    let (body, blocks) = body(tree, &entry.kind)?;
    let inode = inode(tree, entry, body, blocks)?;
    let id = tree.add_inode(inode).map_err(full)?;
    tree.put(parent, name, id, layer, true).map_err(full)?;
    Ok(matches!(body, Body::File(_)).then_some(id))
}

/// Splits a name. One that begins with `/` is taken as relative.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>, EntryProblem> {
    if name.len() > MAX_PATH {
        return Err(EntryProblem::LongPath);
    }
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts
        .map(|part| match part {
            b".." => Err(EntryProblem::DotDot),
            part if part.contains(&0) => Err(EntryProblem::ZeroByte),
            part if part.len() > MAX_NAME => Err(EntryProblem::LongName),
            part => Ok(part),
        })
        .collect()
}

fn white_out(
    tree: &mut Tree,
    layer: Layer,
    directories: &[&[u8]],
    name: &[u8],
    hidden: &[u8],
) -> Result<(), EntryProblem> {
    if name != OPAQUE && matches!(hidden, b"" | b"." | b"..") {
        return Err(EntryProblem::Whiteout);
    }
    // Where there is no directory, nothing is hidden.
    let Some(directory) = walk(tree, directories, Missing::Leave, &mut 0)? else { return Ok(()) };
    if name == OPAQUE {
        if !tree.make_opaque(directory, layer) {
            return Err(EntryProblem::Twice);
        }
    } else if let Some(node) = tree.child(directory, hidden) {
        tree.white_out(node, layer);
    }
    Ok(())
}

/// Finds what a hard link is to become another name of. Its own last part is not followed: links to symbolic links exist.
fn link_target(tree: &mut Tree, target: &[u8], followed: &mut usize) -> Result<InodeId, EntryProblem> {
    if target.starts_with(b"/") {
        return Err(EntryProblem::LinkTarget);
    }
    if target.len() > MAX_PATH {
        return Err(EntryProblem::LongPath);
    }
    let parts = parts(target).map_err(|_| EntryProblem::LinkTarget)?;
    let (name, directories) = parts.split_last().ok_or(EntryProblem::LinkTarget)?;
    let directory = walk(tree, directories, Missing::Leave, followed)?;
    let node = directory.and_then(|directory| tree.child(directory, name));
    let node = node.ok_or(EntryProblem::LinkToNothing)?;
    if tree.is_directory(node) {
        return Err(EntryProblem::LinkToDirectory);
    }
    Ok(tree.inode_of(node))
}

/// What to do where a directory on the way does not exist.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Make(Layer),
    Leave,
}

/// Follows directories from the root, through symbolic links; `None` when there is no such directory. Counts the names in
/// the links' targets.
fn walk(
    tree: &mut Tree,
    directories: &[&[u8]],
    missing: Missing,
    followed: &mut usize,
) -> Result<Option<NodeId>, EntryProblem> {
    let mut at = Tree::root();
    // What is still to be followed, the next part last.
    let mut left: Vec<Vec<u8>> = Vec::new();
    let mut given = directories.iter();
    let mut symlinks = 0;
    loop {
        let owned;
        let part: &[u8] = if let Some(part) = left.pop() {
            owned = part;
            &owned
        } else if let Some(part) = given.next() {
            part
        } else {
            return Ok(Some(at));
        };
        if part == b".." {
            if at == Tree::root() {
                return Err(EntryProblem::ParentOutside);
            }
            at = tree.parent(at);
            continue;
        }
        let Some(node) = tree.child(at, part) else {
            let Missing::Make(layer) = missing else { return Ok(None) };
            if part.len() > MAX_NAME {
                return Err(EntryProblem::LongName);
            }
            let made = tree.add_inode(Tree::plain_directory());
            let made = made.and_then(|inode| tree.put(at, part, inode, layer, false));
            at = made.map_err(|Full| EntryProblem::ParentNoDirectory)?;
            continue;
        };
        let inode = tree.inode_of(node);
        if let Some(target) = tree.target(inode) {
            symlinks += 1;
            *followed += target.split(|byte| *byte == b'/').count();
            if symlinks > MAX_SYMLINKS || *followed > MAX_FOLLOWED {
                return Err(EntryProblem::ParentLoop);
            }
            if target.starts_with(b"/") {
                at = Tree::root();
            }
            let parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
            left.extend(parts.rev().map(<[u8]>::to_vec));
        } else if tree.is_directory(node) {
            at = node;
        } else {
            return match missing {
                Missing::Make(_) => Err(EntryProblem::ParentNoDirectory),
                Missing::Leave => Ok(None),
            };
        }
    }
}

/// Returns what an entry is, and how many blocks its content takes at most.
fn body(tree: &mut Tree, kind: &EntryKind) -> Result<(Body, u32), ApplyError> {
    let special = |special| Ok((Body::Special(special), 0));
    match kind {
        EntryKind::File { size, stored, pieces } => {
            if *size > MAX_FILE {
                return Err(EntryProblem::TooLarge.into());
            }
            let blocks = file_blocks_at_most(*size, *stored, *pieces);
            let blocks = u32::try_from(blocks).map_err(|_| EntryProblem::TooLarge)?;
            Ok((Body::File(*size), blocks))
        }
        EntryKind::Symlink(target) => {
            if target.is_empty() || target.len() > MAX_SYMLINK || target.contains(&0) {
                return Err(EntryProblem::SymlinkTarget.into());
            }
            let at = tree.add_text(target).map_err(full)?;
            let length = u16::try_from(target.len()).expect("it was compared with 4095");
            Ok((Body::Symlink(at, length), u32::from(target.len() > MAX_SHORT_SYMLINK)))
        }
        EntryKind::Character { major, minor } => {
            let (major, minor) = device(*major, *minor)?;
            special(Special::Character { major, minor })
        }
        EntryKind::Block { major, minor } => {
            let (major, minor) = device(*major, *minor)?;
            special(Special::Block { major, minor })
        }
        EntryKind::Fifo => special(Special::Fifo),
        // A hard link was dealt with before.
        EntryKind::Directory | EntryKind::HardLink(_) => Ok((Body::Directory, 0)),
    }
}

/// Linux has 12 bits for the first number of a device, and 20 for the second.
fn device(major: i64, minor: i64) -> Result<(u32, u32), EntryProblem> {
    let fits = |number: i64, bits: u32| u32::try_from(number).ok().filter(|number| number >> bits == 0);
    fits(major, 12).zip(fits(minor, 20)).ok_or(EntryProblem::Device)
}

fn inode(tree: &mut Tree, entry: &Entry, body: Body, blocks: u32) -> Result<Inode, EntryProblem> {
    // The highest number means no user at all to Linux.
    let owner = |id: i64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(EntryProblem::Owner);
    let xattrs = Xattrs::new(entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))?;
    let mode = if matches!(body, Body::Symlink(..)) { 0o777 } else { entry.mode & 0o7777 };
    Ok(Inode {
        body,
        seconds: entry.modified.0,
        nanoseconds: entry.modified.1,
        uid: owner(entry.uid)?,
        gid: owner(entry.gid)?,
        links: 0,
        blocks: blocks.saturating_add(u32::from(xattrs.need_block())),
        xattrs: tree.add_xattrs(xattrs).map_err(|ManyXattrs| EntryProblem::ManyXattrs)?,
        mode: u16::try_from(mode).expect("it has twelve bits"),
    })
}
