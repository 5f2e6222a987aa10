use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use super::*;
use crate::{Choice, Entry, EntryKind, ScanError, TarReader, scan_directory, scan_file};

fn names(scan: &Scan) -> Vec<String> {
    scan.items.iter().map(|item| String::from_utf8_lossy(&item.name).into_owned()).collect()
}

fn packed(scan: Scan) -> (Vec<(Entry, Vec<u8>)>, Packed) {
    let mut writer = TarWriter::new(Vec::new());
    let packed = pack(scan, &mut writer, &mut |_| ()).unwrap();
    let bytes = writer.finish().unwrap();
    let mut reader = TarReader::new(&bytes[..]);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = vec![0; usize::try_from(entry.size).unwrap()];
        let mut at = 0;
        while at < content.len() {
            at += reader.read_content(&mut content[at..]).unwrap();
        }
        all.push((entry, content));
    }
    (all, packed)
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/b", "empty", "c"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in ["a/b/x.lua", "a/y.lua", "a/z.txt", "c/q", "top.lua", "odd\n\u{1b}name"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    symlink("../nowhere", dir.path().join("a/link")).unwrap();
    dir
}

#[test]
fn a_tree_is_sent_whole_and_in_order() {
    let dir = tree();
    fs::set_permissions(dir.path().join("top.lua"), fs::Permissions::from_mode(0o4600)).unwrap();
    let scan = scan_directory(dir.path(), &|_| Choice::Take).unwrap();
    let expected = [
        "",
        "a",
        "a/b",
        "a/b/x.lua",
        "a/link",
        "a/y.lua",
        "a/z.txt",
        "c",
        "c/q",
        "empty",
        "odd\n\u{1b}name",
        "top.lua",
    ];
    assert_eq!(names(&scan), expected);
    let (all, packed) = packed(scan);
    assert_eq!(all[0].0.name, b"./");
    assert_eq!(all[4].0.kind, EntryKind::Symlink(b"../nowhere".to_vec()));
    assert_eq!((all[11].0.mode, &all[11].1[..]), (0o600, &b"top.lua"[..]), "no set-user-id bit is sent");
    assert_eq!((packed.files, packed.warnings), (7, Warnings::default()));
}

#[test]
fn what_is_chosen_comes_with_its_directories_and_nothing_else_does() {
    let dir = tree();
    let choose = |only: &str| {
        let only = Path::new(only);
        let choice = |path: &Path| if path == only { Choice::Take } else { Choice::Within };
        names(&scan_directory(dir.path(), &choice).unwrap())
    };
    assert_eq!(choose("a/b/x.lua"), ["", "a", "a/b", "a/b/x.lua"]);
    assert_eq!(choose("empty"), ["", "empty"]);
    assert_eq!(choose("a/b"), ["", "a", "a/b", "a/b/x.lua"]);
    assert!(choose("none").is_empty());
}

#[test]
fn a_directory_that_is_left_is_not_looked_into() {
    let dir = tree();
    let asked = RefCell::new(Vec::new());
    let choice = |path: &Path| {
        asked.borrow_mut().push(path.to_str().unwrap().to_owned());
        match path.to_str().unwrap() {
            "" => Choice::Within,
            "top.lua" => Choice::Take,
            _ => Choice::Leave,
        }
    };
    let scan = scan_directory(dir.path(), &choice).unwrap();
    assert_eq!(names(&scan), ["", "top.lua"]);
    assert_eq!(asked.into_inner(), ["", "a", "c", "empty", "odd\n\u{1b}name", "top.lua"]);
    assert_eq!(scan.warnings, Warnings::default());
}

#[test]
fn what_is_no_file_is_left_out_and_said() {
    let dir = tree();
    let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
    assert!(made.success(), "{made}");
    let scan = scan_directory(dir.path(), &|_| Choice::Take).unwrap();
    assert!(!names(&scan).iter().any(|name| name == "socket" || name == "fifo"));
    let warnings = scan.warnings.into_texts();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].ends_with("fifo: left out: it is a FIFO"), "{warnings:?}");
}

#[test]
fn files_that_change_meanwhile_leave_the_archive_whole() {
    let dir = tree();
    fs::write(dir.path().join("big"), vec![7; 300_000]).unwrap();
    let scan = scan_directory(dir.path(), &|_| Choice::Take).unwrap();
    fs::remove_file(dir.path().join("a/y.lua")).unwrap();
    fs::remove_file(dir.path().join("c/q")).unwrap();
    symlink("/etc/passwd", dir.path().join("c/q")).unwrap();
    fs::write(dir.path().join("top.lua"), "longer than it was").unwrap();
    let (all, packed) = packed(scan);
    let content =
        |name: &[u8]| all.iter().find(|(entry, _)| entry.name == name).map(|(_, content)| &content[..]);
    assert_eq!(content(b"a/y.lua"), None);
    assert_eq!(content(b"c/q"), None, "what has become a link is not followed");
    assert_eq!(content(b"top.lua"), Some(&b"longer than it was"[..]));
    assert_eq!(content(b"big").unwrap().len(), 300_000);
    assert_eq!(packed.warnings.into_texts().len(), 2);
}

#[test]
fn a_file_that_becomes_shorter_while_it_is_sent_is_filled_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, vec![7; 300_000]).unwrap();
    let scan = scan_directory(dir.path(), &|_| Choice::Take).unwrap();
    let cut = Cell::new(false);
    let mut writer = TarWriter::new(Vec::new());
    let mut sent = |_| {
        if !cut.replace(true) {
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000).unwrap();
        }
    };
    let packed = pack(scan, &mut writer, &mut sent).unwrap();
    let bytes = writer.finish().unwrap();
    let mut reader = TarReader::new(&bytes[..]);
    assert_eq!(reader.next_entry().unwrap().unwrap().kind, EntryKind::Directory);
    assert_eq!(reader.next_entry().unwrap().unwrap().size, 300_000);
    assert_eq!(reader.next_entry().unwrap(), None);
    let warnings = packed.warnings.into_texts();
    assert!(
        warnings[0].contains("became shorter") && warnings[0].contains("200000 bytes are zeros"),
        "{warnings:?}"
    );
}

#[test]
fn a_single_file_gets_the_name_it_is_sent_under() {
    let dir = tree();
    let (all, _) = packed(scan_file(&dir.path().join("top.lua"), "init.lua").unwrap());
    assert_eq!((&all[0].0.name[..], &all[0].1[..]), (&b"init.lua"[..], &b"top.lua"[..]));
    symlink("top.lua", dir.path().join("alias")).unwrap();
    let (all, _) = packed(scan_file(&dir.path().join("alias"), "x").unwrap());
    assert_eq!((&all[0].0.kind, &all[0].1[..]), (&EntryKind::File, &b"top.lua"[..]));
    for name in ["", ".", "../x", "/x", "a\0"] {
        assert!(
            matches!(scan_file(&dir.path().join("top.lua"), name), Err(ScanError::Name { .. })),
            "{name:?}"
        );
    }
    assert!(matches!(scan_file(dir.path(), "x"), Err(ScanError::Kind { .. })));
    assert!(matches!(
        scan_directory(&dir.path().join("none"), &|_| Choice::Take),
        Err(ScanError::Look { .. })
    ));
}
