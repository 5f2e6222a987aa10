//! Images that are large in some way, and file systems that are exactly full.

use std::fs;

use camino::Utf8PathBuf;
use proptest::prelude::*;
use serde_json::json;
use shed_image::{DiskOptions, ImageLimits, Platform, Unwatched, convert};
use shed_testkit::fuzz;
use shed_types::Digest;

mod support;

use support::{Layer, Meta, PLAIN, Place, check, run};

fn image(place: &Place, layers: &[Vec<u8>]) -> Digest {
    let ids: Vec<_> = layers.iter().map(|layer| place.blobs.insert(layer).unwrap()).collect();
    let diff_ids: Vec<_> = ids.iter().map(|id| &id.digest).collect();
    let config = json!({
        "architecture": Platform::of_host().architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = place.blobs.insert(config.to_string().as_bytes()).unwrap();
    let descriptor = |id: &shed_image::BlobId, media_type: &str| json!({"mediaType": media_type, "digest": id.digest, "size": id.size});
    let layers: Vec<_> =
        ids.iter().map(|id| descriptor(id, "application/vnd.oci.image.layer.v1.tar")).collect();
    let config = descriptor(&config, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    place.blobs.insert(manifest.to_string().as_bytes()).unwrap().digest
}

fn converted(place: &Place, layers: &[Vec<u8>]) -> Utf8PathBuf {
    let digest = image(place, layers);
    let out = place.dir.join("images/out.ext4");
    convert(&place.blobs, &digest, &out, &DiskOptions::default(), &ImageLimits::default(), &Unwatched)
        .unwrap();
    check(&out);
    out
}

fn debugfs(image: &Utf8PathBuf, command: &str) -> String {
    run("sh", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin debugfs -R '{command}' {image}")])
}

#[test]
fn a_directory_of_40_000_long_names_has_an_index_of_two_levels() {
    let place = Place::new();
    let mut layer = Layer::default();
    let name = |i: u32| format!("many/{i}-{}", "x".repeat(60));
    for i in 0..40_000 {
        layer = layer.file(&name(i), b"");
    }
    let image = converted(&place, &[layer.end()]);
    let index = debugfs(&image, "htree_dump /many");
    assert!(index.contains("Indirect levels: 1"), "{}", &index[..500]);
    for i in [0, 1, 7777, 39_999] {
        assert!(debugfs(&image, &format!("stat /{}", name(i))).contains("Type: regular"));
    }
}

#[test]
fn a_file_of_many_extents_has_a_tree_of_them() {
    let place = Place::new();
    // More extents than a block of the tree holds, each a block behind sixteen of zeros.
    let content: Vec<u8> =
        (0..400 * 17_usize).flat_map(|i| std::iter::repeat_n(u8::from(i % 17 == 16), 4096)).collect();
    let image = converted(&place, &[Layer::default().file("f", &content).end()]);
    let copy = place.dir.join("copy");
    debugfs(&image, &format!("dump /f {copy}"));
    assert!(fs::read(&copy).unwrap() == content);
    assert!(debugfs(&image, "stat /f").contains("(ETB0)"), "its extents are not in a tree");
}

#[test]
fn many_subdirectories_are_counted_as_ext4_does() {
    let place = Place::new();
    let mut layer = Layer::default();
    for i in 0..65_000 {
        layer = layer.directory(&format!("directories/d{i}"));
    }
    let image = converted(&place, &[layer.end()]);
    assert!(debugfs(&image, "stat /directories").contains("Links: 1 "));
}

/// What may be in an image, in numbers that reach every edge of blocks and groups.
#[derive(Debug, Clone)]
struct Shape {
    files: Vec<(usize, u8)>,
    names: Vec<usize>,
    xattr: usize,
    symlink: usize,
}

fn shape() -> impl Strategy<Value = Shape> {
    let size = prop_oneof![0..20_usize, 4090..4100_usize, 0..50_000_usize];
    (
        prop::collection::vec((size, 0..3_u8), 0..12),
        prop::collection::vec(1..=255_usize, 0..200),
        0..3900_usize,
        1..4096_usize,
    )
        .prop_map(|(files, names, xattr, symlink)| Shape { files, names, xattr, symlink })
}

#[test]
fn no_image_is_too_small_for_what_is_in_it() {
    fuzz("ext4", &shape(), |shape| {
        let place = Place::new();
        let mut layer = Layer::default();
        for (i, (size, value)) in shape.files.iter().enumerate() {
            layer = layer
                .pax(&[("SCHILY.xattr.user.a", &vec![b'v'; shape.xattr.max(1)])])
                .file(&format!("f{i}"), &vec![*value; *size]);
        }
        for (i, length) in shape.names.iter().enumerate() {
            let number = i.to_string();
            let name = format!("n/{number}{}", "x".repeat(length.saturating_sub(number.len())));
            let kind = [b'0', b'5', b'6'][i % 3];
            layer = layer.entry(kind, name.as_bytes(), b"", Meta { mode: 0o755, ..PLAIN }, b"");
        }
        layer = layer.symlink("s", &"x".repeat(shape.symlink));
        converted(&place, &[layer.end()]);
    });
}
