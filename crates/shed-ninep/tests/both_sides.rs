//! Host and guests work in the directory at once.
#![cfg(target_os = "linux")]

mod common;

use std::{fs, thread};

use common::{Client, ROOT};
use shed_ninep::proto::bits;

/// Files of each side.
const FILES: usize = 10_000;

fn content(side: &str, index: usize) -> Vec<u8> {
    format!("{side} {index}\n").repeat(1 + index % 50).into_bytes()
}

#[test]
fn ten_thousand_files_of_each_side_stay_whole() {
    let dir = tempfile::tempdir().unwrap();
    for part in 0..10 {
        fs::create_dir(dir.path().join(format!("{part}"))).unwrap();
    }
    let path = |side: &str, index: usize| format!("{}/{side}-{index}", index % 10);
    thread::scope(|scope| {
        for side in ["guest", "other"] {
            let directory = dir.path();
            scope.spawn(move || {
                let mut guest = Client::start(directory);
                for index in 0..FILES / 2 {
                    // Written beside its place and renamed, as editors and git do.
                    let path = path(side, index);
                    guest.put(&format!("{path}.tmp"), &content(side, index));
                    let parent = guest.walk(ROOT, &path[..1]).unwrap();
                    guest.rename_at(parent, &format!("{}.tmp", &path[2..]), parent, &path[2..]).unwrap();
                    guest.clunk(parent).unwrap();
                }
                guest.end().unwrap();
            });
        }
        for index in 0..FILES {
            fs::write(dir.path().join(path("host", index)), content("host", index)).unwrap();
        }
    });
    // Each side reads what the other has written.
    for side in ["guest", "other"] {
        for index in 0..FILES / 2 {
            assert!(
                fs::read(dir.path().join(path(side, index))).unwrap() == content(side, index),
                "{side} {index}"
            );
        }
    }
    let mut guest = Client::start(dir.path());
    for index in 0..FILES {
        assert!(guest.get(&path("host", index)).unwrap() == content("host", index), "host {index}");
    }
    let listed: usize = (0..10).map(|part| guest.list(&format!("{part}")).len()).sum();
    assert_eq!(listed, 2 * FILES);
    guest.end().unwrap();
}

/// Lines that two guests and the host append at once.
#[test]
fn appended_lines_are_all_there() {
    const LINES: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::write(&log, "").unwrap();
    thread::scope(|scope| {
        for side in ["one", "two"] {
            let directory = dir.path();
            scope.spawn(move || {
                let mut guest = Client::start(directory);
                let fid = guest.open_at("log", bits::OPEN_WRITE | bits::OPEN_APPEND).unwrap();
                for index in 0..LINES {
                    guest.write(fid, 0, format!("{side} {index}\n").as_bytes()).unwrap();
                }
                guest.end().unwrap();
            });
        }
        use std::io::Write;
        let mut file = fs::File::options().append(true).open(&log).unwrap();
        for index in 0..LINES {
            file.write_all(format!("host {index}\n").as_bytes()).unwrap();
        }
    });
    let text = fs::read_to_string(&log).unwrap();
    for side in ["one", "two", "host"] {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(side)).collect();
        let expected: Vec<_> = (0..LINES).map(|index| format!("{side} {index}")).collect();
        assert_eq!(lines, expected);
    }
}
