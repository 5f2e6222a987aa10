//! Every operation, as the guest's kernel uses it, seen from both sides.
#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use common::{Client, ROOT};
use rustix::io::Errno;
use shed_ninep::{
    Options,
    proto::{SetAttributes, bits},
};

const EPERM: i32 = Errno::PERM.raw_os_error();
const ENOENT: i32 = Errno::NOENT.raw_os_error();
const EOPNOTSUPP: i32 = Errno::OPNOTSUPP.raw_os_error();

#[test]
fn files_are_made_written_read_and_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.create(ROOT, "a", bits::OPEN_BOTH | bits::OPEN_EXCLUSIVE, 0o640).unwrap();
    assert_eq!(guest.write(fid, 0, b"hello world"), Ok(11));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hello world");
    assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o7777, 0o640);
    // As the kernel writes pages back: in pieces, not in order, beyond the end.
    assert_eq!(guest.write(fid, 8192, b"page three"), Ok(10));
    assert_eq!(guest.write(fid, 6, b"W"), Ok(1));
    let mut expected = b"hello World".to_vec();
    expected.resize(8192, 0);
    expected.extend_from_slice(b"page three");
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), expected);
    assert_eq!(guest.read(fid, 6, 5).unwrap(), b"World");
    assert_eq!(guest.read(fid, 9000, 5).unwrap(), b"");
    guest.set_size(fid, 5).unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hello");
    // Cut by name, which nobody has open for writing.
    let named = guest.walk(ROOT, "a").unwrap();
    guest.set_size(named, 2).unwrap();
    assert_eq!(guest.attributes(fid).unwrap().size, 2);
    assert_eq!(guest.attributes(fid).unwrap().qid.version, 0, "it would be cached");
    guest.sync(fid, false).unwrap();
    guest.sync(fid, true).unwrap();
    assert_eq!(
        guest.create(ROOT, "a", bits::OPEN_BOTH | bits::OPEN_EXCLUSIVE, 0o640),
        Err(Errno::EXIST.raw_os_error())
    );
    // The host makes a file between the guest's look and its create.
    fs::write(dir.path().join("b"), "of the host").unwrap();
    let other = guest.create(ROOT, "b", bits::OPEN_BOTH | bits::OPEN_TRUNCATE, 0o640).unwrap();
    assert_eq!(guest.attributes(other).unwrap().size, 0);
    let opened = guest.open_at("a", bits::OPEN_WRITE | bits::OPEN_TRUNCATE).unwrap();
    assert_eq!(guest.read(opened, 0, 1), Err(Errno::BADF.raw_os_error()));
    assert_eq!(fs::metadata(dir.path().join("a")).unwrap().len(), 0);
    guest.end().unwrap();
}

#[test]
fn a_megabyte_goes_through_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let content: Vec<u8> = (0_u32..(1 << 20) - 24).map(|index| (index % 251).to_le_bytes()[0]).collect();
    let fid = guest.create(ROOT, "big", bits::OPEN_BOTH, 0o600).unwrap();
    let length = u32::try_from(content.len()).unwrap();
    assert_eq!(guest.write(fid, 0, &content), Ok(length));
    assert!(guest.read(fid, 0, u32::MAX).unwrap() == content);
    assert!(fs::read(dir.path().join("big")).unwrap() == content);
    guest.end().unwrap();
}

#[test]
fn what_is_appended_goes_to_the_end_or_to_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), "host\n").unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.open_at("log", bits::OPEN_WRITE | bits::OPEN_APPEND).unwrap();
    guest.write(fid, 0, b"guest\n").unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "host\nguest\n");
    guest.end().unwrap();
    // With pages that are written back, the offset counts.
    let mut guest = Client::start_with(dir.path(), Options { append_at_end: false, ..Options::default() });
    let fid = guest.open_at("log", bits::OPEN_WRITE | bits::OPEN_APPEND).unwrap();
    guest.write(fid, 0, b"HOST\nguest\nmore\n").unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "HOST\nguest\nmore\n");
    guest.end().unwrap();
}

