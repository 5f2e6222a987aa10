//! Registries that send blobs wrongly, slowly, or not at all.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use shed_image::{BeginBlob, BlobId, DigestHasher, Unwatched};
use shed_registry::{Patience, PullError, Registry, RequestError};
use shed_types::Digest;

use crate::{
    Home, amd64, chain,
    fake::{Content, Fake, broken, error, with_header},
    images::noise,
    patience, reference,
};

/// Where blobs are in a registry of the test.
const BLOBS: &str = "/v2/image/blobs/";

async fn pull(home: &Home, fake: &Fake, patience: Patience) -> Result<Digest, PullError> {
    let registry = Registry::with_patience(home.settings(), patience);
    let image = reference(&format!("{}/image:v1", fake.address));
    registry.pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await
}

/// An image with one layer; returns the layer's path in a registry, too.
fn one_layer() -> (Content, Vec<u8>, String) {
    let layer = noise(9, 300_000);
    let path = format!("{BLOBS}{}", DigestHasher::sha256_of(&layer));
    (Content::image(std::slice::from_ref(&layer)), layer, path)
}

fn request_error(error: PullError) -> RequestError {
    match error {
        PullError::Request { source, .. } => *source,
        other => panic!("{}", chain(&other)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_its_digest_denies_is_fetched_once_more_and_never_stored() {
    type Answer = fn(&[u8]) -> Response;
    let answers: [(&str, Answer); 4] = [
        ("other content", |layer| vec![0; layer.len()].into_response()),
        ("one byte in a long one", |layer| {
            let mut layer = layer.to_vec();
            layer[200_000] ^= 1;
            layer.into_response()
        }),
        ("longer", |layer| [&[7], layer].concat().into_response()),
        ("endless", |_| {
            let piece = || Ok::<_, Infallible>(Bytes::from(vec![1; 10_000]));
            Body::from_stream(futures::stream::repeat_with(piece)).into_response()
        }),
    ];
    for (name, answer) in answers {
        let (content, layer, path) = one_layer();
        let lying = path.clone();
        let bytes = layer.clone();
        let fake =
            Fake::start(content.clone(), move |seen, _| seen.is("GET", &lying).then(|| answer(&bytes))).await;
        let home = Home::new();
        let error = pull(&home, &fake, patience()).await.unwrap_err();
        assert!(matches!(error, PullError::Lie { .. }), "{name}: {}", chain(&error));
        assert!(error.to_string().contains("gave other content for sha256:"), "{error}");
        assert_eq!(fake.count("GET", &path), 2, "{name}");
        // Manifest and config.
        assert_eq!((home.check_blobs(), home.partial_bytes()), (2, 0), "{name}");

        // One that lies only once is forgiven.
        let lying = path.clone();
        let bytes = layer.clone();
        let twist = move |seen: &crate::fake::Seen, before| {
            (seen.is("GET", &lying) && before == 0).then(|| answer(&bytes))
        };
        let fake = Fake::start(content, twist).await;
        let _digest = pull(&home, &fake, patience()).await.unwrap();
        assert_eq!(home.check_blobs(), 3, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_of_an_earlier_pull_is_thrown_away() {
    let (content, layer, path) = one_layer();
    let (fake, home) = (Fake::good(content).await, Home::new());
    let id = BlobId { digest: DigestHasher::sha256_of(&layer), size: layer.len() as u64 };
    let BeginBlob::Write(mut writer) = home.blobs().begin(&id).unwrap() else { panic!("it is there") };
    writer.write(&[0; 1000]).unwrap();
    drop(writer);
    let _digest = pull(&home, &fake, patience()).await.unwrap();
    let ranges: Vec<_> =
        fake.seen().into_iter().filter(|seen| seen.is("GET", &path)).map(|seen| seen.range).collect();
    assert_eq!(ranges, [Some("bytes=1000-".to_owned()), None]);
    assert_eq!(home.check_blobs(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_too_early_is_continued_however_the_registry_does_it() {
    type Next = fn(&Content, &crate::fake::Seen, &[u8]) -> Option<Response>;
    // What the registry answers to the range, and how often it is asked in all.
    let ways: [(&str, Next, usize); 6] = [
        ("well", |content, seen, _| Some(content.answer(seen)), 2),
        ("from the beginning", |_, _, layer| Some(layer.to_vec().into_response()), 2),
        (
            "not at all",
            |_, seen, layer| {
                let whole = || layer.to_vec().into_response();
                Some(if seen.range.is_some() {
                    StatusCode::RANGE_NOT_SATISFIABLE.into_response()
                } else {
                    whole()
                })
            },
            3,
        ),
        (
            "elsewhere",
            |_, seen, layer| {
                let mut answer = layer[5..].to_vec().into_response();
                if seen.range.is_some() {
                    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                    let range = format!("bytes 5-{}/{}", layer.len() - 1, layer.len());
                    let _before = answer.headers_mut().insert("content-range", range.parse().unwrap());
                    return Some(answer);
                }
                Some(layer.to_vec().into_response())
            },
            3,
        ),
        (
            "without a word",
            |_, seen, layer| {
                let mut answer = layer.to_vec().into_response();
                if seen.range.is_some() {
                    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                }
                Some(answer)
            },
            3,
        ),
        (
            |_, seen, layer| {
                let Some(range) = &seen.range else { return Some(layer.to_vec().into_response()) };
                let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
                let to = (from + 100_000).min(layer.len());
                let mut answer = layer[from..to].to_vec().into_response();
                *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {from}-{}/{}", to - 1, layer.len());
                let _before = answer.headers_mut().insert("content-range", range.parse().unwrap());
                Some(answer)
            },
            3,
        ),
    ];
    for (name, next, requests) in ways {
        for clean_end in [false, true] {
            let (content, layer, path) = one_layer();
            let (twisted, own) = (path.clone(), content.clone());
            let fake = Fake::start(content, move |seen, before| {
                if !seen.is("GET", &twisted) {
                    return None;
                }
                let half = layer[..100_000].to_vec();
                match before {
                    0 if clean_end => Some(half.into_response()),
                    0 => Some(broken(200, layer.len(), half)),
                    _ => next(&own, seen, &layer),
                }
            })
            .await;
            let home = Home::new();
            let result = pull(&home, &fake, patience()).await;
            assert!(result.is_ok(), "{name}: {}", chain(&result.unwrap_err()));
            // When a connection breaks, what came last may be lost: then there is nothing to continue.
            let asked = fake.count("GET", &path);
            assert!(asked == requests || (!clean_end && asked == 2), "{name}, {clean_end}: {asked}");
            assert_eq!(home.check_blobs(), 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_never_gets_further_ends_with_an_error() {
    let (content, layer, path) = one_layer();
    let short = path.clone();
    let half = layer[..100_000].to_vec();
    // Shorter than the manifest says, and consistent in that.
    let fake = Fake::start(content, move |seen, _| {
        let answer = || match seen.range {
            Some(_) => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
            None => half.clone().into_response(),
        };
        seen.is("GET", &short).then(answer)
    })
    .await;
    let home = Home::new();
    let error = pull(&home, &fake, patience()).await.unwrap_err();
    assert!(chain(&error).contains("sent 100000 of 300000 bytes and ended"), "{}", chain(&error));
    assert!(fake.count("GET", &path) <= 6);
    assert_eq!(home.check_blobs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_and_what_is_final_is_not() {
    for (status, requests) in
        [(429, 2), (500, 2), (502, 2), (503, 2), (504, 2), (400, 1), (403, 1), (404, 1), (501, 1)]
    {
        let (content, _, path) = one_layer();
        let twisted = path.clone();
        let fake = Fake::start(content, move |seen, before| {
            (seen.is("GET", &twisted) && before == 0).then(|| error(status, "TEST", "not now"))
        })
        .await;
        let home = Home::new();
        let result = pull(&home, &fake, patience()).await;
        assert_eq!(result.is_ok(), requests == 2, "{status}");
        if let Err(error) = result {
            let text = chain(&error);
            assert!(text.contains(&status.to_string()) && text.contains("TEST: not now"), "{text}");
        }
        assert_eq!(fake.count("GET", &path), requests, "{status}");
    }
    let (content, _, path) = one_layer();
    let twisted = path.clone();
    let fake =
        Fake::start(content, move |seen, _| seen.is("GET", &twisted).then(|| error(500, "", "never"))).await;
    let error = pull(&Home::new(), &fake, patience()).await.unwrap_err();
    assert!(chain(&error).contains("answered 500 Internal Server Error, never"), "{}", chain(&error));
    assert_eq!(fake.count("GET", &path), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_pause_gets_it() {
    for (pause, least) in [("1", 1000), ("100000", 2000), ("soon", 0)] {
        let (content, _, path) = one_layer();
        let fake = Fake::start(content, move |seen, before| {
            (seen.is("GET", &path) && before == 0).then(|| with_header(429, "retry-after", pause))
        })
        .await;
        let began = Instant::now();
        let _digest = pull(&Home::new(), &fake, patience()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(least), "{pause}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_or_drips_is_given_up_and_continued() {
    let (content, layer, path) = one_layer();
    let half = Bytes::from(layer[..150_000].to_vec());
    type Rest = fn() -> futures::stream::BoxStream<'static, Result<Bytes, Infallible>>;
    let rests: [(&str, Rest); 2] = [
        ("nothing", || futures::stream::pending().boxed()),
        ("drops", || {
            let drop = async || {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Ok(Bytes::from_static(&[0])), ()))
            };
            futures::stream::unfold((), move |()| drop()).boxed()
        }),
    ];
    for (name, rest) in rests {
        let patience = Patience { quiet: Duration::from_secs(2), tries: 2, ..patience() };
        for heals in [true, false] {
            let (stalled, half) = (path.clone(), half.clone());
            let fake = Fake::start(content.clone(), move |seen, before| {
                if !seen.is("GET", &stalled) || (heals && before > 0) {
                    return None;
                }
                let first = futures::stream::once(std::future::ready(Ok::<_, Infallible>(half.clone())));
                let first = if seen.range.is_none() {
                    first.left_stream()
                } else {
                    futures::stream::empty().right_stream()
                };
                let mut answer = Body::from_stream(first.chain(rest())).into_response();
                if let Some(range) = &seen.range {
                    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                    let range = format!("{}-299999/300000", range.replace('=', " ").trim_end_matches('-'));
                    let _before = answer.headers_mut().insert("content-range", range.parse().unwrap());
                }
                Some(answer)
            })
            .await;
            let home = Home::new();
            let result = pull(&home, &fake, patience.clone()).await;
            if heals && name == "nothing" {
                let _digest = result.unwrap();
                assert_eq!(fake.count("GET", &path), 2);
            } else if heals {
                // The drops were wrong as well, which its digest tells.
                let _digest = result.unwrap();
            } else {
                let error = request_error(result.unwrap_err());
                assert!(matches!(error, RequestError::Stalled { .. }), "{name}: {error}");
                assert!(error.to_string().contains("for 2 seconds"), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_on_another_host_gets_no_login() {
    let (content, _, _) = one_layer();
    let storage = Fake::good(content.clone()).await;
    let to = format!("http://{}", storage.address);
    let fake = Fake::start(content, move |seen, _| {
        if seen.authorization.is_none() {
            return Some(with_header(401, "www-authenticate", r#"Basic realm="x""#));
        }
        seen.is("GET", BLOBS)
            .then(|| with_header(307, "location", &format!("{to}{}?signature=hunter2", seen.path)))
    })
    .await;
    let home = Home::new();
    let auth = STANDARD.encode("user:password");
    let _file = home.docker_config(&format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, fake.address));
    // The storage of the test knows no queries, so it has nothing of that name.
    let error = pull(&home, &fake, patience()).await.unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains(&storage.address) && !text.contains("hunter2") && !text.contains("password"),
        "{text}"
    );
    let seen = storage.seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
    assert!(fake.seen().iter().any(|seen| seen.authorization.as_deref() == Some(&format!("Basic {auth}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_somewhere_else_or_nowhere() {
    let cases = [
        ("/v2/image/blobs/again", "redirects more than 5 times"),
        ("", "redirects to nowhere"),
        ("ftp://storage.example/x", "not HTTP"),
        ("file:///etc/passwd", "not HTTP"),
        ("http://[", "no address"),
    ];
    for (location, reason) in cases {
        let (content, _, _) = one_layer();
        let fake = Fake::start(content, move |seen, _| {
            let redirect = || match location {
                "" => StatusCode::FOUND.into_response(),
                location => with_header(302, "location", location),
            };
            seen.is("GET", BLOBS).then(redirect)
        })
        .await;
        let error = request_error(pull(&Home::new(), &fake, patience()).await.unwrap_err());
        assert!(matches!(error, RequestError::Nonsense { .. }), "{location}: {error}");
        assert!(error.to_string().contains(reason), "{location}: {error}");
    }
}
