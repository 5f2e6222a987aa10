//! Extended attributes as ext4 stores them: in the inode where they have room, else all in one block.
//!
//! Attributes of a namespace that ext4 has no number for are not taken over, nor those by which overlayfs speaks to
//! itself: below a shed's own disk they would redirect or hide files. Nor is SELinux's label, which belongs to the policy
//! of the system it was made on; `umoci unpack` leaves it out, too.

use super::{BLOCK, inode::XATTRS_ROOM, put16, put32, short};

const MAGIC: u32 = 0xea02_0000;

/// Length of the head of a block with attributes, of the mark before those in an inode, and of an entry without its
/// name, in bytes.
const BLOCK_HEAD: usize = 32;
const INODE_HEAD: usize = 4;
const ENTRY: usize = 16;

/// What ends the entries, in bytes.
const END: usize = 4;

/// Says why a file's attributes cannot be stored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum XattrError {
    #[error("its extended attributes take more than the block of 4096 bytes that ext4 has for them")]
    TooLarge,
    #[error("its access control list cannot be read")]
    Acl,
    #[error("an extended attribute has a name of more than 255 bytes, or two have the same")]
    Name,
    /// The kernel takes such an inode for damaged.
    #[error("an extended attribute has a zero byte in its name")]
    ZeroByte,
}

/// The attributes of a file that ext4 can store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Xattrs(Box<[Xattr]>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Xattr {
    namespace: u8,
    /// Without the prefix that the namespace stands for.
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Xattrs {
    /// Takes the attributes over that can mean anything in a shed.
    pub(crate) fn new<'a>(all: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, XattrError> {
        let mut xattrs = Vec::new();
        for (name, value) in all {
            let Some((namespace, name)) = split(name) else { continue };
            if name.len() > 255 {
                return Err(XattrError::Name);
            }
            if name.contains(&0) {
                return Err(XattrError::ZeroByte);
            }
            let value = match namespace {
                ACL_ACCESS | ACL_DEFAULT => acl(value).ok_or(XattrError::Acl)?,
                _ => value.into(),
            };
            xattrs.push(Xattr { namespace, name: name.into(), value });
        }
        // Readers of a block rely on this order.
        xattrs
            .sort_by(|a, b| (a.namespace, a.name.len(), &a.name).cmp(&(b.namespace, b.name.len(), &b.name)));
        let twice = |pair: &[Xattr]| (pair[0].namespace, &pair[0].name) == (pair[1].namespace, &pair[1].name);
        if xattrs.windows(2).any(twice) {
            return Err(XattrError::Name);
        }
        let xattrs = Self(xattrs.into());
        if xattrs.length() + BLOCK_HEAD > BLOCK { Err(XattrError::TooLarge) } else { Ok(xattrs) }
    }

    /// Tells whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns about what they take in memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let one = |xattr: &Xattr| size_of::<Xattr>() + xattr.name.len() + xattr.value.len();
        size_of::<Self>() + self.0.iter().map(one).sum::<usize>()
    }

    /// Tells whether they need a block of their own.
    pub(crate) fn need_block(&self) -> bool {
        self.length() + INODE_HEAD > XATTRS_ROOM
    }

    /// What entries, values and the end take, in bytes.
    fn length(&self) -> usize {
        let one = |xattr: &Xattr| ENTRY + padded(xattr.name.len()) + padded(xattr.value.len());
        self.0.iter().map(one).sum::<usize>() + END
    }

    /// Returns what stands in the inode; nothing if they need a block.
    pub(super) fn in_inode(&self) -> [u8; XATTRS_ROOM] {
        let mut room = [0; XATTRS_ROOM];
        if !self.is_empty() && !self.need_block() {
            put32(&mut room, 0, MAGIC);
            // Values are counted from the first entry, and hashes are not used.
            self.store(&mut room[INODE_HEAD..], 0, |_| 0);
        }
        room
    }

    /// Returns the block they need.
    pub(super) fn block(&self) -> Option<Box<[u8; BLOCK]>> {
        self.need_block().then(|| {
            let mut block = Box::new([0; BLOCK]);
            put32(&mut *block, 0, MAGIC);
            // One file uses it, and it is one block.
            put32(&mut *block, 4, 1);
            put32(&mut *block, 8, 1);
            self.store(&mut *block, BLOCK_HEAD, Xattr::hash);
            block
        })
    }

    /// Writes entries from `at` on, and their values from the end backwards.
    fn store(&self, room: &mut [u8], mut at: usize, hash: impl Fn(&Xattr) -> u32) {
        let mut end = room.len();
        for xattr in &self.0 {
            end -= padded(xattr.value.len());
            room[end..end + xattr.value.len()].copy_from_slice(&xattr.value);
            room[at] = u8::try_from(xattr.name.len()).expect("it was compared with 255");
            room[at + 1] = xattr.namespace;
            put16(room, at + 2, if xattr.value.is_empty() { 0 } else { short(end) });
            put32(room, at + 8, u32::try_from(xattr.value.len()).expect("it is inside of a block"));
            put32(room, at + 12, hash(xattr));
            room[at + ENTRY..at + ENTRY + xattr.name.len()].copy_from_slice(&xattr.name);
            at += ENTRY + padded(xattr.name.len());
        }
    }
}

impl Xattr {
    /// The hash that an entry in a block has.
    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        self.value.chunks(4).fold(name, |hash, bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// Tells whether an attribute of this name is taken over.
pub(crate) fn keeps_xattr(name: &[u8]) -> bool {
    split(name).is_some()
}

/// Returns the number of a name's namespace, and what is left of the name.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((ACL_ACCESS, b"")),
        b"system.posix_acl_default" => return Some((ACL_DEFAULT, b"")),
        b"security.selinux" => return None,
        _ if name.starts_with(b"trusted.overlay.") => return None,
        _ => {}
    }
    let known: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    known.into_iter().find_map(|(namespace, prefix)| {
        name.strip_prefix(prefix).filter(|rest| !rest.is_empty()).map(|rest| (namespace, rest))
    })
}

/// Rewrites an access control list: in the attribute every entry has eight bytes, on the disk those without a user or
/// group have four.
fn acl(value: &[u8]) -> Option<Box<[u8]>> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    let mut stored = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks(8) {
        let [tag_low, tag_high, _, _, _, _, _, _] = *entry else { return None };
        let named = matches!(u16::from_le_bytes([tag_low, tag_high]), USER | GROUP);
        stored.extend_from_slice(if named { entry } else { &entry[..4] });
    }
    Some(stored.into())
}

const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}
