//! The whole way to an image: what is there already, who waits for whom, and what an error leaves.

use std::sync::Arc;

use shed_image::{ImageLimits, ImageStep, Unwatched};
use shed_registry::{FetchError, PullError};
use shed_types::ImageName;

use crate::{
    Home, Watch,
    fake::{Content, Fake},
    reference, run,
};

fn name() -> ImageName {
    "web".parse().unwrap()
}

/// Returns the names of all files in the images directory but the blobs.
fn files(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(home.images().dir()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != ".oci").collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_there_is_not_asked_for() {
    let (home, fake) = (Home::new(), Fake::good(Content::default()).await);
    let store = home.images();
    let image = reference(&format!("{}/image:v1", fake.address));
    std::fs::create_dir_all(store.dir()).unwrap();
    std::fs::write(store.rootfs(&name()), "image").unwrap();
    std::fs::write(store.source(&name()), format!("{image}\n")).unwrap();
    let registry = home.registry();
    let fetch =
        async |image| registry.fetch(image, &store, &name(), ImageLimits::default(), Watch::new()).await;
    assert!(!fetch(&image).await.unwrap());
    assert!(fake.seen().is_empty());
    // Another version is asked for; the one that is there stays.
    let other = reference(&format!("{}/image:v2", fake.address));
    let error = fetch(&other).await.unwrap_err();
    assert!(matches!(error, FetchError::Pull(PullError::Request { .. })), "{error}");
    assert_eq!(std::fs::read(store.rootfs(&name())).unwrap(), b"image");
    assert_eq!(store.read_source(&name()).unwrap(), image.to_string());
    assert!(store.try_lock(&name()).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_waits_and_finds_it_made() {
    let (home, fake) = (Home::new(), Fake::good(Content::default()).await);
    let store = home.images();
    std::fs::create_dir_all(store.dir()).unwrap();
    let lock = store.lock(&name()).unwrap();
    let image = reference(&format!("{}/image:v1", fake.address));
    let (watch, registry) = (Watch::new(), home.registry());
    let fetching = tokio::spawn({
        let (watch, store, image) = (watch.clone(), store.clone(), image.clone());
        async move { registry.fetch(&image, &store, &name(), ImageLimits::default(), watch).await }
    });
    watch.heard_step(ImageStep::Wait).await;
    let new = store.temporary(&name());
    std::fs::write(&new, "image").unwrap();
    store.install(&lock, &name(), &new, image.as_str()).unwrap();
    drop(lock);
    assert!(!fetching.await.unwrap().unwrap());
    assert!(fake.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_can_be_called_off() {
    let home = Home::new();
    let store = home.images();
    std::fs::create_dir_all(store.dir()).unwrap();
    let lock = store.lock(&name()).unwrap();
    let (watch, registry, image) = (Watch::new(), home.registry(), reference("localhost:1/image"));
    let fetching = tokio::spawn({
        let (watch, store) = (watch.clone(), store.clone());
        async move { registry.fetch(&image, &store, &name(), ImageLimits::default(), watch).await }
    });
    watch.heard_step(ImageStep::Wait).await;
    watch.cancel();
    assert!(matches!(fetching.await.unwrap(), Err(FetchError::Pull(PullError::Cancelled))));
    drop(lock);
}

#[test]
fn who_waited_and_left_holds_no_thread() {
    let home = Home::new();
    let store = home.images();
    std::fs::create_dir_all(store.dir()).unwrap();
    // With one thread for blocking work, a waiter that blocked it would let nobody else do any.
    let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let lock = store.lock(&name()).unwrap();
    runtime.block_on(async {
        for _ in 0..3 {
            let (watch, registry, image) = (Watch::new(), home.registry(), reference("localhost:1/image"));
            let store = store.clone();
            let heard = watch.clone();
            let fetching = tokio::spawn(async move {
                registry.fetch(&image, &store, &name(), ImageLimits::default(), watch).await
            });
            let step = heard.heard_step(ImageStep::Wait);
            tokio::time::timeout(std::time::Duration::from_secs(60), step).await.unwrap();
            fetching.abort();
            assert!(fetching.await.unwrap_err().is_cancelled());
        }
        let free = tokio::task::spawn_blocking(|| ());
        tokio::time::timeout(std::time::Duration::from_secs(60), free).await.unwrap().unwrap();
    });
    drop(lock);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_leaves_nothing_but_its_blobs() {
    // The layer is no archive of any kind.
    let (home, fake) = (Home::new(), Fake::good(Content::image(&[b"no archive".to_vec()])).await);
    let image = reference(&format!("{}/image:v1", fake.address));
    let registry = home.registry();
    let store = home.images();
    let error = registry.fetch(&image, &store, &name(), ImageLimits::default(), Arc::new(Unwatched)).await;
    assert!(matches!(error, Err(FetchError::Convert { .. })), "{error:?}");
    assert_eq!(files(&home), ["web-rootfs.ext4.lock"]);
    assert_eq!(home.check_blobs(), 3);
    assert!(store.try_lock(&name()).unwrap().is_some());
    // Less than its blobs is allowed.
    let limits = ImageLimits { max_bytes: 20, ..ImageLimits::default() };
    let error = Home::new();
    let error = registry.fetch(&image, &error.images(), &name(), limits, Arc::new(Unwatched)).await;
    assert!(matches!(error, Err(FetchError::Pull(PullError::TooLarge { limit: 20, .. }))), "{error:?}");
}

/// Returns an uncompressed layer with one file, and an image of it.
fn one_file() -> (Vec<u8>, Content) {
    let dir = Home::new();
    std::fs::write(dir.path.join("file"), "content").unwrap();
    let _made = run("tar", &["-cf", "layer.tar", "file"], &dir.path);
    let layer = std::fs::read(dir.path.join("layer.tar")).unwrap();
    let content = Content::with_config(std::slice::from_ref(&layer), |diff_ids| {
        format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":{diff_ids}}}}}"#
        )
    });
    (layer, content)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_in_the_store_is_fetched_again_once() {
    let (layer, content) = one_file();
    let layer = shed_image::DigestHasher::sha256_of(&layer);
    let manifest = content.manifests["v1"].1.clone();
    let manifest = shed_image::DigestHasher::sha256_of(&manifest);
    let config = content.blobs.keys().find(|digest| **digest != layer.as_str()).unwrap().parse().unwrap();
    let fake = Fake::good(content).await;
    let home = Home::new();
    let image = reference(&format!("{}/image:v1", fake.address));
    let (registry, store) = (home.registry(), home.images());
    let limits = ImageLimits::default();
    assert!(registry.fetch(&image, &store, &name(), limits, Arc::new(Unwatched)).await.unwrap());
    for damaged in [&layer, &config, &manifest] {
        std::fs::remove_file(store.rootfs(&name())).unwrap();
        let path = home.blobs().path(damaged);
        let mut bytes = std::fs::read(&path).unwrap();
        // In the layer, in the file's content.
        let at = if *damaged == layer { 514 } else { bytes.len() - 1 };
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let made = registry.fetch(&image, &store, &name(), limits, Arc::new(Unwatched)).await;
        assert!(made.unwrap(), "{damaged}");
        assert_eq!(home.check_blobs(), 3);
    }
    let asked = fake.seen().iter().filter(|seen| seen.path.ends_with(layer.as_str())).count();
    assert_eq!(asked, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_says_little_is_taken_and_one_without_its_layers_is_refused_before_they_come() {
    let (layer, _) = one_file();
    let limits = ImageLimits::default();
    let nothing = Content::with_config(&[], |_| "{}".to_owned());
    let little = Content::with_config(std::slice::from_ref(&layer), |diff_ids| {
        format!(r#"{{"architecture":"","rootfs":{{"diff_ids":{diff_ids}}}}}"#)
    });
    for content in [nothing, little] {
        let (home, fake) = (Home::new(), Fake::good(content).await);
        let image = reference(&format!("{}/image:v1", fake.address));
        let fetch = home.registry();
        let made = fetch.fetch(&image, &home.images(), &name(), limits, Arc::new(Unwatched)).await;
        assert!(made.unwrap());
    }
    let digest = shed_image::DigestHasher::sha256_of(&layer);
    let (home, fake) = (Home::new(), Fake::good(Content::with_config(&[layer], |_| "{}".to_owned())).await);
    let image = reference(&format!("{}/image:v1", fake.address));
    let made = home.registry().fetch(&image, &home.images(), &name(), limits, Arc::new(Unwatched)).await;
    assert!(matches!(made, Err(FetchError::Pull(PullError::Manifest { .. }))), "{made:?}");
    assert!(!fake.seen().iter().any(|seen| seen.path.ends_with(digest.as_str())));
}
