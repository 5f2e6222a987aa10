//! Copies of disks on macOS: `fclonefileat` on APFS, which shares the blocks, else the blocks that are not zero.

use std::{fs::File, io};

use camino::Utf8Path;
use rustix::fs::{CWD, CloneFlags, fclonefileat};

use super::{Created, copy_by_hand};

/// Makes the copy's file, whole where the file system shares blocks. APFS clones into a new name only; it fails when the name
/// is taken, as `create_new` does.
pub(super) fn create(from: &File, dst: &Utf8Path) -> io::Result<Created> {
    // Any refusal means "copy then": a real fault of the disk shows up there as well, with its reason.
    if fclonefileat(from, CWD, dst.as_std_path(), CloneFlags::empty()).is_ok() {
        return File::options().read(true).write(true).open(dst).map(Created::Cloned);
    }
    File::options().read(true).write(true).create_new(true).open(dst).map(Created::Empty)
}

/// Copies what is not zero. A file that is not cloned is on another file system than APFS, or goes to one.
pub(super) fn copy_data_ranges(from: &File, to: &File) -> io::Result<()> {
    let len = from.metadata()?.len();
    to.set_len(len)?;
    copy_by_hand(from, to, 0, len)
}
