//! Pulls from and pushes to a real registry.

use std::sync::Arc;

use reqwest::Client;
use shed_image::{ImageStep, Platform, Unwatched};
use shed_registry::{PullError, PushError};

use crate::{
    Home, Watch, amd64, chain,
    images::{layout, noise, skopeo_copy, skopeo_digest},
    reference,
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_pulled_pushed_and_pulled_again_is_the_same() {
    let (server, home) = (Server::open(), Home::new());
    let address = &server.address;
    let image =
        layout(&home, &[noise(1, 3_000_000), b"small".to_vec(), noise(2, 100_000), b"small".to_vec()]);
    for format in ["oci", "v2s2"] {
        let (first, second) = (format!("{address}/some/{format}:v1"), format!("{address}/other/{format}"));
        skopeo_copy(&image, &format!("docker://{first}"), &["--format", format], &home.path);
        let expected = skopeo_digest(&format!("docker://{first}"), &home.path);

        let (watch, store) = (Watch::new(), Home::new());
        let registry = store.registry();
        let pulled =
            registry.pull(&reference(&first), &amd64(), &store.blobs(), watch.clone()).await.unwrap();
        assert_eq!(pulled.to_string(), expected);
        let last = watch.last();
        assert_eq!(last.step, ImageStep::Download);
        assert_eq!((last.bytes_done, last.layers_done), (last.bytes_total, last.layers_total));
        assert!(last.bytes_total > 3_000_000 && last.layers_total == 4, "{last:?}");
        assert_eq!(store.partial_bytes(), 0);

        let watch = Watch::new();
        registry.push(&pulled, &store.blobs(), &reference(&second), watch.clone()).await.unwrap();
        assert_eq!(watch.last().bytes_done, last.bytes_total);
        assert_eq!(skopeo_digest(&format!("docker://{second}:latest"), &home.path), expected);
        // Once more changes nothing, and so it is by digest.
        registry.push(&pulled, &store.blobs(), &reference(&second), Arc::new(Unwatched)).await.unwrap();
        let by_digest = reference(&format!("{second}@{expected}"));
        registry.push(&pulled, &store.blobs(), &by_digest, Arc::new(Unwatched)).await.unwrap();

        let third = Home::new();
        let again = third.registry().pull(&by_digest, &amd64(), &third.blobs(), Arc::new(Unwatched)).await;
        assert_eq!(again.unwrap(), pulled);
        assert_eq!(third.check_blobs(), store.check_blobs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_of_the_platform() {
    let (server, home) = (Server::open(), Home::new());
    let mut entries = Vec::new();
    for (architecture, seed) in [("amd64", 1), ("arm64", 2)] {
        let source = Home::new();
        let image = layout(&source, &[noise(seed, 1000)]);
        let arguments = ["config", "--image", "layout:image", "--architecture", architecture];
        let _configured = crate::run("umoci", &arguments, &source.path);
        let target = format!("docker://{}/multi:{architecture}", server.address);
        skopeo_copy(&image, &target, &[], &source.path);
        let raw = crate::run("skopeo", &["inspect", "--raw", "--tls-verify=false", &target], &source.path);
        entries.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},
               "platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            skopeo_digest(&target, &source.path),
            raw.len(),
        ));
    }
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{index_type}","manifests":[{}]}}"#, entries.join(","));
    let url = format!("http://{}/v2/multi/manifests/all", server.address);
    let put = Client::new().put(url).header("content-type", index_type).body(index.clone()).send().await;
    assert!(put.unwrap().status().is_success());

    let (registry, blobs) = (home.registry(), home.blobs());
    let all = reference(&format!("{}/multi:all", server.address));
    let mut digests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let platform = Platform { architecture: architecture.to_owned(), ..amd64() };
        let pulled = registry.pull(&all, &platform, &blobs, Arc::new(Unwatched)).await.unwrap();
        let expected =
            skopeo_digest(&format!("docker://{}/multi:{architecture}", server.address), &home.path);
        assert_eq!(pulled.to_string(), expected);
        digests.push(pulled);
    }
    assert_ne!(digests[0], digests[1]);
    // Two images of three blobs each, and the index.
    assert_eq!(home.check_blobs(), 7);

    let riscv = Platform { architecture: "riscv64".to_owned(), ..amd64() };
    let error = registry.pull(&all, &riscv, &blobs, Arc::new(Unwatched)).await.unwrap_err();
    assert!(matches!(error, PullError::NoPlatform { .. }));
    let text = chain(&error);
    assert!(text.contains("linux/riscv64") && text.contains("linux/amd64, linux/arm64"), "{text}");
    // Without an index, the config tells.
    let one = reference(&format!("{}/multi:arm64", server.address));
    let error = registry.pull(&one, &amd64(), &blobs, Arc::new(Unwatched)).await.unwrap_err();
    assert!(chain(&error).ends_with("it is not there for linux/amd64, but for linux/arm64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let (server, home) = (Server::open(), Home::new());
    let (registry, blobs) = (home.registry(), home.blobs());
    let missing = reference(&format!("{}/none:v1", server.address));
    let error = registry.pull(&missing, &amd64(), &blobs, Arc::new(Unwatched)).await.unwrap_err();
    let text = chain(&error);
    for part in [missing.as_str(), "manifest v1", "404", "MANIFEST_UNKNOWN", "check the name", "docker login"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let digest = shed_image::DigestHasher::sha256_of(b"never seen");
    let error = registry.push(&digest, &blobs, &missing, Arc::new(Unwatched)).await.unwrap_err();
    assert!(matches!(error, PushError::Missing { .. }), "{error}");
    let unreachable = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("{}/x", free.local_addr().unwrap())
    };
    let error =
        registry.pull(&reference(&unreachable), &amd64(), &blobs, Arc::new(Unwatched)).await.unwrap_err();
    assert!(chain(&error).contains("cannot reach 127.0.0.1:"), "{}", chain(&error));
}
