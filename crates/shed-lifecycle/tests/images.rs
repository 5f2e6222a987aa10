//! Images over the fake backend: which one a create takes, which are shown, and which go and stay when somebody
//! deletes or prunes, whatever else goes on.

mod common;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use common::registry::FakeRegistry;
use shed_backend::fake::{BootFault, FakeWorld, Faults};
use shed_image::{ImageOrigin, ImageStore, file_name};
use shed_lifecycle::{
    AskedImage, CreateShedError, DeleteImageError, ImagePrune, NewShed, Phase, Progress, PruneImagesError,
    Settings, ShedStatus, Sheds, Started,
};
use shed_state::{InstanceDir, ShedRecord};
use shed_types::{BackendKind, ImageName, ShedName};

const REFERENCE: &str = "ghcr.io/owner/tools:v1";

struct Host {
    world: FakeWorld,
    registry: FakeRegistry,
    settings: Settings,
    store: ImageStore,
    _guard: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (guard, settings) = common::settings();
        let settings = Settings { stop_timeout: Duration::from_millis(400), ..settings };
        let store = ImageStore::new(settings.images_dir.clone());
        // These tests say themselves which images there are.
        fs::remove_file(store.rootfs(&image("base"))).unwrap();
        Self { world: FakeWorld::new(), registry: FakeRegistry::default(), settings, store, _guard: guard }
    }

    async fn server(&self) -> Sheds {
        let (backend, registry) = (Arc::new(self.world.backend()), Arc::new(self.registry.clone()));
        Sheds::open_with(self.settings.clone(), backend, registry).await.unwrap()
    }

    /// Puts an image into the images directory; its content is its name.
    fn image(&self, name: &str) -> Utf8PathBuf {
        let path = self.store.rootfs(&image(name));
        fs::write(&path, name).unwrap();
        path
    }

    fn source(&self, name: &str, text: &str) {
        fs::write(self.store.source(&image(name)), text).unwrap();
    }

    /// Puts a file beside the images directory.
    fn file(&self, name: &str) -> Utf8PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, name).unwrap();
        path
    }

    fn dir(&self) -> &Utf8Path {
        self.settings.images_dir.parent().unwrap()
    }

    fn configure(&mut self, name: &str, origin: ImageOrigin) {
        self.settings.images.insert(image(name), origin);
    }

    /// What the image of a shed holds, as [`Self::image`] and [`Self::file`] have written it.
    fn content(&self, shed: &str) -> String {
        fs::read_to_string(self.settings.instance_dir.join(shed).join("image.ext4")).unwrap()
    }

    /// Names of the images there are, Shed's own among them.
    fn cached(&self) -> Vec<String> {
        self.store.list().unwrap().into_iter().map(|record| record.name.to_string()).collect()
    }

    fn instances(&self) -> InstanceDir {
        InstanceDir::new(self.settings.instance_dir.clone())
    }
}