#[test]
fn directories_are_made_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let qid = guest.mkdir(ROOT, "d", 0o750).unwrap();
    assert_eq!(qid.kind, bits::QID_DIRECTORY);
    // The guest's kernel passes the group bit of the parent on.
    guest.mkdir(ROOT, "e", 0o750 | bits::MODE_SETGID).unwrap();
    assert_eq!(fs::metadata(dir.path().join("e")).unwrap().mode() & 0o7777, 0o750);
    let d = guest.walk(ROOT, "d").unwrap();
    guest.mkdir(d, "f", 0o755).unwrap();
    assert_eq!(guest.walk_to(ROOT, d + 1000, &["d", "f"]).unwrap().len(), 2);
    guest.put("d/x", b"x");
    guest.symlink(d, "l", "/nowhere").unwrap();
    assert_eq!(guest.list("d"), ["f", "l", "x"]);
    let open = guest.open_at("d", 0).unwrap();
    let entries = guest.list_from(open, 0, 4096).unwrap();
    for (name, kind, qid, _) in &entries {
        let (expected, q) = match name.as_str() {
            "." | ".." | "f" => (4, bits::QID_DIRECTORY),
            "l" => (10, bits::QID_LINK),
            "x" => (8, 0),
            other => panic!("{other}"),
        };
        assert_eq!((*kind, qid.kind), (expected, q), "{name}");
        let inode = match name.as_str() {
            "." => dir.path().join("d"),
            ".." => dir.path().to_path_buf(),
            name => dir.path().join("d").join(name),
        };
        assert_eq!(qid.path, fs::symlink_metadata(inode).unwrap().ino());
    }
    // Above the root there is the root.
    let top = guest.open_at("", 0).unwrap();
    let root = fs::metadata(dir.path()).unwrap().ino();
    let above = guest.list_from(top, 0, 4096).unwrap().into_iter().find(|entry| entry.0 == "..").unwrap();
    assert_eq!(above.2.path, root);
    assert_eq!(guest.unlink(ROOT, "d", 0), Err(Errno::ISDIR.raw_os_error()));
    assert_eq!(guest.unlink(ROOT, "d", bits::REMOVE_DIRECTORY), Err(Errno::NOTEMPTY.raw_os_error()));
    guest.unlink(d, "f", bits::REMOVE_DIRECTORY).unwrap();
    guest.unlink(d, "x", 0).unwrap();
    guest.unlink(d, "l", 0).unwrap();
    guest.unlink(ROOT, "d", bits::REMOVE_DIRECTORY).unwrap();
    assert_eq!(guest.walk(ROOT, "d"), Err(ENOENT));
    // What is open goes on, and what cannot be is said.
    assert_eq!(guest.mkdir(d, "g", 0o755), Err(ENOENT));
    assert_eq!(guest.read(open, 0, 10), Err(Errno::ISDIR.raw_os_error()));
    assert_eq!(guest.open_at("e", bits::OPEN_WRITE), Err(Errno::ISDIR.raw_os_error()));
    guest.end().unwrap();
}

