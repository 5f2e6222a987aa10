use proptest::prelude::*;

use super::*;

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match reader.read_content(&mut buffer)? {
                0 => break,
                length => content.extend_from_slice(&buffer[..length]),
            }
        }
        all.push((entry, content));
    }
    Ok(all)
}

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(7);
    header.set_cksum();
    header
}

/// Returns an archive of these headers and what is behind them, with an end mark.
fn archive(parts: &[(Header, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, content) in parts {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn with_pax(records: &[u8], name: &str, content: &[u8], stated: u64) -> Vec<u8> {
    let pax = header("pax", EntryType::XHeader, records.len() as u64);
    archive(&[(pax, records), (header(name, EntryType::Regular, stated), content)])
}

#[test]
fn archives_of_other_programs_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o4751);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, content).unwrap();
    };
    let long = format!("{}/file", "d".repeat(120));
    add("short", EntryType::Regular, b"content");
    add(&long, EntryType::Regular, b"");
    add("dir/", EntryType::Directory, b"");
    let mut link = Header::new_gnu();
    link.set_entry_type(EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    builder.append_link(&mut link, "link", "t".repeat(300)).unwrap();
    let all = entries(&builder.into_inner().unwrap()).unwrap();
    let names: Vec<_> =
        all.iter().map(|(entry, _)| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    assert_eq!(names, ["short", &long, "dir/", "link"]);
    assert_eq!(all[0].1, b"content");
    assert_eq!((all[0].0.mode, all[0].0.modified.seconds), (0o4751, 1_700_000_000));
    assert_eq!(all[2].0.kind, EntryKind::Directory);
    assert_eq!(all[3].0.kind, EntryKind::Symlink(vec![b't'; 300]));
}

#[test]
fn pax_records_win_over_the_header() {
    let records = b"16 path=long/er\n19 mtime=12.000345\n10 size=5\n18 VENDOR.x=y=z\nz\n";
    let all = entries(&with_pax(records, "short", b"hello", 5)).unwrap();
    let (entry, content) = &all[0];
    assert_eq!(entry.name, b"long/er");
    assert_eq!(entry.modified, Time { seconds: 12, nanoseconds: 345_000 });
    assert_eq!(content, b"hello");
}

#[test]
fn a_size_in_pax_records_is_the_size() {
    // A reader that took the header's 0 would take the content for the next header.
    let all = entries(&with_pax(b"12 size=512\n", "x", &[b'x'; 512], 0)).unwrap();
    assert_eq!((all.len(), all[0].1.len()), (1, 512));
}

#[test]
fn times_before_1970_and_with_fractions_are_read() {
    for (text, seconds, nanoseconds) in [
        ("0", 0, 0),
        ("12.5", 12, 500_000_000),
        ("1.0000000019", 1, 1),
        ("-1", -1, 0),
        ("-1.25", -2, 750_000_000),
    ] {
        assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
    }
    for text in ["", "-", ".", "x", "1.x", "1e5", "99999999999999999999"] {
        assert_eq!(time(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn what_is_no_archive_says_what_it_is() {
    let error = |bytes: &[u8]| entries(bytes).unwrap_err().to_string();
    assert_eq!(error(b"hello"), "this is no tar archive");
    assert_eq!(error(&[b'x'; 5000]), "this is no tar archive");
    assert!(error(&[&[0x1f, 0x8b, 8][..], &[0; 100]].concat()).contains("compressed with gzip"));
    assert!(error(b"BZh91AY").contains("bzip2"));
    assert!(matches!(entries(b"").unwrap_err(), TarError::Truncated));
}

#[test]
fn a_cut_is_seen_wherever_it_is() {
    let whole = archive(&[
        (header("a", EntryType::Regular, 700), &[1; 700]),
        (header("b", EntryType::Regular, 0), b""),
    ]);
    assert_eq!(entries(&whole).unwrap().len(), 2);
    // One of the two blocks of the end mark is enough.
    let end = whole.len() - BLOCK;
    for length in (1..end).step_by(37).chain([BLOCK, 3 * BLOCK, 4 * BLOCK, end - 1]) {
        assert!(entries(&whole[..length]).is_err(), "{length}");
    }
    assert_eq!(entries(&whole[..end]).unwrap().len(), 2);
}

#[test]
fn what_two_readers_may_read_in_two_ways_is_refused() {
    for kind in [EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char]
    {
        let bytes = archive(&[(header("x", kind, 512), &[b'x'; 512])]);
        assert!(entries(&bytes).is_err(), "{kind:?}");
    }
    let old_directory = archive(&[(header("x/", EntryType::Regular, 512), &[b'x'; 512])]);
    assert!(matches!(entries(&old_directory).unwrap_err(), TarError::Damaged { .. }));
    let sparse = archive(&[(header("x", EntryType::GNUSparse, 0), b"")]);
    assert!(matches!(entries(&sparse).unwrap_err(), TarError::Sparse { offset: 0 }));
    assert!(matches!(
        entries(&with_pax(b"22 GNU.sparse.major=1\n", "x", b"", 0)).unwrap_err(),
        TarError::Sparse { .. }
    ));
    let alone = archive(&[(header("l", EntryType::GNULongName, 3), b"ab\0")]);
    assert!(matches!(entries(&alone).unwrap_err(), TarError::Damaged { .. }));
}

#[test]
fn huge_names_and_sizes_take_no_memory() {
    let long = archive(&[(header("l", EntryType::GNULongName, 1 << 30), b"")]);
    assert!(matches!(entries(&long).unwrap_err(), TarError::NameTooLong { .. }));
    let pax = archive(&[(header("p", EntryType::XHeader, 1 << 30), b"")]);
    assert!(matches!(entries(&pax).unwrap_err(), TarError::Damaged { .. }));
    let name = "n".repeat(5000);
    let record = format!("{} path={name}\n", name.len() + 11);
    assert!(matches!(
        entries(&with_pax(record.as_bytes(), "x", b"", 0)).unwrap_err(),
        TarError::NameTooLong { .. }
    ));
    let endless = with_pax(b"29 size=18446744073709551615\n", "x", b"", 0);
    assert!(matches!(entries(&endless).unwrap_err(), TarError::Damaged { .. }));
    let far = archive(&[(header("x", EntryType::Regular, 1 << 40), b"")]);
    assert!(matches!(entries(&far).unwrap_err(), TarError::Truncated));
}

#[test]
fn pax_records_that_lie_about_themselves_are_refused() {
    for records in [
        &b"x"[..],
        b"5 a=",
        b"0 a=b\n",
        b"99 a=b\n",
        b"6 a=b",
        b"5 ab\n",
        b"-6 a=b\n",
        b"1 \n",
        b"6 a=b\n\0",
        b"18446744073709551616 a=b\n",
    ] {
        assert!(entries(&with_pax(records, "x", b"", 0)).is_err(), "{}", String::from_utf8_lossy(records));
    }
}

proptest! {
    #[test]
    fn fuzz_tar(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        repair in any::<bool>(),
        raw in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut bytes = archive(&[
            (header("pax", EntryType::XHeader, 12), b"12 path=a/b\n"),
            (header("a", EntryType::Regular, 700), &[1; 700]),
            (header("l", EntryType::GNULongName, 3), b"ab\0"),
            (header("b", EntryType::Directory, 0), b""),
        ]);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if repair {
            for block in bytes.chunks_exact_mut(BLOCK) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _any = entries(&bytes);
        let _any = entries(&raw);
    }

    #[test]
    fn what_is_written_reads_back(
        files in prop::collection::vec(("[a-z/ü]{1,300}", prop::collection::vec(any::<u8>(), 0..2000)), 0..5),
        link in "[a-z/.]{1,300}",
    ) {
        let attributes = crate::write::Attributes { mode: 0o640, modified: Time { seconds: 99, nanoseconds: 0 } };
        let mut writer = crate::TarWriter::new(Vec::new());
        writer.directory(b"", attributes).unwrap();
        writer.symlink(b"link", link.as_bytes(), attributes).unwrap();
        for (name, content) in &files {
            let mut rest = &content[..];
            let name = name.trim_matches('/');
            let missing = writer.file(name.as_bytes(), attributes, content.len() as u64, |buffer| rest.read(buffer));
            prop_assert_eq!(missing.unwrap().bytes, 0);
        }
        let bytes = writer.finish().unwrap();
        // Two readers agree.
        prop_assert_eq!(tar::Archive::new(&bytes[..]).entries().unwrap().count(), files.len() + 2);
        let all = entries(&bytes).unwrap();
        prop_assert_eq!(&all[1].0.kind, &EntryKind::Symlink(link.into_bytes()));
        for ((entry, read), (name, content)) in all[2..].iter().zip(&files) {
            prop_assert_eq!(&entry.name[..], name.trim_matches('/').as_bytes());
            prop_assert_eq!(read, content);
            prop_assert_eq!((entry.mode, entry.modified), (0o640, attributes.modified));
        }
    }
}
