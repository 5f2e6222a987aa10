//! The root of a file system as a value: names, inodes, and where in which tar the content lies.
//!
//! Layers are made of such values and applied to them (see `layers.rs`), so whoever builds an image needs neither root
//! nor a mount to compare two roots, and owners, devices and capabilities come through as the tars have them. `read.rs`
//! and `write.rs` are the way in and out, `diff.rs` finds what one root has that another has not. Nothing here runs a tool.

mod diff;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use anyhow::{Context as _, Result};

pub(crate) use diff::Changes;
pub(crate) use read::{Layer, Origin};

/// How much is read at once of two files that are compared, in bytes.
const PIECE: usize = 1 << 18;

/// A name inside the root, without a slash at either end; the root itself is empty.
pub(crate) type Name = Vec<u8>;

/// All files of a root. Names of one inode are hard links of each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Root {
    names: BTreeMap<Name, usize>,
    inodes: Vec<Inode>,
}

/// A file of any kind, without its names.
#[derive(Debug, Clone)]
struct Inode {
    node: Node,
    /// The permission bits, set-uid and its like among them.
    mode: u32,
    uid: u64,
    gid: u64,
    /// Seconds since 1970 as pax has them: decimal, perhaps with a fraction.
    mtime: String,
    /// Extended attributes, file capabilities among them; sorted by name.
    xattrs: BTreeMap<String, Vec<u8>>,
}

/// What kind of file an inode is, and what makes it that one.
#[derive(Debug, Clone)]
enum Node {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// The bytes of a file, where they lie.
#[derive(Debug, Clone)]
struct Content {
    tar: Arc<File>,
    at: u64,
    len: u64,
}

impl Root {
    /// Puts a layer on top.
    pub(crate) fn apply(&mut self, layer: Layer) {
        let Layer { root, whiteouts, opaque } = layer;
        for name in whiteouts {
            self.remove(&name);
        }
        for name in opaque {
            self.remove_below(&name);
        }
        let first = self.inodes.len();
        self.inodes.extend(root.inodes);
        for (name, inode) in root.names {
            let inode = first + inode;
            if !matches!(self.inodes[inode].node, Node::Directory) {
                self.remove_below(&name);
            }
            self.names.insert(name, inode);
        }
    }

    /// Returns the root without the files in /dev: whoever unpacks it brings their own, and only root can make them.
    pub(crate) fn without_devices(&self) -> Self {
        let mut root = self.clone();
        root.remove_below(b"dev");
        root
    }

    fn remove(&mut self, name: &[u8]) {
        self.names.remove(name);
        self.remove_below(name);
    }

    fn remove_below(&mut self, name: &[u8]) {
        // Everything below has the name and a slash, and a zero is the byte after a slash.
        let (mut from, mut to) = (name.to_vec(), name.to_vec());
        from.push(b'/');
        to.push(b'/' + 1);
        let below: Vec<Name> = self.names.range(from..to).map(|(name, _)| name.clone()).collect();
        for name in below {
            self.names.remove(&name);
        }
    }

    /// Returns the time of the newest file, as RFC 3339 has it.
    pub(crate) fn newest(&self) -> Result<String> {
        let seconds = |inode: &Inode| inode.mtime.split('.').next().and_then(|text| text.parse::<i64>().ok());
        let newest = self.inodes.iter().filter_map(seconds).max().unwrap_or(0);
        Ok(jiff::Timestamp::from_second(newest).context("the root has a file of another age")?.to_string())
    }

    fn inode(&self, name: &[u8]) -> Option<&Inode> {
        self.names.get(name).map(|&inode| &self.inodes[inode])
    }

    fn is_directory(&self, name: &[u8]) -> bool {
        self.inode(name).is_some_and(|inode| matches!(inode.node, Node::Directory))
    }

    /// Returns the names of every inode that has one.
    fn links(&self) -> HashMap<usize, Vec<&Name>> {
        let mut links: HashMap<usize, Vec<&Name>> = HashMap::new();
        for (name, &inode) in &self.names {
            links.entry(inode).or_default().push(name);
        }
        links
    }
}

impl Inode {
    /// Tells whether two inodes are alike in everything that a program could see, content included.
    fn same(&self, other: &Self) -> io::Result<bool> {
        let alike = self.mode == other.mode
            && self.uid == other.uid
            && self.gid == other.gid
            && self.mtime == other.mtime
            && self.xattrs == other.xattrs;
        if !alike {
            return Ok(false);
        }
        match (&self.node, &other.node) {
            (Node::Directory, Node::Directory) | (Node::Fifo, Node::Fifo) => Ok(true),
            (Node::File(one), Node::File(two)) => one.same(two),
            (Node::Symlink(one), Node::Symlink(two)) => Ok(one == two),
            (Node::CharDevice { major, minor }, Node::CharDevice { major: major2, minor: minor2 })
            | (Node::BlockDevice { major, minor }, Node::BlockDevice { major: major2, minor: minor2 }) => {
                Ok((major, minor) == (major2, minor2))
            }
            (
                Node::Directory
                | Node::File(_)
                | Node::Symlink(_)
                | Node::CharDevice { .. }
                | Node::BlockDevice { .. }
                | Node::Fifo,
                _,
            ) => Ok(false),
        }
    }
}

impl Content {
    fn same(&self, other: &Self) -> io::Result<bool> {
        if self.len != other.len {
            return Ok(false);
        }
        let (mut one, mut two) = (vec![0; PIECE], vec![0; PIECE]);
        let mut at = 0;
        while at < self.len {
            let count = usize::try_from(self.len - at).unwrap_or(PIECE).min(PIECE);
            self.tar.read_exact_at(&mut one[..count], self.at + at)?;
            other.tar.read_exact_at(&mut two[..count], other.at + at)?;
            if one[..count] != two[..count] {
                return Ok(false);
            }
            at += count as u64;
        }
        Ok(true)
    }

    /// Reads from where it lies.
    fn reader(&self) -> ContentReader<'_> {
        ContentReader { content: self, at: 0 }
    }
}

/// Reads the bytes of a file.
struct ContentReader<'a> {
    content: &'a Content,
    at: u64,
}

impl io::Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.content.len - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let count = self.content.tar.read_at(&mut buffer[..wanted], self.content.at + self.at)?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// Returns the directory a name is in, and its last part; nothing for the root.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.is_empty() {
        return None;
    }
    Some(
        name.iter()
            .rposition(|&byte| byte == b'/')
            .map_or((&[][..], name), |at| (&name[..at], &name[at + 1..])),
    )
}
