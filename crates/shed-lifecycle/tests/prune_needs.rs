//! What a prune of images takes and leaves, over random states of a host: on real files, against a second reckoning of
//! who needs what that shares no line with the first.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};

use camino::Utf8PathBuf;
use common::{registry::FakeRegistry, until};
use proptest::{collection::vec, prelude::*, sample::select};
use shed_backend::fake::{BootFault, FakeWorld, Faults};
use shed_image::{BeginBlob, BlobId, BlobStore, DigestHasher, ImageOrigin, ImageStore, Trailer};
use shed_lifecycle::{AskedImage, BlobPrune, ImagePrune, NewShed, Phase, Progress, Settings, Sheds};
use shed_types::{Digest, ImageName};

const NAMES: [&str; 7] = ["_base", "base", "default", "a", "b", "c", "d"];
const REFERENCES: [&str; 2] = ["ghcr.io/owner/tools:v1", "ghcr.io/owner/tools:v2"];

/// What somebody pulls while the prune goes on.
const PULLED: &str = "ghcr.io/owner/pulled:v1";

/// What an image was made from, as its file has it.
#[derive(Debug, Clone, Copy)]
enum From {
    Nothing,
    /// One of the manifests below.
    Manifest(usize),
    /// A manifest whose blobs are not here.
    Elsewhere,
    /// A blob that is no manifest.
    NoManifest,
    /// A trailer that cannot be read.
    Damaged,
}

#[derive(Debug, Clone)]
struct Cached {
    name: &'static str,
    from: From,
    source: Option<&'static str>,
    /// Is another name of the image before it.
    link: bool,
    locked: bool,
}

