//! A cached image may go while a machine that was made from it runs, and those that somebody needs do not.

use std::{fs, process::Command};

use serde_json::json;
use vm_tests::{Config, Expect, Promises, Stage};

const SHED: &str = "maker";

/// Deleting and pruning images harms no shed, running, stopped or started again.
#[test]
fn images_go_and_the_sheds_made_from_them_stay() {
    let Some(mut stage) = Stage::new() else { return };
    let images_dir = stage.images_dir().to_owned();
    let path = |name: &str| images_dir.join(format!("{name}-rootfs.ext4"));
    // A copy and no hard link: another name of the default image would be kept for that reason alone.
    let copied = Command::new("cp")
        .args(["--reflink=auto", "--sparse=always"])
        .arg(path("base"))
        .arg(path("tools"))
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy the base image");
    for name in ["unused", "elsewhere", "_base"] {
        fs::write(path(name), vec![0; 1 << 20]).unwrap();
    }
    fs::write(images_dir.join("unused-rootfs.ext4.source"), "ghcr.io/owner/unused:v1\n").unwrap();
    let images = json!({ "named": path("elsewhere"), "pulled": "ghcr.io/owner/pulled:v1" });
    stage.configure(Config { images: Some(images), ..Config::default() });
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    let names = || {
        let listed = http.get("/api/images").is(200).json();
        let images = listed["images"].as_array().expect("a list").clone();
        images.iter().map(|image| image["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };

    promises.keep("a list has what the config names and what is there", || {
        assert_eq!(names(), ["base", "elsewhere", "named", "pulled", "tools", "unused"]);
    });
    promises.keep("a reference that the config does not let be pulled says so, and nothing is left", || {
        let refused = http.create(&json!({ "name": SHED, "image": "pulled" })).is(502);
        let (code, message) = refused.error();
        assert_eq!(code, "IMAGE_PULL_FAILED");
        assert!(
            message.contains("ghcr.io/owner/pulled:v1") && message.contains("registries.allow"),
            "{message}"
        );
        stage.assert_only(&[]);
    });
    promises.keep("a shed comes up from an image put there under a new name", || {
        cli.create(SHED, &["--image", "tools", "--memory", "768"]);
        assert_eq!(http.shed(SHED)["image"], "tools");
        cli.sh(SHED, "echo mine > /workspace/file");
    });
    promises.keep("an image that the config names is not deleted, under any name", || {
        for name in ["named", "elsewhere", "pulled"] {
            let (code, _) = http.delete(&format!("/api/images/{name}")).is(409).error();
            assert_eq!(code, "IMAGE_IN_USE", "{name}");
        }
    });
    promises.keep("a prune removes only what nobody uses, and a dry run only says so", || {
        let pruned = |query: &str| {
            let report = http.post(&format!("/api/images/prune{query}"), None).is(200).json();
            report["deleted"].as_array().expect("a list").clone()
        };
        let preview = pruned("?dry_run=true");
        assert_eq!(names(), ["base", "elsewhere", "named", "pulled", "tools", "unused"]);
        assert_eq!(pruned(""), preview);
        let gone: Vec<_> = preview.iter().map(|image| image["name"].as_str().expect("a name")).collect();
        assert_eq!(gone, ["_base", "unused"]);
        assert_eq!(preview[1]["docker_ref"], "ghcr.io/owner/unused:v1");
        assert_eq!(names(), ["base", "elsewhere", "named", "pulled", "tools"]);
        assert!(!images_dir.join("unused-rootfs.ext4.source").exists());
        assert_eq!(pruned(""), Vec::<serde_json::Value>::new());
    });
    promises.keep("the cached image goes and the running shed does not notice", || {
        http.delete("/api/images/tools").is(204);
        http.delete("/api/images/tools").is(404);
        assert!(!path("tools").exists());
        assert_eq!(cli.sh(SHED, "cat /workspace/file && ls /usr/bin | head -n 1 | wc -l"), "mine\n1");
    });
    promises.keep("without its image in the cache the shed stops, starts and runs commands", || {
        cli.run(&["stop", SHED]).ok();
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/file && sort --version | grep -c coreutils"), "mine\n1");
        assert_eq!(http.shed(SHED)["image"], "tools");
    });
    promises.keep("a new shed from the deleted image is refused", || {
        let (code, message) = http.create(&json!({ "name": "late", "image": "tools" })).is(400).error();
        assert!(code == "UNKNOWN_IMAGE" && message.contains("base"), "{code}: {message}");
    });
    cli.delete(SHED);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
