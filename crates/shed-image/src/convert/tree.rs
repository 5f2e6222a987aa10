//! The files of an image while its layers are put on each other: names, and inodes that names share.
//!
//! Made for millions of them: numbers instead of pointers, names in one buffer, and one table in which a child is found
//! by its directory and name. What a later layer removes stays as an unused place. A directory's list of what is in it
//! keeps removed names until it is gone through, and each layer goes through it at most once.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

use crate::ext4::{FileType, Special, Xattrs};

/// Number of a name; see [`Tree::root`].
pub(super) type NodeId = u32;

/// Number of an inode.
pub(super) type InodeId = u32;

const NONE: u32 = u32::MAX;

/// Number of a layer, the lowest being 1. Directories that no layer has are made by that of what is in them.
pub(super) type Layer = u16;

/// A name in a directory.
#[derive(Debug)]
struct Node {
    parent: NodeId,
    /// Where its name is.
    name: u32,
    /// None when it was removed.
    inode: InodeId,
    first_child: NodeId,
    next: NodeId,
    name_length: u8,
    /// Whether it was layer `clean` itself that emptied this directory.
    opaque: bool,
    /// The last layer that hid what lower ones have below it: everything there is of this layer then.
    clean: Layer,
    /// The last layer that has it, and the last that has it or something below it.
    set: Layer,
    touched: Layer,
}

/// What a file is, and where its content is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Its length in bytes; the layers have the content.
    File(u64),
    Directory,
    /// Where its target is in the buffer of texts, and its length.
    Symlink(u32, u16),
    Special(Special),
}

/// What names share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Number of its attributes.
    pub(super) xattrs: u32,
    /// Names that it has.
    pub(super) links: u32,
    /// Blocks that its content takes at most.
    pub(super) blocks: u32,
    pub(super) mode: u16,
}

impl Inode {
    /// Returns what a directory's entry says of it.
    pub(super) const fn file_type(&self) -> FileType {
        match self.body {
            Body::File(_) => FileType::Regular,
            Body::Directory => FileType::Directory,
            Body::Symlink(..) => FileType::Symlink,
            Body::Special(Special::Character { .. }) => FileType::Character,
            Body::Special(Special::Block { .. }) => FileType::Block,
            Body::Special(Special::Fifo) => FileType::Fifo,
        }
    }
}

/// Says that there are more names than 32 bits can count.
#[derive(Debug)]
pub(super) struct Full;

/// Most that different extended attributes of all files take together, in bytes.
const MAX_XATTRS: usize = 64 << 20;

/// Says that there are more extended attributes than are kept in memory.
#[derive(Debug)]
pub(super) struct ManyXattrs;

/// The files of an image.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    /// Names and targets, each at a place of its own.
    text: Vec<u8>,
    children: HashTable<NodeId>,
    hasher: RandomState,
    xattrs: Vec<Arc<Xattrs>>,
    known_xattrs: HashMap<Arc<Xattrs>, u32>,
    /// What they take, in bytes.
    xattrs_length: usize,
    /// Names that were met in lists of directories.
    #[cfg(test)]
    pub(super) met: std::sync::atomic::AtomicU64,
}

impl Tree {
    /// Returns a tree of nothing but a root directory, which belongs to root and no layer.
    pub(super) fn new() -> Self {
        let none = Arc::new(Xattrs::default());
        let root = Node {
            parent: 0,
            name: 0,
            inode: 0,
            first_child: NONE,
            next: NONE,
            name_length: 0,
            opaque: false,
            clean: 0,
            set: 0,
            touched: 0,
        };
        Self {
            nodes: vec![root],
            inodes: vec![Inode { links: 1, ..Self::plain_directory() }],
            text: Vec::new(),
            children: HashTable::new(),
            hasher: RandomState::new(),
            known_xattrs: HashMap::from([(none.clone(), 0)]),
            xattrs: vec![none],
            xattrs_length: 0,
            #[cfg(test)]
            met: 0.into(),
        }
    }

    /// Returns what a directory is that no layer describes.
    pub(super) const fn plain_directory() -> Inode {
        Inode {
            body: Body::Directory,
            seconds: 0,
            nanoseconds: 0,
            uid: 0,
            gid: 0,
            xattrs: 0,
            links: 0,
            blocks: 0,
            mode: 0o755,
        }
    }

    pub(super) const fn root() -> NodeId {
        0
    }

    pub(super) fn parent(&self, node: NodeId) -> NodeId {
        self.nodes[node as usize].parent
    }

