//! Copies of disks on Linux: FICLONE where the file system shares blocks, else the ranges that hold data.

use std::{fs::File, io};

use camino::Utf8Path;
use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};

use super::{Created, copy_by_hand};

pub(super) fn create(from: &File, dst: &Utf8Path) -> io::Result<Created> {
    let to = File::options().read(true).write(true).create_new(true).open(dst)?;
    // Any refusal means "copy then": a real fault of the disk shows up there as well, with its reason.
    if ioctl_ficlone(&to, from).is_ok() { Ok(Created::Cloned(to)) } else { Ok(Created::Empty(to)) }
}

pub(super) fn copy_data_ranges(from: &File, to: &File) -> io::Result<()> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data after `at`.
            Err(Errno::NXIO) => return Ok(()),
            // A file system that knows no holes: everything is data, and zeros are skipped while copying.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return copy_by_hand(from, to, at, len),
            Err(error) => return Err(error.into()),
        };
        let hole = match seek(from, SeekFrom::Hole(data)) {
            Ok(hole) => hole.min(len),
            Err(error) => return Err(error.into()),
        };
        copy_range(from, to, data, hole)?;
        at = hole;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Two file systems, or one that cannot do it.
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
