//! What no client says: each is answered with an error or ends the stream, and the server goes on or ends, at once.
#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    io::{ErrorKind, Write},
    time::{Duration, Instant},
};

use common::{Client, ROOT};
use rustix::io::Errno;
use shed_ninep::{
    Options,
    proto::{Bytes, Fid, Names, Reply, Request, Tag, VERSION, bits},
};

const EINVAL: i32 = Errno::INVAL.raw_os_error();
const EBADF: i32 = Errno::BADF.raw_os_error();

/// Type number of a walk.
const WALK: u8 = 110;

#[test]
fn sizes_that_were_not_agreed_on_end_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    for size in [0_u32, 1, 6, (1 << 20) + 1, u32::MAX] {
        let mut guest = Client::start(dir.path());
        guest.stream.write_all(&size.to_le_bytes()).unwrap();
        assert_eq!(guest.ended().unwrap_err().kind(), ErrorKind::InvalidData, "{size}");
    }
    // Before a version there is no large message at all.
    let mut guest = Client::connect(dir.path(), Options::default());
    guest.stream.write_all(&(1_u32 << 20).to_le_bytes()).unwrap();
    assert_eq!(guest.ended().unwrap_err().kind(), ErrorKind::InvalidData);
    // A write that is larger than agreed on, whose size is true.
    let mut guest = Client::connect(dir.path(), Options::default());
    assert_eq!(guest.version(4096), Ok(4096));
    let mut out = Vec::new();
    Request::Write { fid: Fid(0), offset: 0, data: shed_ninep::proto::Data(&[7; 5000]) }
        .put(Tag(1), &mut out);
    // The server may have gone before all of it is written.
    let _either = guest.stream.write_all(&out);
    assert_eq!(guest.ended().unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn a_stream_that_ends_in_a_message_is_an_error_and_between_two_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let guest = Client::start(dir.path());
    guest.end().unwrap();
    let mut guest = Client::start(dir.path());
    // A message that says it has a megabyte, of which some bytes come.
    guest.stream.write_all(&(1_u32 << 20).to_le_bytes()).unwrap();
    guest.stream.write_all(b"abc").unwrap();
    assert_eq!(guest.end().unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn unknown_types_and_malformed_messages_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let known = [
        8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 100, 102, 104, 108, 110,
        116, 118, 120, 122,
    ];
    for kind in 0..=u8::MAX {
        let expected = if known.contains(&kind) { EINVAL } else { Errno::OPNOTSUPP.raw_os_error() };
        assert_eq!(guest.ask_raw(kind, b"\xff"), Err(expected), "{kind}");
    }
    // Names that are none, in each place where one can be; these are the bodies of a walk.
    for name in [&b""[..], b".", b"..", b"a/b", b"/etc/passwd", b"a\0b", b"../.."] {
        let mut body = vec![0, 0, 0, 0, 9, 0, 0, 0, 1, 0];
        body.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
        body.extend_from_slice(name);
        assert_eq!(guest.ask_raw(WALK, &body), Err(EINVAL), "{name:?}");
        // mkdir, unlink
        for kind in [72, 76] {
            let mut body = vec![0, 0, 0, 0];
            body.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
            body.extend_from_slice(name);
            body.extend_from_slice(if kind == 72 { &[0; 8] } else { &[0; 4] });
            assert_eq!(guest.ask_raw(kind, &body), Err(EINVAL), "{name:?}");
        }
    }
    let mut long = vec![0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 1];
    long.extend_from_slice(&[b'a'; 256]);
    assert_eq!(guest.ask_raw(WALK, &long), Err(Errno::NAMETOOLONG.raw_os_error()));
    let mut many = vec![0, 0, 0, 0, 9, 0, 0, 0, 17, 0];
    many.extend_from_slice(&b"\x01\0a".repeat(17));
    assert_eq!(guest.ask_raw(WALK, &many), Err(EINVAL));
    assert_eq!(guest.list(""), [""; 0]);
    guest.end().unwrap();
}

#[test]
fn fids_are_used_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    let mut guest = Client::start(dir.path());
    guest.put("f", b"abc");
    assert_eq!(guest.walk_to(4711, 1, &[]), Err(EBADF));
    guest.walk_to(ROOT, 1, &["a"]).unwrap();
    assert_eq!(guest.walk_to(ROOT, 1, &["a"]), Err(EBADF), "it is in use");
    assert_eq!(guest.walk_to(ROOT, u32::MAX, &["a"]), Err(EBADF), "it is none");
    assert_eq!(guest.attach(1), Err(EBADF));
    // Not all of the way: no fid.
    assert_eq!(guest.walk_to(ROOT, 2, &["a", "no", "b"]).unwrap().len(), 1);
    assert_eq!(guest.attributes(2), Err(EBADF));
    assert_eq!(guest.walk_to(ROOT, 2, &["no", "b"]), Err(Errno::NOENT.raw_os_error()));
    assert_eq!(guest.walk_to(ROOT, 2, &["f", "b"]).unwrap().len(), 1);
    // In place, and not when it is open.
    assert_eq!(guest.walk_to(1, 1, &["b"]).unwrap().len(), 1);
    guest.open(1, 0).unwrap();
    assert_eq!(guest.open(1, 0), Err(EINVAL));
    assert_eq!(guest.walk_to(ROOT, 3, &["f"]).unwrap().len(), 1);
    assert_eq!(guest.read(3, 0, 10), Err(EBADF), "it is not open");
    assert_eq!(guest.write(3, 0, b"x"), Err(EBADF));
    assert_eq!(guest.sync(3, false), Err(EBADF));
    assert_eq!(guest.list_from(3, 0, 100), Err(EBADF));
    guest.open(3, bits::OPEN_READ).unwrap();
    assert_eq!(guest.write(3, 0, b"x"), Err(EBADF), "it is open for reading");
    assert_eq!(guest.list_from(3, 0, 100), Err(Errno::NOTDIR.raw_os_error()));
    assert_eq!(guest.open_at("f", 3), Err(EINVAL));
    assert_eq!(guest.mkdir(3, "x", 0o755), Err(Errno::NOTDIR.raw_os_error()));
    assert_eq!(guest.read_link(3), Err(EINVAL));
    guest.clunk(3).unwrap();
    assert_eq!(guest.clunk(3), Err(EBADF));
    assert_eq!(guest.read(3, 0, 10), Err(EBADF));
    guest.end().unwrap();
}

