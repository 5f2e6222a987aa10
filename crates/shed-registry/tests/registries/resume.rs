//! Lines that break and registries that die, in both directions.

use std::sync::Arc;

use shed_image::Unwatched;
use shed_registry::{Patience, PullError, PushError, Registry};
use shed_types::Digest;

use crate::{
    Home, Watch, amd64,
    images::{layout, noise, skopeo_copy, skopeo_digest},
    line::{Line, Plan, Way},
    patience, reference,
    server::Server,
};

/// Layers that do not compress, in bytes.
const LAYERS: [usize; 3] = [4_000_000, 1_000_000, 2_000_000];

/// Puts an image of some megabytes into a registry and returns its digest and the length of its blobs.
fn fill(server: &Server) -> (String, u64) {
    let home = Home::new();
    let contents: Vec<_> = LAYERS.iter().zip(1..).map(|(&length, seed)| noise(seed, length)).collect();
    let image = layout(&home, &contents);
    let target = format!("docker://{}/image:v1", server.address);
    skopeo_copy(&image, &target, &[], &home.path);
    (skopeo_digest(&target, &home.path), LAYERS.iter().map(|&length| length as u64).sum())
}

/// Pulls the image from the registry itself.
async fn pulled(server: &Server) -> (Home, Digest) {
    let home = Home::new();
    let image = reference(&format!("{}/image:v1", server.address));
    let digest = home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await.unwrap();
    (home, digest)
}

