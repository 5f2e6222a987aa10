//! Attempts to reach what is not in the directory: by links, by `..`, and by renames at the wrong moment.
#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use common::{Client, ROOT};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use shed_ninep::proto::bits;

/// Tries of a race. Each is three requests.
const TRIES: usize = 3000;

#[test]
fn links_lead_nowhere() {
    let outer = tempfile::tempdir().unwrap();
    let shared = outer.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::create_dir(outer.path().join("other")).unwrap();
    fs::write(outer.path().join("other/secret"), "outside").unwrap();
    symlink("/", shared.join("root")).unwrap();
    symlink("..", shared.join("up")).unwrap();
    symlink("../other", shared.join("other")).unwrap();
    symlink("../other/secret", shared.join("secret")).unwrap();
    symlink("/proc/self/root", shared.join("proc")).unwrap();
    symlink(".", shared.join("here")).unwrap();
    let mut guest = Client::start(&shared);
    for (name, below) in
        [("root", "etc"), ("up", "other"), ("other", "secret"), ("proc", "etc"), ("here", "up")]
    {
        assert_eq!(guest.walk_to(ROOT, 50, &[name, below]).unwrap().len(), 1, "{name}");
        let link = guest.walk(ROOT, name).unwrap();
        assert_eq!(guest.walk_to(link, 50, &[below]), Err(Errno::NOTDIR.raw_os_error()));
        for flags in [bits::OPEN_READ, bits::OPEN_DIRECTORY, bits::OPEN_WRITE] {
            assert!(guest.open(link, flags).is_err());
        }
        assert_eq!(guest.mkdir(link, "new", 0o755), Err(Errno::NOTDIR.raw_os_error()));
        assert_eq!(guest.unlink(link, below, 0), Err(Errno::NOTDIR.raw_os_error()));
        assert_eq!(guest.rename_at(ROOT, "here", link, "new"), Err(Errno::NOTDIR.raw_os_error()));
        assert_eq!(guest.symlink(link, "new", "x"), Err(Errno::NOTDIR.raw_os_error()));
        assert_eq!(guest.create(link, "new", bits::OPEN_WRITE, 0o644), Err(Errno::NOTDIR.raw_os_error()));
    }
    assert_eq!(guest.open_at("secret", bits::OPEN_READ), Err(Errno::LOOP.raw_os_error()));
    assert_eq!(
        guest.create(ROOT, "secret", bits::OPEN_WRITE | bits::OPEN_TRUNCATE, 0o644),
        Err(Errno::LOOP.raw_os_error())
    );
    guest.end().unwrap();
    assert_eq!(fs::read(outer.path().join("other/secret")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(outer.path().join("other")).unwrap().count(), 1);
}

/// A name that is a directory and a link out of it in turn, as fast as the host can exchange them.
#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let outer = tempfile::tempdir().unwrap();
    let shared = outer.path().join("shared");
    fs::create_dir_all(shared.join("d/in")).unwrap();
    fs::write(shared.join("d/f"), "inside").unwrap();
    fs::create_dir_all(outer.path().join("out/in")).unwrap();
    fs::write(outer.path().join("out/f"), "outside").unwrap();
    symlink("../out", shared.join("x")).unwrap();
    // And a file that is a link in turn.
    fs::write(shared.join("file"), "inside").unwrap();
    symlink("../out/f", shared.join("y")).unwrap();
    let outside = fs::metadata(outer.path().join("out/f")).unwrap().ino();

    let over = AtomicBool::new(false);
    let (mut reached, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (a, b) in [("d", "x"), ("file", "y")] {
                    renameat_with(CWD, shared.join(a), CWD, shared.join(b), RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        let mut guest = Client::start(&shared);
        for index in 0..TRIES {
            for path in ["d/f", "file"] {
                match guest.open_at(path, if index % 2 == 0 { bits::OPEN_READ } else { bits::OPEN_BOTH }) {
                    Ok(fid) => {
                        assert_eq!(guest.read(fid, 0, 100).unwrap(), b"inside");
                        assert_ne!(guest.attributes(fid).unwrap().qid.path, outside);
                        guest.clunk(fid).unwrap();
                        reached += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            // What changes things, by a name below and by the name itself.
            if let Ok(d) = guest.walk(ROOT, "d") {
                let _either = guest.mkdir(d, "new", 0o755);
                let _either = guest.unlink(d, "new", bits::REMOVE_DIRECTORY);
                guest.clunk(d).unwrap();
            }
            if let Ok(fid) = guest.create(ROOT, "file", bits::OPEN_WRITE, 0o644) {
                guest.write(fid, 0, b"INSIDE").unwrap();
                guest.write(fid, 0, b"inside").unwrap();
                guest.clunk(fid).unwrap();
            }
            if let Ok(fid) = guest.walk(ROOT, "file") {
                let _either = guest.set_mode(fid, 0o600);
                let _either = guest.set_size(fid, 6);
                guest.clunk(fid).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        guest.end().unwrap();
    });
    assert!(reached > 0 && refused > 0, "{reached} reached, {refused} refused: nothing was raced for");
    assert_eq!(fs::read(outer.path().join("out/f")).unwrap(), b"outside");
    assert_eq!(fs::metadata(outer.path().join("out/f")).unwrap().mode() & 0o777, 0o644);
    let mut left: Vec<_> =
        fs::read_dir(outer.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["f", "in"]);
}

/// The documented limits: a second name is a file like any other, and a fid outlives its directory's move by the host.
#[test]
fn second_names_and_directories_that_the_host_moves() {
    let outer = tempfile::tempdir().unwrap();
    let shared = outer.path().join("shared");
    fs::create_dir_all(shared.join("d/e")).unwrap();
    fs::write(outer.path().join("outside"), "seen").unwrap();
    fs::hard_link(outer.path().join("outside"), shared.join("name")).unwrap();
    let mut guest = Client::start(&shared);
    assert_eq!(guest.get("name").unwrap(), b"seen");
    let d = guest.walk(ROOT, "d").unwrap();
    fs::rename(shared.join("d"), outer.path().join("d")).unwrap();
    assert_eq!(guest.walk(ROOT, "d"), Err(Errno::NOENT.raw_os_error()));
    // Down is possible, up is not.
    assert!(guest.walk(d, "e").is_ok());
    // A walk to "..", which the client cannot even build: fid, new fid, one name.
    let mut body = d.to_le_bytes().to_vec();
    body.extend_from_slice(b"\x09\0\0\0\x01\0\x02\0..");
    assert_eq!(guest.ask_raw(110, &body), Err(Errno::INVAL.raw_os_error()));
    guest.end().unwrap();
}