#[test]
fn counts_and_offsets_may_be_anything() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    guest.put("f", b"abc");
    let f = guest.open_at("f", bits::OPEN_BOTH).unwrap();
    assert_eq!(guest.read(f, 0, u32::MAX).unwrap(), b"abc");
    assert_eq!(guest.read(f, 0, 0).unwrap(), b"");
    for offset in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        assert!(guest.read(f, offset, 10).map_or(true, |read| read.is_empty()));
        assert!(guest.write(f, offset, b"x").is_err());
        assert!(guest.set_size(f, offset).is_err());
    }
    let d = guest.open_at("", 0).unwrap();
    for offset in [1, 12345, 0xdead_beef, (1 << 63) - 1, 1 << 63, u64::MAX] {
        // Whatever the file system makes of it: some entries, none, or an error.
        let _either = guest.list_from(d, offset, u32::MAX);
    }
    assert_eq!(guest.list_from(d, 0, u32::MAX).unwrap().len(), 3);
    assert_eq!(guest.list(""), ["f"]);
    guest.end().unwrap();
}

#[test]
fn fids_have_a_limit() {
    const MOST: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let mut guest = Client::start_with(dir.path(), Options { max_fids: MOST, ..Options::default() });
    let mut refused = 0;
    for fid in 1..=100_000 {
        // Clones of the root and others, in turn.
        let walked = guest.walk_to(ROOT, fid, if fid % 2 == 0 { &["f"] } else { &[] });
        match walked {
            Ok(_) => assert!((fid as usize) < MOST),
            Err(error) => {
                assert_eq!(error, Errno::NFILE.raw_os_error());
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 100_000 - MOST + 1);
    guest.clunk(1).unwrap();
    guest.walk_to(ROOT, 1, &["f"]).unwrap();
    guest.end().unwrap();
}

#[test]
fn a_process_without_descriptors_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let mut guest = Client::start(dir.path());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let low = rustix::process::Rlimit { current: Some(200), maximum: limit.maximum };
    // nextest gives each test a process of its own.
    rustix::process::setrlimit(rustix::process::Resource::Nofile, low).unwrap();
    let refused = (1..1000).find(|fid| guest.walk_to(ROOT, *fid, &["f"]) == Err(Errno::MFILE.raw_os_error()));
    let refused = refused.expect("no descriptor was refused");
    assert!(guest.open(1, 0).is_err());
    for fid in 1..refused {
        guest.clunk(fid).unwrap();
    }
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    assert_eq!(guest.list(""), ["f"]);
    guest.end().unwrap();
}

#[test]
fn a_version_in_the_middle_ends_all_that_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.create(ROOT, "f", bits::OPEN_BOTH, 0o600).unwrap();
    // Many at once, then a version: all answers come before its own.
    for tag in 10..110 {
        guest.send(
            tag,
            &Request::Write { fid: Fid(fid), offset: u64::from(tag), data: shed_ninep::proto::Data(b"x") },
        );
    }
    guest.send(7, &Request::Version { size: 8192, version: Bytes(VERSION) });
    for _ in 10..110 {
        let message = guest.receive().unwrap();
        assert_eq!(Reply::parse(&message).unwrap().1, Reply::Write { count: 1 });
    }
    let message = guest.receive().unwrap();
    assert_eq!(
        Reply::parse(&message).unwrap(),
        (Tag(7), Reply::Version { size: 8192, version: Bytes(VERSION) })
    );
    for fid in [ROOT, fid] {
        assert_eq!(guest.attributes(fid), Err(EBADF));
    }
    guest.attach(ROOT).unwrap();
    // One that is not spoken: nothing is, from then on.
    let message = guest.ask(&Request::Version { size: 8192, version: Bytes(b"9P2000.u") });
    assert_eq!(Reply::parse(&message).unwrap().1, Reply::Version { size: 8192, version: Bytes(b"unknown") });
    assert_eq!(guest.attach(ROOT), Err(Errno::PROTO.raw_os_error()));
    assert_eq!(guest.version(100), Err(EINVAL));
    assert_eq!(guest.version(u32::MAX), Ok(1 << 20));
    guest.attach(ROOT).unwrap();
    guest.end().unwrap();
}

