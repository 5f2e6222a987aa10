//! A machine's disks before they are handed to Firecracker, which checks little of them: that they are there, that a guest can
//! tell them apart, and that no other machine writes to one.

use std::{
    fs::{File, TryLockError},
    io,
    os::fd::OwnedFd,
};

use camino::Utf8PathBuf;

use super::machine::serial_of;
use crate::{Disk, DiskAccess};

/// The disks of a machine that is about to be started.
#[derive(Debug)]
pub(super) struct Disks {
    /// The serial numbers that Firecracker will give them, in their order.
    pub(super) serials: Vec<String>,
    /// Locks on those that are written to. They last as long as somebody has these open, which is the machine's process
    /// from its start to its end.
    pub(super) locks: Vec<OwnedFd>,
}

impl Disks {
    /// Looks at the disks and locks them.
    ///
    /// # Errors
    /// When one cannot be used; says which.
    pub(super) fn take(disks: &[Disk]) -> Result<Self, (Utf8PathBuf, io::Error)> {
        let mut taken = Self { serials: Vec::new(), locks: Vec::new() };
        for disk in disks {
            let with_path = |error| (disk.path.clone(), error);
            let serial = serial_of(&disk.path).map_err(with_path)?;
            if taken.serials.contains(&serial) {
                return Err(with_path(io::Error::other(
                    "the guest could not tell it from another disk of the machine",
                )));
            }
            taken.serials.push(serial);
            match disk.access {
                DiskAccess::ReadOnly => {}
                DiskAccess::ReadWrite => {
                    taken.locks.push(lock(disk).map_err(with_path)?);
                }
            }
        }
        Ok(taken)
    }
}

fn lock(disk: &Disk) -> io::Result<OwnedFd> {
    // For writing alone: in a jail this is Firecracker's standard input, of which the guest's console must not get a byte.
    let file = File::options().write(true).open(&disk.path)?;
    match file.try_lock() {
        Ok(()) => Ok(file.into()),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::other("another machine has it locked and writes to it"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;

    #[test]
    fn a_disk_has_one_writer_and_any_number_of_readers() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let disk = |name: &str, access| {
            let path = dir.join(name);
            std::fs::File::options().create(true).append(true).open(&path).unwrap();
            Disk { path, serial: "shed-x", access }
        };
        let read = disk("image", DiskAccess::ReadOnly);
        let write = disk("upper", DiskAccess::ReadWrite);
        let first = Disks::take(&[read.clone(), write.clone()]).unwrap();
        assert_eq!((first.serials.len(), first.locks.len()), (2, 1));
        let (path, error) = Disks::take(std::slice::from_ref(&write)).unwrap_err();
        assert!(path == write.path && error.to_string().contains("another machine"), "{error}");
        let _second = Disks::take(std::slice::from_ref(&read)).unwrap();
        drop(first);
        let _third = Disks::take(std::slice::from_ref(&write)).unwrap();
        assert!(Disks::take(&[read.clone(), read]).is_err(), "the guest finds disks by their serials");
    }
}
