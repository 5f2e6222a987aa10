//! List, delete and prune images; names that are none, and paths that look alike.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use shed_image::{ImageOrigin, ImageStore};
use shed_types::ImageName;

use crate::{
    api::Api,
    common::{send, send_with},
};

const REFERENCE: &str = "ghcr.io/owner/tools:v1";

/// The API with these images cached beside `base`, and what a test needs of its directory.
struct Images {
    api: Api,
    store: ImageStore,
}

impl Images {
    /// `configured` are entries of `images:`; a value that begins with a slash is a file of the images directory.
    async fn with(cached: &[&str], configured: &[(&str, &str)]) -> Self {
        let mut dir = Utf8PathBuf::new();
        let api = Api::with(|settings| {
            dir = settings.images_dir.clone();
            let store = ImageStore::new(&dir);
            for image in cached {
                fs::write(store.rootfs(&name(image)), "1234").unwrap();
            }
            for (image, origin) in configured {
                let origin = match origin.strip_prefix('/') {
                    Some(file) => ImageOrigin::Path(dir.join(file)),
                    None => ImageOrigin::Reference(origin.parse().unwrap()),
                };
                settings.images.insert(name(image), origin);
            }
        })
        .await;
        Self { api, store: ImageStore::new(dir) }
    }

    async fn send(&self, method: &str, path: &str) -> crate::common::RawReply {
        self.api.send(method, path, "").await
    }

    fn source(&self, image: &str, text: &str) {
        fs::write(self.store.source(&name(image)), text).unwrap();
    }

    fn dir(&self) -> &Utf8Path {
        self.store.dir()
    }

