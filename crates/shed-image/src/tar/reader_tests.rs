//! Archives made by chance, and archives damaged by chance.

use std::io;

use proptest::prelude::*;
use shed_testkit::fuzz;

use super::{Content, EntryKind, Source, TarError, TarReader};

/// An archive in memory.
struct Bytes<'b>(&'b [u8]);

impl Source for Bytes<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn skip(&mut self, length: u64) -> io::Result<bool> {
        let there = usize::try_from(length).is_ok_and(|length| length <= self.0.len());
        if there {
            self.0 = &self.0[usize::try_from(length).unwrap()..];
        }
        Ok(there)
    }
}

/// Reads an archive to its end or an error, content and all.
fn read(bytes: &[u8]) -> Result<usize, TarError> {
    let mut reader = TarReader::new(Bytes(bytes));
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        entries += 1;
        let EntryKind::File { size, stored, .. } = entry.kind else { continue };
        let (mut all, mut data) = (0_u64, 0_u64);
        reader.content::<TarError>(&mut [0; 700], |content| {
            match content {
                Content::Data(bytes) => {
                    data += bytes.len() as u64;
                    all += bytes.len() as u64;
                }
                Content::Hole(length) => all += length,
            }
            Ok(())
        })?;
        assert_eq!((all, data), (size, stored));
    }
    Ok(entries)
}

#[derive(Debug, Clone)]
struct Piece {
    kind: u8,
    name: String,
    content: Vec<u8>,
    tail: Vec<u8>,
}

fn piece() -> impl Strategy<Value = Piece> {
    let kind = prop::sample::select(b"0012345567xgLKSVD".to_vec());
    let content = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1200),
        prop::sample::select(vec![
            "12 path=a/b\n",
            "20 GNU.sparse.major=1\n",
            "22 GNU.sparse.major=1\n28 GNU.sparse.realsize=5000\n",
            "26 GNU.sparse.map=0,10,20,5\n23 GNU.sparse.size=100\n",
            "1\n0\n5\n",
            "30 SCHILY.xattr.user.a=abcdefg\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let tail = prop::collection::vec(any::<u8>(), 0..130);
    (kind, "[a-c/.]{0,9}", content, tail).prop_map(|(kind, name, content, tail)| Piece {
        kind,
        name,
        content,
        tail,
    })
}

fn archive(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::new(piece.kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(piece.content.len() as u64);
        let raw = header.as_mut_bytes();
        raw[..piece.name.len()].copy_from_slice(piece.name.as_bytes());
        if piece.kind == b'S' {
            raw[380..380 + piece.tail.len()].copy_from_slice(&piece.tail);
        }
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(&piece.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

#[test]
fn no_archive_makes_the_reader_stumble() {
    let input =
        (prop::collection::vec(piece(), 0..6), prop::collection::vec((any::<u16>(), any::<u8>()), 0..4));
    fuzz("tar", &input, |(pieces, damage)| {
        let mut bytes = archive(&pieces);
        let _whole: Result<usize, TarError> = read(&bytes);
        for (at, value) in damage {
            let at = usize::from(at);
            if at < bytes.len() {
                bytes[at] ^= value;
            }
        }
        let _damaged: Result<usize, TarError> = read(&bytes);
        let _cut_off: Result<usize, TarError> = read(&bytes[..bytes.len() / 2]);
    });
}
