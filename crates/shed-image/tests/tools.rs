//! Images made by other tools, converted and compared with what `umoci unpack` makes of them.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{DiskOptions, ImageLimits, Platform, Unwatched, convert, import, save};
use shed_types::Digest;

mod support;

use support::{Layer, Meta, PLAIN, Place, assert_same, check, run, see_directory, see_ext4, umoci_image};

fn take(place: &Place, source: &Utf8Path, name: Option<&str>) -> Digest {
    let limits = ImageLimits::default();
    import(source, name, &Platform::of_host(), &place.blobs, &limits, &Unwatched).unwrap()
}

fn ext4(place: &Place, manifest: &Digest) -> Utf8PathBuf {
    let out = place.dir.join("images").join("out.ext4");
    let limits = ImageLimits::default();
    convert(&place.blobs, manifest, &out, &DiskOptions::default(), &limits, &Unwatched).unwrap();
    check(&out);
    out
}

/// Converts the image `t` of a layout and compares it with what umoci unpacks.
fn compare(place: &Place, layout: &Utf8Path) {
    let image = ext4(place, &take(place, layout, Some("t")));
    let bundle = place.dir.join("bundle");
    run("umoci", &["unpack", "--image", &format!("{layout}:t"), bundle.as_str()]);
    let mut expected = see_directory(&bundle.join("rootfs"));
    // umoci leaves the attribute out that SELinux rules over; an image may bring it.
    for seen in expected.values_mut() {
        seen.xattrs.remove("security.selinux");
    }
    assert_same(&see_ext4(&image), &expected);
}

