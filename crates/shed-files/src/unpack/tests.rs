use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use proptest::prelude::*;

use super::*;
use crate::{Choice, TarWriter, pack, scan_directory};

/// Makes archives with whatever names.
struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, name: &[u8], kind: u8, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header.set_uid(4_000_000_000);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(name.as_bytes(), b'0', 0o644, "", content.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(name.as_bytes(), b'2', 0o777, target, b"")
    }

    fn directory(self, name: &str, mode: u32) -> Self {
        self.add(name.as_bytes(), b'5', mode, "", b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A target, and beside it what must not be touched.
struct Place {
    _dir: tempfile::TempDir,
    target: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir(&target).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        Self { _dir: dir, target, outside }
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, UnpackError> {
        unpack(archive, &self.target, None)
    }

    fn assert_untouched(&self) {
        assert_eq!(list(&self.outside), ["kept"]);
        assert_eq!(fs::read(self.outside.join("kept")).unwrap(), b"kept");
        assert!(
            !list(&self.target).iter().any(|name| name.starts_with(".shed-")),
            "{:?}",
            list(&self.target)
        );
    }
}

fn list(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_tree_arrives_as_it_was() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(255));
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join(&deep).join("x\ny \u{fc}"), "odd").unwrap();
    fs::write(root.join("secret"), "s").unwrap();
    fs::set_permissions(root.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("secret", root.join("link")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    let mut writer = TarWriter::new(Vec::new());
    pack(scan_directory(root, &|_| Choice::Take).unwrap(), &mut writer, &mut |_| ()).unwrap();
    let place = Place::new();
    let target = place.target.join("new/er");
    let unpacked = unpack(&writer.finish().unwrap()[..], &target, None).unwrap();
    assert_eq!((unpacked.files, unpacked.links, unpacked.directories), (2, 2, 4));
    let difference =
        Command::new("diff").arg("-r").arg("--no-dereference").arg(root).arg(&target).output().unwrap();
    assert!(difference.status.success(), "{}", String::from_utf8_lossy(&difference.stdout));
    assert_eq!((mode(&target.join("secret")), mode(&target.join("empty"))), (0o600, 0o750));
    let modified = |path: PathBuf| fs::symlink_metadata(path).unwrap().mtime();
    for name in ["secret", "empty", "link", ""] {
        assert_eq!(modified(target.join(name)), modified(root.join(name)), "{name}");
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../x", "/etc/shed-test", "a/../../x", ".."] {
        let place = Place::new();
        let error = place.unpack(&Archive::new().file("first", "1").file(name, "x").end()).unwrap_err();
        assert!(matches!(error, UnpackError::Name { .. }), "{name}: {error}");
        assert_eq!(error.failure(), Failure::Archive);
        assert_eq!(list(&place.target), ["first"]);
        place.assert_untouched();
    }
}

#[test]
fn links_of_the_archive_are_not_followed_out() {
    let place = Place::new();
    let outside = place.outside.to_str().unwrap();
    for to in [outside, "../outside", "/"] {
        for archive in [
            Archive::new().link("l", to).file("l/new", "x"),
            Archive::new().link("l", to).file("l/kept", "x"),
            Archive::new().link("l", to).directory("l/sub", 0o755),
            Archive::new().link("l", to).link("l/link", "x"),
            Archive::new().directory("d", 0o755).link("d/l", "../../outside").file("d/l/x/y", "x"),
        ] {
            let error = place.unpack(&archive.end()).unwrap_err();
            assert!(matches!(error, UnpackError::Outside { .. }), "{to}: {error}");
            place.assert_untouched();
        }
    }
    // A file takes the place of a link, and does not go through it.
    let archive = Archive::new().link("f", &format!("{outside}/kept")).file("f", "new").end();
    assert_eq!(place.unpack(&archive).unwrap().files, 1);
    assert_eq!(fs::read(place.target.join("f")).unwrap(), b"new");
    assert!(!fs::symlink_metadata(place.target.join("f")).unwrap().is_symlink());
    place.assert_untouched();
}

#[test]
fn links_that_are_there_are_not_followed_out_but_within() {
    let place = Place::new();
    symlink(&place.outside, place.target.join("out")).unwrap();
    symlink("loop", place.target.join("loop")).unwrap();
    symlink("nothing", place.target.join("dangling")).unwrap();
    fs::create_dir(place.target.join("real")).unwrap();
    symlink("real", place.target.join("within")).unwrap();
    for name in ["out/x", "out/kept", "loop/x"] {
        let error = place.unpack(&Archive::new().file(name, "x").end()).unwrap_err();
        assert!(matches!(error, UnpackError::Outside { .. }), "{name}: {error}");
    }
    let error = place.unpack(&Archive::new().directory("out", 0o700).end()).unwrap_err();
    assert!(matches!(error, UnpackError::Outside { .. }), "{error}");
    for archive in [Archive::new().file("dangling/x", "x"), Archive::new().directory("dangling", 0o755)] {
        let error = place.unpack(&archive.end()).unwrap_err();
        assert!(matches!(error, UnpackError::InTheWay { .. }), "{error}");
    }
    place.unpack(&Archive::new().directory("within", 0o755).file("within/x", "x").end()).unwrap();
    assert_eq!(fs::read(place.target.join("real/x")).unwrap(), b"x");
    assert!(fs::symlink_metadata(place.target.join("within")).unwrap().is_symlink());
    place.assert_untouched();
}

#[test]
fn only_files_directories_and_links_are_made() {
    let place = Place::new();
    fs::write(place.target.join("old"), "old").unwrap();
    let archive = Archive::new()
        .add(b"hard", b'1', 0o644, "old", b"")
        .add(b"char", b'3', 0o644, "", b"")
        .add(b"block", b'4', 0o644, "", b"")
        .add(b"fifo", b'6', 0o644, "", b"")
        .add(b"odd", b'Z', 0o644, "", b"content")
        .add(b"tool", b'0', 0o6755, "", b"x")
        .add(b"dir", b'5', 0o7777, "", b"")
        .file("last", "x");
    let unpacked = place.unpack(&archive.end()).unwrap();
    assert_eq!(unpacked.warnings.into_texts().len(), 5);
    assert_eq!(list(&place.target), ["dir", "last", "old", "tool"]);
    assert_eq!(mode(&place.target.join("tool")), 0o755, "no set-user-id from an archive");
    assert_eq!(mode(&place.target.join("dir")), 0o777);
}

#[test]
fn what_is_in_the_way_stays() {
    let place = Place::new();
    fs::create_dir_all(place.target.join("d/e")).unwrap();
    fs::write(place.target.join("f"), "old").unwrap();
    for archive in [
        Archive::new().file("d", "x"),
        Archive::new().link("d", "x"),
        Archive::new().directory("f", 0o755),
        Archive::new().file("f/x", "x"),
        Archive::new().file("./", "").add(b".", b'0', 0o644, "", b""),
        Archive::new().link(".", "x"),
    ] {
        let error = place.unpack(&archive.end()).unwrap_err();
        assert!(matches!(error, UnpackError::InTheWay { .. }), "{error}");
        assert_eq!(error.failure(), Failure::Target);
    }
    assert_eq!(list(&place.target), ["d", "f"]);
    assert_eq!(fs::read(place.target.join("f")).unwrap(), b"old");
    let error = unpack(&Archive::new().file("x", "").end()[..], &place.target.join("f"), None).unwrap_err();
    assert!(matches!(error, UnpackError::Target { .. }), "{error}");
}

#[test]
fn links_on_the_way_to_the_target_do_not_lead_out_of_the_anchor() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (home, outside) = (dir.path().join("home"), dir.path().join("outside"));
    fs::create_dir_all(home.join("inner")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, home.join("absolute")).unwrap();
    symlink("../outside", home.join("relative")).unwrap();
    symlink("inner", home.join("within")).unwrap();
    let archive = Archive::new().directory("sub", 0o755).file("sub/x", "x").end();
    for below in ["absolute", "relative", "absolute/new", "relative/new/deep", "within/../../outside"] {
        let error = unpack_below(&archive[..], &home, Path::new(below), None).unwrap_err();
        assert_eq!(error.failure(), Failure::Target, "{below}: {error}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for below in ["", "a/b/c", "within", "within/new", "inner"] {
        unpack_below(&archive[..], &home, Path::new(below), None).unwrap();
        assert_eq!(fs::read_to_string(home.join(below).join("sub/x")).unwrap(), "x", "{below}");
    }
    assert!(home.join("inner/new/sub/x").exists());
}

#[test]
fn a_target_that_is_a_link_to_nothing_is_said_to_be_one() {
    let place = Place::new();
    let target = place.target.join("dotfiles");
    symlink("gone", &target).unwrap();
    for target in [target.clone(), target.join("below")] {
        let error = unpack(&Archive::new().file("x", "").end()[..], &target, None).unwrap_err();
        assert!(matches!(error, UnpackError::InTheWay { what: "a link to nothing", .. }), "{error}");
        assert_eq!(error.failure(), Failure::Target);
    }
    assert_eq!(list(&place.target), ["dotfiles"]);
}

#[test]
fn what_is_there_by_the_time_it_is_made_is_told_apart() {
    let place = Place::new();
    let exists = || io::Error::from(io::ErrorKind::AlreadyExists);
    let cannot = |source: io::Error| UnpackError::Target { path: PathBuf::new(), source };
    assert!(is_there(&place.target, exists(), cannot).is_ok());
    let error = is_there(&place.outside.join("kept"), exists(), cannot).unwrap_err();
    assert!(matches!(error, UnpackError::InTheWay { what: "a file", .. }), "{error}");
    let error = is_there(&place.target.join("gone"), exists(), cannot).unwrap_err();
    assert!(matches!(error, UnpackError::Target { .. }), "{error}");
}

/// What an agent that died has left half-written goes when something is written beside it, and nowhere else.
#[test]
fn leftovers_of_an_earlier_agent_are_removed_where_something_is_written() {
    let place = Place::new();
    let left = ".shed-0123456789abcdef-12";
    for directory in ["", "a", "a/b", "c", "d"] {
        fs::create_dir_all(place.target.join(directory)).unwrap();
        fs::write(place.target.join(directory).join(left), "half").unwrap();
    }
    fs::write(place.outside.join(left), "half").unwrap();
    symlink("d", place.target.join("to-d")).unwrap();
    let archive = Archive::new().file("x", "").file("a/b/x", "").directory("c", 0o755).link("to-d/x", "y");
    place.unpack(&archive.end()).unwrap();
    for (directory, stays) in [("", false), ("a", true), ("a/b", false), ("c", true), ("d", false)] {
        assert_eq!(place.target.join(directory).join(left).exists(), stays, "{directory:?}");
    }
    assert_eq!(list(&place.outside), [left, "kept"]);
}

#[test]
fn what_is_cut_off_leaves_nothing_half_written() {
    let whole = Archive::new().file("a", "aaa").add(b"b", b'0', 0o644, "", &[7; 200_000]).end();
    for length in [0, 100, 512, 600, 1100, 1536, 2000, 150_000, whole.len() - 1024] {
        let place = Place::new();
        let error = place.unpack(&whole[..length]).unwrap_err();
        assert_eq!(error.failure(), Failure::Archive, "{length}");
        let found = list(&place.target);
        assert!(found.is_empty() || found == ["a"] || found == ["a", "b"], "{length}: {found:?}");
        assert_eq!(found.contains(&"b".to_owned()), length == whole.len() - 1024);
    }
}

#[test]
fn nothing_is_made_of_what_is_no_archive() {
    let place = Place::new();
    let target = place.target.join("new");
    for bytes in [&b"hello"[..], &[7; 3000], &[0x1f, 0x8b, 8, 0]] {
        unpack(bytes, &target, None).unwrap_err();
        assert!(!target.exists());
    }
}

#[test]
fn a_stream_that_breaks_is_not_the_archives_fault() {
    struct Breaks<'a>(&'a [u8]);
    impl Read for Breaks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                length => Ok(length),
            }
        }
    }
    let place = Place::new();
    let whole = Archive::new().file("a", "aaa").end();
    for length in [0, 300, 515, whole.len()] {
        let error = unpack(Breaks(&whole[..length]), &place.target, None).unwrap_err();
        assert_eq!(error.failure(), Failure::Source, "{length}");
    }
}