#[test]
fn nothing_is_said_before_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::connect(dir.path(), Options::default());
    assert_eq!(guest.attach(ROOT), Err(Errno::PROTO.raw_os_error()));
    assert_eq!(guest.clunk(0), Err(Errno::PROTO.raw_os_error()));
    assert_eq!(guest.version(8192), Ok(8192));
    guest.end().unwrap();
}

#[test]
fn flushes_are_answered_behind_what_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.create(ROOT, "f", bits::OPEN_BOTH, 0o600).unwrap();
    // One thread writes while this one reads: a flood fills the socket both ways.
    const ROUNDS: u16 = 2000;
    let mut out = Vec::new();
    for round in 0..ROUNDS {
        let tag = 10 + round * 4;
        Request::Sync { fid: Fid(fid), data_only: 0 }.put(Tag(tag), &mut out);
        Request::Flush { tag: Tag(tag) }.put(Tag(tag + 1), &mut out);
        Request::Flush { tag: Tag(tag + 1) }.put(Tag(tag + 2), &mut out);
        // Of nothing.
        Request::Flush { tag: Tag(9) }.put(Tag(tag + 3), &mut out);
    }
    let mut writer = guest.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&out).unwrap());
    let mut seen = std::collections::HashMap::new();
    for index in 0..u32::from(ROUNDS) * 4 {
        let message = guest.receive().unwrap();
        let (tag, _) = Reply::parse(&message).unwrap();
        assert!(seen.insert(tag.0, index).is_none(), "{tag:?} was answered twice");
    }
    sender.join().unwrap();
    for round in 0..ROUNDS {
        let tag = 10 + round * 4;
        assert!(seen[&tag] < seen[&(tag + 1)] && seen[&(tag + 1)] < seen[&(tag + 2)], "{tag}");
    }
    assert_eq!(guest.read(fid, 0, 1).unwrap(), b"");
    guest.end().unwrap();
}

#[test]
fn a_tag_that_is_in_use_ends_the_stream_or_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), vec![1; 1 << 20]).unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.open_at("f", 0).unwrap();
    // Whether the first is answered when the second comes is a matter of time; nothing hangs either way.
    for _ in 0..100 {
        let mut out = Vec::new();
        for _ in 0..2 {
            Request::Read { fid: Fid(fid), offset: 0, count: 1 << 20 }.put(Tag(5), &mut out);
        }
        if guest.stream.write_all(&out).is_err() {
            break;
        }
        if guest.receive().is_none() || guest.receive().is_none() {
            break;
        }
    }
    let ended = guest.end();
    assert!(ended.map_or_else(|error| error.kind() == ErrorKind::InvalidData, |()| true));
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), vec![1; 1 << 20]).unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.open_at("f", 0).unwrap();
    // Asks for much more than anybody buffers, and goes.
    for tag in 10..40 {
        guest.send(tag, &Request::Read { fid: Fid(fid), offset: 0, count: 1 << 20 });
    }
    let begun = Instant::now();
    guest.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(guest.ended().is_err());
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn slow_operations_hold_up_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Client::start(dir.path());
    let fid = guest.create(ROOT, "f", bits::OPEN_BOTH, 0o600).unwrap();
    guest.write(fid, 0, &vec![7; 1 << 19]).unwrap();
    // All answers come, in whatever order, each with its own content.
    for tag in 100..200_u16 {
        if tag % 10 == 0 {
            guest.send(tag, &Request::Sync { fid: Fid(fid), data_only: 0 });
        } else {
            guest.send(tag, &Request::Read { fid: Fid(fid), offset: u64::from(tag), count: u32::from(tag) });
        }
    }
    let mut seen = std::collections::HashSet::new();
    for _ in 100..200 {
        let message = guest.receive().unwrap();
        let (tag, reply) = Reply::parse(&message).unwrap();
        assert!(seen.insert(tag.0));
        match reply {
            Reply::Read { data } => assert_eq!(data.0.len(), usize::from(tag.0)),
            reply => assert_eq!(reply, Reply::Sync {}),
        }
    }
    guest.end().unwrap();
}

#[test]
fn a_walk_of_sixteen_goes_all_the_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/".repeat(16))).unwrap();
    let mut guest = Client::start(dir.path());
    assert_eq!(guest.walk_to(ROOT, 5, &["a"; 16]).unwrap().len(), 16);
    let mut names = Names::EMPTY;
    for _ in 0..16 {
        names.push(shed_ninep::proto::Name::new(b"a").unwrap()).unwrap();
    }
    assert!(names.push(shed_ninep::proto::Name::new(b"a").unwrap()).is_err());
    guest.end().unwrap();
}
