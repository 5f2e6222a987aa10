//! Disk usage and prune: the shape of the replies, what is refused, and that what is used stays.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use shed_backend::fake::BootFault;

use crate::{api::Api, common::RawReply};

const HOUR: Duration = Duration::from_secs(3600);

fn images_dir(api: &Api) -> Utf8PathBuf {
    api.instance_dir().with_file_name("images")
}

fn set_age(path: &Utf8Path, age: Duration) {
    File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

fn put(api: &Api, name: &str, age: Duration) -> Utf8PathBuf {
    let path = images_dir(api).join(name);
    fs::write(&path, "1234").unwrap();
    set_age(&path, age);
    path
}

/// Makes a stopped shed whose record is so old.
async fn stopped(api: &Api, name: &str, age: Duration) {
    api.create(name).await;
    assert_eq!(api.send("POST", &format!("/api/sheds/{name}/stop"), "").await.status, 200);
    set_age(&api.instance_dir().join(name).join("metadata.json"), age);
}

async fn prune(api: &Api, query: &str) -> RawReply {
    api.send("POST", &format!("/api/system/prune{query}"), "").await
}

async fn pruned(api: &Api, query: &str) -> Value {
    let reply = prune(api, query).await;
    assert_eq!(reply.status, 200, "{query}: {reply:?}");
    reply.json()
}

/// Returns names, or the ends of paths, of a list of a report.
fn named(report: &Value, list: &str) -> Vec<String> {
    let entries = report[list].as_array().unwrap();
    let name = |entry: &Value| match entry["path"].as_str() {
        Some(path) => path.rsplit('/').next().unwrap().to_owned(),
        None => entry["name"].as_str().unwrap().to_owned(),
    };
    entries.iter().map(name).collect()
}

/// Replaces what differs from host to host.
fn redact(api: &Api, value: &Value) -> Value {
    fn walk(value: &mut Value, root: &str) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match key.as_str() {
                        "generated_at" => {
                            let time = value.as_str().unwrap();
                            assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
                            *value = json!("[time]");
                        }
                        // Blocks are the file system's, and records have times in them.
                        "physical_bytes" | "logical_bytes" => {
                            assert!(value.is_u64(), "{key}: {value}");
                            *value = json!("[number]");
                        }
                        _ => walk(value, root),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, root)),
            Value::String(text) => *text = text.replace(root, "[dir]"),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut value = value.clone();
    walk(&mut value, api.instance_dir().parent().unwrap().as_str());
    value
}

