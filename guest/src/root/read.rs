//! Reads a tar with the root of a file system, or with one layer of it.
//!
//! It reads what mmdebstrap and this program write: ustar headers, and pax records for what they cannot say. Records are
//! taken apart here, because the value of an extended attribute may hold any byte. Anything else is refused rather than
//! lost.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use camino::Utf8Path;
use tar::{Archive, EntryType, Header};

use super::{Content, Inode, Name, Node, Root};

/// Begins the name of a marker that removes a file of the layers below (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// The marker that removes everything which the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Begins the pax record of an extended attribute (star(1); GNU tar and libarchive write the same).
pub(super) const XATTR: &str = "SCHILY.xattr.";

/// Longest set of pax records, in bytes: attributes of 64 KiB and two names are far below.
const MAX_RECORDS: u64 = 4 << 20;

/// Who wrote a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// mmdebstrap: a whole root. The device files in it are of today in every tar, so their time says nothing.
    Mmdebstrap,
    /// This program: a layer.
    Layer,
}

/// A layer: what it puts, and what it takes away from those below.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(super) root: Root,
    pub(super) whiteouts: Vec<Name>,
    pub(super) opaque: Vec<Name>,
}

impl Layer {
    /// Returns a layer that is a whole root.
    ///
    /// # Errors
    /// When it takes something away.
    pub(crate) fn into_root(self) -> Result<Root> {
        ensure!(
            self.whiteouts.is_empty() && self.opaque.is_empty(),
            "a file of the root has a name that begins with .wh., which no layer can hold"
        );
        Ok(self.root)
    }

    /// Reads a tar, which must stay as it is as long as the layer lives.
    pub(crate) fn read(path: &Utf8Path, origin: Origin) -> Result<Self> {
        let tar = File::open(path).with_context(|| format!("cannot read {path}"))?;
        read(&Arc::new(tar), origin).with_context(|| format!("cannot read {path} as a tar archive"))
    }
}

fn read(tar: &Arc<File>, origin: Origin) -> Result<Layer> {
    let mut layer = Layer { root: Root::default(), whiteouts: Vec::new(), opaque: Vec::new() };
    // A descriptor of its own would share the position; nobody else uses it.
    let mut archive = Archive::new(tar.try_clone()?);
    let mut records = None;
    for entry in archive.entries_with_seek()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_pax_local_extensions() {
            ensure!(entry.size() <= MAX_RECORDS, "an entry has more than {MAX_RECORDS} bytes of pax records");
            let mut bytes = Vec::new();
            let _length = entry.read_to_end(&mut bytes)?;
            records = Some(Records::parse(&bytes)?);
            continue;
        }
        let records = records.take().unwrap_or_default();
        let content = (entry.raw_file_position(), entry.size());
        let path = records.path.clone().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let (name, header) = (clean(&path)?, entry.header());
        add(&mut layer, tar, origin, name, header, records, content)
            .with_context(|| format!("entry {}", String::from_utf8_lossy(&path)))?;
    }
    Ok(layer)
}

