//! Disk usage and prune with real machines: what is shown is what is there, logs are cut under a running machine, and
//! only what is stopped goes.

use std::{fs, os::unix::fs::MetadataExt};

use serde_json::{Value, json};
use vm_tests::{Expect, Promises, SHORT, Stage, wait_for};

const UP: &str = "up";
const DOWN: &str = "down";

/// What is left of a log that is cut here, in bytes.
const TAIL: u64 = 2000;

fn shed<'a>(usage: &'a Value, name: &str) -> &'a Value {
    let sheds = usage["sheds"].as_array().expect("`sheds` is a list");
    sheds.iter().find(|shed| shed["name"] == name).unwrap_or_else(|| panic!("{name} is missing: {usage}"))
}

fn bytes(size: &Value, key: &str) -> u64 {
    size[key].as_u64().unwrap_or_else(|| panic!("no {key}: {size}"))
}

/// One running and one stopped shed are counted; a running machine's console is cut in place and goes on; a prune of any
/// age deletes the stopped one alone.
#[test]
fn disk_usage_and_prune() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(DOWN, &[]);
    cli.run(&["stop", DOWN]).ok();
    cli.create(UP, &[]);
    let console = stage.shed_file(UP, "console.log");

    promises.keep("df shows both sheds with what their files take", || {
        let usage = http.get("/api/system/df").is(200).json();
        for (name, status) in [(UP, "running"), (DOWN, "stopped")] {
            let shed = shed(&usage, name);
            assert_eq!((&shed["status"], &shed["image"]), (&json!(status), &json!("base")), "{shed}");
            let disk = stage.shed_file(name, "rootfs.ext4").metadata().unwrap();
            let size = &shed["rootfs"]["size"];
            assert_eq!(bytes(size, "logical_bytes"), disk.len());
            assert_eq!(disk.len(), 20 << 30, "the default size");
            let physical = bytes(size, "physical_bytes");
            assert!((1 << 20..1 << 30).contains(&physical), "some megabytes, not {physical}");
            assert!(bytes(&shed["console_log"]["size"], "logical_bytes") > 0, "{shed}");
            let others = shed["other_files"].as_array().unwrap();
            let image = others.iter().find(|file| file["path"].as_str().unwrap().ends_with("/image.ext4"));
            let linked = fs::metadata(stage.images_dir().join("base-rootfs.ext4")).unwrap();
            assert_eq!(bytes(&image.unwrap()["size"], "physical_bytes"), linked.blocks() * 512);
        }
        assert_eq!(usage["images"][0]["name"], "base");
        for (key, kind) in [("kernel", "kernel"), ("initrd", "initrd")] {
            assert_eq!(usage[key]["kind"], kind);
            assert!(bytes(&usage[key]["size"], "logical_bytes") > 1 << 20, "{usage}");
        }
        assert_eq!((&usage["backend"], &usage["orphans"]), (&json!("qemu"), &json!([])));
    });
    promises.keep("a running machine's console is cut in place, and the guest goes on writing to it", || {
        let last = "line 3000 of many";
        cli.sh(UP, "seq -f 'line %g of many' 3000 | sudo -n tee /dev/console >/dev/null");
        wait_for("the guest's lines in its console", SHORT * 2, || {
            String::from_utf8_lossy(&fs::read(&console).unwrap()).contains(last).then_some(())
        });
        let before = fs::metadata(&console).unwrap();
        let report =
            http.post(&format!("/api/system/prune?scope=logs&log_tail_bytes={TAIL}"), None).is(200).json();
        let items = report["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["path"] == console.as_str()).expect("the console is cut");
        assert_eq!((&item["kind"], &item["action"]), (&json!("console_log"), &json!("truncated")));
        let after = fs::metadata(&console).unwrap();
        assert_eq!(after.ino(), before.ino(), "the same file");
        assert!(after.len() < before.len());
        let kept = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
        assert!(kept.contains(last) && !kept.contains("line 1000 of many"), "its end is kept: {kept}");
        assert!(kept.len() as u64 >= TAIL && bytes(&item["freed"], "logical_bytes") > 10 * TAIL, "{item}");

        cli.sh(UP, "echo 'a word to the console' | sudo -n tee /dev/console >/dev/null");
        wait_for("the guest's word in its console", SHORT, || {
            String::from_utf8_lossy(&fs::read(&console).unwrap())
                .contains("a word to the console")
                .then_some(())
        });
        let text = fs::read(&console).unwrap();
        assert!(!text.contains(&0), "no hole where the writer's old end was");
        assert!(
            (text.len() as u64) < before.len().max(2 * TAIL),
            "it grows from its new end: {}",
            text.len()
        );
        assert_eq!(http.status(UP), "running");
    });
    promises.keep("a dry run names what would go and leaves it", || {
        let report = http.post("/api/system/prune?until=0s&dry_run=true", None).is(200).json();
        assert_eq!(report["items"][0]["name"], DOWN, "{report}");
        stage.assert_only(&[Expect::Running(UP), Expect::Stopped(DOWN)]);
    });
    promises.keep("what was stopped a moment ago stays by default", || {
        let report = http.post("/api/system/prune", None).is(200).json();
        assert_eq!(report["items"], json!([]), "{report}");
        assert_eq!(report["skipped"][0]["name"], DOWN);
        assert!(report["skipped"][0]["reason"].as_str().unwrap().ends_with("< 72h)"), "{report}");
    });
    promises.keep(
        "a prune of any age deletes the stopped shed alone, and the running one does not notice",
        || {
            let report = http.post("/api/system/prune?until=0s", None).is(200).json();
            assert_eq!(report["totals"]["items"], 1, "{report}");
            assert_eq!(
                (&report["items"][0]["kind"], &report["items"][0]["name"]),
                (&json!("instance"), &json!(DOWN))
            );
            assert!(bytes(&report["items"][0]["freed"], "physical_bytes") > 1 << 20);
            assert_eq!(
                report["skipped"],
                json!([{ "kind": "instance", "name": UP, "reason": "cannot prune running shed" }])
            );
            stage.assert_only(&[Expect::Running(UP)]);
            assert_eq!(cli.sh(UP, "echo alive"), "alive");
        },
    );
    cli.delete(UP);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