    /// Puts a word for the directory, which differs from run to run.
    fn redact(&self, body: &str) -> Value {
        serde_json::from_str(&body.replace(self.dir().as_str(), "[images]")).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = self.dir().read_dir_utf8().unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_owned()).collect();
        names.sort();
        names
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_json_of_each_reply_keeps_its_shape() {
    let images = Images::with(
        &["custom", "tools", "used", "old", "_base"],
        &[("tools", REFERENCE), ("absent", "ghcr.io/owner/absent:v1"), ("mine", "/custom-rootfs.ext4")],
    )
    .await;
    images.source("tools", &format!("{REFERENCE}\n"));
    images.source("old", "ghcr.io/owner/old:v1\n");
    images.source("base", "recipe:base\n");
    let reply = images.send("GET", "/api/images").await;
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "application/json"));
    insta::assert_json_snapshot!("images", images.redact(&reply.body));

    let body = json!({ "name": "api", "image": "used" }).to_string();
    assert_eq!(images.api.send("POST", "/api/sheds", body).await.status, 201);
    let preview = images.send("POST", "/api/images/prune?dry_run=true").await;
    assert_eq!((preview.status, preview.headers["content-type"].as_str()), (200, "application/json"));
    insta::assert_json_snapshot!("images_pruned", images.redact(&preview.body));
    let pruned = images.send("POST", "/api/images/prune?dry_run=false").await;
    assert_eq!(pruned.body, preview.body, "a dry run promises what is then done");
    insta::assert_snapshot!(images.send("POST", "/api/images/prune").await.body, @r#"{"deleted":[]}"#);

    let reply = images.send("DELETE", "/api/images/used").await;
    assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    let reply = images.send("DELETE", "/api/images/used").await;
    insta::assert_snapshot!(reply.body, @r#"{"error":{"code":"IMAGE_NOT_FOUND","message":"there is no cached image `used`"}}"#);
    let reply = images.send("DELETE", "/api/images/tools").await;
    insta::assert_snapshot!(reply.body, @r#"{"error":{"code":"IMAGE_IN_USE","message":"image `tools` is in use by the server's config, as `images.tools`; take it out of there first"}}"#);
    assert_eq!(
        images.files(),
        [
            ".cache",
            "_base-rootfs.ext4.lock",
            "base-rootfs.ext4",
            "base-rootfs.ext4.source",
            "custom-rootfs.ext4",
            "initrd",
            "kernel",
            "old-rootfs.ext4.lock",
            "tools-rootfs.ext4",
            "tools-rootfs.ext4.source",
            "used-rootfs.ext4.lock"
        ]
    );
}

#[tokio::test]
async fn an_image_is_deleted_unless_the_config_names_it_or_somebody_is_at_it() {
    let images =
        Images::with(&["free", "tools", "busy", "_base"], &[("mine", "/tools-rootfs.ext4"), ("absent", "x")])
            .await;
    let lock = images.store.lock(&name("busy")).unwrap();
    for (image, expected) in [
        ("mine", (409, "IMAGE_IN_USE")),
        ("tools", (409, "IMAGE_IN_USE")),
        ("absent", (409, "IMAGE_IN_USE")),
        ("busy", (409, "IMAGE_IN_USE")),
        ("none", (404, "IMAGE_NOT_FOUND")),
        ("_base", (404, "IMAGE_NOT_FOUND")),
    ] {
        let error = images.send("DELETE", &format!("/api/images/{image}")).await.error();
        assert_eq!(error, (expected.0, expected.1.to_owned()), "{image}");
    }
    drop(lock);
    assert_eq!(images.send("DELETE", "/api/images/busy").await.status, 204);
    assert_eq!(images.send("DELETE", "/api/images/%66ree?keep=1").await.status, 204);
    let left = images.store.list().unwrap().into_iter().map(|image| image.name.to_string());
    assert_eq!(left.collect::<Vec<_>>(), ["_base", "base", "tools"]);
}

#[tokio::test]
async fn names_that_are_no_images_are_refused_and_reach_no_file() {
    let images = Images::with(&["free"], &[]).await;
    let before = images.files();
    let long = "a".repeat(129);
    for hostile in [
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%2Fetc",
        "free%2F..%2Ffree",
        "free%2f",
        ".cache",
        "-n",
        "a%20b",
        "a%00",
        "free%00",
        "%FF",
        "%C3%BC",
        "%0d%0ax",
        "a%3Fb",
        "a:b",
        "ghcr.io%2Fa%2Fb",
        "*",
        &long,
    ] {
        let reply = images.send("DELETE", &format!("/api/images/{hostile}")).await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{hostile}");
    }
    for (path, error) in [
        ("/api/images/", (404, "NOT_FOUND")),
        ("/api/images//", (404, "NOT_FOUND")),
        ("/api/images/a/b", (404, "NOT_FOUND")),
        ("/api/images/../images/free", (404, "NOT_FOUND")),
        ("/api/images", (405, "METHOD_NOT_ALLOWED")),
        (&format!("/api/images/{}", "a".repeat(128)), (404, "IMAGE_NOT_FOUND")),
        ("/api/images/free-rootfs.ext4", (404, "IMAGE_NOT_FOUND")),
        ("/api/images/free-rootfs.ext4.source", (404, "IMAGE_NOT_FOUND")),
    ] {
        assert_eq!(images.send("DELETE", path).await.error(), (error.0, error.1.into()), "{path}");
    }
    assert_eq!(images.files(), before, "not even a lock is made");
}

#[tokio::test]
async fn an_image_may_be_called_prune() {
    let images = Images::with(&["prune", "pruned"], &[]).await;
    let dry = images.send("POST", "/api/images/prune?dry_run=true").await.json();
    assert_eq!(dry["deleted"].as_array().unwrap().len(), 2);
    assert_eq!(images.send("DELETE", "/api/images/prune").await.status, 204);
    assert_eq!(images.send("DELETE", "/api/images/prune").await.error(), (404, "IMAGE_NOT_FOUND".into()));
    let left = images.store.list().unwrap().into_iter().map(|image| image.name.to_string());
    assert_eq!(left.collect::<Vec<_>>(), ["base", "pruned"]);
    for (method, path, allowed) in [
        ("POST", "/api/images/pruned", "DELETE"),
        ("POST", "/api/images/%70rune", "DELETE"),
        ("GET", "/api/images/base", "DELETE"),
        ("GET", "/api/images/prune", "POST,DELETE"),
        ("POST", "/api/images", "GET,HEAD"),
    ] {
        let reply = images.send(method, path).await;
        assert_eq!(reply.error(), (405, "METHOD_NOT_ALLOWED".into()), "{method} {path}");
        assert_eq!(reply.headers["allow"], allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_query_is_read_to_the_letter() {
    let images = Images::with(&["old"], &[]).await;
    for query in
        ["dry_run", "dry_run=", "dry_run=1", "dry_run=True", "dry_run=true&dry_run=true", "dry_run=%00"]
    {
        let reply = images.send("POST", &format!("/api/images/prune?{query}")).await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{query}");
    }
    assert!(images.store.rootfs(&name("old")).exists());
    assert_eq!(send(images.api.port, "POST", "/api/images/prune?other=1", "ignored").await.status, 200);
    assert!(!images.store.rootfs(&name("old")).exists());
}

#[tokio::test]
async fn a_web_page_cannot_remove_images() {
    let images = Images::with(&["old"], &[]).await;
    for (method, path) in [("POST", "/api/images/prune"), ("DELETE", "/api/images/old")] {
        let reply = send_with(images.api.port, method, path, "origin: http://x\r\n", "").await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{method} {path}");
    }
    assert!(images.store.rootfs(&name("old")).exists());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_the_prune_and_is_named() {
    let images = Images::with(&["old"], &[]).await;
    let damaged = images.api.instance_dir().join("bad");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("metadata.json"), "{").unwrap();
    for query in ["", "?dry_run=true"] {
        let reply = images.send("POST", &format!("/api/images/prune{query}")).await;
        assert_eq!(reply.error(), (500, "BACKEND_ERROR".into()));
        assert!(reply.message().contains(damaged.as_str()), "{reply:?}");
    }
    assert!(images.store.rootfs(&name("old")).exists());
}

#[tokio::test]
async fn what_cannot_be_removed_is_an_error_only_when_nothing_else_went() {
    let images = Images::with(&["stuck", "old"], &[]).await;
    fs::create_dir(images.store.source(&name("stuck"))).unwrap();
    let reply = images.send("POST", "/api/images/prune").await;
    assert_eq!((reply.status, &reply.json()["deleted"][0]["name"]), (200, &json!("old")));
    let reply = images.send("POST", "/api/images/prune").await;
    assert_eq!(reply.error(), (500, "BACKEND_ERROR".into()));
    assert!(reply.message().contains("stuck"), "{reply:?}");
}

#[tokio::test]
async fn a_create_from_a_reference_that_is_not_cached_and_cannot_be_pulled_says_why() {
    let images = Images::with(&["tools"], &[("tools", REFERENCE)]).await;
    let create = |image: &str| json!({ "name": "api", "image": image }).to_string();
    let reply = images.api.send("POST", "/api/sheds", create("tools")).await;
    assert_eq!(reply.error(), (502, "IMAGE_PULL_FAILED".into()));
    let message =
        format!("could not get image `tools` from {REFERENCE}: no registry has {REFERENCE} in this test");
    assert_eq!(reply.message(), message);
    let reply = images.api.send("POST", "/api/sheds", create("busybox")).await;
    assert_eq!(reply.error(), (400, "UNKNOWN_IMAGE".into()));
    let hint =
        "this server has: base, tools. One in a registry is asked for with its tag, like `busybox:latest`";
    assert!(reply.message().contains(hint), "{reply:?}");
    for none in ["/etc/passwd", "~/none", "/no/such", "a:b:c", "owner/Tools"] {
        let reply = images.api.send("POST", "/api/sheds", create(none)).await;
        assert_eq!(reply.error(), (400, "UNKNOWN_IMAGE".into()), "{none}");
    }
    assert_eq!(
        images.api.send("POST", "/api/sheds", create("_base")).await.error(),
        (400, "UNKNOWN_IMAGE".into())
    );
    images.source("tools", REFERENCE);
    assert_eq!(images.api.send("POST", "/api/sheds", create("tools")).await.status, 201);
}

#[tokio::test]
async fn the_image_of_sheds_that_name_none_is_in_use() {
    let mut api = Api::new().await;
    let refused = api.send("DELETE", "/api/images/base", "").await;
    assert_eq!(refused.error(), (409, "IMAGE_IN_USE".to_owned()));
    assert!(refused.message().contains("base_rootfs"), "{}", refused.message());
    api.create("still").await;
    api.client.delete(&"still".parse().unwrap()).await.unwrap();
    api.end().await;
}
