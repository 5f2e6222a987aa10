//! Registries that take images in odd ways, or do not.

use std::sync::Arc;

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use shed_image::{DigestHasher, Unwatched};
use shed_registry::{PushError, RequestError};
use shed_types::Digest;

use crate::{
    Home, amd64, chain,
    fake::{Content, Fake, Seen, error, with_header},
    reference,
};

/// A store with an image in it, and the digest of the image.
async fn filled() -> (Home, Digest) {
    let fake = Fake::good(Content::image(&[vec![5; 200_000]])).await;
    let home = Home::new();
    let image = reference(&format!("{}/image:v1", fake.address));
    let digest = home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await.unwrap();
    (home, digest)
}

async fn push(home: &Home, digest: &Digest, fake: &Fake) -> Result<(), PushError> {
    let target = reference(&format!("{}/image:v1", fake.address));
    home.registry().push(digest, &home.blobs(), &target, Arc::new(Unwatched)).await
}

/// Takes everything, as a registry should.
fn take(seen: &Seen, digest: &Digest) -> Response {
    let status = |status: u16, name, value: &str| with_header(status, name, value);
    match seen.method.as_str() {
        "HEAD" => error(404, "", ""),
        "POST" => status(202, "location", "/upload/1?state=hunter2"),
        "GET" => status(204, "range", "0-0"),
        "PATCH" => status(202, "location", "/upload/2?state=hunter2"),
        "PUT" if seen.path.contains("/manifests/") => status(201, "docker-content-digest", digest.as_str()),
        "PUT" => status(201, "x-fine", "yes"),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_another_host_goes_without_a_login() {
    let (home, digest) = filled().await;
    let known = digest.clone();
    let storage = Fake::start(Content::default(), move |seen, _| Some(take(seen, &known))).await;
    let (known, place) = (digest.clone(), format!("http://{}/upload/0", storage.address));
    let fake = Fake::start(Content::default(), move |seen, _| {
        if seen.authorization.is_none() {
            return Some(with_header(401, "www-authenticate", r#"Basic realm="x""#));
        }
        Some(if seen.method == "POST" { with_header(202, "location", &place) } else { take(seen, &known) })
    })
    .await;
    let auth = STANDARD.encode("user:password");
    let _file = home.docker_config(&format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, fake.address));
    push(&home, &digest, &fake).await.unwrap();
    let seen = storage.seen();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
    assert!(seen.iter().any(|seen| seen.is("PUT", "/upload/2?state=hunter2&digest=sha256%3A")), "{seen:?}");
    assert_eq!(fake.count("PUT", "/v2/image/manifests/v1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_and_all_else_ends_in_words() {
    type Way = fn(&Seen, usize) -> Option<Response>;
    let ways: [(&str, Way, Option<&str>); 14] = [
        ("well", |_, _| None, None),
        (
            "no patch at first",
            |seen, before| (seen.method == "PATCH" && before == 0).then(|| error(503, "", "")),
            None,
        ),
        (
            "forgotten",
            |seen, before| {
                (seen.method == "PATCH" && before == 0).then(|| error(404, "BLOB_UPLOAD_UNKNOWN", ""))
            },
            None,
        ),
        (
            "no put at first",
            |seen, before| (seen.method == "PUT" && before == 0).then(|| error(500, "", "")),
            None,
        ),
        (
            "odd range",
            |seen, before| match seen.method.as_str() {
                "PATCH" if before == 0 => Some(error(502, "", "")),
                "GET" => Some(with_header(204, "range", "0-99999999")),
                _ => None,
            },
            None,
        ),
        ("never", |seen, _| (seen.method == "PATCH").then(|| error(500, "UNKNOWN", "never")), Some("never")),
        (
            "forbidden",
            |seen, _| (seen.method == "POST").then(|| error(403, "DENIED", "read only")),
            Some("DENIED: read only"),
        ),
        (
            "bad digest",
            |seen, _| (seen.is("PUT", "/upload")).then(|| error(400, "DIGEST_INVALID", "not that")),
            Some("DIGEST_INVALID: not that"),
        ),
        (
            "nowhere",
            |seen, _| (seen.method == "POST").then(|| with_header(202, "x-x", "")),
            Some("where an upload is to go"),
        ),
        (
            "to a file",
            |seen, _| (seen.method == "POST").then(|| with_header(202, "location", "file:///x")),
            Some("not HTTP"),
        ),
        ("odd head", |seen, _| (seen.method == "HEAD").then(|| with_header(405, "x-x", "")), Some("405")),
        (
            "other digest",
            |seen, _| {
                let other = DigestHasher::sha256_of(b"other").to_string();
                seen.path.contains("/manifests/").then(|| with_header(201, "docker-content-digest", &other))
            },
            Some("has the digest sha256:"),
        ),
        (
            "manifest refused",
            |seen, _| {
                seen.path.contains("/manifests/").then(|| error(400, "MANIFEST_INVALID", "no \u{1b}[2J"))
            },
            Some("MANIFEST_INVALID: no \u{fffd}[2J"),
        ),
        (
            "unsaid",
            |seen, _| match (seen.method.as_str(), seen.path.contains("/manifests/")) {
                ("PUT", true) => Some(with_header(201, "x-x", "")),
                ("GET", true) => Some(Response::new("other".into())),
                _ => None,
            },
            Some("has the digest sha256:"),
        ),
    ];
    let (home, digest) = filled().await;
    for (name, way, expected) in ways {
        let known = digest.clone();
        let fake = Fake::start(Content::default(), move |seen, before| {
            Some(way(seen, before).unwrap_or_else(|| take(seen, &known)))
        })
        .await;
        let result = push(&home, &digest, &fake).await;
        match expected {
            None => assert!(result.is_ok(), "{name}: {}", chain(&result.unwrap_err())),
            Some(expected) => {
                let text = chain(&result.unwrap_err());
                assert!(text.contains(expected) && text.contains(&fake.address), "{name}: {text}");
                assert!(!text.contains("hunter2") && !text.chars().any(char::is_control), "{name}: {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_not_begun() {
    let (home, digest) = filled().await;
    let fake = Fake::start(Content::default(), |_, _| Some(error(418, "", ""))).await;
    let other = DigestHasher::sha256_of(b"other");
    let target = reference(&format!("{}/image@{other}", fake.address));
    let error = home.registry().push(&digest, &home.blobs(), &target, Arc::new(Unwatched)).await.unwrap_err();
    assert!(matches!(error, PushError::OtherImage { .. }), "{error}");
    let config = home.blobs().insert(b"{}").unwrap();
    let target = reference(&format!("{}/image:v1", fake.address));
    let error =
        home.registry().push(&config.digest, &home.blobs(), &target, Arc::new(Unwatched)).await.unwrap_err();
    assert!(matches!(error, PushError::Manifest { .. }), "{error}");
    let layer = DigestHasher::sha256_of(&[5; 200_000]);
    std::fs::remove_file(home.blobs().path(&layer)).unwrap();
    let error = push(&home, &digest, &fake).await.unwrap_err();
    assert!(matches!(&error, PushError::Missing { blob, .. } if *blob == layer), "{error}");
    assert!(fake.seen().is_empty());

    let (home, digest) = filled().await;
    let error = push(&home, &digest, &fake).await.unwrap_err();
    let PushError::Request { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, RequestError::Refused { .. }), "{source}");
}