#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can unpack owners and devices to compare with");
    }
    root
}

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An access control list: the owner, user 2003, the group, the mask, and others.
fn acl() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let entries =
        [(1_u16, 6_u16, u32::MAX), (2, 7, 2003), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)];
    for (tag, mode, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(mode.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

fn lower() -> Vec<u8> {
    let long = "n".repeat(200);
    let deep = (0..30).map(|i| format!("{i:0>100}")).collect::<Vec<_>>().join("/");
    let mut layer = Layer::default()
        .entry(b'5', b"./", b"", Meta { mode: 0o755, uid: 7, ..PLAIN }, b"")
        .directory("usr")
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .symlink("dangling", "nowhere/at/all")
        .symlink("long-link", &"x/".repeat(1000))
        .symlink("link-59", &"y".repeat(59))
        .symlink("link-60", &"y".repeat(60))
        .file("usr/lib/old", b"old\n")
        .entry(b'0', b"setuid", b"", Meta { mode: 0o6755, uid: 3_000_000, gid: 4_000_000_000, ..PLAIN }, b"s")
        .entry(b'5', b"tmp", b"", Meta { mode: 0o1777, ..PLAIN }, b"")
        .file("empty", b"")
        .file("kept", b"kept by its other name")
        .hard_link("other-name", "kept")
        .hard_link("usr/third-name", "other-name")
        .hard_link("link-to-link", "lib")
        .entry(b'3', b"null", b"", Meta { mode: 0o666, device: (1, 3), ..PLAIN }, b"")
        .entry(b'3', b"large", b"", Meta { mode: 0o666, device: (300, 70_000), ..PLAIN }, b"")
        .entry(b'4', b"disk", b"", Meta { mode: 0o660, device: (8, 1), ..PLAIN }, b"")
        .entry(b'6', b"pipe", b"", Meta { mode: 0o600, ..PLAIN }, b"")
        .entry(b'0', b"not-utf8-\xff\xfe", b"", PLAIN, b"x")
        .entry(b'0', b"new\nline\t\x01\\ \"quoted\"", b"", PLAIN, b"x")
        .file(&long, b"long")
        .file(&format!("{deep}/{long}"), b"deep")
        .pax(&[("mtime", b"1234567890.123456789"), ("path", "caf\u{e9}".as_bytes())])
        .file("ignored", b"pax")
        .sized(b'1', "sized-hard-link", "kept", 23)
        .sized(b'2', "sized-symlink", "kept", 4)
        .sized(b'3', "sized-character", "", 600)
        .sized(b'4', "sized-block", "", 1)
        .sized(b'5', "sized-directory", "", 4096)
        .sized(b'6', "sized-pipe", "", 1 << 40)
        .pax(&[("size", b"512")])
        .directory("sized-by-pax")
        .pax(&[("mtime", b"-1.5")])
        .file("before-1970", b"x")
        .pax(&[("mtime", b"5000000000")])
        .file("after-2106", b"x")
        .pax(&[("SCHILY.xattr.security.capability", &CAPABILITY), ("SCHILY.xattr.user.small", b"v")])
        .file("capable", b"x")
        .pax(&[
            ("SCHILY.xattr.user.large", &[b'v'; 3000]),
            ("SCHILY.xattr.trusted.t", b"1"),
            ("SCHILY.xattr.user.e", b""),
        ])
        .file("attributes", b"x")
        .pax(&[("SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0")])
        .file("labelled", b"x")
        .pax(&[("SCHILY.xattr.user.on-directory", b"1")])
        .directory("with-attributes")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &acl())])
        .entry(b'0', b"acl", b"", Meta { mode: 0o674, ..PLAIN }, b"x")
        .pax(&[("uid", b"12345678"), ("gid", b"87654321")])
        .file("owner", b"x")
        .entry(b'0', b"/absolute", b"", PLAIN, b"x")
        .file("zeros", &[&[0; 300_000][..], b"end"].concat())
        .file("zeros-at-end", &[b"begin", &[0; 300_000][..]].concat())
        .file("few-zeros", &[&[1; 4096][..], &[0; 8192], &[1; 5000]].concat())
        .file("large-file", &(0..5_000_000_u32).map(|i| (i / 7 % 251) as u8).collect::<Vec<_>>());
    for name in
        ["gone", "gone-directory/a", "gone-directory/b/c", "opaque/a", "opaque/b/c", "becomes-directory"]
    {
        layer = layer.file(name, name.as_bytes());
    }
    layer = layer.directory("becomes-file").file("becomes-file/x", b"x").symlink("becomes-real", "usr/lib");
    for i in 0..3000 {
        layer = layer.file(&format!("many/a-file-with-a-name-{i}"), b"");
    }
    layer.end()
}

fn upper() -> Vec<u8> {
    Layer::default()
        .file("lib/through-a-link", b"in usr/lib")
        .file("abs/through-an-absolute-link", b"in usr/lib")
        .file("lib/old", b"new\n")
        .file(".wh.gone", b"")
        .file(".wh.gone-directory", b"")
        .file(".wh.kept", b"")
        .file(".wh.never-was", b"")
        .file("no-such-directory/.wh.x", b"")
        .directory("opaque")
        .file("opaque/new", b"new")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/newer", b"newer")
        .file("becomes-directory/x", b"")
        .end()
}

#[test]
fn a_tree_is_what_umoci_unpacks() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let upper = upper();
    // A file that stands where a directory has to be is refused here and by umoci; a directory of its own comes first.
    let directory = Layer::default()
        .directory("becomes-directory")
        .file("becomes-file", b"now a file")
        .directory("becomes-real")
        .file("becomes-real/y", b"y")
        .hard_link("link-to-lower", "usr/lib/old")
        .hard_link("link-through-link", "lib/old")
        .end();
    let layout = umoci_image(&place.dir, &[lower(), directory, upper]);
    compare(&place, &layout);
}

