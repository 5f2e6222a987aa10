//! Writes a root, or what makes one of another, as a tar: sorted by name, ustar headers, pax records where those are too
//! small. The same root always gives the same bytes.
//!
//! What is in a directory comes right after it: GNU tar sets a directory's time when it leaves it, and coming back would
//! change the time again.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

use super::{Changes, Inode, Name, Node, Root, diff::Change, read::XATTR, split};

/// Longest name in a ustar header, in bytes (POSIX pax, "ustar Interchange Format").
const MAX_NAME: usize = 100;

impl Root {
    /// Writes the whole root.
    pub(crate) fn write(&self, out: impl Write) -> Result<()> {
        let mut tar = Builder::new(out);
        let mut written = HashMap::new();
        for (name, &inode) in in_order(&self.names) {
            put(&mut tar, self, name, inode, &mut written)?;
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }

    /// Writes the layer that makes this root of the one which it was compared with.
    pub(crate) fn write_layer(&self, changes: &Changes, out: impl Write) -> Result<()> {
        let mut tar = Builder::new(out);
        let mut written = HashMap::new();
        for (name, change) in in_order(&changes.0) {
            match change {
                Change::Put(inode) => put(&mut tar, self, name, *inode, &mut written)?,
                Change::Remove => remove(&mut tar, name)?,
            }
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

/// Returns names so that each directory is whole before the next name beside it, whatever bytes names have.
fn in_order<T>(names: &BTreeMap<Name, T>) -> Vec<(&Name, &T)> {
    let mut ordered: Vec<_> = names.iter().collect();
    ordered
        .sort_by(|(one, _), (two, _)| one.split(|&byte| byte == b'/').cmp(two.split(|&byte| byte == b'/')));
    ordered
}

/// Writes one name. `written` has the first name of each inode: the others become hard links to it.
fn put<'a>(
    tar: &mut Builder<impl Write>,
    root: &Root,
    name: &'a Name,
    number: usize,
    written: &mut HashMap<usize, &'a Name>,
) -> Result<()> {
    let inode = &root.inodes[number];
    let first = written.get(&number).copied();
    entry(tar, name, inode, first)
        .with_context(|| format!("cannot write {}", String::from_utf8_lossy(name)))?;
    written.entry(number).or_insert(name);
    Ok(())
}

fn entry(tar: &mut Builder<impl Write>, name: &Name, inode: &Inode, first: Option<&Name>) -> Result<()> {
    let mut header = Header::new_ustar();
    let mut records: Vec<(String, &[u8])> = Vec::new();
    let mut stored = name.clone();
    if matches!(inode.node, Node::Directory) {
        stored.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
    }
    if !short(&stored) {
        records.push(("path".to_owned(), &stored));
    }
    set(&mut header, &stored);
    header.set_mode(inode.mode);
    header.set_uid(inode.uid);
    header.set_gid(inode.gid);
    let seconds = inode.mtime.split('.').next().unwrap_or_default();
    header.set_mtime(seconds.parse().unwrap_or(0));
    if seconds.parse::<u64>().is_err() || seconds.len() != inode.mtime.len() {
        records.push(("mtime".to_owned(), inode.mtime.as_bytes()));
    }
    header.set_size(0);
    let link = match (&inode.node, first) {
        (_, Some(first)) => {
            header.set_entry_type(EntryType::Link);
            Some(first)
        }
        (Node::Symlink(target), None) => {
            header.set_entry_type(EntryType::Symlink);
            Some(target)
        }
        (Node::Directory, None) => {
            header.set_entry_type(EntryType::Directory);
            None
        }
        (Node::File(content), None) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len);
            None
        }
        (Node::CharDevice { major, minor }, None) => {
            header.set_entry_type(EntryType::Char);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            None
        }
        (Node::BlockDevice { major, minor }, None) => {
            header.set_entry_type(EntryType::Block);
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            None
        }
        (Node::Fifo, None) => {
            header.set_entry_type(EntryType::Fifo);
            None
        }
    };
    if let Some(link) = link {
        if !short(link) {
            records.push(("linkpath".to_owned(), link));
        }
        let field = &mut header.as_ustar_mut().expect("it is one").linkname;
        let length = link.len().min(field.len());
        field[..length].copy_from_slice(&link[..length]);
    }
    // Attributes belong to the inode, and the first name has brought them.
    if first.is_none() {
        records.extend(inode.xattrs.iter().map(|(name, value)| (format!("{XATTR}{name}"), value.as_slice())));
    }
    header.set_cksum();
    if !records.is_empty() {
        tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), *value)))?;
    }
    match &inode.node {
        Node::File(content) if first.is_none() => tar.append(&header, content.reader())?,
        Node::File(_)
        | Node::Directory
        | Node::Symlink(_)
        | Node::CharDevice { .. }
        | Node::BlockDevice { .. }
        | Node::Fifo => tar.append(&header, std::io::empty())?,
    }
    Ok(())
}

/// Writes the marker that removes a name.
fn remove(tar: &mut Builder<impl Write>, name: &Name) -> Result<()> {
    let (directory, last) = split(name).context("the root cannot be removed")?;
    let mut marker = directory.to_vec();
    if !marker.is_empty() {
        marker.push(b'/');
    }
    marker.extend_from_slice(b".wh.");
    marker.extend_from_slice(last);
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    set(&mut header, &marker);
    header.set_cksum();
    if !short(&marker) {
        tar.append_pax_extensions([("path", marker.as_slice())])?;
    }
    tar.append(&header, std::io::empty())?;
    Ok(())
}

/// Tells whether a name is one that every reader takes from a ustar header.
fn short(name: &[u8]) -> bool {
    name.len() <= MAX_NAME && name.is_ascii()
}

fn set(header: &mut Header, name: &[u8]) {
    let field = &mut header.as_ustar_mut().expect("it is one").name;
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
}
