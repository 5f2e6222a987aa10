//! Takes away what a jail held: called for machines that have ended, never for one that runs.
//!
//! A jail was its VMM's to write to, so nothing in it is trusted. No link is followed and no mount is entered. However deep
//! the directories are, two of them are open at a time: what is below comes up until nothing is. Whoever is killed meanwhile
//! leaves less of the same, which the next one takes away.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown, openat,
        openat2, renameat_with, statat, unlinkat,
    },
    io::Errno,
    process::{getegid, geteuid},
};

/// Names read of a directory at a time; a VMM may have made millions.
const NAMES_MAX: usize = 4096;

/// Removes everything in a directory. A file that belongs to `lent_to` and is to be found elsewhere as well becomes ours again.
///
/// # Errors
/// When something stays, with the rest.
pub(super) fn empty(directory: BorrowedFd<'_>, lent_to: Option<u32>) -> io::Result<()> {
    let mut brought_up = 0;
    loop {
        let names = names(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if is_directory(directory, &name, lent_to)? {
                let below = open_below(directory, &name)?;
                dissolve(below.as_fd(), directory, lent_to, &mut brought_up)?;
                passed(unlinkat(directory, &name, AtFlags::REMOVEDIR))?;
            }
        }
    }
}

/// Removes a directory's files, and moves its directories into the one above.
fn dissolve(
    directory: BorrowedFd<'_>,
    above: BorrowedFd<'_>,
    lent_to: Option<u32>,
    brought_up: &mut u64,
) -> io::Result<()> {
    loop {
        let names = names(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if is_directory(directory, &name, lent_to)? {
                bring_up(directory, &name, above, brought_up)?;
            }
        }
    }
}

fn bring_up(
    from: BorrowedFd<'_>,
    name: &CString,
    above: BorrowedFd<'_>,
    brought_up: &mut u64,
) -> io::Result<()> {
    loop {
        *brought_up += 1;
        match renameat_with(from, name, above, format!(".{brought_up}"), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            // Its VMM has made something of this name; it goes in its turn.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes what is no directory; says whether it is one.
fn is_directory(directory: BorrowedFd<'_>, name: &CString, lent_to: Option<u32>) -> io::Result<bool> {
    let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(true),
        FileType::RegularFile if stat.st_nlink > 1 && lent_to == Some(stat.st_uid) => {
            take_back(directory, name)?;
        }
        FileType::RegularFile
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => {}
    }
    unlinkat(directory, name, AtFlags::empty())?;
    Ok(false)
}

/// Makes a file ours again that was lent to the machine and goes on to be outside of the jail.
fn take_back(directory: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        // First the mode: of its bits none is to count for root that another has set.
        fchmod(&file, super::furnish::LENT)?;
        fchown(&file, Some(Uid::from_raw(geteuid().as_raw())), Some(Gid::from_raw(getegid().as_raw())))?;
    }
    Ok(())
}

/// Opens a directory that is in another, and no other one.
fn open_below(directory: BorrowedFd<'_>, name: &CString) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(directory, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => {
            Err(io::Error::other(format!("something is mounted at {name:?} in it; unmount that first")))
        }
        opened => Ok(opened?),
    }
}

/// Opens the directories in a directory of ours, or some when there are very many.
pub(super) fn directories(directory: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut opened = Vec::new();
    for name in names(directory)? {
        let stat = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            opened.push(open_below(directory, &name)?);
        }
    }
    Ok(opened)
}

/// Returns some names of a directory, and none only when there are none.
fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let entries = Dir::read_from(directory)?.filter(|entry| {
        entry.as_ref().map_or(true, |entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
    });
    entries.take(NAMES_MAX).map(|entry| Ok(entry?.file_name().to_owned())).collect()
}

/// Lets pass that something is not there, or not empty yet.
fn passed(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{
            fs::{MetadataExt, symlink},
            net::UnixListener,
        },
        path::Path,
    };

    use rustix::fs::mkdirat;

    use super::*;

    fn emptied(path: &Path) {
        let directory = File::open(path).unwrap();
        empty(directory.as_fd(), Some(70_000)).unwrap();
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        empty(directory.as_fd(), Some(70_000)).unwrap();
    }

    #[test]
    fn everything_goes_and_nothing_beyond() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (disk, at) = (outside.path().join("disk"), |name: &str| dir.path().join(name));
        fs::write(&disk, "content").unwrap();
        fs::create_dir_all(at("dev/net")).unwrap();
        fs::hard_link(&disk, at("dev/disk1")).unwrap();
        symlink(outside.path(), at("dev/out")).unwrap();
        symlink(&disk, at("link")).unwrap();
        fs::write(at(".1"), "a name that is wanted").unwrap();
        fs::create_dir_all(at(".2/below")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        emptied(dir.path());
        assert_eq!(fs::read_to_string(&disk).unwrap(), "content");
    }

    #[test]
    fn depth_and_number_have_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        // Deeper than descriptors, stacks and paths are.
        let mut below = OwnedFd::from(File::open(dir.path()).unwrap());
        for _ in 0..1_200 {
            mkdirat(&below, "d", Mode::RWXU).unwrap();
            below = open_below(below.as_fd(), &c"d".to_owned()).unwrap();
        }
        fs::create_dir(dir.path().join("wide")).unwrap();
        for number in 0..NAMES_MAX + 10 {
            fs::write(dir.path().join(format!("wide/{number}")), "").unwrap();
        }
        emptied(dir.path());
    }

    #[test]
    fn what_was_lent_is_ours_again() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (disk, jail) = (dir.path().join("disk"), dir.path().join("jail"));
        fs::write(&disk, "content").unwrap();
        fs::create_dir(&jail).unwrap();
        fs::hard_link(&disk, jail.join("hidden by its VMM")).unwrap();
        let image = dir.path().join("image");
        fs::write(&image, "somebody else's").unwrap();
        fs::hard_link(&image, jail.join("image")).unwrap();
        std::os::unix::fs::chown(&image, Some(1000), Some(1000)).unwrap();
        std::os::unix::fs::chown(&disk, Some(70_000), Some(70_000)).unwrap();
        fs::set_permissions(&disk, std::os::unix::fs::PermissionsExt::from_mode(0o4777)).unwrap();
        emptied(&jail);
        let meta = fs::metadata(&disk).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, getegid().as_raw(), 0o600));
        assert_eq!(fs::metadata(&image).unwrap().uid(), 1000, "what was only shown is not taken");
    }
}
