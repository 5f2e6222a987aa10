//! Round trips of every message, golden bytes of some, and hostile bytes.

use proptest::{prelude::*, sample::Index};
use shed_testkit::fuzz;

use super::*;

const HOSTILE_NAMES: [&[u8]; 7] = [b"", b".", b"..", b"a/b", b"/", b"a\0", b"../etc"];

fn golden(request: Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    request.put(Tag(0x0102), &mut out);
    out
}

#[test]
fn messages_have_the_bytes_that_linux_gives_them() {
    assert_eq!(
        golden(Request::Version { size: 0x2000, version: Bytes(VERSION) }),
        b"\x15\0\0\0\x64\x02\x01\0\x20\0\0\x08\09P2000.L"
    );
    let mut names = Names::EMPTY;
    names.push(Name::new(b"a").unwrap()).unwrap();
    names.push(Name::new(b"bc").unwrap()).unwrap();
    assert_eq!(
        golden(Request::Walk { fid: Fid(1), new: Fid(2), names }),
        b"\x18\0\0\0\x6e\x02\x01\x01\0\0\0\x02\0\0\0\x02\0\x01\0a\x02\0bc"
    );
    assert_eq!(
        golden(Request::Write { fid: Fid(3), offset: 5, data: Data(b"xyz") }),
        b"\x1a\0\0\0\x76\x02\x01\x03\0\0\0\x05\0\0\0\0\0\0\0\x03\0\0\0xyz"
    );
    let attributes = Attributes::default();
    let mut out = Vec::new();
    Reply::GetAttributes { attributes }.put(Tag(1), &mut out);
    // Rgetattr of diod's protocol.md: 160 bytes.
    assert_eq!(out.len(), 160);
    let mut out = Vec::new();
    Reply::Statfs { statfs: Statfs::default() }.put(Tag(1), &mut out);
    assert_eq!(out.len(), 67);
}

#[test]
fn names_that_are_none_are_refused() {
    for name in HOSTILE_NAMES {
        assert_eq!(Name::new(name), Err(Refusal::Name), "{name:?}");
    }
    assert_eq!(Name::new(&[b'a'; MAX_NAME + 1]), Err(Refusal::NameTooLong));
    for name in [&b"..."[..], b"a", b"\xff\n", &[b'a'; MAX_NAME]] {
        assert_eq!(Name::new(name).unwrap().as_bytes(), name);
    }
}

#[test]
fn a_walk_has_sixteen_names_at_most() {
    let mut message = vec![110, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 17, 0];
    for _ in 0..17 {
        message.extend_from_slice(b"\x01\0a");
    }
    assert_eq!(Request::parse(&message), Err(Refusal::TooManyNames));
    message.truncate(message.len() - 3);
    message[11] = 16;
    assert!(Request::parse(&message).is_ok());
}

#[test]
fn lengths_beyond_the_message_are_refused() {
    // A write that says it has four gigabytes, and a string that says it has 65535 bytes.
    let write = b"\x76\x01\0\x03\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xffxyz";
    assert_eq!(Request::parse(write), Err(Refusal::Malformed));
    assert_eq!(Request::parse(b"\x64\x01\0\0\0\x20\0\xff\xff9P"), Err(Refusal::Malformed));
    assert_eq!(Request::parse(b"\x78\x01\0\x03\0\0\0!"), Err(Refusal::Malformed));
    assert_eq!(Request::parse(b""), Err(Refusal::Malformed));
    assert_eq!(Request::parse(b"\x78\x01"), Err(Refusal::Malformed));
    assert_eq!(Request::parse(b"\x07\x01\0\0\0\0\0"), Err(Refusal::UnknownType(7)));
}

/// What requests are made of.
#[derive(Clone, Debug)]
struct Parts {
    numbers: [u32; 4],
    wide: [u64; 3],
    names: Vec<Vec<u8>>,
    bytes: Vec<u8>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let name = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..20),
        proptest::collection::vec(any::<u8>(), MAX_NAME..=MAX_NAME)
    ]
    .prop_map(|mut name| {
        for byte in &mut name {
            if matches!(*byte, b'/' | 0 | b'.') {
                *byte = b'x';
            }
        }
        name
    });
    (
        any::<[u32; 4]>(),
        any::<[u64; 3]>(),
        proptest::collection::vec(name, 2..=MAX_NAMES),
        proptest::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(numbers, wide, names, bytes)| Parts { numbers, wide, names, bytes })
}

