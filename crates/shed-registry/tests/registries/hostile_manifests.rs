//! Registries whose manifests, indexes, logins and words are not what they should be.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use shed_image::{DigestHasher, Unwatched};
use shed_registry::{PullError, RequestError};
use shed_types::Digest;

use crate::{
    Home, amd64, chain,
    fake::{Content, Fake, OCI_INDEX, error, with_header},
    reference,
};

async fn pull(home: &Home, fake: &Fake, image: &str) -> Result<Digest, PullError> {
    let image = reference(&format!("{}/{image}", fake.address));
    home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await
}

fn small() -> Content {
    Content::image(&[b"layer".to_vec()])
}

/// Answers the manifest `v1` with this.
async fn with_manifest(answer: impl Fn() -> Response + Send + Sync + 'static) -> Fake {
    Fake::start(small(), move |seen, _| seen.is("GET", "/v2/image/manifests/").then(&answer)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_is_refused_in_words() {
    type Answer = fn() -> Response;
    let answers: [(Answer, &str); 8] = [
        (|| ([("content-type", "text/html")], "<html>Sign in</html>").into_response(), "it is no manifest"),
        (|| "".into_response(), "it is no manifest"),
        (|| r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.into_response(), "schema 1"),
        (|| r#"{"schemaVersion":2}"#.into_response(), "neither layers nor manifests"),
        (|| r#"{"schemaVersion":2,"manifests":[]}"#.into_response(), "but for nothing"),
        (|| vec![b' '; (4 << 20) + 1].into_response(), "longer than 4194304 bytes"),
        (
            || {
                let piece = || Ok::<_, Infallible>(Bytes::from(vec![b' '; 10_000]));
                Body::from_stream(futures::stream::repeat_with(piece)).into_response()
            },
            "longer than 4194304 bytes",
        ),
        (
            || format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)).into_response(),
            "schema 0",
        ),
    ];
    for (answer, reason) in answers {
        let (fake, home) = (with_manifest(answer).await, Home::new());
        let error = pull(&home, &fake, "image:v1").await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(reason) && text.contains(&fake.address), "{reason}: {text}");
        assert!(text.len() < 1500, "{} bytes", text.len());
        assert_eq!(fake.count("GET", "/v2/image/manifests/v1"), 1);
        let _good = home.check_blobs();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_what_its_digest_says() {
    let content = small();
    let good = content.manifests["v1"].1.clone();
    let digest = DigestHasher::sha256_of(&good);
    let home = Home::new();
    // The header says another, or nothing that can be checked.
    for told in [DigestHasher::sha256_of(b"other").to_string(), "md5:1234".to_owned()] {
        let bytes = good.clone();
        let header = told.clone();
        let fake = with_manifest(move || {
            ([("docker-content-digest", header.clone())], bytes.clone()).into_response()
        })
        .await;
        let error = pull(&home, &fake, "image:v1").await.unwrap_err();
        assert!(matches!(error, PullError::Lie { .. }) && error.to_string().contains(&told), "{error}");
    }
    // The content is another than the one asked for.
    let fake = with_manifest(|| r#"{"schemaVersion":2,"manifests":[]}"#.into_response()).await;
    let error = pull(&home, &fake, &format!("image:v1@{digest}")).await.unwrap_err();
    assert!(matches!(error, PullError::Lie { .. }), "{error}");
    assert_eq!(home.check_blobs(), 0);
    // A registry may use another algorithm, or none.
    let mut sha512 = shed_image::DigestHasher::new(shed_types::DigestAlgorithm::Sha512);
    sha512.update(&good);
    let sha512 = sha512.finish();
    for told in [Some(sha512.to_string()), None] {
        let bytes = good.clone();
        let fake = with_manifest(move || {
            let mut answer = bytes.clone().into_response();
            if let Some(told) = &told {
                let _before = answer.headers_mut().insert("docker-content-digest", told.parse().unwrap());
            }
            answer
        })
        .await;
        assert_eq!(pull(&home, &fake, "image:v1").await.unwrap(), digest);
        let by_long = Home::new();
        assert_eq!(pull(&by_long, &fake, &format!("image@{sha512}")).await.unwrap(), sha512);
        assert_eq!(by_long.check_blobs(), 3);
    }
}

fn index(entries: &[(&Digest, usize)]) -> Vec<u8> {
    let entry = |(digest, size): &(&Digest, usize)| {
        format!(
            r#"{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}"#
        )
    };
    let entries: Vec<String> = entries.iter().map(entry).collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","))
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_lead_in_circles_end() {
    // An index that names a digest which the registry answers with that same index.
    let claimed = DigestHasher::sha256_of(b"claimed");
    let circle = index(&[(&claimed, 500)]);
    let fake = with_manifest(move || circle.clone().into_response()).await;
    let home = Home::new();
    let error = pull(&home, &fake, "image:v1").await.unwrap_err();
    assert!(matches!(error, PullError::Lie { .. }), "{error}");
    assert_eq!(fake.count("GET", "/v2/"), 2);
    // Many honest indexes within each other: a few are looked into.
    for (depth, fits) in [(1, true), (3, true), (4, false), (50, false)] {
        let mut content = small();
        let (_, bytes) = content.manifests["v1"].clone();
        let mut last = (DigestHasher::sha256_of(&bytes), bytes.len());
        for _ in 0..depth {
            let bytes = index(&[(&last.0, last.1)]);
            let length = bytes.len();
            last = (content.manifest("deep", OCI_INDEX, &bytes), length);
        }
        let fake = Fake::good(content).await;
        let result = pull(&Home::new(), &fake, "image:deep").await;
        assert_eq!(result.is_ok(), fits, "{depth}");
        if let Err(error) = result {
            assert!(error.to_string().contains("indexes lie within each other"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_claims_to_be_huge_is_not_begun() {
    let mut content = small();
    let text = String::from_utf8(content.manifests["v1"].1.clone()).unwrap();
    let huge = text.replace(r#""size":5}"#, r#""size":99999999999999}"#);
    assert_ne!(huge, text);
    let _digest = content.manifest("v1", crate::fake::OCI_MANIFEST, huge.as_bytes());
    let (fake, home) = (Fake::good(content).await, Home::new());
    let error = pull(&home, &fake, "image:v1").await.unwrap_err();
    assert!(matches!(error, PullError::TooLarge { .. }), "{error}");
    assert_eq!(fake.count("GET", "/v2/image/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lets_nobody_in_is_asked_twice_and_no_more() {
    let auth = STANDARD.encode("user:hunter2");
    let basic = r#"Basic realm="x""#;
    let cases: [(Option<&str>, bool, usize, &str); 5] = [
        (None, false, 1, "not in a way that is known"),
        (Some("Negotiate"), true, 1, "not in a way that is known"),
        (Some(basic), false, 1, "wants a login"),
        (Some(basic), true, 2, "did not accept the login"),
        (Some(r#"Bearer realm="http://[""#), true, 1, "address of its token server is none"),
    ];
    for (challenge, has_login, requests, reason) in cases {
        let fake = Fake::start(small(), move |_, _| {
            Some(match challenge {
                Some(challenge) => with_header(401, "www-authenticate", challenge),
                None => error(401, "UNAUTHORIZED", "hunter2 is not known"),
            })
        })
        .await;
        let home = Home::new();
        if has_login {
            let config = format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, fake.address);
            let _file = home.docker_config(&config);
        }
        let text = chain(&pull(&home, &fake, "image:v1").await.unwrap_err());
        assert!(text.contains(reason), "{challenge:?}: {text}");
        assert_eq!(fake.count("GET", "/v2/"), requests, "{challenge:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_servers_are_not_trusted_either() {
    type Answer = fn() -> Response;
    let answers: [(Answer, &str); 7] = [
        (|| r#"{"token":"abc"}"#.into_response(), "wants a login"),
        (|| "<html>".into_response(), "gives no token"),
        (|| r#"{"token":"a\nb"}"#.into_response(), "gives no token"),
        (|| vec![b' '; 300_000].into_response(), "longer than"),
        (|| with_header(302, "location", "/elsewhere"), "redirects a login"),
        (|| error(401, "UNAUTHORIZED", "who are you"), "who are you"),
        (|| error(404, "", ""), "404"),
    ];
    for (answer, reason) in answers {
        let fake = Fake::start(small(), move |seen, _| {
            if seen.path.starts_with("/token") {
                return Some(answer());
            }
            // By a relative address, which is allowed.
            Some(with_header(401, "www-authenticate", r#"Bearer realm="/token",service="s""#))
        })
        .await;
        let text = chain(&pull(&Home::new(), &fake, "image:v1").await.unwrap_err());
        assert!(text.contains(reason), "{reason}: {text}");
        assert_eq!(fake.count("GET", "/token"), 1, "{reason}");
        assert!(fake.count("GET", "/v2/") <= 2, "{reason}");
    }
    // One that fails for a moment is asked again, together with the registry.
    let fake = Fake::start(small(), move |seen, before| {
        if seen.path.starts_with("/token") {
            return Some(if before == 0 { error(503, "", "") } else { r#"{"token":"abc"}"#.into_response() });
        }
        let good = seen.authorization.as_deref() == Some("Bearer abc");
        (!good).then(|| with_header(401, "www-authenticate", r#"Bearer realm="/token""#))
    })
    .await;
    let _digest = pull(&Home::new(), &fake, "image:v1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrys_words_cannot_harm_a_terminal() {
    for status in [400, 403, 404, 501] {
        let fake = with_manifest(move || {
            error(status, "\u{1b}[31mEVIL", &"\u{1b}]0;x\u{7}\r\n\u{202e}".repeat(2000))
        })
        .await;
        let error = pull(&Home::new(), &fake, "image:v1").await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains("EVIL") && text.contains(&status.to_string()), "{text:?}");
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.chars().count() < 1000, "{}", text.len());
        let PullError::Request { source, .. } = &error else { panic!("{error}") };
        let fits = matches!(
            (status, &**source),
            (403, RequestError::Denied { .. })
                | (404, RequestError::NotFound { .. })
                | (400 | 501, RequestError::Refused { .. })
        );
        assert!(fits, "{source:?}");
    }
}