    pub(super) fn name(&self, node: NodeId) -> &[u8] {
        let node = &self.nodes[node as usize];
        &self.text[node.name as usize..][..usize::from(node.name_length)]
    }

    pub(super) fn inode_of(&self, node: NodeId) -> InodeId {
        self.nodes[node as usize].inode
    }

    pub(super) fn inode(&self, inode: InodeId) -> &Inode {
        &self.inodes[inode as usize]
    }

    /// Returns how many inodes were made beside the root's, whether they are still used or not.
    pub(super) fn made(&self) -> u64 {
        self.inodes.len() as u64 - 1
    }

    /// Returns all inodes; those without links are no longer used.
    pub(super) fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    pub(super) fn xattrs(&self, inode: &Inode) -> &Xattrs {
        &self.xattrs[inode.xattrs as usize]
    }

    pub(super) fn is_directory(&self, node: NodeId) -> bool {
        self.inode(self.inode_of(node)).body == Body::Directory
    }

    /// Returns a symbolic link's target.
    pub(super) fn target(&self, inode: InodeId) -> Option<&[u8]> {
        match self.inode(inode).body {
            Body::Symlink(at, length) => Some(&self.text[at as usize..][..usize::from(length)]),
            Body::File(_) | Body::Directory | Body::Special(_) => None,
        }
    }

    /// Tells whether a layer has this entry itself, and whether it has that or something below it.
    pub(super) fn is_of(&self, node: NodeId, layer: Layer) -> (bool, bool) {
        let node = &self.nodes[node as usize];
        (node.set == layer, node.touched == layer)
    }