#[test]
fn sparse_files_of_every_form_have_their_content_and_their_holes() {
    let place = Place::new();
    let source = place.dir.join("source");
    fs::create_dir(&source).unwrap();
    for (name, pieces, length) in [("few", 3_u64, 40 << 20), ("many", 60, 200 << 20), ("none", 0, 10 << 20)] {
        let file = fs::File::create(source.join(name)).unwrap();
        file.set_len(length).unwrap();
        for i in 0..pieces {
            file.write_all_at(&[7; 10_000], i * (length / pieces) + 100).unwrap();
        }
    }
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    let mut layers = Vec::new();
    for (i, format) in formats.into_iter().enumerate() {
        let out = place.dir.join("sparse.tar");
        let transform = format!("--transform=s,^,{i}-,");
        let names = ["-S", "-C", source.as_str(), &transform, "-cf", out.as_str(), "few", "many", "none"];
        run("tar", &[format, &names].concat());
        let bytes = fs::read(&out).unwrap();
        assert!(bytes.len() < 2 << 20, "or it is not sparse");
        layers.push(bytes);
    }
    let layout = umoci_image(&place.dir, &layers);
    let image = ext4(&place, &take(&place, &layout, Some("t")));
    let seen = see_ext4(&image);
    // Not umoci's: it refuses the oldest form.
    let expected = see_directory(&source);
    for i in 0..formats.len() {
        for name in ["few", "many", "none"] {
            let (seen, expected) =
                (&seen[format!("/{i}-{name}").as_bytes()], &expected[format!("/{name}").as_bytes()]);
            assert_eq!((seen.size, seen.mode), (expected.size, expected.mode), "{name} of {:?}", formats[i]);
            assert!(seen.content == expected.content, "{name} of {:?}", formats[i]);
        }
    }
    let disk = fs::metadata(&image).unwrap().blocks() * 512;
    assert!(disk < 12 << 20, "{disk} bytes for some 2.5 MB of content");
}

#[test]
fn an_image_saved_and_read_by_others_and_by_us_is_the_same() {
    let place = Place::new();
    let layer = Layer::default().directory("etc").file("etc/name", b"shed\n").end();
    let layout = umoci_image(&place.dir, &[layer]);
    let manifest = take(&place, &layout, None);
    let archive = place.dir.join("saved.tar");
    save(&place.blobs, &manifest, "ghcr.io/owner/tools:v3", &archive, &Unwatched).unwrap();
    let again = place.dir.join("again.tar");
    save(&place.blobs, &manifest, "ghcr.io/owner/tools:v3", &again, &Unwatched).unwrap();
    assert_eq!(fs::read(&archive).unwrap(), fs::read(&again).unwrap());
    assert!(save(&place.blobs, &manifest, "x", &archive, &Unwatched).is_err(), "it is overwritten");

    // skopeo writes each of its formats from ours, and each comes back.
    let raw = run("skopeo", &["inspect", "--raw", &format!("oci-archive:{archive}:v3")]);
    assert_eq!(shed_image::DigestHasher::sha256_of(raw.as_bytes()), manifest);
    let from = format!("oci-archive:{archive}:v3");
    for (kind, name) in [("oci", "t"), ("oci-archive", "t"), ("docker-archive", "example/tools:t")] {
        let path = place.dir.join(kind);
        run("skopeo", &["copy", "-q", &from, &format!("{kind}:{path}:{name}")]);
        let other = Place::new();
        let found = take(&other, &path, Some("t"));
        assert_eq!(found == manifest, kind != "docker-archive", "{kind}");
        assert_eq!(found, take(&Place::new(), &path, None), "{kind}");
        let seen = see_ext4(&ext4(&other, &found));
        assert_eq!(seen[b"/etc/name".as_slice()].content, b"shed\n");
    }
    for (program, name) in [("gzip", "saved.tar.gz"), ("zstd", "saved.tar.zst")] {
        let script = format!("{program} -c {archive} > {}", place.dir.join(name));
        run("sh", &["-c", &script]);
        let other = Place::new();
        assert_eq!(take(&other, &place.dir.join(name), Some("ghcr.io/owner/tools:v3")), manifest);
        assert_eq!(other.left(), Vec::<String>::new());
    }
    run("tar", &["-C", place.dir.as_str(), "-xf", archive.as_str(), "--one-top-level=unpacked"]);
    run("umoci", &["stat", "--image", &format!("{}:v3", place.dir.join("unpacked"))]);
}