#[test]
fn a_directory_that_is_there_keeps_what_is_in_it_and_the_target_its_mode() {
    let place = Place::new();
    fs::create_dir(place.target.join("d")).unwrap();
    fs::write(place.target.join("d/mine"), "mine").unwrap();
    let before = mode(&place.target);
    let archive = Archive::new().directory("./", 0o700).directory("d", 0o711).file("d/x", "x").end();
    place.unpack(&archive).unwrap();
    assert_eq!(list(&place.target.join("d")), ["mine", "x"]);
    assert_eq!((mode(&place.target), mode(&place.target.join("d"))), (before, 0o711));
}

#[test]
fn read_only_directories_can_be_filled_and_long_zeros_take_no_room() {
    let place = Place::new();
    let mut content = vec![0; 10 << 20];
    content[5 << 20] = 1;
    let archive =
        Archive::new().directory("ro", 0o555).file("ro/x", "x").add(b"big", b'0', 0o444, "", &content).end();
    place.unpack(&archive).unwrap();
    assert_eq!((mode(&place.target.join("ro")), mode(&place.target.join("big"))), (0o555, 0o444));
    let meta = fs::metadata(place.target.join("big")).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    assert_eq!(fs::read(place.target.join("big")).unwrap(), content);
    fs::set_permissions(place.target.join("ro"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn everything_new_belongs_to_the_owner_and_nothing_old_does() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let owner = Owner { uid: 1234, gid: 2345 };
    let place = Place::new();
    let system = place.target.join("system");
    fs::create_dir(&system).unwrap();
    fs::create_dir(system.join("old")).unwrap();
    fs::set_permissions(system.join("old"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = Archive::new()
        .directory("./", 0o700)
        .directory("old", 0o777)
        .file("old/a/f", "x")
        .link("l", "x")
        .end();
    unpack(&archive[..], &system.join("above/target"), Some(owner)).unwrap();
    unpack(&archive[..], &system, Some(owner)).unwrap();
    let whose =
        |name: &str| fs::symlink_metadata(system.join(name)).map(|meta| (meta.uid(), meta.gid())).unwrap();
    for name in [
        "above/target",
        "above/target/old",
        "above/target/old/a/f",
        "above/target/l",
        "old/a",
        "old/a/f",
        "l",
    ] {
        assert_eq!(whose(name), (1234, 2345), "{name}");
    }
    for name in ["", "old", "above"] {
        assert_eq!(whose(name), (0, 0), "{name}");
    }
    assert_eq!(mode(&system.join("old")), 0o755, "a directory of root's is left alone");
    // Below what is the owner's, new parents are the owner's, too.
    unpack(&archive[..], &system.join("above/target/p/q"), Some(owner)).unwrap();
    assert_eq!(whose("above/target/p"), (1234, 2345));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fuzz_unpack(
        entries in prop::collection::vec(
            ("(\\.\\./|/|l|d|f|\\./|a/){1,4}", prop::sample::select(&b"0123567LKxg"[..]), "(/|\\.\\./|l|d|\\.\\./outside){1,3}"),
            0..8,
        ),
    ) {
        let place = Place::new();
        let mut archive = Archive::new();
        for (name, kind, link) in &entries {
            let content = if *kind == b'0' { &b"content"[..] } else { b"" };
            archive = archive.add(name.as_bytes(), *kind, 0o777, link, content);
        }
        let _any = place.unpack(&archive.end());
        place.assert_untouched();
        prop_assert_eq!(list(place.target.parent().unwrap()), ["outside", "target"]);
    }
}
