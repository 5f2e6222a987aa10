//! Layers put on each other by the tree, and by a model that is simple and slow: a map of whole paths.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shed_testkit::fuzz;

use super::{
    apply::{ApplyError, apply},
    tree::{Body, NodeId, Tree},
};
use crate::tar::{Entry, EntryKind};

type Path = Vec<String>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Told apart by its size, which no other file has.
    File(u64),
    Directory,
    Symlink(String),
}

#[derive(Debug, Clone)]
struct Known {
    what: What,
    set: u16,
    touched: u16,
}

/// What there is, and the last layer that emptied a directory.
#[derive(Debug, Default)]
struct Model(BTreeMap<Path, Known>, BTreeMap<Path, u16>);

/// What a layer has.
#[derive(Debug, Clone)]
enum Step {
    File(Path),
    Directory(Path),
    Symlink(Path, String),
    HardLink(Path, Path),
    Whiteout(Path),
    Opaque(Path),
}

impl Model {
    /// Follows a path of directories; `Err` where the entry is refused, `None` where there is no such directory.
    fn follow(&mut self, path: &[String], make: Option<u16>) -> Result<Option<Path>, ()> {
        let mut left: Vec<String> = path.iter().rev().cloned().collect();
        let mut at = Path::new();
        let mut followed = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop().ok_or(())?;
                continue;
            }
            let next = [at.clone(), vec![part]].concat();
            match (self.0.get(&next).map(|known| known.what.clone()), make) {
                (Some(What::Directory), _) => at = next,
                (Some(What::Symlink(target)), _) => {
                    followed += 1;
                    if followed > 255 {
                        return Err(());
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    left.extend(target.split('/').filter(|part| !part.is_empty()).rev().map(str::to_owned));
                }
                (Some(What::File(_)), Some(_)) => return Err(()),
                (Some(What::File(_)) | None, None) => return Ok(None),
                (None, Some(layer)) => {
                    self.put(next.clone(), What::Directory, layer, false);
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }

    fn put(&mut self, path: Path, what: What, layer: u16, set: bool) {
        if what != What::Directory {
            self.0.retain(|other, _| other.len() <= path.len() || !other.starts_with(&path));
        }
        let before = self.0.get(&path).map_or(0, |known| known.set);
        let set = if set { layer } else { before };
        for length in 1..path.len() {
            if let Some(above) = self.0.get_mut(&path[..length]) {
                above.touched = layer;
            }
        }
        self.0.insert(path, Known { what, set, touched: layer });
    }

    fn hide(&mut self, path: &Path, layer: u16, itself: bool) {
        self.0.retain(|other, known| {
            !other.starts_with(path) || (other == path && !itself) || known.touched == layer
        });
        self.1.retain(|path, _| path.is_empty() || self.0.contains_key(path));
    }

    fn apply(&mut self, layer: u16, step: &Step, number: u64) -> Result<(), ()> {
        let (path, what) = match step {
            Step::Whiteout(path) => {
                let (name, above) = path.split_last().ok_or(())?;
                if let Some(above) = self.follow(above, None)? {
                    self.hide(&[above, vec![name.clone()]].concat(), layer, true);
                }
                return Ok(());
            }
            Step::Opaque(path) => {
                if let Some(path) = self.follow(path, None)? {
                    self.hide(&path, layer, false);
                    if self.1.insert(path, layer) == Some(layer) {
                        return Err(());
                    }
                }
                return Ok(());
            }
            Step::File(path) => (path, What::File(number)),
            Step::Directory(path) => (path, What::Directory),
            Step::Symlink(path, target) => (path, What::Symlink(target.clone())),
            Step::HardLink(path, target) => {
                let (name, above) = target.split_last().ok_or(())?;
                let above = self.follow(above, None)?.ok_or(())?;
                let what = self.0.get(&[above, vec![name.clone()]].concat()).ok_or(())?.what.clone();
                if what == What::Directory {
                    return Err(());
                }
                (path, what)
            }
        };
        let (name, above) = path.split_last().ok_or(())?;
        let above = self.follow(above, Some(layer))?.ok_or(())?;
        let path = [above, vec![name.clone()]].concat();
        if let Some(known) = self.0.get(&path) {
            let both = what == What::Directory && known.what == What::Directory;
            if !both && (known.set == layer || known.touched == layer) {
                return Err(());
            }
        }
        self.put(path, what, layer, true);
        Ok(())
    }
}

fn entry(step: &Step, number: u64) -> Entry {
    let (name, kind) = match step {
        Step::File(path) => (path.join("/"), EntryKind::File { size: number, stored: number, pieces: 1 }),
        Step::Directory(path) => (path.join("/"), EntryKind::Directory),
        Step::Symlink(path, target) => (path.join("/"), EntryKind::Symlink(target.clone().into())),
        Step::HardLink(path, target) => (path.join("/"), EntryKind::HardLink(target.join("/").into())),
        Step::Whiteout(path) => {
            let (name, above) = path.split_last().unwrap();
            let name = [above, &[format!(".wh.{name}")]].concat().join("/");
            (name, EntryKind::File { size: 0, stored: 0, pieces: 1 })
        }
        Step::Opaque(path) => {
            let name = [&path[..], &[".wh..wh..opq".to_owned()]].concat().join("/");
            (name, EntryKind::File { size: 0, stored: 0, pieces: 1 })
        }
    };
    Entry { name: name.into(), kind, mode: 0o644, uid: 0, gid: 0, modified: (0, 0), xattrs: Vec::new() }
}

fn listed(tree: &Tree, directory: NodeId, path: &Path, all: &mut BTreeMap<Path, What>) {
    for child in tree.sorted_children(directory) {
        let path = [path.clone(), vec![String::from_utf8(tree.name(child).to_vec()).unwrap()]].concat();
        let inode = tree.inode_of(child);
        let what = match tree.inode(inode).body {
            Body::File(size) => What::File(size),
            Body::Directory => What::Directory,
            Body::Symlink(..) => {
                What::Symlink(String::from_utf8(tree.target(inode).unwrap().to_vec()).unwrap())
            }
            Body::Special(_) => unreachable!("none was made"),
        };
        if what == What::Directory {
            listed(tree, child, &path, all);
        }
        all.insert(path, what);
    }
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned), 1..4)
}