#[test]
fn large_directories_are_listed_in_pieces() {
    const ENTRIES: usize = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let directory = fs::File::open(dir.path()).unwrap();
    for index in 0..ENTRIES {
        // Without a path, an open and a close, of which there would be a hundred thousand.
        let (kind, mode) = (rustix::fs::FileType::RegularFile, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(&directory, format!("file-{index:06}"), kind, mode, 0).unwrap();
    }
    let mut guest = Client::start(dir.path());
    let fid = guest.open_at("", 0).unwrap();
    let (mut offset, mut seen, mut offsets) = (0, std::collections::HashSet::new(), Vec::new());
    loop {
        let entries = guest.list_from(fid, offset, 32_768).unwrap();
        let Some(last) = entries.last() else { break };
        offset = last.3;
        offsets.push((offset, entries.len()));
        for (name, ..) in entries {
            assert!(seen.insert(name.clone()), "{name} comes twice");
        }
    }
    assert_eq!(seen.len(), ENTRIES + 2);
    // An offset means the same later, through another descriptor too.
    let other = guest.open_at("", 0).unwrap();
    for window in offsets.windows(2).step_by(17) {
        let again = guest.list_from(other, window[0].0, 32_768).unwrap();
        assert_eq!(again.last().unwrap().3, window[1].0);
    }
    // One entry at a time they come in the same order.
    let first = guest.list_from(other, 0, 32_768).unwrap();
    let mut offset = 0;
    for expected in first.iter().take(100) {
        let one = guest.list_from(fid, offset, 40).unwrap();
        assert_eq!(one[0], *expected);
        offset = one[0].3;
    }
    // Room for none is no end.
    assert_eq!(guest.list_from(fid, 0, 5), Err(Errno::INVAL.raw_os_error()));
    guest.end().unwrap();
}

#[test]
fn links_are_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(&outside, "secret").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(&outside).unwrap();
    let mut guest = Client::start(dir.path());
    guest.symlink(ROOT, "out", outside.path().to_str().unwrap()).unwrap();
    assert_eq!(fs::read_link(dir.path().join("out")).unwrap(), outside.path());
    let link = guest.walk(ROOT, "out").unwrap();
    assert_eq!(guest.read_link(link).unwrap(), outside.path().to_str().unwrap().as_bytes());
    assert_eq!(guest.attributes(link).unwrap().mode & bits::MODE_TYPE, 0o120_000);
    assert_eq!(guest.open(link, 0), Err(Errno::LOOP.raw_os_error()));
    assert_eq!(guest.set_mode(link, 0o777), Err(EOPNOTSUPP));
    assert_eq!(guest.set_size(link, 0), Err(Errno::INVAL.raw_os_error()));
    guest.set_owner(link, 0).unwrap();
    // Its own times, which have nothing to do with those of what it names.
    let times = SetAttributes {
        valid: bits::SET_MTIME | bits::SET_MTIME_GIVEN | bits::SET_ATIME | bits::SET_ATIME_GIVEN,
        mtime_seconds: 5,
        mtime_nanoseconds: 6,
        ..Default::default()
    };
    guest.set(link, times).unwrap();
    assert_eq!(fs::symlink_metadata(dir.path().join("out")).unwrap().mtime(), 5);
    assert_eq!(
        guest.create(ROOT, "out", bits::OPEN_WRITE | bits::OPEN_TRUNCATE, 0o666),
        Err(Errno::LOOP.raw_os_error())
    );
    let after = fs::metadata(&outside).unwrap();
    assert_eq!(
        (before.mode(), before.len(), before.mtime_nsec()),
        (after.mode(), after.len(), after.mtime_nsec())
    );
    // A link to a link is a second name of the link.
    guest.link(ROOT, link, "out2").unwrap();
    assert_eq!(fs::read_link(dir.path().join("out2")).unwrap(), outside.path());
    assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1);
    guest.end().unwrap();
}

#[test]
fn hard_links_are_made_of_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    guest.put("a", b"content");
    guest.mkdir(ROOT, "d", 0o755).unwrap();
    let (a, d) = (guest.walk(ROOT, "a").unwrap(), guest.walk(ROOT, "d").unwrap());
    guest.link(d, a, "b").unwrap();
    assert_eq!(fs::read(dir.path().join("d/b")).unwrap(), b"content");
    assert_eq!(guest.attributes(a).unwrap().links, 2);
    assert_eq!(guest.link(d, a, "b"), Err(Errno::EXIST.raw_os_error()));
    assert_eq!(guest.link(ROOT, d, "c"), Err(EPERM));
    assert_eq!(guest.link(a, a, "c"), Err(Errno::NOTDIR.raw_os_error()));
    guest.end().unwrap();
}

#[test]
fn files_without_a_name_stay_as_long_as_they_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.create(ROOT, "t", bits::OPEN_BOTH, 0o400).unwrap();
    let held = guest.walk(ROOT, "t").unwrap();
    guest.unlink(ROOT, "t", 0).unwrap();
    assert_eq!(guest.write(fid, 0, b"still here"), Ok(10));
    assert_eq!(guest.read(fid, 0, 100).unwrap(), b"still here");
    let attributes = guest.attributes(fid).unwrap();
    assert_eq!((attributes.size, attributes.links), (10, 0));
    guest.set_size(fid, 5).unwrap();
    assert_eq!(guest.read(fid, 0, 100).unwrap(), b"still");
    guest.set_mode(held, 0o600).unwrap();
    // Even opened anew, by the fid that was held all the time.
    guest.open(held, bits::OPEN_READ).unwrap();
    assert_eq!(guest.read(held, 0, 100).unwrap(), b"still");
    guest.end().unwrap();
}

