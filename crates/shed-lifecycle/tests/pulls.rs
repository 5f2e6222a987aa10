//! Creates whose image is not there: it is pulled once for all who wait, told of, given up with the last of them, and
//! kept from whoever deletes and prunes meanwhile.

mod common;

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use common::{registry::FakeRegistry, until};
use shed_backend::fake::FakeWorld;
use shed_image::{BlobStore, ImageOrigin, ImageStore};
use shed_lifecycle::{
    AskedImage, CreateShedError, DeleteImageError, NewShed, Phase, Progress, PullEnd, PullResult, Settings,
    Sheds, Started,
};
use shed_types::{ImageName, ShedName};
use tokio::task::JoinHandle;

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
        let (guard, mut settings) = common::settings();
        settings.stop_timeout = Duration::from_millis(400);
        settings.images.insert(image("tools"), reference(REFERENCE));
        let store = ImageStore::new(settings.images_dir.clone());
        let registry = FakeRegistry::default();
        Self { world: FakeWorld::new(), registry, settings, store, _guard: guard }
    }

    async fn server(&self) -> Sheds {
        let (backend, registry) = (Arc::new(self.world.backend()), Arc::new(self.registry.clone()));
        Sheds::open_with(self.settings.clone(), backend, registry).await.unwrap()
    }

    fn content(&self, shed: &str) -> String {
        fs::read_to_string(self.settings.instance_dir.join(shed).join("image.ext4")).unwrap()
    }

    fn cached(&self) -> Vec<String> {
        self.store.list().unwrap().into_iter().map(|record| record.name.to_string()).collect()
    }

    /// Files of unfinished images.
    fn unfinished(&self) -> Vec<String> {
        let entries = self.settings.images_dir.read_dir_utf8().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_owned());
        names.filter(|name| name.contains(".tmp")).collect()
    }

    /// Writes a file that looks like an ext4.
    fn ext4(&self, name: &str) -> Utf8PathBuf {
        let path = self.settings.images_dir.parent().unwrap().join(name);
        let mut content = vec![0; 4096];
        content[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        fs::write(&path, content).unwrap();
        path
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
    let image = asked.map(|text| AskedImage::parse(text, None).unwrap());
    NewShed {
        name: shed(name),
        image,
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    }
}

async fn create(sheds: &Sheds, name: &str, asked: Option<&str>) -> Result<Started, CreateShedError> {
    sheds.create(new(name, asked), Progress::silent()).await
}

fn spawn(sheds: &Sheds, name: &str, asked: &str) -> JoinHandle<Result<Started, CreateShedError>> {
    let (sheds, new) = (sheds.clone(), new(name, Some(asked)));
    tokio::spawn(async move { sheds.create(new, Progress::silent()).await })
}

/// Begins a create and returns when it waits for its image.
async fn waiting(sheds: &Sheds, name: &str, asked: &str) -> JoinHandle<Result<Started, CreateShedError>> {
    let (sheds, new) = (sheds.clone(), new(name, Some(asked)));
    let (progress, mut updates) = Progress::channel();
    let creator = tokio::spawn(async move { sheds.create(new, progress).await });
    // Between the begin of the phase and the wait it gives no other task a turn.
    assert_eq!(updates.recv().await.unwrap().phase, Phase::Image);
    creator
}

#[tokio::test]
async fn a_create_pulls_the_image_it_lacks_and_tells_of_it() {
    let host = Host::new();
    let sheds = host.server().await;
    host.registry.hold();
    let (progress, mut updates) = Progress::channel();
    let creator = tokio::spawn({
        let sheds = sheds.clone();
        async move { sheds.create(new("api", Some("tools")), progress).await }
    });
    assert_eq!(updates.recv().await.unwrap().phase, Phase::Image);
    let told = loop {
        let update = updates.recv().await.unwrap();
        if update.image.is_some_and(|at| at.bytes_done == 50) {
            break update;
        }
    };
    assert!(told.message.contains(REFERENCE) && told.message.contains("0 of 1 layers"), "{told:?}");
    assert_eq!(told.phase, Phase::Image);
    assert!(sheds.list().is_empty(), "there is no shed before its image");
    let known = sheds.images().await.unwrap();
    assert!(
        known.iter().any(|known| known.name == image("tools") && known.pulling && !known.cached),
        "{known:?}"
    );
    host.registry.release();
    let started = creator.await.unwrap().unwrap();
    let timeline: Vec<_> = started.timeline.iter().map(|timing| timing.phase).collect();
    assert_eq!((timeline[0], &timeline[1..]), (Phase::Image, &common::CREATE[..]));
    assert_eq!(host.content("api"), REFERENCE);
    let mut phases = Vec::new();
    while let Some(update) = updates.recv().await {
        if update.image.is_none() {
            phases.push(update.phase);
        }
    }
    assert_eq!(phases, common::CREATE);

    // The second one takes what is there, and its timeline says nothing of an image.
    let started = create(&sheds, "two", Some("tools")).await.unwrap();
    assert_eq!(started.timeline.iter().map(|timing| timing.phase).collect::<Vec<_>>(), common::CREATE);
    assert_eq!(host.registry.fetches(), [format!("tools {REFERENCE}")]);
    assert!(sheds.images().await.unwrap().iter().all(|known| !known.pulling));
}

#[tokio::test]
async fn many_creates_of_one_missing_image_pull_it_once() {
    let host = Host::new();
    let sheds = host.server().await;
    host.registry.hold();
    let creators: Vec<_> = (0..8).map(|n| spawn(&sheds, &format!("a{n}"), "tools")).collect();
    host.registry.reached(1).await;
    tokio::task::yield_now().await;
    host.registry.release();
    for creator in creators {
        creator.await.unwrap().unwrap();
    }
    assert_eq!(host.registry.fetches().len(), 1);
    let links = fs::metadata(host.store.rootfs(&image("tools"))).unwrap().nlink();
    assert_eq!(links, 9, "each is a link to the one image");
}

#[tokio::test]
async fn a_failure_reaches_all_who_wait_and_the_next_create_tries_again() {
    let host = Host::new();
    let sheds = host.server().await;
    host.registry.hold();
    host.registry.fail(true);
    let mut creators = Vec::new();
    for n in 0..3 {
        creators.push(waiting(&sheds, &format!("a{n}"), "tools").await);
    }
    host.registry.reached(1).await;
    host.registry.release();
    for creator in creators {
        let error = creator.await.unwrap().unwrap_err();
        let text = shed_types::error_chain(&error);
        assert!(matches!(error, CreateShedError::PullImage { .. }), "{error}");
        assert_eq!(
            text,
            format!(
                "could not get image `tools` from {REFERENCE}: cannot pull {REFERENCE}: the registry has gone for a walk"
            )
        );
    }
    assert_eq!(host.registry.fetches().len(), 1);
    assert_eq!((host.cached(), host.unfinished()), (vec!["base".to_owned()], vec![]));
    host.registry.fail(false);
    create(&sheds, "a0", Some("tools")).await.unwrap();
}

#[tokio::test]
async fn a_pull_ends_with_the_last_who_waits_and_not_before() {
    let host = Host::new();
    let sheds = host.server().await;
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    sheds.when_pulled(move |end: PullEnd| ends.send(end).unwrap());
    host.registry.hold();
    let (one, two) = (waiting(&sheds, "one", "tools").await, waiting(&sheds, "two", "tools").await);
    host.registry.reached(1).await;
    one.abort();
    assert!(one.await.unwrap_err().is_cancelled());
    assert_eq!(host.registry.ended_early(), 0, "the other one waits still");
    two.abort();
    until(|| host.registry.ended_early() == 1).await;
    assert_eq!(ended.recv().await.unwrap().result, PullResult::Cancelled);
    assert_eq!((host.cached(), host.unfinished()), (vec!["base".to_owned()], vec![]));
    assert!(sheds.list().is_empty());

    // Both names are free, and the next one pulls anew.
    host.registry.release();
    create(&sheds, "one", Some("tools")).await.unwrap();
    create(&sheds, "two", Some("tools")).await.unwrap();
    assert_eq!(host.registry.fetches().len(), 2);
    let end = ended.recv().await.unwrap();
    assert_eq!((end.result, end.bytes), (PullResult::Ok, 50));
}

#[tokio::test]
async fn while_an_image_is_pulled_its_shed_has_its_name_and_all_else_goes_on() {
    let host = Host::new();
    for name in ["old", "older"] {
        fs::write(host.store.rootfs(&image(name)), name).unwrap();
    }
    // What is replaced is there still, made from something else.
    fs::write(host.store.rootfs(&image("tools")), "v0").unwrap();
    fs::write(host.store.source(&image("tools")), "ghcr.io/owner/tools:v0").unwrap();
    let sheds = host.server().await;
    host.registry.hold();
    let creator = spawn(&sheds, "api", "ghcr.io/owner/other:v1");
    host.registry.reached(1).await;
    let other = host.registry.fetches()[0].split_once(' ').unwrap().0.to_owned();
    assert!(other.starts_with("ghcr.io-owner-other-v1-"), "{other}");
    let error = create(&sheds, "api", Some("base")).await.unwrap_err();
    assert!(matches!(error, CreateShedError::AlreadyExists { .. }), "{error}");
    create(&sheds, "quick", Some("base")).await.unwrap();
    sheds.delete(&shed("quick")).await.unwrap();
    sheds.delete_image(&image("old")).await.unwrap();
    let report = sheds.prune_images(&[].into(), false).await.unwrap();
    assert_eq!(report.deleted.iter().map(|gone| gone.name.as_str()).collect::<Vec<_>>(), ["older"]);
    // Of one that is not there yet as of one that is.
    fs::write(host.store.rootfs(&image(&other)), "by hand").unwrap();
    let error = sheds.delete_image(&image(&other)).await.unwrap_err();
    assert!(matches!(error, DeleteImageError::Pulling { .. }), "{error}");
    assert!(error.to_string().contains("ghcr.io/owner/other:v1"), "{error}");
    let report = sheds.prune_images(&[].into(), false).await.unwrap();
    assert_eq!(report.deleted, []);
    assert!(report.kept[0].reason.contains("for a create"), "{:?}", report.kept);
    host.registry.release();
    creator.await.unwrap().unwrap();
    assert_eq!(host.content("api"), "ghcr.io/owner/other:v1");
}

#[tokio::test]
async fn an_image_that_somebody_always_removes_ends_in_an_error() {
    let host = Host::new();
    let sheds = host.server().await;
    host.registry.vanish();
    let error = create(&sheds, "api", Some("tools")).await.unwrap_err();
    assert!(matches!(error, CreateShedError::ImageVanished { times: 3, .. }), "{error}");
    assert_eq!(host.registry.fetches().len(), 3);
    assert!(sheds.list().is_empty());
}

#[tokio::test]
async fn the_end_of_the_server_ends_a_pull() {
    let host = Host::new();
    let sheds = host.server().await;
    host.registry.hold();
    let creator = spawn(&sheds, "api", "tools");
    host.registry.reached(1).await;
    sheds.close().await;
    assert!(matches!(creator.await.unwrap(), Err(CreateShedError::ShuttingDown)));
    assert_eq!(host.registry.ended_early(), 1);
    assert_eq!(host.unfinished(), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_of_the_same_reference_is_linked_and_not_pulled() {
    let mut host = Host::new();
    host.settings.base_rootfs = Some(reference(REFERENCE));
    let sheds = host.server().await;
    create(&sheds, "a", None).await.unwrap();
    create(&sheds, "b", Some("tools")).await.unwrap();
    create(&sheds, "c", Some(REFERENCE)).await.unwrap();
    assert_eq!(host.registry.fetches(), [format!("_base {REFERENCE}")]);
    let [base, tools] =
        ["_base", "tools"].map(|name| fs::metadata(host.store.rootfs(&image(name))).unwrap().ino());
    assert_eq!(base, tools);
    assert_eq!(host.store.read_source(&image("tools")).as_deref(), Some(REFERENCE));
    let recorded = ["a", "b", "c"].map(|name| sheds.get(&shed(name)).unwrap().image);
    assert_eq!(recorded, [None, Some(image("tools")), Some(image("tools"))]);
}

#[tokio::test]
async fn a_reference_that_nobody_configured_has_an_image_of_its_own_which_prune_keeps_while_it_is_used() {
    let host = Host::new();
    let sheds = host.server().await;
    for name in ["a", "b"] {
        create(&sheds, name, Some("busybox:1")).await.unwrap();
    }
    assert_eq!(host.registry.fetches().len(), 1);
    let own = sheds.get(&shed("a")).unwrap().image.unwrap();
    assert!(own.as_str().starts_with("busybox-1-") && !own.is_hidden(), "{own}");
    let known = sheds.images().await.unwrap();
    let found = known.iter().find(|known| known.name == own).unwrap();
    assert_eq!((found.reference.as_deref(), found.configured), (Some("busybox:1"), false));
    assert_eq!(sheds.prune_images(&[].into(), false).await.unwrap().deleted, []);
    // By its own name it can be asked for as well.
    create(&sheds, "c", Some(own.as_str())).await.unwrap();
    for name in ["a", "b", "c"] {
        sheds.delete(&shed(name)).await.unwrap();
    }
    assert_eq!(sheds.prune_images(&[].into(), false).await.unwrap().deleted[0].name, own);
}

#[tokio::test]
async fn a_plain_word_is_never_pulled() {
    let host = Host::new();
    let sheds = host.server().await;
    let error = create(&sheds, "a", Some("busybox")).await.unwrap_err();
    assert!(matches!(error, CreateShedError::UnknownImage { .. }), "{error}");
    assert!(error.to_string().contains("`busybox:latest`") && error.to_string().contains("base"), "{error}");
    assert_eq!(host.registry.fetches(), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_is_used_as_it_is_when_it_is_an_ext4() {
    let host = Host::new();
    let sheds = host.server().await;
    let file = host.ext4("mine.img");
    let started = create(&sheds, "a", Some(file.as_str())).await.unwrap();
    assert_eq!((started.shed.image, started.shed.image_path.as_ref()), (None, Some(&file)));
    // A link leads there; the shed has the file and not the link.
    let link = file.with_file_name("link.img");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    create(&sheds, "b", Some(link.as_str())).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 3);
    let own = host.settings.instance_dir.join("b").join("image.ext4");
    assert!(own.symlink_metadata().unwrap().is_file());
    // One in the images directory has a name, by which it is kept.
    let named = host.store.rootfs(&image("named"));
    fs::copy(&file, &named).unwrap();
    let started = create(&sheds, "c", Some(named.as_str())).await.unwrap();
    assert_eq!((started.shed.image, started.shed.image_path), (Some(image("named")), None));
    // A shed of a file needs no cache of the base.
    fs::write(host.store.rootfs(&ImageName::configured_base()), "x").unwrap();
    let report = sheds.prune_images(&[].into(), false).await.unwrap();
    assert_eq!(report.deleted.iter().map(|gone| gone.name.as_str()).collect::<Vec<_>>(), ["_base"]);

    let text = file.with_file_name("text");
    fs::write(&text, "words ".repeat(1000)).unwrap();
    let short = file.with_file_name("short");
    fs::write(&short, "x").unwrap();
    let pipe = file.with_file_name("pipe");
    shed_testkit::make_pipe(&pipe);
    for (path, word) in [
        (text, "no ext4"),
        (short, "no ext4"),
        (pipe, "no regular file"),
        (file.with_file_name("none"), "No such file"),
        (file.parent().unwrap().to_owned(), "no regular file"),
        (host.settings.instance_dir.join("a").join("rootfs.ext4"), "belongs to a shed"),
    ] {
        let error = create(&sheds, "d", Some(path.as_str())).await.unwrap_err();
        let text = shed_types::error_chain(&error);
        assert!(matches!(error, CreateShedError::ImagePath(_)), "{text}");
        assert!(text.contains(path.as_str()) && text.contains(word), "{text}");
    }
    assert!(!BlobStore::of(&host.store).dir().exists(), "nobody needed it");
}
