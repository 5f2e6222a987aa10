//! Sends what a scan has found, as a tar stream.
//!
//! Files change while they are sent. The archive is whole nevertheless: one that has gone is left out, one that has become
//! shorter is filled up with zeros, and the user is told of both.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
};

use rustix::fs::OFlags;

use crate::{
    Warnings,
    path::shown,
    scan::{Item, ItemKind, Scan, attributes},
    write::TarWriter,
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
    let mut packed = Packed { warnings: scan.warnings, ..Packed::default() };
    for item in scan.items {
        match &item.kind {
            ItemKind::Directory => out.directory(&item.name, item.attributes)?,
            ItemKind::Symlink(target) => {
                out.symlink(&item.name, target, item.attributes)?;
                packed.files += 1;
            }
            ItemKind::File => file(&item, out, &mut packed, sent)?,
        }
    }
    Ok(packed)
}

fn file<W: Write>(
    item: &Item,
    out: &mut TarWriter<W>,
    packed: &mut Packed,
    sent: &mut dyn FnMut(u64),
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
    let before = packed.bytes;
    let mut done = 0;
    let missing = out.file(&item.name, attributes(&meta), meta.len(), |buffer| {
        let length = file.read(buffer)?;
        done += length as u64;
        sent(before + done);
        Ok(length)
    })?;
    packed.files += 1;
    packed.bytes += done;
    if missing.bytes > 0 {
        let why = missing.failed.map_or("it became shorter".to_owned(), |error| error.to_string());
        packed.warnings.add(format!(
            "{name}: could not be read to its end ({why}); its last {} bytes are zeros in the shed",
            missing.bytes
        ));
    } else if file
        .metadata()
        .is_ok_and(|now| now.len() != meta.len() || attributes(&now).modified != attributes(&meta).modified)
    {
        packed.warnings.add(format!("{name}: changed while it was sent"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
