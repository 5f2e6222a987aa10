//! What is refused, and whose files they are.
#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
};

use common::{Client, ROOT};
use rustix::io::Errno;
use shed_ninep::{GUEST_ID, NOBODY, Options, proto::bits};

const EPERM: i32 = Errno::PERM.raw_os_error();
const EROFS: i32 = Errno::ROFS.raw_os_error();
const EOPNOTSUPP: i32 = Errno::OPNOTSUPP.raw_os_error();

#[test]
fn special_files_are_looked_at_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    guest.mknod(ROOT, "file", bits::MODE_FILE | 0o600).unwrap();
    guest.mknod(ROOT, "fifo", bits::MODE_FIFO | 0o600).unwrap();
    assert!(fs::metadata(dir.path().join("fifo")).unwrap().file_type().is_fifo());
    for kind in [0o020_000, 0o060_000, 0o140_000, 0o120_000, 0o040_000] {
        assert_eq!(guest.mknod(ROOT, "no", kind | 0o600), Err(EPERM));
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for name in ["fifo", "socket"] {
        let fid = guest.walk(ROOT, name).unwrap();
        guest.attributes(fid).unwrap();
        for flags in [bits::OPEN_READ, bits::OPEN_WRITE, bits::OPEN_BOTH, bits::OPEN_TRUNCATE] {
            assert_eq!(guest.open(fid, flags), Err(Errno::ACCESS.raw_os_error()), "{name}");
        }
        assert_eq!(guest.create(ROOT, name, bits::OPEN_WRITE, 0o600), Err(Errno::ACCESS.raw_os_error()));
        assert_eq!(guest.set_size(fid, 0), Err(Errno::INVAL.raw_os_error()));
        guest.set_mode(fid, 0o622).unwrap();
        guest.unlink(ROOT, name, 0).unwrap();
    }
    guest.end().unwrap();
}

#[test]
fn what_is_not_there_is_refused_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    guest.put("a", b"");
    let a = guest.open_at("a", bits::OPEN_BOTH).unwrap();
    assert_eq!(guest.walk_attribute(a), Err(EOPNOTSUPP));
    assert_eq!(guest.create_attribute(a), Err(EOPNOTSUPP));
    assert_eq!(guest.authenticate(), Err(EOPNOTSUPP));
    assert_eq!(guest.lock(a), Ok(bits::LOCK_GRANTED));
    assert_eq!(guest.get_lock(a), Ok((bits::UNLOCKED, 5, b"me".to_vec())));
    assert_eq!(guest.lock(4711), Err(Errno::BADF.raw_os_error()));
    let statfs = guest.statfs(a).unwrap();
    assert_eq!((statfs.kind, statfs.longest_name), (0x0102_1997, 255));
    assert!(statfs.blocks > 0 && statfs.block_size > 0);
    guest.end().unwrap();
}

#[test]
fn a_directory_that_is_read_only_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "abc").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let mut guest = Client::start_with(dir.path(), Options { read_only: true, ..Options::default() });
    let a = guest.walk(ROOT, "a").unwrap();
    for flags in
        [bits::OPEN_WRITE, bits::OPEN_BOTH, bits::OPEN_TRUNCATE, bits::OPEN_WRITE | bits::OPEN_APPEND]
    {
        assert_eq!(guest.open(a, flags), Err(EROFS));
    }
    assert_eq!(guest.create(ROOT, "n", bits::OPEN_READ, 0o644), Err(EROFS));
    assert_eq!(guest.create(ROOT, "a", bits::OPEN_READ, 0o644), Err(EROFS));
    assert_eq!(guest.mkdir(ROOT, "n", 0o755), Err(EROFS));
    assert_eq!(guest.mknod(ROOT, "n", bits::MODE_FILE), Err(EROFS));
    assert_eq!(guest.symlink(ROOT, "n", "x"), Err(EROFS));
    assert_eq!(guest.link(ROOT, a, "n"), Err(EROFS));
    assert_eq!(guest.rename(a, ROOT, "n"), Err(EROFS));
    assert_eq!(guest.rename_at(ROOT, "a", ROOT, "n"), Err(EROFS));
    assert_eq!(guest.unlink(ROOT, "a", 0), Err(EROFS));
    assert_eq!(guest.unlink(ROOT, "d", bits::REMOVE_DIRECTORY), Err(EROFS));
    assert_eq!(guest.set_size(a, 0), Err(EROFS));
    assert_eq!(guest.set_mode(a, 0o777), Err(EROFS));
    guest.open(a, bits::OPEN_READ).unwrap();
    assert_eq!(guest.write(a, 0, b"x"), Err(EROFS));
    assert_eq!(guest.read(a, 0, 10).unwrap(), b"abc");
    guest.sync(a, false).unwrap();
    assert_eq!(guest.remove(a), Err(EROFS));
    assert_eq!(guest.list(""), ["a", "d"]);
    guest.end().unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"abc");
}

