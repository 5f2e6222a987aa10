//! What a small layer could make large or slow, and does not.

use std::sync::atomic::Ordering;

use super::{
    apply::{ApplyError, apply},
    problem::EntryProblem,
    tree::{Layer, Tree},
    unpack::Batch,
};
use crate::{
    ext4::Xattrs,
    tar::{Entry, EntryKind},
};

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry { name: name.into(), kind, mode: 0o755, uid: 0, gid: 0, modified: (0, 0), xattrs: Vec::new() }
}

fn file(name: &str) -> Entry {
    entry(name, EntryKind::File { size: 0, stored: 0, pieces: 1 })
}

fn put(tree: &mut Tree, layer: Layer, entry: &Entry) {
    apply(tree, layer, entry).unwrap();
}

/// Returns how many names were met in lists since the last call.
fn met(tree: &Tree) -> u64 {
    tree.met.swap(0, Ordering::Relaxed)
}

#[test]
fn a_batch_is_full_by_its_names_and_values() {
    let mut batch = Batch::default();
    for _ in 0..255 {
        batch.push(file("name"));
    }
    assert!(!batch.is_full());
    batch.push(file("name"));
    assert!(batch.is_full());
    assert_eq!((batch.take().len(), batch.is_full()), (256, false));

    let large: [fn(&mut Entry); 3] = [
        |entry| entry.name = vec![b'n'; 100_000],
        |entry| entry.kind = EntryKind::Symlink(vec![b't'; 100_000]),
        |entry| entry.xattrs = vec![(b"user.a".to_vec(), vec![b'v'; 100_000])],
    ];
    for change in large {
        for full in [false, false, true] {
            let mut entry = file("name");
            change(&mut entry);
            batch.push(entry);
            assert_eq!(batch.is_full(), full);
        }
        batch.take();
    }
    // Short ones have their price, too.
    for _ in 0..40 {
        let mut entry = file("name");
        entry.xattrs = vec![(Vec::new(), Vec::new()); 256];
        batch.push(entry);
    }
    assert!(batch.is_full());
}

#[test]
fn attributes_of_all_files_are_bounded() {
    let mut tree = Tree::new();
    let xattrs = |i: u32| {
        let value = [&i.to_le_bytes()[..], &[b'v'; 3900]].concat();
        Xattrs::new([(b"user.a".as_slice(), value.as_slice())]).unwrap()
    };
    let taken = (0..20_000).take_while(|i| tree.add_xattrs(xattrs(*i)).is_ok()).count();
    assert!((16_000..17_200).contains(&taken), "{taken}");
    // Those that are known cost nothing.
    assert!(tree.add_xattrs(xattrs(5)).is_ok());
}

#[test]
fn a_directory_is_emptied_once_by_a_layer() {
    let mut tree = Tree::new();
    put(&mut tree, 1, &file("a/b/x"));
    // That of a directory above does not count, nor that of another layer.
    for layer in [2, 3] {
        put(&mut tree, layer, &file("a/b/y"));
        put(&mut tree, layer, &file("a/.wh..wh..opq"));
        put(&mut tree, layer, &file("a/b/.wh..wh..opq"));
        for name in ["a/.wh..wh..opq", "./a/b//.wh..wh..opq"] {
            let again = apply(&mut tree, layer, &file(name));
            assert!(matches!(again, Err(ApplyError::Entry(EntryProblem::Twice))), "{name}: {again:?}");
        }
    }
}

#[test]
fn whiteouts_do_not_go_through_the_same_names_again() {
    const NAMES: u64 = 1000;
    let mut tree = Tree::new();
    // All that is in the directory is of the layer that hides it, time and again.
    for i in 0..NAMES {
        put(&mut tree, 1, &file(&format!("d/{i}")));
    }
    for _ in 0..NAMES {
        put(&mut tree, 1, &file(".wh.d"));
    }
    assert_eq!(met(&tree), NAMES);
    // Later layers do not meet again what an earlier one removed.
    for i in 0..NAMES {
        put(&mut tree, 2, &file(&format!("d/.wh.{i}")));
    }
    for layer in 3..100 {
        put(&mut tree, layer, &file("d/.wh..wh..opq"));
    }
    assert_eq!(met(&tree), NAMES);
    // Nor does a layer go through what it has below two emptied directories twice.
    for i in 0..NAMES {
        put(&mut tree, 100, &file(&format!("d/e/{i}")));
    }
    put(&mut tree, 100, &file("d/e/.wh..wh..opq"));
    put(&mut tree, 100, &file("d/.wh..wh..opq"));
    put(&mut tree, 100, &file(".wh..wh..opq"));
    assert_eq!(met(&tree), NAMES + 2);
    assert_eq!(tree.sorted_children(tree.child(Tree::root(), b"d").unwrap()).len(), 1);
}

#[test]
fn links_are_followed_by_10_000_names() {
    let mut tree = Tree::new();
    put(&mut tree, 1, &entry("d", EntryKind::Directory));
    put(&mut tree, 1, &entry("l0", EntryKind::Symlink(b"d".to_vec())));
    for i in 0..10 {
        let target = format!("{}l{i}", "d/../".repeat(800));
        put(&mut tree, 1, &entry(&format!("l{}", i + 1), EntryKind::Symlink(target.into())));
    }
    put(&mut tree, 1, &file("l6/near"));
    for far in [file("l7/far"), file("l7/.wh.far"), entry("x", EntryKind::HardLink(b"l7/near".to_vec()))] {
        let found = apply(&mut tree, 1, &far);
        assert!(matches!(found, Err(ApplyError::Entry(EntryProblem::ParentLoop))), "{found:?}");
    }
    // Both ways of a hard link count.
    let both = entry("l4/x", EntryKind::HardLink(b"l4/near".to_vec()));
    let found = apply(&mut tree, 1, &both);
    assert!(matches!(found, Err(ApplyError::Entry(EntryProblem::ParentLoop))), "{found:?}");
}