#[derive(Debug, Clone)]
enum Origin {
    Reference(&'static str),
    /// The file of this image, by its path.
    Image(&'static str),
    /// A file outside the images directory.
    Outside(From),
    Missing,
}

#[derive(Debug, Clone)]
enum Of {
    Named(&'static str),
    TheBase,
    AFile,
}

#[derive(Debug, Clone)]
enum Shed {
    Stopped(Of),
    OtherBackend(Of),
    /// Made while the server runs, from the image of this name if it is there.
    Running(&'static str),
    /// Like it, and not yet booted.
    Creating(&'static str),
    Husk,
    Unreadable,
}

#[derive(Debug, Clone)]
struct State {
    cached: Vec<Cached>,
    config: BTreeMap<&'static str, Origin>,
    base: Option<Origin>,
    sheds: Vec<Shed>,
    pulling: bool,
    store_in_use: bool,
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        3 => Just(From::Nothing),
        8 => (0..4_usize).prop_map(From::Manifest),
        1 => Just(From::Elsewhere),
        1 => prop_oneof![4 => Just(From::Nothing), 1 => Just(From::NoManifest), 1 => Just(From::Damaged)],
    ]
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        select(&REFERENCES[..]).prop_map(Origin::Reference),
        select(&NAMES[..]).prop_map(Origin::Image),
        from().prop_map(Origin::Outside),
        Just(Origin::Missing),
    ]
}

fn of() -> impl Strategy<Value = Of> {
    prop_oneof![select(&NAMES[1..]).prop_map(Of::Named), Just(Of::TheBase), Just(Of::AFile)]
}

fn shed() -> impl Strategy<Value = Shed> {
    prop_oneof![
        8 => of().prop_map(Shed::Stopped),
        4 => of().prop_map(Shed::OtherBackend),
        4 => select(&NAMES[1..]).prop_map(Shed::Running),
        4 => select(&NAMES[1..]).prop_map(Shed::Creating),
        1 => Just(Shed::Husk),
        1 => Just(Shed::Unreadable),
    ]
}

fn state() -> impl Strategy<Value = State> {
    let cached = (
        from(),
        prop::option::of(select(&REFERENCES[..])),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.15),
    );
    let cached = vec(prop::option::weighted(0.7, cached), NAMES.len()).prop_map(|all| {
        let named = NAMES.into_iter().zip(all);
        let cached = named.filter_map(|(name, cached)| {
            cached.map(|(from, source, link, locked)| Cached { name, from, source, link, locked })
        });
        cached.collect()
    });
    let config = prop::collection::btree_map(select(&NAMES[1..]), origin(), 0..3);
    let sheds = vec(shed(), 0..4);
    let base = prop::option::of(origin());
    (cached, config, base, sheds, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        |(cached, config, base, sheds, pulling, store_in_use)| State {
            cached,
            config,
            base,
            sheds,
            pulling,
            store_in_use,
        },
    )
}

/// Manifests with their blobs, some of which they share.
struct Blobs {
    manifests: Vec<(Digest, BTreeSet<Digest>)>,
    no_manifest: Digest,
}

struct Host {
    settings: Settings,
    store: ImageStore,
    world: FakeWorld,
    registry: FakeRegistry,
    blobs: Blobs,
    /// What each file was made from, by inode.
    from: BTreeMap<u64, From>,
    _guard: tempfile::TempDir,
}

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

fn fill(blobs: &BlobStore) -> Blobs {
    let layers: Vec<_> = (0..5_u8).map(|n| blobs.insert(&[n; 3000]).unwrap()).collect();
    let descriptor =
        |id: &BlobId| serde_json::json!({"mediaType": "a/b", "digest": id.digest, "size": id.size});
    let uses: [&[usize]; 4] = [&[0, 1], &[1, 2], &[2, 3], &[4]];
    let manifests = uses.into_iter().enumerate().map(|(n, of)| {
        let config = blobs.insert(format!("config {n}").as_bytes()).unwrap();
        let layers: Vec<_> = of.iter().map(|n| &layers[*n]).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": descriptor(&config),
            "layers": layers.iter().map(|id| descriptor(id)).collect::<Vec<_>>(),
        });
        let manifest = blobs.insert(manifest.to_string().as_bytes()).unwrap().digest;
        let all = layers.into_iter().chain([&config]).map(|id| id.digest.clone()).chain([manifest.clone()]);
        (manifest, all.collect())
    });
    let manifests = manifests.collect();
    blobs.insert(b"nobody needs this").unwrap();
    let half = BlobId { digest: DigestHasher::sha256_of(b"half"), size: 4 };
    let BeginBlob::Write(mut half) = blobs.begin(&half).unwrap() else { panic!("it is not there") };
    half.write(b"ha").unwrap();
    Blobs { manifests, no_manifest: blobs.insert(b"no manifest").unwrap().digest }
}

impl Host {
    fn new(state: &State) -> Self {
        let (guard, mut settings) = common::settings();
        let store = ImageStore::new(settings.images_dir.clone());
        fs::remove_file(store.rootfs(&image("base"))).unwrap();
        let blobs = fill(&BlobStore::of(&store));
        let mut host = Self {
            store,
            world: FakeWorld::new(),
            registry: FakeRegistry::default(),
            blobs,
            from: BTreeMap::new(),
            settings: settings.clone(),
            _guard: guard,
        };
        let mut before: Option<Utf8PathBuf> = None;
        for cached in &state.cached {
            let path = host.store.rootfs(&image(cached.name));
            match before.filter(|_| cached.link) {
                Some(other) => fs::hard_link(other, &path).unwrap(),
                None => host.write(&path, cached.from),
            }
            if let Some(source) = cached.source {
                fs::write(host.store.source(&image(cached.name)), source).unwrap();
            }
            before = Some(path);
        }
        for (name, origin) in &state.config {
            let origin = host.origin(name, origin);
            settings.images.insert(image(name), origin);
        }
        settings.base_rootfs = state.base.as_ref().map(|origin| host.origin("the-base", origin));
        for (n, shed) in state.sheds.iter().enumerate() {
            host.write_shed(&format!("s{n}"), shed);
        }
        host.settings = settings;
        host
    }

