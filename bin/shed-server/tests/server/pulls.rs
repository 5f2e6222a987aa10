//! Creates whose image is in a registry, and `shed-server pull-images`: a real registry, real images, fake machines.

use std::{collections::BTreeSet, fs};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use shed_image::{ImageOrigin, ImageStore, Trailer};
use shed_lifecycle::Settings;
use shed_testkit::wait_for;
use shed_types::ImageName;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::{
    api::Api,
    common::{PATIENCE, connect, send_with},
    process::{run, stderr},
    registry::Registry,
};

/// Of one file in the test's images, in bytes: more than any buffer on the way holds.
const LARGE: usize = 12 << 20;

struct Host {
    registry: Registry,
    api: Api,
    store: ImageStore,
    _docker: TempDir,
}

impl Host {
    /// A registry with the image `tools:v1`, which the config of the server calls `tools`.
    async fn new(bytes: usize) -> Self {
        let registry = Registry::start().await;
        registry.push("tools:v1", bytes);
        let docker = TempDir::new().unwrap();
        let mut dir = Utf8PathBuf::new();
        let prepare = |settings: &mut Settings| {
            dir = settings.images_dir.clone();
            let reference = registry.reference("tools:v1").parse().unwrap();
            settings.images.insert(name("tools"), ImageOrigin::Reference(reference));
            settings.registries.docker_config = Utf8PathBuf::from_path_buf(docker.path().to_owned()).ok();
        };
        let api = Api::with_registries(prepare).await;
        Self { store: ImageStore::new(dir), registry, api, _docker: docker }
    }

    async fn create(&self, shed: &str, image: &str) -> crate::common::RawReply {
        self.api.send("POST", "/api/sheds", json!({"name": shed, "image": image}).to_string()).await
    }

    async fn image(&self, name: &str) -> Value {
        let list = self.api.send("GET", "/api/images", "").await.json();
        list["images"]
            .as_array()
            .unwrap()
            .iter()
            .find(|image| image["name"] == name)
            .cloned()
            .unwrap_or_default()
    }

    async fn metric(&self, sample: &str) -> f64 {
        let text = self.api.send("GET", "/metrics", "").await.body;
        let line =
            text.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("{text}"));
        line.trim().parse().unwrap()
    }

    fn unfinished(&self) -> Vec<String> {
        let entries = self.store.dir().read_dir_utf8().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_owned());
        names.filter(|name| name.contains(".tmp")).collect()
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_create_pulls_converts_and_tells_how_far_it_is() {
    let host = Host::new(LARGE).await;
    assert_eq!(host.image("tools").await["cached"], false);
    let body = json!({"name": "api", "image": "tools"}).to_string();
    let reply = send_with(host.api.port, "POST", "/api/sheds", "accept: text/event-stream\r\n", body).await;
    let events: Vec<Value> = reply
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let steps: BTreeSet<&str> = events.iter().filter_map(|event| event["image"]["step"].as_str()).collect();
    assert!(steps.contains("download"), "{reply:?}");
    let images = events.iter().filter(|event| event["image"].is_object());
    assert!(images.clone().all(|event| event["phase"] == "image"), "{reply:?}");
    assert!(images.clone().any(|event| event["message"].as_str().unwrap().contains("tools:v1")), "{reply:?}");
    let shed = events.last().unwrap();
    assert_eq!((&shed["status"], &shed["image"]), (&json!("running"), &json!("tools")), "{reply:?}");
    assert_eq!(shed["timeline"][0]["phase"], "image");
    let linked = host.api.instance_dir().join("api/image.ext4");
    let trailer = Trailer::read(&linked).unwrap().expect("the shed's image says what it is");
    assert_eq!(trailer.config.env, ["A=b"]);

    let asked = host.registry.blob_requests().len();
    let reply = host.create("two", "tools").await;
    assert_eq!((reply.status, host.registry.blob_requests().len()), (201, asked), "{reply:?}");
    assert_eq!(reply.json()["timeline"][0]["phase"], "record");
    assert_eq!(host.image("tools").await["cached"], true);
    assert_eq!(host.metric("shed_image_pulls_total{result=\"ok\"}").await, 1.0);
    assert!(host.metric("shed_image_pull_bytes_total").await >= LARGE as f64);

    // What the image was made from stays in a prune as long as the image does.
    let usage = host.api.send("GET", "/api/system/df", "").await.json();
    assert!(usage["blobs"]["size"]["logical_bytes"].as_u64().unwrap() >= LARGE as u64, "{usage}");
    let report = host.api.send("POST", "/api/images/prune", "").await.json();
    assert_eq!(report, json!({"deleted": []}), "{report}");
}

