//! Roots, layers and what becomes of one with the other on top.

use std::io::Write as _;

use camino::Utf8Path;
use proptest::prelude::*;

use super::*;

/// A file of a made-up root: where it is, and a number from which all else follows.
type Made = (String, u8);

fn inode(seed: u8, tar: &Arc<File>) -> Inode {
    let node = match seed % 5 {
        0 | 1 => {
            Node::File(Content { tar: Arc::clone(tar), at: u64::from(seed), len: u64::from(seed % 7) * 100 })
        }
        2 => Node::Symlink(vec![b'a' + seed % 26; usize::from(seed)]),
        3 => Node::CharDevice { major: u32::from(seed), minor: 3 },
        _ => Node::Fifo,
    };
    let xattrs = if seed.is_multiple_of(3) { vec![("user.x".to_owned(), vec![b'\n', seed])] } else { vec![] };
    Inode {
        node,
        mode: if seed.is_multiple_of(2) { 0o644 } else { 0o4755 },
        uid: u64::from(seed % 4) * 1000,
        gid: 0,
        mtime: if seed.is_multiple_of(5) { format!("{seed}.25") } else { seed.to_string() },
        xattrs: xattrs.into_iter().collect(),
    }
}

fn directory(seed: u8) -> Inode {
    let mode = 0o700 + u32::from(seed % 8);
    Inode { node: Node::Directory, mode, uid: 0, gid: 0, mtime: "1".to_owned(), xattrs: BTreeMap::new() }
}

/// Makes a root of these files, with the directories that they are in. A file that is where a directory must be is not
/// made; two files with seeds above 200 that are alike are hard links.
fn root(files: &[Made], tar: &Arc<File>) -> Root {
    let mut root = Root::default();
    let mut linked: HashMap<u8, usize> = HashMap::new();
    let add = |root: &mut Root, name: &[u8], inode: Inode| {
        root.inodes.push(inode);
        root.names.insert(name.to_vec(), root.inodes.len() - 1);
        root.inodes.len() - 1
    };
    for (path, seed) in files {
        let name = path.as_bytes();
        let mut above = name;
        let mut fits = !root.names.contains_key(name);
        while let Some((parent, _)) = split(above) {
            fits &= parent.is_empty() || !root.names.contains_key(parent) || root.is_directory(parent);
            above = parent;
        }
        if !fits {
            continue;
        }
        let mut above = name;
        while let Some((parent, _)) = split(above) {
            if !parent.is_empty() && !root.names.contains_key(parent) {
                add(&mut root, parent, directory(*seed));
            }
            above = parent;
        }
        if let Some(&first) = linked.get(seed) {
            root.names.insert(name.to_vec(), first);
        } else {
            let number = add(&mut root, name, inode(*seed, tar));
            if *seed > 200 {
                linked.insert(*seed, number);
            }
        }
    }
    root
}

/// Everything that a program could see of a root.
fn seen(root: &Root) -> Vec<String> {
    let links = root.links();
    let mut seen = Vec::new();
    for (name, &number) in &root.names {
        let inode = &root.inodes[number];
        let content = match &inode.node {
            Node::File(content) => {
                let mut bytes = Vec::new();
                let _length = io::Read::read_to_end(&mut content.reader(), &mut bytes).unwrap();
                format!("{bytes:?}")
            }
            other => format!("{other:?}"),
        };
        let Inode { mode, uid, gid, mtime, xattrs, .. } = inode;
        let all = format!("{mode:o} {uid} {gid} {mtime} {xattrs:?} {content} {:?}", links[&number]);
        seen.push(format!("{} {all}", String::from_utf8_lossy(name)));
    }
    seen
}