    /// Writes a file of an image.
    fn write(&mut self, path: &Utf8PathBuf, from: From) {
        let mut file = File::create(path).unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let manifest = match from {
            From::Nothing => None,
            From::Manifest(n) => Some(self.blobs.manifests[n].0.clone()),
            From::Elsewhere => Some(DigestHasher::sha256_of(b"elsewhere")),
            From::NoManifest => Some(self.blobs.no_manifest.clone()),
            From::Damaged => {
                file.write_all(b"SHEDIMG1\xff\xff\xff\xff\0\0\0\0").unwrap();
                None
            }
        };
        if let Some(manifest) = manifest {
            Trailer { manifest: Some(manifest), ..Trailer::default() }.append(&mut file).unwrap();
        }
        self.from.insert(file.metadata().unwrap().ino(), from);
    }

    fn origin(&mut self, name: &str, origin: &Origin) -> ImageOrigin {
        let outside = self.settings.images_dir.parent().unwrap().join(format!("{name}.ext4"));
        match origin {
            Origin::Reference(text) => ImageOrigin::Reference(text.parse().unwrap()),
            Origin::Image(name) => ImageOrigin::Path(self.store.rootfs(&image(name))),
            Origin::Outside(from) => {
                self.write(&outside, *from);
                ImageOrigin::Path(outside)
            }
            Origin::Missing => ImageOrigin::Path(outside),
        }
    }

    fn write_shed(&self, name: &str, shed: &Shed) {
        let (backend, of) = match shed {
            Shed::Stopped(of) => ("qemu", of),
            Shed::OtherBackend(of) => ("vz", of),
            Shed::Running(_) | Shed::Creating(_) => return,
            Shed::Husk | Shed::Unreadable => {
                let directory = self.settings.instance_dir.join(name);
                fs::create_dir_all(&directory).unwrap();
                if matches!(shed, Shed::Unreadable) {
                    fs::write(directory.join("metadata.json"), "{").unwrap();
                }
                return;
            }
        };
        let mut record = serde_json::json!({
            "version": 1, "name": name, "status": "stopped", "created_at": "2026-01-20T10:30:00Z",
            "backend": backend, "cpus": 1, "memory_mb": 512, "disk_gb": 1,
        });
        match of {
            Of::Named(image) => record["image"] = (*image).into(),
            Of::TheBase => {}
            Of::AFile => record["image_path"] = "/srv/mine.ext4".into(),
        }
        let directory = self.settings.instance_dir.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("metadata.json"), record.to_string()).unwrap();
    }

    /// Every image there is, with its inode.
    fn images(&self) -> BTreeMap<String, u64> {
        let records = self.store.list().unwrap();
        records
            .into_iter()
            .map(|record| (record.name.to_string(), record.path.metadata().unwrap().ino()))
            .collect()
    }

    /// Every blob there is, and how many partial ones.
    fn all_blobs(&self) -> (BTreeSet<String>, usize) {
        let dir = BlobStore::of(&self.store).dir().to_owned();
        let list = |path: &str| -> Vec<String> {
            let entries = dir.join(path).read_dir_utf8().unwrap();
            entries.map(|entry| entry.unwrap().file_name().to_owned()).collect()
        };
        (list("blobs/sha256").into_iter().collect(), list("partial").len())
    }

    /// Who needs an image by name, as this test sees it.
    fn needed_names(&self, state: &State, cached: &BTreeMap<String, u64>, made: &[&str]) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = state.config.keys().map(|name| (*name).to_owned()).collect();
        names.extend(made.iter().map(|name| (*name).to_owned()));
        match &state.base {
            Some(Origin::Reference(_)) => drop(names.insert("_base".to_owned())),
            Some(Origin::Image(_) | Origin::Outside(_) | Origin::Missing) => {}
            None => {
                let is_known = |name: &&str| state.config.contains_key(name) || cached.contains_key(*name);
                names.extend(["default", "base"].into_iter().find(is_known).map(str::to_owned));
            }
        }
        for shed in &state.sheds {
            match shed {
                Shed::Stopped(Of::Named(name)) | Shed::OtherBackend(Of::Named(name)) => {
                    names.insert((*name).to_owned());
                }
                Shed::Stopped(Of::TheBase) | Shed::OtherBackend(Of::TheBase) => {
                    names.insert("_base".to_owned());
                }
                Shed::Stopped(Of::AFile)
                | Shed::OtherBackend(Of::AFile)
                | Shed::Running(_)
                | Shed::Creating(_)
                | Shed::Husk
                | Shed::Unreadable => {}
            }
        }
        names
    }

    /// Inodes of the files that the config names by path.
    fn config_files(&self) -> BTreeSet<u64> {
        let origins = self.settings.images.values().chain(&self.settings.base_rootfs);
        let paths = origins.filter_map(|origin| match origin {
            ImageOrigin::Path(path) => Some(path),
            ImageOrigin::Reference(_) => None,
        });
        paths.filter_map(|path| Some(path.metadata().ok()?.ino())).collect()
    }

    /// The blobs that must be left when these files are, or nothing when nobody can tell.
    fn needed_blobs(&self, files: impl Iterator<Item = u64>) -> Option<BTreeSet<String>> {
        let mut needed = BTreeSet::new();
        for file in files {
            match self.from.get(&file).copied().unwrap_or(From::Nothing) {
                From::Nothing | From::Elsewhere => {}
                From::Manifest(n) => {
                    needed.extend(self.blobs.manifests[n].1.iter().map(|digest| digest.hex().to_owned()));
                }
                From::NoManifest | From::Damaged => return None,
            }
        }
        Some(needed)
    }
}