#[tokio::test]
async fn two_creates_at_once_pull_an_image_once() {
    let host = Host::new(LARGE).await;
    let creates = (0..4).map(|n| {
        let host = &host;
        async move { host.create(&format!("a{n}"), "tools").await }
    });
    for reply in futures::future::join_all(creates).await {
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    let asked = host.registry.blob_requests();
    let unique: BTreeSet<_> = asked.iter().collect();
    assert_eq!((asked.len(), unique.len()), (2, 2), "a config and a layer, once each: {asked:?}");
}

#[tokio::test]
async fn a_pull_ends_with_its_client_and_the_next_create_continues_it() {
    let host = Host::new(LARGE).await;
    host.registry.allow(LARGE as u64 / 2);
    let mut stream = connect(host.api.port).await;
    let body = r#"{"name":"api","image":"tools"}"#;
    let head = format!("POST /api/sheds HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    host.registry.exhausted().await;
    assert_eq!(host.image("tools").await["pulling"], true);
    let reply = host.api.send("DELETE", "/api/images/tools", "").await;
    assert_eq!(reply.error(), (409, "IMAGE_IN_USE".to_owned()));
    let reply = host.create("api", "base").await;
    assert_eq!(reply.error(), (409, "SHED_ALREADY_EXISTS".to_owned()), "the name is taken");
    let report = host.api.send("POST", "/api/images/prune", "").await.json();
    assert!(report["notes"].to_string().contains("in use (an image is being pulled"), "{report}");

    drop(stream);
    let cancelled = "shed_image_pulls_total{result=\"cancelled\"}";
    wait_for("the pull to end", PATIENCE * 2, || async { host.metric(cancelled).await == 1.0 })
        .await
        .unwrap();
    assert_eq!(host.image("tools").await["pulling"], Value::Null);
    assert_eq!(host.unfinished(), Vec::<String>::new());
    host.api.assert_clean();

    host.registry.allow(u64::MAX);
    let reply = host.create("api", "tools").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let passed = host.registry.passed();
    assert!(passed < LARGE as u64 * 3 / 4, "the half that was there is not asked for again: {passed}");
}

#[tokio::test]
async fn an_image_that_nobody_configured_is_pulled_by_its_reference_and_pruned_with_its_blobs() {
    let host = Host::new(1000).await;
    host.registry.push("team/web:v2", 1 << 20);
    let reference = host.registry.reference("team/web:v2");
    let reply = host.create("api", &reference).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let image = reply.json()["image"].as_str().unwrap().to_owned();
    assert!(image.contains("team-web-v2-"), "{image}");
    assert_eq!(host.image(&image).await["docker_ref"], reference.as_str());
    host.api.client.delete(&"api".parse().unwrap()).await.unwrap();
    let foretold = host.api.send("POST", "/api/system/prune?scope=images&dry_run=true", "").await.json();
    let report = host.api.send("POST", "/api/images/prune", "").await.json();
    assert_eq!(report["deleted"][0]["name"], image.as_str(), "{report}");
    assert_eq!(report["blobs"]["files"], 3, "manifest, config and layer: {report}");
    let kinds: Vec<_> = foretold["items"].as_array().unwrap().iter().map(|item| &item["kind"]).collect();
    assert_eq!(kinds, ["image", "blobs"], "{foretold}");
    assert_eq!(foretold["items"][1]["freed"]["physical_bytes"], report["blobs"]["bytes"], "{foretold}");
    let usage = host.api.send("GET", "/api/system/df", "").await.json();
    assert_eq!(usage["blobs"], Value::Null, "{usage}");
}

#[tokio::test]
async fn a_registry_that_is_not_there_or_has_no_such_image_is_named() {
    let mut host = Host::new(1000).await;
    let missing = host.registry.reference("none:v1");
    let reply = host.create("api", &missing).await;
    assert_eq!(reply.error(), (502, "IMAGE_PULL_FAILED".to_owned()), "{reply:?}");
    assert!(reply.message().contains(&missing), "{reply:?}");
    host.registry.end();
    let reply = host.create("api", "tools").await;
    assert_eq!(reply.error(), (502, "IMAGE_PULL_FAILED".to_owned()), "{reply:?}");
    assert!(reply.message().contains("tools:v1") && reply.message().contains("127.0.0.1"), "{reply:?}");
    assert_eq!(host.metric("shed_image_pulls_total{result=\"failed\"}").await, 2.0);
    host.api.assert_clean();
    assert_eq!(host.unfinished(), Vec::<String>::new());
    host.api.create("other").await;
}

/// A directory with a server.yaml for `shed-server pull-images`.
struct Program {
    dir: TempDir,
}

impl Program {
    fn new(base: &str, images: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let images: serde_json::Map<_, _> =
            images.iter().map(|(name, origin)| ((*name).to_owned(), Value::from(*origin))).collect();
        let config = json!({"qemu": {
            "images_dir": root.join("images"), "instance_dir": root.join("instances"), "base_rootfs": base,
            "images": images,
        }});
        fs::write(root.join("server.yaml"), config.to_string()).unwrap();
        Self { dir }
    }

    fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap()
    }

    /// Runs it; returns whether it succeeded, what it said of each image, and what on the way.
    async fn pull(&self, args: &[&str]) -> (bool, String, String) {
        let output = run(&[&["pull-images"], args].concat(), self.root()).await;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    }
}

#[tokio::test]
async fn pull_images_gets_each_reference_once_and_links_the_other_names() {
    let registry = Registry::start().await;
    registry.push("tools:v1", 1 << 20);
    registry.push("web:v1", 1000);
    let [tools, web] = ["tools:v1", "web:v1"].map(|name| registry.reference(name));
    let program = Program::new(&tools, &[("tools", &tools), ("web", &web), ("sh", "/bin/sh")]);

    let (good, said, _) = program.pull(&["--variant", "nosuch"]).await;
    assert_eq!((good, said.as_str()), (false, ""));
    let (good, said, told) = program.pull(&["--variant", "web"]).await;
    assert!(good && said.starts_with("ok      web  ") && said.ends_with("  pulled\n"), "{said} {told}");
    assert!(told.contains("web: Asking 127.0.0.1:"), "{told}");
    let (good, said, told) = program.pull(&[]).await;
    assert!(good, "{said} {told}");
    let ends: Vec<_> = said.lines().map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(ends, ["pulled", "linked to _base", "was there"], "{said}");
    let asked = registry.blob_requests();
    assert_eq!(asked.len(), asked.iter().collect::<BTreeSet<_>>().len(), "{asked:?}");
    let store = ImageStore::new(program.root().join("images"));
    assert_eq!(store.read_source(&name("tools")), store.read_source(&name("_base")));

    // The other way round, too.
    for gone in [store.rootfs(&name("_base")), store.source(&name("_base"))] {
        fs::remove_file(gone).unwrap();
    }
    let (good, said, _) = program.pull(&[]).await;
    let ends: Vec<_> = said.lines().map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!((good, ends), (true, vec!["linked to tools", "was there", "was there"]), "{said}");
    assert_eq!(registry.blob_requests().len(), asked.len());
}

#[tokio::test]
async fn pull_images_tries_all_and_fails_if_any_does() {
    let registry = Registry::start().await;
    registry.push("web:v1", 1000);
    let [none, web] = ["none:v1", "web:v1"].map(|name| registry.reference(name));
    let program = Program::new(&none, &[("web", &web)]);
    let (good, said, told) = program.pull(&[]).await;
    assert!(!good, "{said} {told}");
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("FAILED  _base  ") && lines[0].contains(&none), "{said}");
    assert!(lines[1].starts_with("ok      web    ") && lines[1].ends_with("  pulled"), "{said}");
}