fn add(
    layer: &mut Layer,
    tar: &Arc<File>,
    origin: Origin,
    name: Name,
    header: &Header,
    records: Records,
    (at, len): (u64, u64),
) -> Result<()> {
    if let Some((directory, last)) = super::split(&name) {
        if last == OPAQUE {
            layer.opaque.push(directory.to_vec());
            return Ok(());
        }
        if let Some(removed) = last.strip_prefix(WHITEOUT) {
            let mut whole = directory.to_vec();
            if !whole.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(removed);
            layer.whiteouts.push(whole);
            return Ok(());
        }
    }
    let target = || -> Result<Vec<u8>> {
        let target =
            records.link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        target.context("it is a link to nothing")
    };
    let device = || -> Result<(u32, u32)> {
        let major = header.device_major()?.context("it has no device number")?;
        Ok((major, header.device_minor()?.context("it has no device number")?))
    };
    let root = &mut layer.root;
    let node = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Node::File(Content { tar: Arc::clone(tar), at, len }),
        EntryType::Directory => Node::Directory,
        EntryType::Symlink => Node::Symlink(target()?),
        EntryType::Char => device().map(|(major, minor)| Node::CharDevice { major, minor })?,
        EntryType::Block => device().map(|(major, minor)| Node::BlockDevice { major, minor })?,
        EntryType::Fifo => Node::Fifo,
        EntryType::Link => {
            let target = clean(&target()?)?;
            let inode = root.names.get(&target).context("it is a hard link to what comes later or never")?;
            root.names.insert(name, *inode);
            return Ok(());
        }
        other => bail!("it is of the type {:?}, which nobody writes here", char::from(other.as_byte())),
    };
    let today = origin == Origin::Mmdebstrap && (name == b"dev" || name.starts_with(b"dev/"));
    let mtime = match records.mtime {
        _ if today => "0".to_owned(),
        Some(mtime) => mtime,
        None => header.mtime()?.to_string(),
    };
    let inode = Inode {
        node,
        mode: header.mode()? & 0o7777,
        uid: header.uid()?,
        gid: header.gid()?,
        mtime,
        xattrs: records.xattrs,
    };
    root.inodes.push(inode);
    root.names.insert(name, root.inodes.len() - 1);
    Ok(())
}

/// Takes `./` from the front and `/` from the end; refuses what leads out of the root.
fn clean(path: &[u8]) -> Result<Name> {
    let mut name = Vec::with_capacity(path.len());
    for part in path.split(|&byte| byte == b'/') {
        ensure!(part != b"..", "the name {} leads out of the root", String::from_utf8_lossy(path));
        if part.is_empty() || part == b"." {
            continue;
        }
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(part);
    }
    Ok(name)
}

/// What pax records say about the next entry.
#[derive(Debug, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    mtime: Option<String>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Records {
    /// Takes records apart: `LENGTH NAME=VALUE\n`, where the length counts all of it (POSIX pax, "pax Extended Header").
    fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its pax records are damaged");
        let mut records = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|&byte| byte == b' ').ok_or_else(damaged)?;
            let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok());
            let length: usize = length.ok_or_else(damaged)?;
            let record = bytes.get(space + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(damaged)?;
            let key = std::str::from_utf8(&record[..equals]).map_err(|_| damaged())?;
            records.set(key, &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(records)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "mtime" => {
                let text = String::from_utf8(value.to_vec()).ok();
                let text = text.filter(|text| text.parse::<f64>().is_ok_and(f64::is_finite));
                self.mtime = Some(text.ok_or_else(|| refused("its mtime is no number".to_owned()))?);
            }
            "atime" | "ctime" | "comment" => {}
            // Written only for what has no room in the header: sizes from 8 GiB, ids from 2 million, sparse files.
            _ if key == "size" || key == "uid" || key == "gid" || key.starts_with("GNU.sparse.") => {
                return Err(refused(format!("its {key} has no room in the header")));
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.insert(name.to_owned(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_may_hold_any_byte() {
        let mut bytes = b"25 SCHILY.xattr.user.a=\n\n".to_vec();
        assert_eq!(bytes.len(), 25);
        bytes.extend(b"15 mtime=123.5\n");
        let records = Records::parse(&bytes).unwrap();
        assert_eq!(records.xattrs["user.a"], b"\n");
        assert_eq!(records.mtime.as_deref(), Some("123.5"));
    }

    #[test]
    fn damaged_records_are_refused() {
        for bytes in [&b"x"[..], b"5 a=b", b"99 a=b\n", b"6 ab=\n6", b"6 a=bc", b"3 a=b\n", b"0 a=b\n"] {
            assert!(Records::parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(Records::parse(b"14 size=12345\n").is_err());
        assert!(Records::parse(b"11 mtime=x\n").is_err());
    }

    #[test]
    fn names_are_clean_and_stay_inside() {
        assert_eq!(clean(b"./usr//bin/").unwrap(), b"usr/bin");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert!(clean(b"usr/../../etc").is_err());
    }
}