fn content() -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..2000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    file.write_all(&bytes).unwrap();
    Arc::new(file)
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> (tempfile::NamedTempFile, Layer) {
    let mut bytes = Vec::new();
    write(&mut bytes);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let layer = Layer::read(Utf8Path::from_path(file.path()).unwrap(), Origin::Layer).unwrap();
    (file, layer)
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let name = prop_oneof!["[abc](/[abc-]){0,3}", "[abc]/x{60}/y{60}", "[ab]/ö", Just("a.b/c".to_owned()),];
    prop::collection::vec((name, any::<u8>()), 0..24)
}

proptest! {
    #[test]
    fn a_root_comes_back_from_its_tar(files in made()) {
        let root = root(&files, &content());
        let (_file, layer) = written(|out| root.write(out).unwrap());
        prop_assert_eq!(seen(&layer.into_root().unwrap()), seen(&root));
    }

    #[test]
    fn a_layer_makes_one_root_of_the_other(old in made(), new in made(), kept in 0..24usize) {
        let tar = content();
        let below = root(&old, &tar);
        let files: Vec<Made> = old.iter().take(kept).cloned().chain(new).collect();
        let wanted = root(&files, &tar);
        let changes = wanted.changes_to(&below).unwrap();
        let (_file, layer) = written(|out| wanted.write_layer(&changes, out).unwrap());
        let mut made = below.clone();
        made.apply(layer);
        prop_assert_eq!(seen(&made), seen(&wanted));
    }
}

#[test]
fn a_directory_is_written_whole_before_what_is_beside_it() {
    let tar = content();
    let root = root(&[("a/b".into(), 0), ("a-b/c".into(), 0), ("a.b".into(), 0), ("b".into(), 0)], &tar);
    let mut bytes = Vec::new();
    root.write(&mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let entries =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
    assert_eq!(entries.collect::<Vec<_>>(), ["a/", "a/b", "a-b/", "a-b/c", "a.b", "b"]);
}

#[test]
fn what_is_alike_is_in_no_layer_and_a_lost_directory_is_one_marker() {
    let tar = content();
    let below = root(&[("etc/a".into(), 0), ("opt/x/1".into(), 5), ("opt/x/2".into(), 10)], &tar);
    assert_eq!(below.changes_to(&below).unwrap().len(), 0);
    let wanted = root(&[("etc/a".into(), 0)], &tar);
    let changes = wanted.changes_to(&below).unwrap();
    assert_eq!(changes.len(), 1);
    let (_file, layer) = written(|out| wanted.write_layer(&changes, out).unwrap());
    assert_eq!(layer.whiteouts, [b"opt"]);
    assert!(layer.into_root().is_err(), "a layer with markers is no root");
}

/// An inode with two names of which one is new: both are in the layer, as a link of each other.
#[test]
fn hard_links_stay_together() {
    let tar = content();
    let below = root(&[("a/one".into(), 205)], &tar);
    let wanted = root(&[("a/one".into(), 205), ("a/two".into(), 205)], &tar);
    let changes = wanted.changes_to(&below).unwrap();
    let (_file, layer) = written(|out| wanted.write_layer(&changes, out).unwrap());
    let names: Vec<_> =
        layer.root.names.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(names, ["a", "a/one", "a/two"]);
    assert_eq!(layer.root.names[&b"a/one"[..]], layer.root.names[&b"a/two"[..]]);
}

#[test]
fn the_devices_that_mmdebstrap_makes_are_the_same_every_day() {
    let tar = content();
    let root = root(&[("dev/null".into(), 8), ("etc/x".into(), 8)], &tar);
    let mut bytes = Vec::new();
    root.write(&mut bytes).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let path = Utf8Path::from_path(file.path()).unwrap();
    let root = Layer::read(path, Origin::Mmdebstrap).unwrap().into_root().unwrap();
    let names: Vec<_> = root.without_devices().names.into_keys().collect();
    assert_eq!(names, [&b"dev"[..], b"etc", b"etc/x"]);
    assert_eq!((&*root.inode(b"dev/null").unwrap().mtime, &*root.inode(b"etc/x").unwrap().mtime), ("0", "8"));
}