#[test]
fn layers_of_every_compression_are_read() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let layers = [
        Layer::default().directory("a").file("a/one", &[5; 100_000]).end(),
        Layer::default().file("a/two", b"two").end(),
    ];
    let layout = umoci_image(&place.dir, &layers);
    for compression in ["gzip", "zstd"] {
        let target = place.dir.join(compression);
        let arguments = ["copy", "-q", "--dest-compress-format", compression, &format!("oci:{layout}:t")];
        run("skopeo", &[&arguments[..], &[&format!("oci:{target}:t")]].concat());
        let other = Place::new();
        let seen = see_ext4(&ext4(&other, &take(&other, &target, None)));
        assert_eq!(seen[b"/a/one".as_slice()].content, [5; 100_000], "{compression}");
        assert_eq!(seen[b"/a/two".as_slice()].content, b"two", "{compression}");
    }
}

#[test]
fn layers_that_end_without_padding_are_read() {
    let place = Place::new();
    let layout = umoci_image(&place.dir, &[Layer::default().file("lower", b"lower").end()]);
    let source = place.dir.join("source");
    // umoci ends a layer right behind the last content, and writes no end mark.
    for (content, to) in [("hi\n", "/etc/hi"), ("", "/etc/empty"), (&*"x".repeat(512), "/etc/record")] {
        fs::write(&source, content).unwrap();
        let image = format!("{layout}:t");
        run("umoci", &["insert", "--rootless", "--image", &image, source.as_str(), to]);
    }
    let seen = see_ext4(&ext4(&place, &take(&place, &layout, Some("t"))));
    assert_eq!(seen[b"/etc/hi".as_slice()].content, b"hi\n");
    assert_eq!(seen[b"/etc/empty".as_slice()].content, b"");
    assert_eq!(seen[b"/etc/record".as_slice()].content, [b'x'; 512]);
}

#[test]
fn an_image_built_by_buildah_keeps_its_config() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let storage = place.dir.join("storage");
    let root = ["--root", storage.as_str(), "--runroot", storage.as_str(), "--storage-driver", "vfs"];
    let buildah = |arguments: &[&str]| run("buildah", &[&root[..], arguments].concat()).trim().to_owned();
    let container = buildah(&["from", "scratch"]);
    fs::write(place.dir.join("program"), "#!/bin/true\n").unwrap();
    buildah(&["copy", "--chmod", "4755", &container, place.dir.join("program").as_str(), "/bin/program"]);
    buildah(&[
        "config",
        "--user",
        "7:8",
        "--workingdir",
        "/srv",
        "--env",
        "A=b c",
        "--cmd",
        "run fast",
        "--entrypoint",
        "[\"/bin/program\"]",
        "--label",
        "io.shed.base-version=1",
        &container,
    ]);
    let archive = place.dir.join("built.tar");
    buildah(&["commit", "-q", &container, &format!("oci-archive:{archive}:built")]);
    buildah(&["rm", &container]);

    let manifest = take(&place, &archive, None);
    let image = ext4(&place, &manifest);
    let trailer = shed_image::Trailer::read(&image).unwrap().unwrap();
    assert_eq!(trailer.manifest, Some(manifest));
    assert_eq!(trailer.labels["io.shed.base-version"], "1");
    let config = trailer.config;
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("7:8", "/srv"));
    assert!(config.env.contains(&"A=b c".to_owned()));
    assert_eq!(config.entrypoint, ["/bin/program"]);
    assert_eq!(config.cmd, ["run", "fast"]);
    assert_eq!(see_ext4(&image)[b"/bin/program".as_slice()].mode, 0o4755);
}