#[test]
fn fids_follow_what_they_stand_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    for path in ["a", "a/b", "c"] {
        fs::create_dir(dir.path().join(path)).unwrap();
    }
    guest.put("a/b/f", b"1");
    let b = guest.walk(ROOT, "a/b").unwrap();
    let file = guest.open_at("a/b/f", bits::OPEN_BOTH).unwrap();
    let (a, c) = (guest.walk(ROOT, "a").unwrap(), guest.walk(ROOT, "c").unwrap());
    guest.rename_at(a, "b", c, "moved").unwrap();
    // Below the fid of the directory, through the open file, and the host moves it once more.
    guest.write(file, 1, b"2").unwrap();
    fs::rename(dir.path().join("c/moved"), dir.path().join("again")).unwrap();
    guest.write(file, 2, b"3").unwrap();
    let found = guest.walk(b, "f").unwrap();
    assert_eq!(guest.attributes(found).unwrap().size, 3);
    assert_eq!(fs::read(dir.path().join("again/f")).unwrap(), b"123");
    // By fid, as older kernels rename and remove.
    guest.rename(found, ROOT, "g").unwrap();
    assert_eq!(fs::read(dir.path().join("g")).unwrap(), b"123");
    guest.rename(found, c, "h").unwrap();
    assert_eq!(guest.rename(file, ROOT, "no"), Err(ENOENT), "its name is another one by now");
    fs::write(dir.path().join("c/other"), "").unwrap();
    fs::rename(dir.path().join("c/other"), dir.path().join("c/h")).unwrap();
    assert_eq!(guest.remove(found), Err(ENOENT), "another file has its name");
    assert!(dir.path().join("c/h").exists());
    assert_eq!(guest.attributes(found), Err(Errno::BADF.raw_os_error()));
    let h = guest.walk(c, "h").unwrap();
    guest.remove(h).unwrap();
    let moved = guest.walk(ROOT, "again").unwrap();
    guest.remove(moved).unwrap();
    assert_eq!(guest.rename(ROOT, c, "root"), Err(Errno::BUSY.raw_os_error()));
    assert_eq!(guest.list(""), ["a", "c"]);
    assert_eq!(guest.rename_at(ROOT, "a", c, "x"), Ok(()));
    guest.end().unwrap();
}

#[test]
fn attributes_are_changed_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start_with(dir.path(), Options { uncached: false, ..Options::default() });
    guest.put("a", b"abc");
    let a = guest.walk(ROOT, "a").unwrap();
    let before = guest.attributes(a).unwrap();
    guest.set_mode(a, 0o741).unwrap();
    let times = SetAttributes {
        valid: bits::SET_ATIME | bits::SET_ATIME_GIVEN,
        atime_seconds: (-7_i64).cast_unsigned(),
        atime_nanoseconds: 999_999_999,
        ..Default::default()
    };
    guest.set(a, times).unwrap();
    let meta = fs::metadata(dir.path().join("a")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.atime(), meta.atime_nsec()), (0o741, -7, 999_999_999));
    assert_eq!(meta.mtime().cast_unsigned(), before.mtime_seconds);
    let wrong = SetAttributes { atime_nanoseconds: 1_073_741_823, ..times };
    assert_eq!(guest.set(a, wrong), Err(Errno::INVAL.raw_os_error()));
    guest.set(a, SetAttributes { valid: bits::SET_MTIME | bits::SET_CTIME, ..Default::default() }).unwrap();
    let after = guest.attributes(a).unwrap();
    assert_eq!(after.atime_seconds.cast_signed(), -7);
    assert_ne!(after.qid.version, before.qid.version);
    assert_eq!((after.qid.path, after.qid.kind), (meta.ino(), 0));
    for special in [0o4755, 0o2755, 0o6755] {
        assert_eq!(guest.set_mode(a, special), Err(EPERM));
        assert_eq!(guest.create(ROOT, "s", bits::OPEN_WRITE, special), Err(EPERM));
        assert_eq!(guest.mknod(ROOT, "s", bits::MODE_FILE | special), Err(EPERM));
    }
    assert_eq!(guest.mkdir(ROOT, "s", 0o4755), Err(EPERM));
    // What the host has set may stay.
    fs::create_dir(dir.path().join("g")).unwrap();
    fs::set_permissions(dir.path().join("g"), fs::Permissions::from_mode(0o2755)).unwrap();
    let g = guest.walk(ROOT, "g").unwrap();
    guest.set_mode(g, 0o2775).unwrap();
    assert_eq!(guest.set_mode(g, 0o6775), Err(EPERM));
    guest.end().unwrap();
}