/// Whoever the tests run as: the owner is the guest's user, and a chown changes nothing.
#[test]
fn the_owner_is_the_guests_user() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    guest.put("a", b"");
    let a = guest.walk(ROOT, "a").unwrap();
    for fid in [ROOT, a] {
        let attributes = guest.attributes(fid).unwrap();
        assert_eq!((attributes.uid, attributes.gid), (GUEST_ID, GUEST_ID));
    }
    let before = fs::metadata(dir.path().join("a")).unwrap();
    for uid in [0, 1000, 33] {
        guest.set_owner(a, uid).unwrap();
    }
    let after = fs::metadata(dir.path().join("a")).unwrap();
    assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
    guest.end().unwrap();
}

#[test]
fn a_server_that_is_root_works_as_the_owner() {
    const OWNER: u32 = 4242;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can serve as somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(OWNER), Some(OWNER + 1)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("theirs"), "root's").unwrap();
    fs::set_permissions(dir.path().join("theirs"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(dir.path().join("rootdir")).unwrap();
    let mut guest = Client::start(dir.path());
    guest.put("a", b"1");
    guest.mkdir(ROOT, "d", 0o777).unwrap();
    guest.symlink(ROOT, "l", "a").unwrap();
    guest.mknod(ROOT, "n", bits::MODE_FIFO | 0o666).unwrap();
    for name in ["a", "d", "l", "n"] {
        let meta = fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER + 1), "{name}");
        let fid = guest.walk(ROOT, name).unwrap();
        let seen = guest.attributes(fid).unwrap();
        assert_eq!((seen.uid, seen.gid), (GUEST_ID, GUEST_ID), "{name}");
    }
    // No umask of the host's takes anything away.
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o777, 0o777);
    let theirs = guest.walk(ROOT, "theirs").unwrap();
    let seen = guest.attributes(theirs).unwrap();
    assert_eq!((seen.uid, seen.gid, seen.mode & 0o777), (NOBODY, NOBODY, 0o600));
    let denied = Err(Errno::ACCESS.raw_os_error());
    assert_eq!(guest.open_at("theirs", bits::OPEN_READ), denied);
    assert_eq!(guest.set_size(theirs, 0), denied.map(|_| ()));
    assert_eq!(guest.set_mode(theirs, 0o666), Err(EPERM));
    assert_eq!(guest.set_owner(theirs, 1000), Err(EPERM));
    let rootdir = guest.walk(ROOT, "rootdir").unwrap();
    assert_eq!(guest.create(rootdir, "x", bits::OPEN_WRITE, 0o644), denied);
    // A link of root's does not become anybody else's either.
    symlink("theirs", dir.path().join("link")).unwrap();
    lchown(dir.path().join("link"), Some(0), Some(0)).unwrap();
    let link = guest.walk(ROOT, "link").unwrap();
    assert_eq!(guest.set_owner(link, 1000), Err(EPERM));
    guest.end().unwrap();
    // The thread that called is who it was.
    assert!(rustix::process::geteuid().is_root());
    assert_eq!(fs::read(dir.path().join("theirs")).unwrap(), b"root's");
}
