//! Sends what a scan has found, as a tar stream.
//!
//! Files change while they are sent. The archive is whole nevertheless: one that has gone is left out, one that has become
//! shorter is filled up with zeros, and the user is told of both.

use std::{
    ffi::OsStr,
    fs::{File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

use crate::{
    Warnings,
    path::shown,
    scan::{Item, ItemKind, Scan, attributes},
    write::{Missing, TarWriter},
};

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Files and links.
    pub files: u64,
    /// Content of files, in bytes.
    pub bytes: u64,
    /// What was not sent as it is, and why; those of the scan come first.
    pub warnings: Warnings,
}

/// Sends everything, and calls `sent` with the bytes of content that have been sent so far.
///
/// # Errors
/// When the archive cannot be written. What cannot be read is a warning.
pub fn pack<W: Write>(scan: Scan, out: &mut TarWriter<W>, sent: &mut dyn FnMut(u64)) -> io::Result<Packed> {
    let mut total = 0;
    pack_watched(scan, out, &mut |news| match news {
        Sent::Piece(piece) => {
            total += piece.len() as u64;
            sent(total);
        }
        Sent::File { .. } => {}
    })
}

/// What [`pack_watched`] tells.
#[derive(Debug)]
pub enum Sent<'a> {
    /// The next piece of content of the present file.
    Piece(&'a [u8]),
    /// The file is sent.
    File {
        /// Its name in the archive.
        name: &'a Path,
        /// Whether its pieces are what it held at one time, as far as can be told.
        whole: bool,
    },
}

/// The same, and tells what it sends.
///
/// # Errors
/// As [`pack`].
pub fn pack_watched<W: Write>(
    scan: Scan,
    out: &mut TarWriter<W>,
    watch: &mut dyn FnMut(Sent<'_>),
) -> io::Result<Packed> {
    let mut packed = Packed { warnings: scan.warnings, ..Packed::default() };
    for item in scan.items {
        match &item.kind {
            ItemKind::Directory => out.directory(&item.name, item.attributes)?,
            ItemKind::Symlink(target) => {
                out.symlink(&item.name, target, item.attributes)?;
                packed.files += 1;
            }
            ItemKind::File => file(&item, out, &mut packed, watch)?,
        }
    }
    Ok(packed)
}

fn file<W: Write>(
    item: &Item,
    out: &mut TarWriter<W>,
    packed: &mut Packed,
    watch: &mut dyn FnMut(Sent<'_>),
) -> io::Result<()> {
    let name = shown(item.source.as_os_str().as_bytes());
    // What has come into its place must neither be waited for, as a FIFO is, nor followed.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(&item.source);
    let opened = opened.and_then(|file| file.metadata().map(|meta| (file, meta)));
    let (mut file, meta) = match opened {
        Ok((file, meta)) if meta.is_file() => (file, meta),
        Ok(_) => {
            packed.warnings.add(format!("{name}: left out: it is no file any more"));
            return Ok(());
        }
        Err(error) => {
            packed.warnings.add(format!("{name}: left out: {error}"));
            return Ok(());
        }
    };
    let sent = send(&item.name, &mut file, &meta, out, watch)?;
    packed.files += 1;
    packed.bytes += sent.bytes;
    if sent.missing.bytes > 0 {
        let why = sent.missing.failed.map_or("it became shorter".to_owned(), |error| error.to_string());
        packed.warnings.add(format!(
            "{name}: could not be read to its end ({why}); its last {} bytes are zeros in the shed",
            sent.missing.bytes
        ));
    } else if sent.changed {
        packed.warnings.add(format!("{name}: changed while it was sent"));
    }
    Ok(())
}

/// Sends one open file under this name, at the length that `meta` says, and returns whether that is what it held.
///
/// # Errors
/// When the archive cannot be written.
pub fn pack_file<W: Write>(
    name: &Path,
    file: &mut File,
    meta: &Metadata,
    out: &mut TarWriter<W>,
    watch: &mut dyn FnMut(Sent<'_>),
) -> io::Result<bool> {
    let sent = send(name.as_os_str().as_bytes(), file, meta, out, watch)?;
    Ok(sent.missing.bytes == 0 && !sent.changed)
}

struct SentFile {
    bytes: u64,
    missing: Missing,
    changed: bool,
}

fn send<W: Write>(
    name: &[u8],
    file: &mut File,
    meta: &Metadata,
    out: &mut TarWriter<W>,
    watch: &mut dyn FnMut(Sent<'_>),
) -> io::Result<SentFile> {
    let mut bytes = 0;
    let missing = out.file(name, attributes(meta), meta.len(), |buffer| {
        let length = file.read(buffer)?;
        bytes += length as u64;
        watch(Sent::Piece(&buffer[..length]));
        Ok(length)
    })?;
    let changed = file
        .metadata()
        .is_ok_and(|now| now.len() != meta.len() || attributes(&now).modified != attributes(meta).modified);
    let whole = missing.bytes == 0 && !changed;
    watch(Sent::File { name: Path::new(OsStr::from_bytes(name)), whole });
    Ok(SentFile { bytes, missing, changed })
}

#[cfg(test)]
mod tests;