/// One of each.
fn requests(parts: &Parts) -> Vec<Request<'_>> {
    let [a, b, c, d] = parts.numbers;
    let [x, y, z] = parts.wide;
    let (fid, other) = (Fid(a), Fid(b));
    let name = Name::new(&parts.names[0]).unwrap();
    let new = Name::new(&parts.names[1]).unwrap();
    let mut names = Names::EMPTY;
    for name in &parts.names {
        names.push(Name::new(name).unwrap()).unwrap();
    }
    let (bytes, data) = (Bytes(&parts.bytes), Data(&parts.bytes));
    let kind = a.to_le_bytes()[0];
    let attributes = SetAttributes {
        valid: a,
        mode: b,
        uid: c,
        gid: d,
        size: x,
        atime_seconds: y,
        atime_nanoseconds: z,
        mtime_seconds: x ^ y,
        mtime_nanoseconds: y ^ z,
    };
    vec![
        Request::Statfs { fid },
        Request::Open { fid, flags: c },
        Request::Create { fid, name, flags: b, mode: c, gid: d },
        Request::Symlink { directory: fid, name, target: bytes, gid: d },
        Request::MakeNode { directory: fid, name, mode: b, major: c, minor: d, gid: a },
        Request::Rename { fid, directory: other, name },
        Request::ReadLink { fid },
        Request::GetAttributes { fid, mask: x },
        Request::SetAttributes { fid, attributes },
        Request::WalkAttribute { fid, new: other, name: bytes },
        Request::CreateAttribute { fid, name: bytes, size: x, flags: c },
        Request::ReadDirectory { fid, offset: x, count: c },
        Request::Sync { fid, data_only: c },
        Request::Lock { fid, kind, flags: c, begin: x, length: y, process: d, client: bytes },
        Request::GetLock { fid, kind, begin: x, length: y, process: d, client: bytes },
        Request::Link { directory: fid, fid: other, name },
        Request::MakeDirectory { directory: fid, name, mode: c, gid: d },
        Request::RenameAt { from: fid, name, to: other, new },
        Request::Unlink { directory: fid, name, flags: c },
        Request::Version { size: c, version: bytes },
        Request::Authenticate { fid, user: bytes, tree: bytes, uid: d },
        Request::Attach { fid, authentication: other, user: bytes, tree: bytes, uid: d },
        Request::Flush { tag: Tag(u16::from(kind)) },
        Request::Walk { fid, new: other, names },
        Request::Read { fid, offset: x, count: c },
        Request::Write { fid, offset: x, data },
        Request::Clunk { fid },
        Request::Remove { fid },
    ]
}

fn replies(parts: &Parts) -> Vec<Reply<'_>> {
    let [a, b, c, d] = parts.numbers;
    let [x, y, z] = parts.wide;
    let kind = a.to_le_bytes()[0];
    let qid = Qid { kind, version: b, path: x };
    let mut qids = Qids::default();
    for _ in 0..parts.names.len() {
        qids.push(qid);
    }
    let (bytes, data) = (Bytes(&parts.bytes), Data(&parts.bytes));
    let attributes =
        Attributes { valid: z, qid, mode: c, uid: d, size: y, data_version: x, ..Default::default() };
    let statfs = Statfs { kind: a, block_size: b, blocks: x, longest_name: c, ..Default::default() };
    vec![
        Reply::Error { number: a },
        Reply::Statfs { statfs },
        Reply::Open { qid, unit: c },
        Reply::Create { qid, unit: c },
        Reply::Symlink { qid },
        Reply::MakeNode { qid },
        Reply::Rename {},
        Reply::ReadLink { target: bytes },
        Reply::GetAttributes { attributes },
        Reply::SetAttributes {},
        Reply::WalkAttribute { size: x },
        Reply::CreateAttribute {},
        Reply::ReadDirectory { entries: data },
        Reply::Sync {},
        Reply::Lock { status: kind },
        Reply::GetLock { kind, begin: x, length: y, process: d, client: bytes },
        Reply::Link {},
        Reply::MakeDirectory { qid },
        Reply::RenameAt {},
        Reply::Unlink {},
        Reply::Version { size: a, version: bytes },
        Reply::Authenticate { qid },
        Reply::Attach { qid },
        Reply::Flush {},
        Reply::Walk { qids },
        Reply::Read { data },
        Reply::Write { count: a },
        Reply::Clunk {},
        Reply::Remove {},
    ]
}

proptest! {
    #[test]
    fn every_message_is_read_as_it_was_written(parts in parts(), tag in any::<u16>()) {
        for request in requests(&parts) {
            let mut out = Vec::new();
            request.put(Tag(tag), &mut out);
            prop_assert_eq!(usize::try_from(u32::from_le_bytes(*out.first_chunk().unwrap())).unwrap(), out.len());
            prop_assert_eq!(header(&out[4..]).unwrap().1, Tag(tag));
            prop_assert_eq!(Request::parse(&out[4..]), Ok((Tag(tag), request)));
            // Cut anywhere, or with anything behind it, it is none.
            for end in 4..out.len() {
                prop_assert!(Request::parse(&out[4..end]).is_err());
            }
            out.push(0);
            prop_assert_eq!(Request::parse(&out[4..]), Err(Refusal::Malformed));
        }
        for reply in replies(&parts) {
            let mut out = Vec::new();
            reply.put(Tag(tag), &mut out);
            prop_assert_eq!(Reply::parse(&out[4..]), Ok((Tag(tag), reply)));
        }
    }
}

/// Any bytes behind a type that exists, and real requests with some bytes changed.
#[test]
fn fuzz_ninep_messages() {
    fuzz(
        "9P messages, any bytes",
        &(any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200)),
        |(kind, mut bytes)| {
            bytes.insert(0, kind);
            check(&bytes);
        },
    );
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8);
    fuzz("9P messages, changed ones", &(parts(), any::<Index>(), changes), |(parts, which, changes)| {
        let requests = requests(&parts);
        let mut out = Vec::new();
        requests[which.index(requests.len())].put(Tag(7), &mut out);
        out.drain(..4);
        for (place, byte) in changes {
            let place = place.index(out.len());
            out[place] = byte;
        }
        check(&out);
    });
}

/// What is read is written as the very bytes that it was read from.
fn check(bytes: &[u8]) {
    if let Ok((tag, request)) = Request::parse(bytes) {
        let mut out = Vec::new();
        request.put(tag, &mut out);
        assert_eq!(&out[4..], bytes);
        if let Request::Walk { names, .. } = request {
            assert!(names.as_slice().iter().all(|name| Name::new(name.as_bytes()).is_ok()));
        }
    }
    if let Ok((tag, reply)) = Reply::parse(bytes) {
        let mut out = Vec::new();
        reply.put(tag, &mut out);
        assert_eq!(&out[4..], bytes);
    }
}