    /// Finds a name in a directory.
    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let same = |node: &NodeId| self.parent(*node) == parent && self.name(*node) == name;
        self.children.find(self.hash(parent, name), same).copied()
    }

    /// Returns what is in a directory, by name.
    pub(super) fn sorted_children(&self, parent: NodeId) -> Vec<NodeId> {
        let mut children: Vec<NodeId> = self.children_of(parent).collect();
        children.sort_unstable_by(|a, b| self.name(*a).cmp(self.name(*b)));
        children
    }

    fn children_of(&self, parent: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let there = |node: NodeId| (node != NONE).then_some(node);
        let first = there(self.nodes[parent as usize].first_child);
        std::iter::successors(first, move |node| there(self.nodes[*node as usize].next))
            .inspect(|_| {
                #[cfg(test)]
                let _before = self.met.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
            .filter(|node| self.nodes[*node as usize].inode != NONE)
    }

    /// Returns what is in a directory, and takes removed names out of its list.
    fn pruned_children(&mut self, directory: NodeId) -> Vec<NodeId> {
        let children: Vec<NodeId> = self.children_of(directory).collect();
        let mut next = NONE;
        for child in children.iter().rev() {
            self.nodes[*child as usize].next = next;
            next = *child;
        }
        self.nodes[directory as usize].first_child = next;
        children
    }

    /// Marks a name, and the directories that lead to it, as part of a layer.
    pub(super) fn touch(&mut self, mut node: NodeId, layer: Layer) {
        loop {
            let this = &mut self.nodes[node as usize];
            if this.touched == layer {
                return;
            }
            this.touched = layer;
            node = this.parent;
        }
    }

    /// Adds an inode that has no name yet.
    pub(super) fn add_inode(&mut self, inode: Inode) -> Result<InodeId, Full> {
        let id = u32::try_from(self.inodes.len()).ok().filter(|id| *id != NONE).ok_or(Full)?;
        self.inodes.push(Inode { links: 0, ..inode });
        Ok(id)
    }

    /// Gives a name in a directory to an inode, in place of what had it. A directory that gives way to a directory keeps
    /// what is in it.
    pub(super) fn put(
        &mut self,
        parent: NodeId,
        name: &[u8],
        inode: InodeId,
        layer: Layer,
        set: bool,
    ) -> Result<NodeId, Full> {
        self.inodes[inode as usize].links += 1;
        let node = match self.child(parent, name) {
            Some(node) => {
                if self.inode(inode).body != Body::Directory {
                    self.remove_children(node);
                }
                let before = self.inode_of(node);
                self.inodes[before as usize].links -= 1;
                self.nodes[node as usize].inode = inode;
                node
            }
            None => self.add_node(parent, name, inode)?,
        };
        if set {
            self.nodes[node as usize].set = layer;
        }
        self.touch(node, layer);
        Ok(node)
    }

    /// Gives the root other attributes.
    pub(super) fn set_root(&mut self, inode: Inode, layer: Layer) {
        self.inodes[0] = Inode { links: 1, ..inode };
        let root = &mut self.nodes[0];
        (root.set, root.touched) = (layer, layer);
    }

    fn add_node(&mut self, parent: NodeId, name: &[u8], inode: InodeId) -> Result<NodeId, Full> {
        let id = u32::try_from(self.nodes.len()).ok().filter(|id| *id != NONE).ok_or(Full)?;
        let at = self.add_text(name)?;
        let name_length = u8::try_from(name.len()).expect("longer names were refused");
        let next = std::mem::replace(&mut self.nodes[parent as usize].first_child, id);
        self.nodes.push(Node {
            parent,
            name: at,
            inode,
            first_child: NONE,
            next,
            name_length,
            opaque: false,
            clean: 0,
            set: 0,
            touched: 0,
        });
        let hash = self.hash(parent, name);
        let (nodes, text, hasher) = (&self.nodes, &self.text, &self.hasher);
        let _entry = self.children.insert_unique(hash, id, |node| {
            let node = &nodes[*node as usize];
            hash_of(hasher, node.parent, &text[node.name as usize..][..usize::from(node.name_length)])
        });
        Ok(id)
    }

    /// Keeps a name or a target.
    pub(super) fn add_text(&mut self, text: &[u8]) -> Result<u32, Full> {
        let at = u32::try_from(self.text.len()).map_err(|_| Full)?;
        self.text.extend_from_slice(text);
        Ok(at)
    }

    /// Keeps attributes, and returns their number.
    pub(super) fn add_xattrs(&mut self, xattrs: Xattrs) -> Result<u32, ManyXattrs> {
        if xattrs.is_empty() {
            return Ok(0);
        }
        if let Some(known) = self.known_xattrs.get(&xattrs) {
            return Ok(*known);
        }
        self.xattrs_length += xattrs.memory();
        if self.xattrs_length > MAX_XATTRS {
            return Err(ManyXattrs);
        }
        let number = u32::try_from(self.xattrs.len()).expect("there are less than inodes");
        let xattrs = Arc::new(xattrs);
        self.xattrs.push(xattrs.clone());
        self.known_xattrs.insert(xattrs, number);
        Ok(number)
    }

    /// Removes a name and all below it, except for what `layer` itself has, and what leads to that.
    pub(super) fn white_out(&mut self, node: NodeId, layer: Layer) {
        let mut left = vec![node];
        while let Some(node) = left.pop() {
            if self.is_of(node, layer).1 {
                let this = &mut self.nodes[node as usize];
                if this.clean != layer {
                    (this.clean, this.opaque) = (layer, false);
                    left.extend(self.pruned_children(node));
                }
            } else {
                self.remove_children(node);
                self.remove(node);
            }
        }
    }

    /// Removes what is in a directory in the same way, but never the directory. Tells whether it is the first time for
    /// this layer.
    pub(super) fn make_opaque(&mut self, directory: NodeId, layer: Layer) -> bool {
        let this = &mut self.nodes[directory as usize];
        if this.clean == layer {
            return !std::mem::replace(&mut this.opaque, true);
        }
        (this.clean, this.opaque) = (layer, true);
        for child in self.pruned_children(directory) {
            self.white_out(child, layer);
        }
        true
    }

    fn remove_children(&mut self, node: NodeId) {
        let mut left: Vec<NodeId> = self.children_of(node).collect();
        while let Some(node) = left.pop() {
            left.extend(self.children_of(node));
            self.remove(node);
        }
        self.nodes[node as usize].first_child = NONE;
    }

    fn remove(&mut self, node: NodeId) {
        let hash = self.hash(self.parent(node), self.name(node));
        if let Ok(entry) = self.children.find_entry(hash, |other| *other == node) {
            let _removed = entry.remove();
        }
        let inode = std::mem::replace(&mut self.nodes[node as usize].inode, NONE);
        self.inodes[inode as usize].links -= 1;
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        hash_of(&self.hasher, parent, name)
    }
}

fn hash_of(hasher: &RandomState, parent: NodeId, name: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u32(parent);
    hasher.write(name);
    hasher.finish()
}

// What a file takes beside its name, together with some 8 bytes in the table.
const _: () = assert!(size_of::<Node>() + size_of::<Inode>() <= 84);
