//! Whole sessions with whatever a guest may send.
#![cfg(target_os = "linux")]

mod common;

use std::{collections::HashSet, fs, io::Write};

use common::Client;
use proptest::prelude::*;
use shed_ninep::proto::Reply;
use shed_testkit::fuzz;

/// Whole sessions of requests that make some sense or none. The server answers each, and nothing leaves the directory.
#[test]
fn fuzz_ninep_sessions() {
    let name = prop_oneof!["[abc]", "[abc]", "..", "\\.", "a/b", "", "[a-z]{250,260}"];
    let request = (
        any::<proptest::sample::Index>(),
        proptest::collection::vec(0_u32..6, 3),
        proptest::collection::vec(name, 2),
        any::<[u64; 2]>(),
        proptest::collection::vec(any::<u8>(), 0..40),
        prop_oneof![3 => Just(0_u8), 1 => any::<u8>()],
    );
    let session = (proptest::collection::vec(request, 1..60), any::<bool>());
    fuzz("9P sessions", &session, |(requests, at_once)| {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("shared");
        fs::create_dir(&dir).unwrap();
        fs::write(outer.path().join("a"), "outside").unwrap();
        let mut guest = Client::start(&dir);
        let mut tags = HashSet::new();
        for (index, (which, numbers, names, wide, bytes, damage)) in requests.into_iter().enumerate() {
            let tag = u16::try_from(index).unwrap();
            let mut message = build(tag, which.index(24), &numbers, &names, wide, &bytes);
            if damage != 0 {
                let place = 7 + usize::from(damage) % (message.len() - 6).max(1);
                if let Some(byte) = message.get_mut(place) {
                    *byte = byte.wrapping_add(damage);
                }
            }
            guest.stream.write_all(&message).unwrap();
            tags.insert(tag);
            if !at_once {
                answers(&mut guest, &mut tags);
            }
        }
        answers(&mut guest, &mut tags);
        guest.end().unwrap();
        let entries = fs::read_dir(outer.path()).unwrap();
        let mut outside: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        outside.sort();
        assert_eq!(outside, ["a", "shared"]);
        assert_eq!(fs::read(outer.path().join("a")).unwrap(), b"outside");
    });
}

/// Each request is answered once.
fn answers(guest: &mut Client, tags: &mut HashSet<u16>) {
    while !tags.is_empty() {
        let answer = guest.receive().expect("an answer");
        let (tag, _) = Reply::parse(&answer).expect("a reply");
        assert!(tags.remove(&tag.0), "{tag:?} was not asked for");
    }
}

/// The bytes of a request with any names, whatever the types say of them.
fn build(tag: u16, which: usize, numbers: &[u32], names: &[String], wide: [u64; 2], bytes: &[u8]) -> Vec<u8> {
    let fid = |index: usize| numbers[index].to_le_bytes().to_vec();
    let string = |bytes: &[u8]| {
        let mut out = u16::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    };
    let name = |index: usize| string(names[index].as_bytes());
    let bit = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap().to_le_bytes().to_vec();
    let small = |value: u64| u32::try_from(value % 0o10_000).unwrap().to_le_bytes().to_vec();
    let eight = |value: u64| value.to_le_bytes().to_vec();
    let data = || {
        let mut out = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    };
    // Offsets that do not fill the disk.
    let near = eight(wide[0] % 100_000);
    let (kind, parts): (u8, Vec<Vec<u8>>) = match which {
        0..=2 => (110, vec![fid(0), fid(1), vec![1, 0], name(0)]),
        3 => (110, vec![fid(0), fid(1), vec![0, 0]]),
        4 => (12, vec![fid(0), bit(wide[0])]),
        5 => (12, vec![fid(0), bit(wide[0] & 0o1003)]),
        6 | 7 => (14, vec![fid(0), name(0), bit(wide[0] & 0o3703), small(wide[1] & 0o777), small(1000)]),
        8 => (16, vec![fid(0), name(0), string(bytes), small(1000)]),
        9 => (16, vec![fid(0), name(0), string(b"../a"), small(1000)]),
        10 => (18, vec![fid(0), name(0), bit(wide[0] & 0o177_777), small(0), small(0), small(0)]),
        11 => (20, vec![fid(0), fid(1), name(0)]),
        12 => (22, vec![fid(0)]),
        13 => (24, vec![fid(0), eight(wide[0])]),
        14 => {
            let valid = bit(wide[0] & 0x1ff);
            (
                26,
                vec![
                    fid(0),
                    valid,
                    small(wide[1]),
                    small(0),
                    small(0),
                    near,
                    eight(wide[0]),
                    small(0),
                    small(0),
                    eight(wide[1]),
                    eight(5),
                ],
            )
        }
        15 => (40, vec![fid(0), eight(wide[0]), bit(wide[1])]),
        16 => (50, vec![fid(0), small(0)]),
        17 => (70, vec![fid(0), fid(1), name(0)]),
        18 => (72, vec![fid(0), name(0), small(wide[0]), small(0)]),
        19 => (74, vec![fid(0), name(0), fid(1), name(1)]),
        20 => (76, vec![fid(0), name(0), bit(wide[0] & 0x200)]),
        21 => (116, vec![fid(0), eight(wide[0]), bit(wide[1])]),
        22 => (118, vec![fid(0), near, data()]),
        _ => (if wide[0].is_multiple_of(2) { 120 } else { 122 }, vec![fid(2)]),
    };
    let body = parts.concat();
    let mut message = u32::try_from(body.len() + 7).unwrap().to_le_bytes().to_vec();
    message.push(kind);
    message.extend_from_slice(&tag.to_le_bytes());
    message.extend_from_slice(&body);
    message
}
