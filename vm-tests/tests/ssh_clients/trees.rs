//! Trees of files: made, changed, and compared.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

/// Directories of a tree.
const DIRS: usize = 100;

/// Files in each.
const FILES: usize = 100;

/// Makes a tree of ten thousand files, with modes, a link, an empty directory and names that need care.
pub(crate) fn make(root: &Utf8Path) {
    for dir in 0..DIRS {
        let dir = root.join(format!("dir {dir:03}"));
        fs::create_dir_all(&dir).expect("a directory");
        for file in 0..FILES {
            fs::write(dir.join(format!("file-{file:03}.txt")), content(&dir, file, 0)).expect("a file");
        }
    }
    let first = root.join("dir 000");
    fs::rename(first.join("file-000.txt"), first.join("ünïcode ✓ 'quoted' $HOME.txt")).expect("a file");
    fs::set_permissions(first.join("file-001.txt"), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(first.join("file-002.txt"), fs::Permissions::from_mode(0o600)).expect("a mode");
    symlink("file-001.txt", first.join("link")).expect("a link");
    fs::create_dir(root.join("empty")).expect("a directory");
}

/// Changes 50 files, removes 50 and adds 50; returns how many have to be sent.
pub(crate) fn change(root: &Utf8Path) -> usize {
    let dir = root.join("dir 050");
    for file in 0..50 {
        fs::write(dir.join(format!("file-{file:03}.txt")), content(&dir, file, 1)).expect("a file");
        fs::remove_file(root.join("dir 051").join(format!("file-{file:03}.txt"))).expect("a file");
        fs::write(root.join("empty").join(format!("new-{file:03}.txt")), content(&dir, file, 2))
            .expect("a file");
    }
    100
}

/// From a few bytes to some kilobytes, different in every file.
fn content(dir: &Utf8Path, file: usize, version: usize) -> String {
    format!("{} {file} {version}\n", dir.file_name().unwrap_or_default()).repeat(1 + (file * 7) % 61)
}

/// Describes everything below `root`: kind, mode, time of the last change, and what a file holds.
pub(crate) fn described(root: &Utf8Path) -> BTreeMap<Utf8PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in dir.read_dir_utf8().expect("a directory") {
            let path = entry.expect("an entry").into_path();
            let metadata = fs::symlink_metadata(&path).expect("it is still there");
            let mode = metadata.mode() & 0o7777;
            let description = if metadata.is_dir() {
                waiting.push(path.clone());
                format!("directory {mode:o}")
            } else if metadata.is_symlink() {
                format!("link to {}", fs::read_link(&path).expect("a link").display())
            } else {
                let sum = hex::encode(Sha256::digest(fs::read(&path).expect("a file")));
                format!("{mode:o} {} {sum}", metadata.mtime())
            };
            found.insert(path.strip_prefix(root).expect("it is below").to_owned(), description);
        }
    }
    found
}

/// Checks that two trees are the same, in a message that can be read.
#[track_caller]
pub(crate) fn assert_same(one: &Utf8Path, other: &Utf8Path) {
    let (left, right) = (described(one), described(other));
    let differs = |path: &&Utf8PathBuf| left.get(*path) != right.get(*path);
    let different: Vec<_> = left.keys().chain(right.keys()).filter(differs).take(5).collect();
    assert!(
        different.is_empty(),
        "{} and {} entries; the first that differ: {different:?}: {:?}",
        left.len(),
        right.len(),
        different.iter().map(|path| (left.get(*path), right.get(*path))).collect::<Vec<_>>()
    );
}