fn new(name: &str, asked: &str) -> NewShed {
    let image = Some(AskedImage::parse(asked, None).unwrap());
    NewShed {
        name: name.parse().unwrap(),
        image,
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    }
}

/// Begins a create; returns when it has come to this phase.
async fn begin(sheds: &Sheds, new: NewShed, phase: Phase) -> tokio::task::JoinHandle<bool> {
    let (progress, mut updates) = Progress::channel();
    let sheds = sheds.clone();
    let creator = tokio::spawn(async move { sheds.create(new, progress).await.is_ok() });
    while updates.recv().await.expect("the phase comes").phase != phase {}
    creator
}

async fn check(state: State) {
    let host = Host::new(&state);
    let (backend, registry) = (Arc::new(host.world.backend()), Arc::new(host.registry.clone()));
    let sheds = Sheds::open_with(host.settings.clone(), backend, registry).await.unwrap();

    // Sheds that somebody makes, of images that need no pull.
    let mut made = Vec::new();
    let mut booting = Vec::new();
    for (n, shed) in state.sheds.iter().enumerate() {
        let (Shed::Running(asked) | Shed::Creating(asked)) = shed else { continue };
        if state.config.contains_key(asked) || !host.store.rootfs(&image(asked)).is_file() {
            continue;
        }
        let name = format!("n{n}");
        if matches!(shed, Shed::Creating(_)) {
            let faults = Faults { boot: BootFault::Never, ..Faults::default() };
            host.world.set_faults(&name.parse().unwrap(), faults);
            booting.push(begin(&sheds, new(&name, asked), Phase::Boot).await);
        } else {
            sheds.create(new(&name, asked), Progress::silent()).await.unwrap();
        }
        made.push(*asked);
    }
    let mut pull = None;
    if state.pulling {
        host.registry.hold();
        pull = Some(begin(&sheds, new("pull", PULLED), Phase::Image).await);
        host.registry.reached(1).await;
        // Somebody has put another image there meanwhile, which nobody needs.
        let name = host.registry.fetches()[0].split_once(' ').unwrap().0.to_owned();
        fs::write(host.store.rootfs(&image(&name)), "old").unwrap();
    }
    let locks: Vec<_> = state
        .cached
        .iter()
        .filter(|cached| cached.locked)
        .map(|cached| (cached.name, host.store.lock(&image(cached.name)).unwrap()))
        .collect();
    let hold = state.store_in_use.then(|| BlobStore::of(&host.store).hold().unwrap());

    let (images, blobs) = (host.images(), host.all_blobs());
    let foretold = sheds.prune_images(&[].into(), true).await;
    assert_eq!(
        (host.images(), host.all_blobs()),
        (images.clone(), blobs.clone()),
        "a dry run changes nothing"
    );
    let report = sheds.prune_images(&[].into(), false).await;
    let (images_left, blobs_left) = (host.images(), host.all_blobs());

    if state.sheds.iter().any(|shed| matches!(shed, Shed::Unreadable)) {
        for refused in [foretold, report] {
            let why = refused.unwrap_err().to_string();
            assert!(why.contains("so none is removed"), "{why}");
        }
        assert_eq!((images_left, blobs_left), (images, blobs), "in doubt nothing goes");
    } else {
        let (foretold, report) = (foretold.unwrap(), report.unwrap());
        let names = |report: &ImagePrune| -> BTreeSet<String> {
            report.deleted.iter().map(|image| image.name.to_string()).collect()
        };
        assert_eq!(names(&foretold), names(&report), "a dry run says what is done");
        assert_eq!(foretold.blobs, report.blobs);

        let needed = host.needed_names(&state, &images, &made);
        let mut files = host.config_files();
        files.extend(images.iter().filter(|(name, _)| needed.contains(*name)).map(|(_, file)| *file));
        let pulled = host.registry.fetches().first().map(|fetch| fetch.split_once(' ').unwrap().0.to_owned());
        for (name, file) in &images {
            let is_needed = needed.contains(name) || files.contains(file);
            let is_busy = locks.iter().any(|(locked, _)| locked == name) || pulled.as_ref() == Some(name);
            let left = images_left.contains_key(name);
            assert_eq!(left, is_needed || is_busy, "{name}: needed {is_needed}, busy {is_busy}");
            assert_eq!(names(&report).contains(name), !left, "{name}");
            let kept = report.kept.iter().find(|kept| kept.name.as_str() == name);
            assert_eq!(
                kept.is_some_and(|kept| !kept.reason.is_empty()),
                left && !is_needed,
                "{name}: {kept:?}"
            );
        }
        let remaining = images_left.values().copied().chain(host.config_files());
        match (hold.is_some(), host.needed_blobs(remaining)) {
            (false, Some(needed)) => {
                let expected: BTreeSet<String> = blobs.0.intersection(&needed).cloned().collect();
                assert_eq!(blobs_left, (expected, 0));
                let BlobPrune::Removed { report, .. } = &report.blobs else { panic!("{report:?}") };
                assert_eq!(report.files, (blobs.0.len() + blobs.1 - blobs_left.0.len()) as u64);
            }
            (in_use, needed) => {
                assert_eq!(blobs_left, blobs);
                let BlobPrune::Kept { reason, .. } = &report.blobs else { panic!("{report:?}") };
                assert!(
                    reason.contains(if in_use { "in use" } else { "cannot be told" }),
                    "{reason} {needed:?}"
                );
            }
        }
    }
    drop((locks, hold));
    host.registry.release();
    if let Some(pull) = pull {
        assert!(pull.await.unwrap(), "the pull comes to its end");
    }
    for (n, booting) in booting.into_iter().enumerate() {
        assert!(!booting.is_finished(), "create {n} goes on");
        booting.abort();
    }
    until(|| host.registry.ended_early() == 0).await;
    sheds.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_prune_takes_all_that_nobody_needs_and_nothing_else(state in state()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(check(state));
    }
}