fn image(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn shed(text: &str) -> ShedName {
    text.parse().unwrap()
}

fn reference(text: &str) -> ImageOrigin {
    ImageOrigin::Reference(text.parse().unwrap())
}

fn new(name: &str, asked: Option<&str>) -> NewShed {
    let (name, image) = (shed(name), asked.map(|text| AskedImage::parse(text, None).unwrap()));
    NewShed { name, image, cpus: None, memory_mb: None, repo: None, local_dir: None, no_provision: false }
}

async fn create(sheds: &Sheds, name: &str, asked: Option<&str>) -> Result<Started, CreateShedError> {
    sheds.create(new(name, asked), Progress::silent()).await
}

async fn prune(sheds: &Sheds) -> ImagePrune {
    sheds.prune_images(&BTreeSet::new(), false).await.unwrap()
}

fn deleted(report: &ImagePrune) -> Vec<&str> {
    report.deleted.iter().map(|image| image.name.as_str()).collect()
}

#[tokio::test]
async fn a_create_takes_what_the_config_says_a_name_is() {
    let mut host = Host::new();
    for name in ["base", "tools", "cached", "_base"] {
        host.image(name);
    }
    host.source("cached", REFERENCE);
    let file = host.file("elsewhere.ext4");
    host.configure("tools", ImageOrigin::Path(file));
    host.configure("cached", reference(REFERENCE));
    let sheds = host.server().await;
    for (name, asked, content, recorded) in [
        ("a", Some("tools"), "elsewhere.ext4", Some("tools")),
        ("b", Some("cached"), "cached", Some("cached")),
        ("c", Some("base"), "base", Some("base")),
        ("d", None, "base", Some("base")),
    ] {
        let started = create(&sheds, name, asked).await.unwrap();
        assert_eq!(host.content(name), content, "{asked:?}");
        assert_eq!(started.shed.image.as_ref().map(ImageName::as_str), recorded, "{asked:?}");
    }
    for hidden in ["_base", "_other"] {
        let error = create(&sheds, "e", Some(hidden)).await.unwrap_err();
        let CreateShedError::UnknownImage { available, .. } = error else { panic!("{error}") };
        assert_eq!(available, ["base", "cached", "tools"]);
    }
}

#[tokio::test]
async fn the_default_image_is_the_configured_base_or_the_first_of_two_names() {
    let mut host = Host::new();
    let sheds = host.server().await;
    let error = create(&sheds, "a", None).await.unwrap_err();
    assert!(matches!(error, CreateShedError::NoDefaultImage { .. }), "{error}");
    host.image("base");
    create(&sheds, "a", None).await.unwrap();
    host.image("default");
    let started = create(&sheds, "b", None).await.unwrap();
    assert_eq!((host.content("a").as_str(), host.content("b").as_str()), ("base", "default"));
    assert_eq!(started.shed.image, Some(image("default")));

    // A name that the config has means what the config says, also when nobody has said it.
    sheds.close().await;
    drop(sheds);
    let file = host.file("mine.ext4");
    host.configure("default", ImageOrigin::Path(file.clone()));
    let sheds = host.server().await;
    create(&sheds, "c", None).await.unwrap();
    assert_eq!(host.content("c"), "mine.ext4");

    for (name, path, recorded) in [
        ("d", file, None),
        ("e", host.image("base"), Some("base")),
        ("f", host.file("base-rootfs.ext4"), None),
    ] {
        host.settings.base_rootfs = Some(ImageOrigin::Path(path.clone()));
        host.settings.instance_dir = host.dir().join(format!("instances-{name}"));
        let sheds = host.server().await;
        let started = create(&sheds, name, None).await.unwrap();
        assert_eq!(started.shed.image.as_ref().map(ImageName::as_str), recorded, "{path}");
        assert_eq!(host.content(name), fs::read_to_string(path).unwrap());
    }
}

#[tokio::test]
async fn a_reference_is_taken_from_the_cache_only_when_that_was_made_from_it_and_else_pulled() {
    let mut host = Host::new();
    host.configure("tools", reference(REFERENCE));
    host.settings.base_rootfs = Some(reference(REFERENCE));
    host.image("plain");
    let sheds = host.server().await;
    for (asked, cached_as) in [(Some("tools"), "tools"), (None, "_base")] {
        let refused = async || {
            let error = create(&sheds, "a", asked).await.unwrap_err();
            assert!(matches!(error, CreateShedError::PullImage { .. }), "{error}");
            let text = shed_types::error_chain(&error);
            for part in [REFERENCE, cached_as, "cannot pull", "gone for a walk"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        };
        host.registry.fail(true);
        refused().await;
        host.image(cached_as);
        refused().await;
        host.source(cached_as, "ghcr.io/owner/tools:v0");
        refused().await;
        assert_eq!(fs::read_to_string(host.store.rootfs(&image(cached_as))).unwrap(), cached_as, "it stays");
        let fetches = host.registry.fetches().len();
        host.source(cached_as, &format!("{REFERENCE}\n"));
        let started = create(&sheds, "a", asked).await.unwrap();
        assert_eq!((host.content("a").as_str(), started.shed.image), (cached_as, asked.map(image)));
        sheds.delete(&shed("a")).await.unwrap();
        assert_eq!(host.registry.fetches().len(), fetches, "what is cached is not pulled");
        fs::remove_file(host.store.source(&image(cached_as))).unwrap();
    }
}

#[tokio::test]
async fn a_configured_file_that_has_gone_is_named_and_nothing_else_is_taken() {
    let mut host = Host::new();
    let file = host.file("elsewhere.ext4");
    host.image("tools");
    host.configure("tools", ImageOrigin::Path(file.clone()));
    let sheds = host.server().await;
    fs::remove_file(&file).unwrap();
    let error = create(&sheds, "a", Some("tools")).await.unwrap_err();
    assert!(matches!(error, CreateShedError::ImageFileMissing { .. }), "{error}");
    assert!(
        error.to_string().contains(file.as_str()) && error.to_string().contains("`images.tools`"),
        "{error}"
    );
    let known = sheds.images().await.unwrap();
    assert!(!known[0].cached && known[0].path.is_none() && known[0].size_bytes.is_none(), "{known:?}");
}

#[tokio::test]
async fn what_is_listed_as_cached_is_what_a_create_takes() {
    let mut host = Host::new();
    for name in ["base", "pulled", "made", "stale", "shadow", "_base"] {
        host.image(name);
    }
    host.source("base", "recipe:base");
    host.source("pulled", "ghcr.io/owner/pulled:v2");
    host.source("made", REFERENCE);
    host.source("stale", "ghcr.io/owner/tools:v0");
    let file = host.file("elsewhere.ext4");
    host.configure("made", reference(REFERENCE));
    host.configure("stale", reference(REFERENCE));
    host.configure("absent", reference("tools"));
    host.configure("shadow", ImageOrigin::Path(file.clone()));
    host.registry.fail(true);
    let sheds = host.server().await;
    let known = sheds.images().await.unwrap();
    let seen: Vec<_> = known
        .iter()
        .map(|i| (i.name.as_str(), i.reference.as_deref(), i.size_bytes, i.configured, i.cached))
        .collect();
    assert_eq!(
        seen,
        [
            ("absent", Some("tools"), None, true, false),
            ("base", None, Some(4), false, true),
            ("made", Some(REFERENCE), Some(4), true, true),
            ("pulled", Some("ghcr.io/owner/pulled:v2"), Some(6), false, true),
            ("shadow", None, Some(14), true, true),
            ("stale", Some(REFERENCE), None, true, false),
        ]
    );
    assert_eq!(known[4].path.as_ref(), Some(&file));
    for (index, image) in known.iter().enumerate() {
        let created = create(&sheds, &format!("a{index}"), Some(image.name.as_str())).await;
        let has_twin = image.name.as_str() == "stale";
        assert_eq!(created.is_ok(), image.cached || has_twin, "{image:?} {created:?}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_an_error_and_one_that_is_missing_is_empty() {
    let mut host = Host::new();
    let file = host.file("no-directory");
    host.settings.images_dir = host.dir().join("nothing");
    let sheds = host.server().await;
    assert_eq!(sheds.images().await.unwrap(), []);
    assert_eq!(prune(&sheds).await, ImagePrune::default());
    sheds.close().await;
    drop(sheds);

    host.settings.images_dir = file;
    let sheds = host.server().await;
    assert!(sheds.images().await.is_err());
    assert!(sheds.prune_images(&BTreeSet::new(), false).await.is_err());
    let error = create(&sheds, "a", Some("x")).await.unwrap_err();
    assert!(matches!(error, CreateShedError::ListImages(_)), "{error}");
}

#[tokio::test]
async fn a_deleted_image_is_gone_and_the_shed_made_from_it_is_not() {
    let host = Host::new();
    host.image("base");
    host.image("tools");
    host.source("tools", REFERENCE);
    let sheds = host.server().await;
    create(&sheds, "api", Some("tools")).await.unwrap();
    sheds.delete_image(&image("tools")).await.unwrap();
    assert_eq!(host.cached(), ["base"]);
    assert!(!host.store.source(&image("tools")).exists());
    let error = sheds.delete_image(&image("tools")).await.unwrap_err();
    assert!(matches!(error, DeleteImageError::NotFound { .. }), "{error}");
    sheds.stop(&shed("api")).await.unwrap();
    assert_eq!(sheds.start(&shed("api"), Progress::silent()).await.unwrap().shed.status, ShedStatus::Running);
    assert_eq!(host.content("api"), "tools");
}

#[tokio::test]
async fn what_the_config_names_is_not_deleted_whatever_it_is_called() {
    let mut host = Host::new();
    let (base, tools) = (host.image("base"), host.image("tools"));
    for name in ["named", "linked", "free", "_base", "_old"] {
        host.image(name);
    }
    fs::remove_file(host.store.rootfs(&image("linked"))).unwrap();
    std::os::unix::fs::symlink(&tools, host.dir().join("a-link")).unwrap();
    fs::hard_link(&base, host.store.rootfs(&image("linked"))).unwrap();
    host.configure("named", reference(REFERENCE));
    host.configure("other", ImageOrigin::Path(host.dir().join("a-link")));
    host.settings.base_rootfs = Some(ImageOrigin::Path(base));
    let sheds = host.server().await;
    for (name, key) in [
        ("named", "images.named"),
        ("other", "images.other"),
        ("tools", "images.other"),
        ("base", "base_rootfs"),
        ("linked", "base_rootfs"),
    ] {
        let error = sheds.delete_image(&image(name)).await.unwrap_err();
        assert!(
            matches!(&error, DeleteImageError::InUse { key: found, .. } if found == key),
            "{name}: {error}"
        );
    }
    for hidden in ["_base", "_old", "_none"] {
        let error = sheds.delete_image(&image(hidden)).await.unwrap_err();
        assert!(matches!(error, DeleteImageError::NotFound { .. }), "{error}");
    }
    sheds.delete_image(&image("free")).await.unwrap();
    assert_eq!(host.cached(), ["_base", "_old", "base", "linked", "named", "tools"]);
    sheds.close().await;
    drop(sheds);

    host.settings.base_rootfs = Some(reference(REFERENCE));
    let sheds = host.server().await;
    let error = sheds.delete_image(&ImageName::configured_base()).await.unwrap_err();
    assert!(matches!(error, DeleteImageError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn an_image_that_somebody_is_at_is_neither_deleted_nor_pruned() {
    let host = Host::new();
    host.image("tools");
    let sheds = host.server().await;
    let held = host.store.lock(&image("tools")).unwrap();
    let error = sheds.delete_image(&image("tools")).await.unwrap_err();
    assert!(matches!(error, DeleteImageError::Busy { .. }), "{error}");
    for dry_run in [true, false] {
        let report = sheds.prune_images(&BTreeSet::new(), dry_run).await.unwrap();
        assert!(report.deleted.is_empty() && report.failures.is_empty(), "{report:?}");
        assert_eq!(report.kept.len(), 1);
        assert!(report.kept[0].reason.contains("lock held"), "{:?}", report.kept);
    }
    drop(held);
    assert_eq!(deleted(&prune(&sheds).await), ["tools"]);
}

#[tokio::test]
async fn an_image_that_a_create_has_not_linked_yet_is_not_deleted() {
    let host = Host::new();
    host.image("tools");
    let sheds = host.server().await;
    // The create stays where it would link: the template it clones next is held by somebody who makes it.
    let cache = host.settings.images_dir.join(file_name::CACHE);
    let directory = host.settings.instance_dir.join("api");
    let template = cache.join(file_name::upper_template(host.settings.default_disk_gb));
    fs::remove_file(&template).unwrap();
    let lock = fs::File::create(template.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let (progress, mut updates) = Progress::channel();
    let creator = tokio::spawn({
        let sheds = sheds.clone();
        async move { sheds.create(new("api", Some("tools")), progress).await }
    });
    while updates.recv().await.unwrap().phase != Phase::Disk {}
    // Whether the link is made already is for the scheduler to say; either way the shed gets its image.
    let outcome = sheds.delete_image(&image("tools")).await;
    match &outcome {
        Ok(()) => assert!(directory.join("image.ext4").exists()),
        Err(error) => assert!(matches!(error, DeleteImageError::Creating { .. }), "{error}"),
    }
    fs::write(&template, b"").unwrap();
    drop(lock);
    creator.await.unwrap().unwrap();
    assert_eq!(host.content("api"), "tools");
}

#[tokio::test]
async fn a_prune_removes_what_neither_config_nor_shed_names_and_a_dry_run_says_so() {
    let mut host = Host::new();
    for name in ["default", "base", "used", "named", "old", "pulled", "_base"] {
        host.image(name);
    }
    host.source("pulled", REFERENCE);
    host.configure("named", reference("tools"));
    let sheds = host.server().await;
    create(&sheds, "api", Some("used")).await.unwrap();
    let before: BTreeSet<_> = host
        .settings
        .images_dir
        .read_dir_utf8()
        .unwrap()
        .map(|e| e.unwrap().file_name().to_owned())
        .collect();
    let preview = sheds.prune_images(&BTreeSet::new(), true).await.unwrap();
    assert_eq!(deleted(&preview), ["_base", "base", "old", "pulled"]);
    let after: BTreeSet<_> = host
        .settings
        .images_dir
        .read_dir_utf8()
        .unwrap()
        .map(|e| e.unwrap().file_name().to_owned())
        .collect();
    assert_eq!(before, after, "a dry run leaves no trace");
    assert_eq!(preview.deleted[3].reference.as_deref(), Some(REFERENCE));
    assert_eq!(preview.deleted[3].logical_bytes, 6);

    assert_eq!(prune(&sheds).await, preview);
    assert_eq!(host.cached(), ["default", "named", "used"]);
    assert!(!host.store.source(&image("pulled")).exists());
    assert_eq!(prune(&sheds).await, ImagePrune::default());
    create(&sheds, "b", None).await.unwrap();

    let gone = [shed("api")].into();
    assert_eq!(deleted(&sheds.prune_images(&gone, true).await.unwrap()), ["used"]);
    sheds.delete(&shed("api")).await.unwrap();
    assert_eq!(deleted(&prune(&sheds).await), ["used"]);
}

#[tokio::test]
async fn the_base_is_kept_as_long_as_the_config_or_a_shed_needs_it() {
    let mut host = Host::new();
    host.image("_base");
    host.source("_base", REFERENCE);
    host.settings.base_rootfs = Some(reference(REFERENCE));
    let sheds = host.server().await;
    assert_eq!(deleted(&prune(&sheds).await), Vec::<&str>::new());
    create(&sheds, "api", None).await.unwrap();
    sheds.close().await;
    drop(sheds);

    let file = host.file("elsewhere.ext4");
    host.settings.base_rootfs = Some(ImageOrigin::Path(file));
    let sheds = host.server().await;
    assert_eq!(deleted(&prune(&sheds).await), Vec::<&str>::new(), "the shed was made from it");
    sheds.delete(&shed("api")).await.unwrap();
    assert_eq!(deleted(&prune(&sheds).await), ["_base"]);
}

#[tokio::test]
async fn a_file_that_the_config_names_by_path_is_kept_under_every_name() {
    let mut host = Host::new();
    let tools = host.image("tools");
    host.image("other");
    fs::hard_link(&tools, host.store.rootfs(&image("hard"))).unwrap();
    std::os::unix::fs::symlink(&tools, host.store.rootfs(&image("soft"))).unwrap();
    std::os::unix::fs::symlink(&host.settings.images_dir, host.dir().join("the-images")).unwrap();
    host.configure("mine", ImageOrigin::Path(host.dir().join("the-images").join(tools.file_name().unwrap())));
    let sheds = host.server().await;
    assert_eq!(deleted(&prune(&sheds).await), ["other"]);
    assert_eq!(host.cached(), ["hard", "soft", "tools"]);
}

#[tokio::test]
async fn a_link_that_a_shed_names_still_leads_somewhere_after_a_prune() {
    let host = Host::new();
    let target = host.image("target");
    std::os::unix::fs::symlink(&target, host.store.rootfs(&image("link"))).unwrap();
    let sheds = host.server().await;
    create(&sheds, "api", Some("link")).await.unwrap();
    assert_eq!(deleted(&prune(&sheds).await), Vec::<&str>::new());
    sheds.delete(&shed("api")).await.unwrap();
    assert_eq!(deleted(&prune(&sheds).await), ["link", "target"]);
}

#[tokio::test]
async fn records_that_this_server_does_not_run_count_and_unreadable_ones_stop_everything() {
    let host = Host::new();
    for name in ["base", "theirs", "old"] {
        host.image(name);
    }
    let sheds = host.server().await;
    create(&sheds, "api", Some("base")).await.unwrap();
    // Another backend's shed, written while this server runs.
    let record: ShedRecord = host.instances().read(&shed("api")).unwrap();
    let other =
        ShedRecord { name: shed("vz"), backend: BackendKind::Vz, image: Some(image("theirs")), ..record };
    host.instances().write(&other).unwrap();
    // A directory without anything is no shed.
    fs::create_dir(host.settings.instance_dir.join("husk")).unwrap();
    assert_eq!(deleted(&sheds.prune_images(&BTreeSet::new(), true).await.unwrap()), ["old"]);

    let damaged = host.settings.instance_dir.join("bad");
    fs::create_dir(&damaged).unwrap();
    for content in ["", "{", r#"{"version": 99}"#] {
        fs::write(damaged.join("metadata.json"), content).unwrap();
        for dry_run in [true, false] {
            let error = sheds.prune_images(&BTreeSet::new(), dry_run).await.unwrap_err();
            assert!(matches!(error, PruneImagesError::UnreadableShed { .. }), "{error}");
            assert!(error.to_string().contains(damaged.as_str()), "{error}");
        }
    }
    assert_eq!(host.cached(), ["base", "old", "theirs"]);
    fs::remove_dir_all(&damaged).unwrap();
    assert_eq!(deleted(&prune(&sheds).await), ["old"]);
}

#[tokio::test]
async fn an_image_that_cannot_be_removed_is_kept_with_the_reason_and_the_others_go() {
    let host = Host::new();
    host.image("free");
    host.image("stuck");
    fs::create_dir(host.store.source(&image("stuck"))).unwrap();
    let sheds = host.server().await;
    let report = prune(&sheds).await;
    assert_eq!(deleted(&report), ["free"]);
    assert_eq!((report.kept.len(), report.failures.len()), (1, 1), "{report:?}");
    assert!(
        report.failures[0].contains("stuck") && report.kept[0].reason.contains("cannot remove"),
        "{report:?}"
    );
    let error = sheds.delete_image(&image("stuck")).await.unwrap_err();
    assert!(matches!(error, DeleteImageError::Remove { .. }), "{error}");
    assert_eq!(host.cached(), ["stuck"]);
}

/// A create and a prune, or a delete, at the same moment: the create gets its image whole, or is told that there is
/// none; it never finds out half-way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_create_and_a_removal_at_once_never_leave_a_create_without_its_image() {
    let host = Host::new();
    host.image("base");
    let sheds = host.server().await;
    let remove = async |round: usize| {
        if round.is_multiple_of(3) {
            sheds.delete_image(&image("wanted")).await.is_ok()
        } else {
            deleted(&prune(&sheds).await).contains(&"wanted")
        }
    };
    let (mut came_first, mut came_second) = (0, 0);
    for round in 0..60 {
        // The image in question is the last of many, so that a prune has looked long before it removes.
        for filler in 0..8 {
            host.image(&format!("filler{filler:02}"));
        }
        host.image("wanted");
        // One round in ten has the removal first, and one the create, whoever is quicker on this host.
        let early = if round % 10 == 0 { Some(remove(round).await) } else { None };
        let creator = tokio::spawn({
            let sheds = sheds.clone();
            async move {
                // Spread over the time that a prune takes.
                for _ in 0..(round % 12) * 40 {
                    tokio::task::yield_now().await;
                }
                create(&sheds, "api", Some("wanted")).await
            }
        });
        while round % 10 == 9 && sheds.get(&shed("api")).is_none() && !creator.is_finished() {
            tokio::task::yield_now().await;
        }
        let removed = match early {
            Some(removed) => removed,
            None => remove(round).await,
        };
        match creator.await.unwrap() {
            Ok(_) => {
                came_first += 1;
                assert_eq!(host.content("api"), "wanted");
                assert!(round % 3 == 0 || !removed, "a prune has removed the image of a shed");
                sheds.delete(&shed("api")).await.unwrap();
            }
            Err(CreateShedError::UnknownImage { .. }) => {
                came_second += 1;
                assert!(removed);
            }
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(came_first >= 6 && came_second >= 6, "{came_first} creates won, {came_second} lost");
}

/// The boot takes as long as it likes; its image is linked by then and the prune keeps the cached one all the same.
#[tokio::test]
async fn the_image_of_a_create_in_progress_is_kept() {
    let host = Host::new();
    host.image("base");
    host.image("wanted");
    let sheds = host.server().await;
    host.world.set_faults(&shed("api"), Faults { boot: BootFault::Never, ..Faults::default() });
    let (progress, mut updates) = Progress::channel();
    let creator = tokio::spawn({
        let sheds = sheds.clone();
        async move { sheds.create(new("api", Some("wanted")), progress).await }
    });
    while updates.recv().await.unwrap().phase != Phase::Boot {}
    assert_eq!(deleted(&prune(&sheds).await), Vec::<&str>::new());
    sheds.delete(&shed("api")).await.unwrap();
    assert!(creator.await.unwrap().is_err());
    assert_eq!(deleted(&prune(&sheds).await), ["wanted"]);
}