fn target() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "a/b", "/a", "/b/c", "..", "../c", "/", "c/../b"])
        .prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path().prop_map(Step::File),
        3 => path().prop_map(Step::Directory),
        2 => (path(), target()).prop_map(|(path, target)| Step::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Step::HardLink(path, target)),
        2 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

#[test]
fn layers_make_the_tree_that_the_model_says() {
    let layers = prop::collection::vec(prop::collection::vec(step(), 0..8), 1..6);
    fuzz("layers on each other", &layers, |layers| {
        let (mut tree, mut model) = (Tree::new(), Model::default());
        let mut number = 0;
        for (layer, steps) in (1..).zip(&layers) {
            for step in steps {
                number += 1;
                let expected = model.apply(layer, step, number);
                let found = apply(&mut tree, layer, &entry(step, number));
                assert!(!matches!(found, Err(ApplyError::Full)));
                assert_eq!(found.is_ok(), expected.is_ok(), "{step:?}: {found:?}");
                if expected.is_err() {
                    // The image would be refused; what is in the tree no longer matters.
                    return;
                }
            }
        }
        let mut found = BTreeMap::new();
        listed(&tree, Tree::root(), &Path::new(), &mut found);
        let expected: BTreeMap<Path, What> =
            model.0.into_iter().map(|(path, known)| (path, known.what)).collect();
        assert_eq!(found, expected);

        // Every inode counts its names.
        let mut names: BTreeMap<u64, u32> = BTreeMap::new();
        for what in found.values() {
            if let What::File(number) = what {
                *names.entry(*number).or_default() += 1;
            }
        }
        for inode in tree.inodes().iter().filter(|inode| inode.links > 0) {
            if let Body::File(size) = inode.body {
                assert_eq!(names.remove(&size), Some(inode.links));
            }
        }
        assert!(names.is_empty(), "a file without content: {names:?}");
    });
}