/// Lists every file with what a change to it would change.
fn listing(api: &Api) -> BTreeSet<String> {
    fn walk(dir: &Utf8Path, listing: &mut BTreeSet<String>) {
        for entry in dir.read_dir_utf8().unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            let _new = listing.insert(format!(
                "{} {} {:?}",
                entry.path(),
                metadata.len(),
                metadata.modified().unwrap()
            ));
            if metadata.is_dir() {
                walk(entry.path(), listing);
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(api.instance_dir().parent().unwrap(), &mut all);
    all
}

/// Another process that holds a lock, until this is dropped.
struct Holder(Child);

impl Holder {
    fn of(path: &Utf8Path) -> Self {
        let mut child = Command::new("flock")
            .args([path.as_str(), "sh", "-c", "echo held; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("flock, of util-linux");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

#[tokio::test]
async fn the_json_of_usage_keeps_its_shape_and_its_sums_are_right() {
    let api = Api::new().await;
    api.create("up").await;
    stopped(&api, "down", HOUR).await;
    put(&api, "_base-rootfs.ext4", HOUR);
    let source = images_dir(&api).join("_base-rootfs.ext4.source");
    fs::write(source, "ghcr.io/example/default:v1\n").unwrap();
    put(&api, "stale-rootfs.ext4.lock", HOUR);
    put(&api, "stale-rootfs.ext4.tmp", HOUR);
    let before = listing(&api);
    let reply = api.send("GET", "/api/system/df", "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(listing(&api), before, "a look changes nothing");
    let usage = reply.json();
    insta::assert_json_snapshot!("system_df", redact(&api, &usage));

    let bytes = |value: &Value| {
        let one = |key: &str| value[key].as_u64().unwrap();
        (one("logical_bytes"), one("physical_bytes"))
    };
    let sum =
        |sizes: Vec<(u64, u64)>| sizes.iter().fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
    let sizes = |list: &Value, key: &str| -> Vec<_> {
        list.as_array().unwrap().iter().map(|entry| bytes(&entry[key])).collect()
    };
    let totals = &usage["totals"];
    let mut images = sizes(&usage["images"], "size");
    images.extend([bytes(&usage["kernel"]["size"]), bytes(&usage["initrd"]["size"])]);
    assert_eq!(bytes(&totals["images"]), sum(images));
    assert_eq!(bytes(&totals["sheds"]), sum(sizes(&usage["sheds"], "total")));
    assert_eq!(bytes(&totals["orphans"]), sum(sizes(&usage["orphans"], "size")));
    let parts = ["images", "sheds", "orphans"].map(|part| bytes(&totals[part]));
    assert_eq!(bytes(&totals["all"]), sum(parts.to_vec()));
    for shed in usage["sheds"].as_array().unwrap() {
        let mut files = sizes(&shed["other_files"], "size");
        files.extend([bytes(&shed["rootfs"]["size"]), bytes(&shed["console_log"]["size"])]);
        assert_eq!(bytes(&shed["total"]), sum(files), "{shed}");
    }
}

#[tokio::test]
async fn the_json_of_a_prune_keeps_its_shape_and_a_dry_run_changes_nothing() {
    let api = Api::new().await;
    api.create("up").await;
    stopped(&api, "old", 125 * HOUR).await;
    stopped(&api, "recent", 3 * HOUR).await;
    put(&api, "unused-rootfs.ext4", HOUR);
    put(&api, "stale-rootfs.ext4.tmp", 2 * HOUR);
    put(&api, "note-rootfs.ext4.source", HOUR);
    put(&api, "young-rootfs.ext4.tmp.42", HOUR / 5);
    put(&api, "stale-rootfs.ext4.lock", HOUR);
    fs::write(api.instance_dir().join("up/console.log"), "x".repeat(5000)).unwrap();
    let before = listing(&api);
    let query = "?scope=logs&scope=orphans&scope=instances&scope=images&log_tail_bytes=100";
    let dry = pruned(&api, &format!("{query}&dry_run=true")).await;
    assert_eq!(listing(&api), before);
    insta::assert_json_snapshot!("system_prune_dry_run", redact(&api, &dry));
    let wet = pruned(&api, &format!("{query}&dry_run=false")).await;
    insta::assert_json_snapshot!("system_prune", redact(&api, &wet));
    assert_eq!(named(&dry, "items"), named(&wet, "items"));
    assert_eq!(dry["skipped"], wet["skipped"]);
    let freed = |item: &Value| item["freed"]["logical_bytes"].as_u64().unwrap();
    for report in [&dry, &wet] {
        let items = report["items"].as_array().unwrap();
        assert_eq!(report["totals"]["items"], items.len());
        assert_eq!(freed(&report["totals"]), items.iter().map(freed).sum::<u64>());
        assert_eq!(freed(items.last().unwrap()), 4900);
    }
    assert_eq!(api.send("GET", "/api/sheds/old", "").await.status, 404);
    assert_eq!(api.send("GET", "/api/sheds/up", "").await.json()["status"], "running");
    let again = pruned(&api, query).await;
    assert_eq!((&again["items"], &again["totals"]["items"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn values_that_are_not_to_the_letter_are_refused_and_nothing_is_done() {
    let api = Api::new().await;
    stopped(&api, "old", 500 * HOUR).await;
    let before = listing(&api);
    for query in [
        "scope=",
        "scope",
        "scope=everything",
        "scope=images,instances",
        "scope=instances&scope=",
        "dry_run=",
        "dry_run=yes",
        "dry_run=true&dry_run=false",
        "until=",
        "until=72",
        "until=-1h",
        "until=3d",
        "until=2562048h",
        "until=1h&until=2h",
        "log_tail_bytes=",
        "log_tail_bytes=-1",
        "log_tail_bytes=5MiB",
        "log_tail_bytes=1&log_tail_bytes=1",
    ] {
        let reply = prune(&api, &format!("?{query}")).await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{query}");
        let key = query.split('=').next().unwrap();
        assert!(reply.message().starts_with(&format!("`{key}")), "{query}: {}", reply.message());
    }
    assert_eq!(listing(&api), before);
    let reply = api.send("GET", "/api/system/prune", "").await;
    assert_eq!((reply.error().0, reply.headers["allow"].as_str()), (405, "POST"));
    assert_eq!(api.send("POST", "/api/system/df", "").await.error().0, 405);
}

#[tokio::test]
async fn the_report_repeats_what_was_asked_in_one_form() {
    let api = Api::new().await;
    for (query, scope, until) in [
        ("", json!(["images", "instances", "orphans"]), "72h0m0s"),
        ("?until=0s", json!(["images", "instances", "orphans"]), "0s"),
        ("?until=0&scope=logs", json!(["logs"]), "0s"),
        ("?until=1.5h&scope=orphans&scope=images&scope=orphans", json!(["images", "orphans"]), "1h30m0s"),
        ("?until=100ms&scope=instances&unknown=ignored", json!(["instances"]), "100ms"),
        (
            "?until=2562047h47m16.854775807s",
            json!(["images", "instances", "orphans"]),
            "2562047h47m16.854775807s",
        ),
    ] {
        let report = pruned(&api, query).await;
        assert_eq!((&report["scope"], &report["until"]), (&scope, &json!(until)), "{query}");
        assert_eq!((&report["dry_run"], &report["server_name"]), (&json!(false), &json!("test")));
        assert_eq!((&report["items"], &report["skipped"]), (&json!([]), &json!([])), "{query}");
        assert_eq!(report["notes"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_shed_goes_from_its_limit_on() {
    let api = Api::new().await;
    stopped(&api, "a", 72 * HOUR - Duration::from_secs(60)).await;
    stopped(&api, "b", 72 * HOUR).await;
    stopped(&api, "c", 72 * HOUR + Duration::from_secs(60)).await;
    let report = pruned(&api, "?scope=instances").await;
    assert_eq!(named(&report, "items"), ["b", "c"]);
    assert_eq!(report["skipped"][0]["reason"], "too recent (71h < 72h)");
    let report = pruned(&api, "?scope=instances&until=72h&dry_run=true").await;
    assert_eq!(report["items"], json!([]));
    assert_eq!(named(&pruned(&api, "?scope=instances&until=0s").await, "items"), ["a"]);
    api.assert_clean();
}

#[tokio::test]
async fn a_lock_that_another_process_holds_keeps_its_files() {
    let api = Api::new().await;
    let tmp = put(&api, "live-rootfs.ext4.tmp", 5 * HOUR);
    let lock = put(&api, "live-rootfs.ext4.lock", 5 * HOUR);
    let holder = Holder::of(&lock);
    for query in ["?dry_run=true", ""] {
        let report = pruned(&api, query).await;
        assert_eq!(report["items"], json!([]));
        let skipped = report["skipped"].as_array().unwrap();
        let of_tmp = skipped.iter().find(|skip| skip["kind"] == "tmp").unwrap();
        assert_eq!(of_tmp["path"], tmp.as_str());
        assert_eq!(of_tmp["reason"], "lock held (conversion in progress)");
        assert!(skipped.iter().any(|skip| skip["kind"] == "lock"));
    }
    drop(holder);
    assert_eq!(named(&pruned(&api, "").await, "items"), ["live-rootfs.ext4.tmp"]);
    assert!(lock.exists() && !tmp.exists());
}

#[tokio::test]
async fn a_failure_beside_something_done_is_a_note_and_alone_an_error() {
    let api = Api::new().await;
    stopped(&api, "old", 100 * HOUR).await;
    let damaged = api.instance_dir().join("damaged");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("metadata.json"), "{").unwrap();
    let report = pruned(&api, "").await;
    assert_eq!(named(&report, "items"), ["old"]);
    let note = report["notes"][1].as_str().unwrap();
    assert!(note.starts_with("partial failure: ") && note.contains("`damaged`"), "{note}");
    let reply = prune(&api, "").await;
    assert_eq!(reply.error(), (500, "BACKEND_ERROR".into()));
    assert!(reply.message().contains("`damaged`"), "{}", reply.message());
    let notes = api.send("GET", "/api/system/df", "").await.json()["notes"].clone();
    assert!(notes[1].as_str().unwrap().contains("`damaged`"), "{notes}");
    assert!(damaged.join("metadata.json").exists());
}

#[tokio::test]
async fn what_starts_or_boots_is_no_business_of_a_prune() {
    let api = Api::new().await;
    stopped(&api, "boots", 500 * HOUR).await;
    let boots = "boots".parse().unwrap();
    api.set_boot(&boots, BootFault::Never);
    let port = api.port;
    let starting =
        tokio::spawn(async move { crate::common::send(port, "POST", "/api/sheds/boots/start", "").await });
    api.wait_for_status(&boots, "starting").await;
    let report = pruned(&api, "?until=0s").await;
    assert_eq!(
        report["skipped"],
        json!([{"kind": "instance", "name": "boots", "reason": "cannot prune starting shed"}])
    );
    assert_eq!(api.send("DELETE", "/api/sheds/boots", "").await.status, 204);
    assert_eq!(starting.await.unwrap().status, 409);
}