/// Asserts that hardly more moved than had to.
fn assert_once(passed: u64, size: u64) {
    assert!(passed >= size && passed < size * 11 / 10, "{passed} bytes for {size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_over_a_line_that_breaks_takes_every_byte_once() {
    let (mut server, home) = (Server::open(), Home::new());
    let (expected, size) = fill(&server);
    let cuts: Vec<u64> = (1..7).map(|part| part * 1_000_000).collect();
    let line = Line::to(&server.address, Plan { cut_down: cuts, ..Plan::default() }).await;
    let image = reference(&format!("{}/image:v1", line.address));
    let watch = Watch::new();
    let digest = home.registry().pull(&image, &amd64(), &home.blobs(), watch.clone()).await.unwrap();
    assert_eq!(digest.to_string(), expected);
    assert_eq!(line.cuts(), 6);
    assert_once(line.passed(Way::Down), size);
    assert_eq!(watch.last().bytes_done, watch.last().bytes_total);
    assert_eq!((home.check_blobs(), home.partial_bytes()), (5, 0));
    server.kill();
    // All is there now, so by its digest it is found without the registry.
    let by_digest = reference(&format!("{}/image@{expected}", line.address));
    let again = home.registry().pull(&by_digest, &amd64(), &home.blobs(), Arc::new(Unwatched)).await.unwrap();
    assert_eq!(again, digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_cancelled_or_dropped_is_continued_by_the_next() {
    let (server, home) = (Server::open(), Home::new());
    let (expected, size) = fill(&server);
    for (end, reached) in [("cancelled", 2_000_000), ("dropped", 4_000_000)] {
        let hold = Some((Way::Down, 2_500_000));
        let line = Line::to(&server.address, Plan { hold, ..Plan::default() }).await;
        let image = reference(&format!("{}/image:v1", line.address));
        let (watch, registry, blobs) = (Watch::new(), home.registry(), home.blobs());
        let pulling = tokio::spawn({
            let watch = watch.clone();
            async move { registry.pull(&image, &amd64(), &blobs, watch).await }
        });
        line.held().await;
        watch.reached(reached).await;
        if end == "cancelled" {
            watch.cancel();
            assert!(matches!(pulling.await.unwrap(), Err(PullError::Cancelled)));
        } else {
            pulling.abort();
            assert!(pulling.await.unwrap_err().is_cancelled());
        }
    }
    let line = Line::to(&server.address, Plan::default()).await;
    let image = reference(&format!("{}/image:v1", line.address));
    let digest = home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await.unwrap();
    assert_eq!(digest.to_string(), expected);
    assert!(
        line.passed(Way::Down) < size - 3_900_000,
        "{} of {size} bytes the last time",
        line.passed(Way::Down)
    );
    assert_eq!((home.check_blobs(), home.partial_bytes()), (5, 0));
}

/// Waits long enough for a registry to start again.
fn long_patience() -> Patience {
    Patience { tries: 10_000, ..patience() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_in_a_pull_and_comes_back_changes_nothing() {
    let (mut server, home) = (Server::open(), Home::new());
    let (expected, size) = fill(&server);
    let hold = Some((Way::Down, 3_000_000));
    let line = Line::to(&server.address, Plan { hold, ..Plan::default() }).await;
    let image = reference(&format!("{}/image:v1", line.address));
    let registry = Registry::with_patience(home.settings(), long_patience());
    let blobs = home.blobs();
    let pulling =
        tokio::spawn(async move { registry.pull(&image, &amd64(), &blobs, Arc::new(Unwatched)).await });
    line.held().await;
    server.kill();
    line.release();
    server.start_again();
    assert_eq!(pulling.await.unwrap().unwrap().to_string(), expected);
    assert_once(line.passed(Way::Down), size);
    assert_eq!(home.check_blobs(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stays_dead_ends_the_pull_with_an_error() {
    let (mut server, home) = (Server::open(), Home::new());
    let (_, _) = fill(&server);
    let hold = Some((Way::Down, 3_000_000));
    let line = Line::to(&server.address, Plan { hold, ..Plan::default() }).await;
    let image = reference(&format!("{}/image:v1", line.address));
    let (registry, blobs) = (home.registry(), home.blobs());
    let pulling =
        tokio::spawn(async move { registry.pull(&image, &amd64(), &blobs, Arc::new(Unwatched)).await });
    line.held().await;
    server.kill();
    line.release();
    let error = pulling.await.unwrap().unwrap_err();
    let PullError::Request { what, .. } = &error else { panic!("{error}") };
    assert!(what.starts_with("blob sha256:"), "{what}");
    let _good = home.check_blobs();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_over_a_line_that_breaks_arrives() {
    let server = Server::open();
    let (expected, _) = fill(&server);
    let (home, digest) = pulled(&server).await;
    let other = Server::open();
    let cuts: Vec<u64> = (1..7).map(|part| part * 1_000_000).collect();
    let line = Line::to(&other.address, Plan { cut_up: cuts, ..Plan::default() }).await;
    let target = reference(&format!("{}/image:v1", line.address));
    let watch = Watch::new();
    home.registry().push(&digest, &home.blobs(), &target, watch.clone()).await.unwrap();
    assert_eq!(watch.last().bytes_done, watch.last().bytes_total);
    assert_eq!(skopeo_digest(&format!("docker://{}/image:v1", other.address), &home.path), expected);
    assert_eq!(line.cuts(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_in_a_push_and_comes_back_gets_the_image() {
    let server = Server::open();
    let (expected, _) = fill(&server);
    let (home, digest) = pulled(&server).await;
    let mut other = Server::open();
    let hold = Some((Way::Up, 3_000_000));
    let line = Line::to(&other.address, Plan { hold, ..Plan::default() }).await;
    let target = reference(&format!("{}/image:v1", line.address));
    let registry = Registry::with_patience(home.settings(), long_patience());
    let blobs = home.blobs();
    let pushed = digest.clone();
    let pushing =
        tokio::spawn(async move { registry.push(&pushed, &blobs, &target, Arc::new(Unwatched)).await });
    line.held().await;
    other.kill();
    line.release();
    other.start_again();
    pushing.await.unwrap().unwrap();
    assert_eq!(skopeo_digest(&format!("docker://{}/image:v1", other.address), &home.path), expected);

    let cancelled = Watch::new();
    cancelled.cancel();
    let target = reference(&format!("{}/again:v1", other.address));
    let error = home.registry().push(&digest, &home.blobs(), &target, cancelled).await.unwrap_err();
    assert!(matches!(error, PushError::Cancelled));
}
