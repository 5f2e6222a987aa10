//! Layers and archives from somebody who means ill, or was careless: refused with the reason, and nothing left.

use std::{error::Error, fs};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use shed_image::{
    BlobId, ConvertError, DigestHasher, DiskOptions, ImageLimits, ImageProgress, ImageWatch, Platform,
    Unwatched, convert, import,
};
use shed_types::Digest;

mod support;

use support::{Layer, Meta, PLAIN, Place, check, run, see_ext4};

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn descriptor(media_type: &str, id: &BlobId) -> Value {
    json!({"mediaType": media_type, "digest": id.digest, "size": id.size})
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn config<'d>(diff_ids: impl IntoIterator<Item = &'d Digest>) -> Value {
    let diff_ids: Vec<&Digest> = diff_ids.into_iter().collect();
    let platform = Platform::of_host();
    json!({
        "architecture": platform.architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// Puts an image of layers that are not compressed into the store.
fn image(place: &Place, layers: &[Vec<u8>]) -> Digest {
    let ids: Vec<BlobId> = layers.iter().map(|layer| place.blobs.insert(layer).unwrap()).collect();
    let diff_ids: Vec<Digest> = ids.iter().map(|id| id.digest.clone()).collect();
    manifest(place, &config(&diff_ids), &ids.iter().map(|id| descriptor(LAYER, id)).collect::<Vec<_>>())
}

fn manifest(place: &Place, config: &Value, layers: &[Value]) -> Digest {
    let config = place.blobs.insert(config.to_string().as_bytes()).unwrap();
    let config = descriptor("application/vnd.oci.image.config.v1+json", &config);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    place.blobs.insert(manifest.to_string().as_bytes()).unwrap().digest
}

fn converted(place: &Place, manifest: &Digest, limits: &ImageLimits) -> Result<Utf8PathBuf, ConvertError> {
    let out = place.dir.join("images/out.ext4");
    convert(&place.blobs, manifest, &out, &DiskOptions::default(), limits, &Unwatched).map(|_| out)
}

/// Converts what must not be converted, and compares the reason.
fn refused(place: &Place, manifest: &Digest, limits: &ImageLimits, reason: &str) {
    let error = match converted(place, manifest, limits) {
        Ok(_) => panic!("accepted, and it ought to say {reason:?}"),
        Err(error) => chain(&error),
    };
    assert!(error.contains(reason), "{error:?} does not say {reason:?}");
    assert_eq!(place.left(), Vec::<String>::new(), "{reason}");
}

fn refused_layers(layers: &[Vec<u8>], reason: &str) {
    let place = Place::new();
    let manifest = image(&place, layers);
    refused(&place, &manifest, &ImageLimits::default(), reason);
}

#[test]
fn entries_that_no_image_can_have_are_refused_by_name() {
    let layer = Layer::default;
    let long = "n".repeat(256);
    let meta = |meta: Meta| meta;
    let cases: Vec<(Layer, &str)> = vec![
        (layer().file("../x", b""), r#"layer 1 (sha256:"#),
        (layer().file("../x", b""), r#""../x" is refused: its name has `..` in it"#),
        (layer().file("a/../../x", b""), "`..`"),
        (layer().file("a/..", b""), "`..`"),
        (layer().file("/../x", b""), "`..`"),
        (layer().pax(&[("path", b"a\0b")]).file("x", b""), "zero byte"),
        (layer().file(&long, b""), "255 bytes"),
        (layer().file(&"d/".repeat(2048), b""), "more than 4095 bytes"),
        (layer().file("f", b"").hard_link("l", &"./".repeat(2048)), "more than 4095 bytes"),
        (layer().file("", b""), "no name"),
        (layer().file(".", b""), "only a directory"),
        (layer().symlink("/", "x"), "only a directory"),
        (layer().file("a", b"1").file("a", b"2"), "twice"),
        (layer().file("a", b"1").file("./a", b"1"), "twice"),
        (layer().file("a", b"1").directory("a"), "twice"),
        (layer().directory("a").file("a", b""), "twice"),
        (layer().file("a/b", b"").file("a", b""), "twice"),
        (layer().file("a", b"").file("a/b", b""), "something else"),
        (layer().directory("d").symlink("l", "d").file("d/x", b"").file("l/x", b""), "twice"),
        (layer().symlink("out", "../../etc").file("out/passwd", b""), "leaves the image"),
        (layer().symlink("out", "..").file("out/x/y", b""), "leaves the image"),
        (layer().symlink("a", "b").symlink("b", "a").file("a/x", b""), "circle"),
        (layer().symlink("a", "a/b").file("a/x", b""), "circle"),
        (layer().file("f", b"").hard_link("l", "/f"), "hard link, and its target"),
        (layer().file("f", b"").hard_link("l", "d/../f"), "hard link, and its target"),
        (layer().hard_link("l", ""), "hard link, and its target"),
        (layer().hard_link("l", "nothing"), "does not exist"),
        (layer().hard_link("l", "l"), "does not exist"),
        (layer().directory("d").hard_link("l", "d"), "hard link to a directory"),
        (layer().symlink("out", "../..").hard_link("l", "out/etc/passwd"), "leaves the image"),
        (layer().symlink("s", ""), "symbolic link without a target"),
        (layer().symlink("s", &"x".repeat(4096)), "symbolic link without a target"),
        (layer().file(".wh.", b""), "whiteout"),
        (layer().file("d/.wh...", b""), "whiteout"),
        (layer().entry(b'3', b"c", b"", meta(Meta { device: (4096, 0), ..PLAIN }), b""), "device"),
        (layer().entry(b'0', b"o", b"", meta(Meta { uid: u64::from(u32::MAX), ..PLAIN }), b""), "owner"),
        (layer().entry(b'0', b"o", b"", meta(Meta { gid: 1 << 40, ..PLAIN }), b""), "owner"),
        (layer().pax(&[("uid", b"-5")]).file("o", b""), "owner"),
        (layer().entry(b'V', b"volume", b"", PLAIN, b""), "unknown type 'V'"),
        (layer().entry(b'D', b"dump", b"", PLAIN, b""), r#""dump" at byte 0 is of the unknown type"#),
        (layer().entry(b'0', b"d/", b"", PLAIN, b"content"), "can have none"),
        (layer().pax(&[("SCHILY.xattr.user.x", &[1; 5000])]).file("f", b""), "4096 bytes"),
        (
            layer().pax(&[("SCHILY.xattr.system.posix_acl_access", b"nonsense")]).file("f", b""),
            "access control",
        ),
        (layer().pax(&[("SCHILY.xattr.user.a\0b", b"v")]).file("f", b""), "zero byte in its name"),
        (layer().pax(&[("SCHILY.xattr.user.x", &[1; 65_536])]).file("f", b""), "more than 64 KiB"),
        (
            (0..257)
                .fold(layer(), |layer, i| layer.pax(&[(&*format!("SCHILY.xattr.user.{i}"), b"v")]))
                .file("f", b""),
            "more than 256 extended attributes",
        ),
        (layer().pax(&[("comment", &vec![b'x'; 2 << 20])]).file("f", b""), "1 MiB"),
        (layer().pax(&[("path", b"a")]).pax(&[("size", b"-1")]).file("f", b""), "pax records"),
        (
            layer().entry(b'L', b"long", b"", PLAIN, b"one\0").pax(&[("path", b"two")]).file("f", b""),
            "two names",
        ),
        (
            layer().pax(&[("GNU.sparse.map", b"0,10,5,10"), ("GNU.sparse.size", b"100")]).file("f", &[0; 20]),
            "makes no sense",
        ),
        (
            layer()
                .pax(&[("GNU.sparse.map", b"0,10"), ("GNU.sparse.size", b"20000000000000000")])
                .file("f", &[0; 10]),
            "larger than any file",
        ),
        (
            layer()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
                .file("f", b"99999999999999999999999999999999\n"),
            "map of a sparse file",
        ),
    ];
    for (layer, reason) in cases {
        refused_layers(&[layer.end()], reason);
    }
    let lower = Layer::default().symlink("out", "../x").end();
    refused_layers(&[lower, Layer::default().file("out/f", b"").end()], "layer 2 (");
}

#[test]
fn archives_that_are_damaged_are_refused() {
    let whole = Layer::default().file("a", &[1; 3000]).file("b", &[2; 3000]).end();
    let file = 512 + 3072;
    for cut in [100, 512, 1000, file + 1, file + 600] {
        let reason = if cut == 100 { "cut off" } else { "cut off at byte" };
        refused_layers(&[whole[..cut].to_vec()], reason);
    }
    let mut garbage = whole.clone();
    garbage.extend([0; 512]);
    garbage.extend([7; 512]);
    refused_layers(&[garbage], "garbage");
    let mut flipped = whole.clone();
    flipped[file + 3] ^= 1;
    refused_layers(&[flipped], "checksum");
    refused_layers(&[vec![b'x'; 4096]], "no tar archive");
    refused_layers(&[b"BZh91AY&SY".repeat(100)], "bzip2");

    // What is compressed, and cut off or followed by something else.
    for program in ["gzip", "zstd"] {
        let place = Place::new();
        let path = place.dir.join("layer");
        fs::write(&path, &whole).unwrap();
        run("sh", &["-c", &format!("{program} -c {path} > {path}.z")]);
        let compressed = fs::read(format!("{path}.z")).unwrap();
        let diff_id = DigestHasher::sha256_of(&whole);
        let damaged = [
            &compressed[..compressed.len() - 10],
            &[&compressed[..], b"and more, which is not compressed"].concat(),
        ];
        for damaged in damaged {
            let id = place.blobs.insert(damaged).unwrap();
            let digest = manifest(&place, &config([&diff_id]), &[descriptor(LAYER, &id)]);
            refused(&place, &digest, &ImageLimits::default(), "layer 1 (");
        }
        // Members and frames that follow each other are one stream, whatever the media type says.
        let cut = whole.len() / 2;
        for (name, part) in [("one", &whole[..cut]), ("two", &whole[cut..])] {
            fs::write(place.dir.join(name), part).unwrap();
        }
        let script = format!("cd {} && {program} -c one > both && {program} -c two >> both", place.dir);
        run("sh", &["-c", &script]);
        let id = place.blobs.insert(&fs::read(place.dir.join("both")).unwrap()).unwrap();
        for media_type in [LAYER, "application/octet-stream", "application/vnd.oci.image.layer.v1.tar+gzip"] {
            let digest = manifest(&place, &config([&diff_id]), &[descriptor(media_type, &id)]);
            let out = converted(&place, &digest, &ImageLimits::default()).unwrap();
            assert_eq!(see_ext4(&out)[b"/b".as_slice()].content, [2; 3000]);
            fs::remove_file(out).unwrap();
        }
    }
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    let place = Place::new();
    let limits = ImageLimits::default();
    let layer = Layer::default().file("a", b"x").end();
    let id = place.blobs.insert(&layer).unwrap();
    let good = config([&id.digest]);
    let other = DigestHasher::sha256_of(b"other");

    let digest = manifest(&place, &config([]), &[descriptor(LAYER, &id)]);
    refused(&place, &digest, &limits, "1 layers, and its config has 0");
    let digest = manifest(&place, &config([&other]), &[descriptor(LAYER, &id)]);
    refused(&place, &digest, &limits, "unpacks to");
    for (media_type, reason) in [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "somewhere else"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "somewhere else"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
    ] {
        let digest = manifest(&place, &good, &[descriptor(media_type, &id)]);
        refused(&place, &digest, &limits, reason);
    }
    let absent = BlobId { digest: other.clone(), size: 5 };
    let digest = manifest(&place, &config([&other]), &[descriptor(LAYER, &absent)]);
    refused(&place, &digest, &limits, "cannot read layer 1");
    let lie = BlobId { size: id.size + 1, ..id.clone() };
    let digest = manifest(&place, &good, &[descriptor(LAYER, &lie)]);
    refused(&place, &digest, &limits, "the manifest says");
    for (key, value) in [("os", "windows"), ("architecture", "s390x")] {
        let mut config = good.clone();
        config[key] = value.into();
        let digest = manifest(&place, &config, &[descriptor(LAYER, &id)]);
        refused(&place, &digest, &limits, "sheds on this host need");
    }
    // What a config does not say of its machine is the host's, and no layers need no list.
    for (key, value) in [("os", Value::Null), ("architecture", "".into())] {
        let mut config = good.clone();
        config[key] = value;
        let digest = manifest(&place, &config, &[descriptor(LAYER, &id)]);
        fs::remove_file(converted(&place, &digest, &limits).unwrap()).unwrap();
    }
    fs::remove_file(converted(&place, &manifest(&place, &json!({}), &[]), &limits).unwrap()).unwrap();
    let digest = manifest(&place, &json!({}), &[descriptor(LAYER, &id)]);
    refused(&place, &digest, &limits, "1 layers, and its config has 0");
    let many = vec![descriptor(LAYER, &id); 1001];
    refused(&place, &manifest(&place, &good, &many), &limits, "1001 layers");
    let long = place.blobs.insert(&vec![b' '; (4 << 20) + 1]).unwrap();
    refused(&place, &long.digest, &limits, "4194304");
    refused(&place, &other, &limits, "cannot read");
    let index = json!({"schemaVersion": 2, "manifests": []});
    let index = place.blobs.insert(index.to_string().as_bytes()).unwrap();
    refused(&place, &index.digest, &limits, "index of several images");
    let options = DiskOptions { uuid: Some("no uuid".to_owned()), ..DiskOptions::default() };
    let digest = manifest(&place, &good, &[descriptor(LAYER, &id)]);
    let out = place.dir.join("images/out.ext4");
    assert!(convert(&place.blobs, &digest, &out, &options, &limits, &Unwatched).is_err());
    fs::write(&out, "mine").unwrap();
    assert!(convert(&place.blobs, &digest, &out, &DiskOptions::default(), &limits, &Unwatched).is_err());
    assert_eq!(fs::read(&out).unwrap(), b"mine");
}

#[test]
fn bombs_stop_at_the_limits() {
    let place = Place::new();
    let path = place.dir.join("layer");
    // 200 MiB of zeros in less than one.
    let script =
        format!("truncate -s 200M {path}.raw && tar -C {} -cf - layer.raw | gzip -1 > {path}", place.dir);
    run("sh", &["-c", &script]);
    fs::remove_file(format!("{path}.raw")).unwrap();
    let id = place.blobs.insert(&fs::read(&path).unwrap()).unwrap();
    let digest = manifest(&place, &config([&DigestHasher::sha256_of(b"")]), &[descriptor(LAYER, &id)]);
    let limits = ImageLimits { max_bytes: 10 << 20, ..ImageLimits::default() };
    refused(&place, &digest, &limits, "more than 10485760 bytes");

    let mut layer = Layer::default();
    for i in 0..2000 {
        layer = layer.file(&format!("f{i}"), b"");
    }
    let digest = image(&place, &[layer.end()]);
    let limits = ImageLimits { max_entries: 1999, ..ImageLimits::default() };
    refused(&place, &digest, &limits, "more than 1999 entries");
    let limits = ImageLimits { max_entries: 2000, ..ImageLimits::default() };
    check(&converted(&place, &digest, &limits).unwrap());
}

#[test]
fn directories_that_no_layer_describes_count_as_entries() {
    let place = Place::new();
    let parents = "d/".repeat(2000);
    let digest = image(&place, &[Layer::default().file(&format!("{parents}f"), b"").end()]);
    let limits = ImageLimits { max_entries: 2000, ..ImageLimits::default() };
    refused(&place, &digest, &limits, "more than 2000 entries");
    let limits = ImageLimits { max_entries: 2001, ..ImageLimits::default() };
    check(&converted(&place, &digest, &limits).unwrap());
}

/// Cancels when a step has begun.
struct CancelAt(shed_image::ImageStep, std::sync::atomic::AtomicBool);

impl ImageWatch for CancelAt {
    fn progress(&self, progress: ImageProgress) {
        if progress.step == self.0 {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn what_is_cancelled_leaves_nothing() {
    let place = Place::new();
    let digest = image(&place, &[Layer::default().file("a", &vec![1; 3 << 20]).end()]);
    let out = place.dir.join("images/out.ext4");
    for step in [shed_image::ImageStep::Unpack, shed_image::ImageStep::Write] {
        let watch = CancelAt(step, false.into());
        let result =
            convert(&place.blobs, &digest, &out, &DiskOptions::default(), &ImageLimits::default(), &watch);
        assert!(matches!(result, Err(ConvertError::Cancelled)), "{result:?}");
        assert_eq!(place.left(), Vec::<String>::new());
    }
}

#[test]
fn attributes_that_are_not_kept_do_not_count() {
    let place = Place::new();
    let layer =
        (0..300).fold(Layer::default(), |layer, i| layer.pax(&[(&*format!("SCHILY.xattr.btrfs.{i}"), b"v")]));
    let layer = layer.pax(&[
        ("SCHILY.xattr.trusted.overlay.redirect", &[b'v'; 100_000]),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.user.kept", b"v"),
    ]);
    let digest = image(&place, &[layer.file("f", b"").end()]);
    let out = converted(&place, &digest, &ImageLimits::default()).unwrap();
    let xattrs = &see_ext4(&out)[b"/f".as_slice()].xattrs;
    assert_eq!(xattrs.keys().collect::<Vec<_>>(), ["user.kept"]);
}

/// Cancels for the thread that asked for the image alone.
struct CancelHere(std::thread::ThreadId);

impl ImageWatch for CancelHere {
    fn progress(&self, _: ImageProgress) {}

    fn is_cancelled(&self) -> bool {
        std::thread::current().id() == self.0
    }
}

#[test]
fn applying_ends_when_it_is_cancelled() {
    let place = Place::new();
    // Without files there is no other reason to ask in this thread.
    let digest = image(&place, &[Layer::default().directory("d").end()]);
    let out = place.dir.join("images/out.ext4");
    let watch = CancelHere(std::thread::current().id());
    let result =
        convert(&place.blobs, &digest, &out, &DiskOptions::default(), &ImageLimits::default(), &watch);
    assert!(matches!(result, Err(ConvertError::Cancelled)), "{result:?}");
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn the_same_image_and_uuid_give_the_same_bytes() {
    let place = Place::new();
    let layers: Vec<Vec<u8>> =
        (0..5).map(|i| Layer::default().file(&format!("f{i}"), &[i; 5000]).directory("d").end()).collect();
    let digest = image(&place, &layers);
    let options = DiskOptions {
        uuid: Some("6d0c6d52-7f3a-4a0f-9c56-5a2d9be8a111".to_owned()),
        label: Some("shed-image-label".to_owned()),
    };
    let convert_to = |name: &str| {
        let out = place.dir.join(name);
        convert(&place.blobs, &digest, &out, &options, &ImageLimits::default(), &Unwatched).unwrap();
        check(&out);
        fs::read(out).unwrap()
    };
    assert!(convert_to("one") == convert_to("two"));
    let label =
        run("sh", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin dumpe2fs -h {}", place.dir.join("one"))]);
    assert!(label.contains("shed-image-label") && label.contains("6d0c6d52-7f3a-4a0f-9c56-5a2d9be8a111"));
}

/// A layout in a directory that is made by hand.
struct Layout<'p> {
    place: &'p Place,
    dir: Utf8PathBuf,
}

impl<'p> Layout<'p> {
    fn new(place: &'p Place) -> Self {
        let dir = place.dir.join("layout");
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { place, dir }
    }

    fn put(&self, content: &[u8]) -> BlobId {
        let digest = DigestHasher::sha256_of(content);
        fs::write(self.dir.join("blobs/sha256").join(digest.hex()), content).unwrap();
        BlobId { digest, size: content.len() as u64 }
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }

    fn image(&self, seed: &str) -> (BlobId, BlobId) {
        let layer = Layer::default().file("seed", seed.as_bytes()).end();
        let layer = self.put(&layer);
        let config = self.put(config([&layer.digest]).to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor(LAYER, &layer)],
        });
        (self.put(manifest.to_string().as_bytes()), layer)
    }

    fn import(&self, name: Option<&str>) -> Result<Digest, String> {
        take(self.place, &self.dir, name)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn take(place: &Place, source: &Utf8Path, name: Option<&str>) -> Result<Digest, String> {
    let result =
        import(source, name, &Platform::of_host(), &place.blobs, &ImageLimits::default(), &Unwatched);
    if result.is_err() {
        let partial = place.dir.join("images/.oci/partial");
        assert!(!partial.exists() || partial.read_dir_utf8().unwrap().next().is_none(), "partial blobs stay");
        assert_eq!(place.left(), Vec::<String>::new());
    }
    result.map_err(|error| chain(&error))
}

fn says<T: std::fmt::Debug>(result: Result<T, String>, reason: &str) {
    let error = result.unwrap_err();
    assert!(error.contains(reason), "{error:?} does not say {reason:?}");
}

#[test]
fn images_are_chosen_by_name_and_platform() {
    let place = Place::new();
    let layout = Layout::new(&place);
    let (one, _) = layout.image("one");
    let (two, _) = layout.image("two");
    let named = |id: &BlobId, name: &str, platform: Option<&str>| {
        let mut value = descriptor(MANIFEST, id);
        value["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        if let Some(architecture) = platform {
            value["platform"] = json!({"os": "linux", "architecture": architecture});
        }
        value
    };
    layout.index(&[named(&one, "v1", None), named(&two, "ghcr.io/owner/tools:v2", None)]);
    assert_eq!(layout.import(Some("v1")).unwrap(), one.digest);
    assert_eq!(layout.import(Some("v2")).unwrap(), two.digest);
    assert_eq!(layout.import(Some("ghcr.io/owner/tools:v2")).unwrap(), two.digest);
    assert_eq!(layout.import(Some(two.digest.as_str())).unwrap(), two.digest);
    says(layout.import(None), "name one: ghcr.io/owner/tools:v2, v1");
    says(layout.import(Some("v3")), "no such image; it has: ghcr.io/owner/tools:v2, v1");

    let host = Platform::of_host().architecture;
    let both = [named(&one, "x", Some("s390x")), named(&two, "x", Some(&host))];
    layout.index(&both);
    assert_eq!(layout.import(Some("x")).unwrap(), two.digest);
    let index = layout.put(json!({"schemaVersion": 2, "manifests": both}).to_string().as_bytes());
    layout.index(&[descriptor(INDEX, &index)]);
    assert_eq!(layout.import(None).unwrap(), two.digest);
    layout.index(&[named(&one, "x", Some("s390x"))]);
    says(layout.import(None), "but for: linux/s390x");
}

#[test]
fn what_an_error_offers_in_a_nested_index_can_be_named() {
    let place = Place::new();
    let layout = Layout::new(&place);
    let ((one, _), (two, _)) = (layout.image("one"), layout.image("two"));
    let host = Platform::of_host();
    let variant = |id: &BlobId, variant: &str| {
        let mut value = descriptor(MANIFEST, id);
        value["platform"] = json!({"os": host.os, "architecture": host.architecture, "variant": variant});
        value
    };
    let inner = json!({"schemaVersion": 2, "manifests": [variant(&one, "a"), variant(&two, "b")]});
    let inner = layout.put(inner.to_string().as_bytes());
    let absent = BlobId { digest: DigestHasher::sha256_of(b"absent"), size: 6 };
    let mut attestation = descriptor(MANIFEST, &absent);
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    layout.index(&[attestation, descriptor(INDEX, &inner)]);
    says(layout.import(None), two.digest.as_str());
    assert_eq!(layout.import(Some(two.digest.as_str())).unwrap(), two.digest);
    assert_eq!(layout.import(Some(one.digest.as_str())).unwrap(), one.digest);
    layout.index(&[descriptor(INDEX, &absent), descriptor(INDEX, &inner)]);
    assert_eq!(layout.import(Some(two.digest.as_str())).unwrap(), two.digest);
    says(layout.import(Some("v3")), "no such image");
}

#[test]
fn blobs_with_long_names_are_saved_and_come_back() {
    let place = Place::new();
    let layer = Layer::default().file("seed", b"long").end();
    let mut hasher = DigestHasher::new(shed_types::DigestAlgorithm::Sha512);
    hasher.update(&layer);
    let id = BlobId { digest: hasher.finish(), size: layer.len() as u64 };
    let shed_image::BeginBlob::Write(mut writer) = place.blobs.begin(&id).unwrap() else {
        panic!("it is there")
    };
    writer.write(&layer).unwrap();
    writer.commit().unwrap();
    let diff_id = DigestHasher::sha256_of(&layer);
    let digest = manifest(&place, &config([&diff_id]), &[descriptor(LAYER, &id)]);
    let out = place.dir.join("saved.tar");
    shed_image::save(&place.blobs, &digest, "example/tools:v1", &out, &Unwatched).unwrap();
    let listed = run("tar", &["-tf", out.as_str()]);
    assert!(listed.lines().any(|line| line == format!("blobs/sha512/{}", id.digest.hex())), "{listed}");
    let other = Place::new();
    assert_eq!(take(&other, &out, Some("v1")).unwrap(), digest);
    assert!(other.blobs.verify(&id.digest).unwrap());
}

#[test]
fn hostile_layouts_are_refused() {
    let place = Place::new();
    let layout = Layout::new(&place);
    says(layout.import(None), "neither an OCI layout nor");
    says(take(&place, &place.dir.join("nothing"), None), "nothing");
    fs::write(layout.dir.join("index.json"), "{").unwrap();
    says(layout.import(None), "index.json");
    layout.index(&[]);
    says(layout.import(None), "no such image");

    let (manifest, layer) = layout.image("x");
    layout.index(&[descriptor(MANIFEST, &manifest)]);
    let path = |id: &BlobId| layout.dir.join("blobs/sha256").join(id.digest.hex());
    let content = fs::read(path(&layer)).unwrap();

    fs::remove_file(path(&layer)).unwrap();
    says(layout.import(None), layer.digest.hex());
    std::os::unix::fs::symlink("/etc/passwd", path(&layer)).unwrap();
    says(layout.import(None), "cannot read");
    fs::remove_file(path(&layer)).unwrap();
    run("mkfifo", &[path(&layer).as_str()]);
    says(layout.import(None), "not a file");
    fs::remove_file(path(&layer)).unwrap();
    fs::write(path(&layer), &content[1..]).unwrap();
    says(layout.import(None), "are announced");
    fs::write(path(&layer), vec![7; content.len()]).unwrap();
    says(layout.import(None), "other content");
    fs::write(path(&layer), &content).unwrap();

    let lie = BlobId { size: manifest.size + 1, ..manifest.clone() };
    layout.index(&[descriptor(MANIFEST, &lie)]);
    says(layout.import(None), "are announced");
    let huge = json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &manifest),
        "layers": [{"mediaType": LAYER, "digest": layer.digest, "size": 1_u64 << 60}],
    });
    let huge = layout.put(huge.to_string().as_bytes());
    layout.index(&[descriptor(MANIFEST, &huge)]);
    says(layout.import(None), "limits of images");
    let mut nested = manifest.clone();
    for _ in 0..10 {
        nested = layout.put(
            json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, &nested)]}).to_string().as_bytes(),
        );
    }
    layout.index(&[descriptor(INDEX, &nested)]);
    says(layout.import(None), "deep");
    let escape = json!({"mediaType": MANIFEST, "size": 1, "digest": "sha256:../../../../etc/passwd"});
    layout.index(&[escape]);
    says(layout.import(None), "index.json");
    fs::write(layout.dir.join("index.json"), vec![b' '; 5 << 20]).unwrap();
    says(layout.import(None), "4194304");
}

#[test]
fn archives_of_docker_are_read_old_and_new() {
    let place = Place::new();
    let layer = Layer::default().file("seed", b"docker").end();
    let diff_id = DigestHasher::sha256_of(&layer);
    let config = config([&diff_id, &diff_id]).to_string();
    let list = |config: &str, layers: &[&str]| {
        json!([{"Config": config, "RepoTags": ["example/tools:v1"], "Layers": layers}]).to_string()
    };
    // The old form: a directory a layer, and a symbolic link where a layer comes again.
    let old = Layer::default()
        .directory("aaa")
        .file("aaa/layer.tar", &layer)
        .file("aaa/VERSION", b"1.0")
        .directory("bbb")
        .symlink("bbb/layer.tar", "../aaa/layer.tar")
        .file("config.json", config.as_bytes())
        .file("manifest.json", list("config.json", &["aaa/layer.tar", "bbb/layer.tar"]).as_bytes());
    let blob = format!("blobs/sha256/{}", diff_id.hex());
    let new = Layer::default()
        .file(&blob, &layer)
        .file("blobs/sha256/config", config.as_bytes())
        .file("manifest.json", list("blobs/sha256/config", &[&blob, &blob]).as_bytes());
    let path = place.dir.join("docker.tar");
    let mut found = Vec::new();
    for archive in [old, new] {
        fs::write(&path, archive.end()).unwrap();
        for name in [None, Some("v1"), Some("example/tools:v1"), Some("docker.io/example/tools:v1")] {
            found.push(take(&place, &path, name).unwrap());
        }
        says(take(&place, &path, Some("v2")), "it has: example/tools:v1");
    }
    found.dedup();
    assert_eq!(found.len(), 1, "the same image has the same manifest");
    // A file that comes again in a later layer is no repetition.
    let out = converted(&place, &found[0], &ImageLimits::default()).unwrap();
    assert_eq!(see_ext4(&out)[b"/seed".as_slice()].content, b"docker");
    fs::remove_file(out).unwrap();

    // An archive that ends right behind its last content is whole; one that ends in it is not.
    let place = Place::new();
    let path = place.dir.join("docker.tar");
    let whole = Layer::default()
        .file("layer.tar", &layer)
        .file("manifest.json", list("config.json", &["layer.tar", "layer.tar"]).as_bytes())
        .file("config.json", config.as_bytes());
    let end = whole.0.len() - (config.len().next_multiple_of(512) - config.len());
    fs::write(&path, &whole.0[..end]).unwrap();
    assert_eq!(take(&place, &path, None).unwrap(), found[0]);
    fs::write(&path, &whole.0[..end - 1]).unwrap();
    says(take(&place, &path, None), "cut off");

    let hostile: Vec<(Layer, &str)> = vec![
        (Layer::default().file("../x", b""), "leads out"),
        (Layer::default().file("/x", b""), "leads out"),
        (Layer::default().symlink("a", "../../x"), "leads out"),
        (Layer::default().symlink("a", "/etc/passwd"), "leads out"),
        (Layer::default().hard_link("a", "../x"), "leads out"),
        (Layer::default().file(&"x".repeat(4097), b""), "its name has more than 4096 bytes"),
        (Layer::default().symlink("a", &"x".repeat(4097)), "its link has more than 4096 bytes"),
        (Layer::default().hard_link("a", &"./".repeat(2049)), "its link has more than 4096 bytes"),
        (Layer::default().file("a", b"").file("a", b""), "twice"),
        (Layer::default().entry(b'3', b"a", b"", PLAIN, b""), "device"),
        (Layer::default().file("x", b""), "neither an OCI layout nor"),
        (Layer::default().file("manifest.json", b"[]"), "no such image"),
        (Layer::default().file("manifest.json", b"{}"), "cannot be read"),
        (Layer::default().file("manifest.json", list("c", &["l"]).as_bytes()), "no file c"),
        (
            Layer::default().file("c", config.as_bytes()).file("manifest.json", list("c", &["l"]).as_bytes()),
            "1 layers",
        ),
        (
            Layer::default()
                .file("c", config.as_bytes())
                .file("manifest.json", list("c", &["l", "l"]).as_bytes()),
            "no file l",
        ),
        (
            Layer::default()
                .file("c", config.as_bytes())
                .file("manifest.json", list("c", &["l", "l"]).as_bytes())
                .symlink("l", "m")
                .symlink("m", "l"),
            "no file l",
        ),
        (
            Layer::default()
                .file("c", config.as_bytes())
                .file("manifest.json", list("c", &["l", "l"]).as_bytes())
                .file("l", &Layer::default().file("seed", b"other!").end()),
            "other content",
        ),
    ];
    // Where the store has a blob, nobody looks at the archive's.
    let place = Place::new();
    let path = place.dir.join("docker.tar");
    for (archive, reason) in hostile {
        fs::write(&path, archive.end()).unwrap();
        says(take(&place, &path, None), reason);
    }
    fs::write(&path, b"").unwrap();
    says(take(&place, &path, None), "neither an OCI layout nor");
    fs::write(&path, [1; 5000]).unwrap();
    says(take(&place, &path, None), "no tar archive");
}
