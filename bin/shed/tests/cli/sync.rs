//! `shed sync` without a shed: what it shows, what it refuses, and what a create looks for. Real syncs are tested in
//! vm-tests.

use std::fs;

use crate::{
    stub::{Stub, ok, refused},
    user::{User, closed_port, json},
};

const SHED: &str = r#"{"name":"web","status":"running","created_at":"2026-01-02T03:04:05Z"}"#;

fn with_sync(port: u16, text: &str) -> User {
    let user = User::with_server(port);
    fs::write(user.home.path().join(".shed/sync.yaml"), text).unwrap();
    user
}

#[test]
fn a_dry_run_shows_what_would_be_done_and_asks_nobody() {
    let user = with_sync(
        closed_port().1,
        "features:\n  git:\n    description: git and its aliases\n    paths:\n\
         \x20     - {source: ~/.gitconfig, target: ~/.gitconfig}\n\
         \x20     - {source: ~/.gitconfig, target: /opt/conf/}\n\
         \x20     - {source: ~/tree, target: ~/t, include: ['*.lua']}\n\
         \x20     - {source: ~/gone, target: ~/g}\n    postSync: [{run: git --version}]\n\
         profiles: {default: {features: [git]}}\n",
    );
    let home = user.home.path();
    fs::write(home.join(".gitconfig"), "12345").unwrap();
    fs::create_dir(home.join("tree")).unwrap();
    for name in ["a.lua", "b.lua", "c.txt"] {
        fs::write(home.join("tree").join(name), "x").unwrap();
    }
    let ran = user.shed(&["sync", "web", "--dry-run"]).exits(0);
    let expected = "\
Nothing is done. A sync of shed web would do this:
git: git and its aliases
  ~/.gitconfig -> ~/.gitconfig (1 file, 5B)
  ~/.gitconfig -> /opt/conf/.gitconfig (1 file, 5B)
  ~/tree -> ~/t (2 files, 2B)
  ~/gone -> ~/g (skipped: not there)
  $ git --version
";
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (expected, ""));
    let ran = user.shed(&["sync", "web", "--dry-run", "--json"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!(value["dry_run"], true);
    let paths = value["features"][0]["paths"].as_array().unwrap();
    assert_eq!((&paths[2]["files"], &paths[3]["skipped"]), (&2.into(), &"not there".into()));
    assert_eq!(value["features"][0]["postSync"][0], "git --version");
}

#[test]
fn a_file_that_is_missing_or_wrong_is_a_usage_error_with_advice() {
    let user = User::with_server(closed_port().1);
    let ran = user.shed(&["sync", "web"]).exits(2);
    assert!(ran.stderr.contains("there is no ") && ran.stderr.contains(".shed/sync.yaml"), "{ran:?}");
    assert!(ran.stderr.contains("hint: an example of such a file: shed sync --help"), "{ran:?}");
    let user = with_sync(closed_port().1, "features:\n  a:\n    pathz: []\n");
    let ran = user.shed(&["sync", "web", "--dry-run"]).exits(2);
    assert!(ran.stderr.contains("pathz") && ran.stderr.contains('3'), "{ran:?}");
    let user = with_sync(closed_port().1, "profiles: {work: {features: []}}\n");
    user.shed(&["sync", "web"]).exits(2).says("has no profile default; it has: work");
    user.shed(&["sync", "web", "-p", "play"]).exits(2).says("has no profile play; it has: work");
    user.shed(&["sync", "web", "-f", "git"]).exits(2).says("has no feature git; it has: none");
    user.shed(&["sync", "web", "-p", "a b"]).exits(2).says("is no name");
}

#[test]
fn another_config_file_has_its_own_sync_file_beside_it() {
    let user = User::new();
    let other = user.home.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("sync.yaml"), "profiles: {default: {features: []}}\n").unwrap();
    let config = other.join("config.yaml");
    user.shed(&["sync", "web", "--dry-run", "--config", config.to_str().unwrap()]).exits(0);
}

#[test]
fn a_shed_that_is_not_there_is_said_before_anything_is_read() {
    let stub = Stub::serve(|_| refused("404 Not Found", "SHED_NOT_FOUND", "there is no shed named `web`"));
    let user = with_sync(stub.port, "profiles: {default: {features: []}}\n");
    user.shed(&["sync", "web"]).exits(4).says("there is no shed named `web`");
    assert_eq!(stub.asked(), ["GET /api/sheds/web"]);
}

#[test]
fn a_stopped_shed_is_started_once_and_before_anything_is_copied() {
    let sync =
        "features:\n  a: {paths: [{source: ~/f, target: ~/a}]}\n  b: {paths: [{source: ~/f, target: ~/b}]}\n";
    let line = ["sync", "web", "-f", "a", "-f", "b"];
    for started in [
        ok(format!("event: complete\ndata: {SHED}\n\n")),
        refused("409 Conflict", "SHED_ALREADY_RUNNING", "shed `web` is running"),
    ] {
        let stub = Stub::serve(move |request| match request {
            "GET /api/sheds/web" => ok(SHED.replace("running", "stopped")),
            "POST /api/sheds/web/start" => started.clone(),
            _ if request.starts_with("PUT") => ok(r#"{"files":1,"directories":0,"links":0,"bytes":1}"#),
            _ => refused("503 Service Unavailable", "AGENT_UNREACHABLE", "no log here"),
        });
        let user = with_sync(stub.port, sync);
        fs::write(user.home.path().join("f"), "x").unwrap();
        let ran = user.shed(&line).exits(0);
        assert!(ran.stderr.starts_with("shed web does not run; starting it\n"), "{ran:?}");
        assert!(ran.stdout.starts_with("Synced 2 features to shed web on test: 2 files, 2B"), "{ran:?}");
        let asked: Vec<String> = stub.asked().into_iter().filter(|asked| !asked.contains("/exec")).collect();
        assert_eq!(
            asked,
            [
                "GET /api/sheds/web",
                "POST /api/sheds/web/start",
                "PUT /api/sheds/web/files?path=%7E",
                "PUT /api/sheds/web/files?path=%7E"
            ]
        );
    }
    // A shed that cannot be started fails once, not for each feature.
    let stub = Stub::serve(|request| match request {
        "GET /api/sheds/web" => ok(SHED.replace("running", "stopped")),
        _ => refused("500 Internal Server Error", "BACKEND_ERROR", "no room"),
    });
    let user = with_sync(stub.port, sync);
    fs::write(user.home.path().join("f"), "x").unwrap();
    let ran = user.shed(&line).exits(1);
    assert_eq!(ran.stderr.matches("no room").count(), 1, "{ran:?}");
    assert_eq!(stub.asked(), ["GET /api/sheds/web", "POST /api/sheds/web/start"]);
}

#[test]
fn numbers_of_a_guest_that_are_too_large_are_no_harm() {
    let stub = Stub::serve(|request| match request {
        "GET /api/sheds/web" => ok(SHED),
        _ if request.starts_with("PUT") => {
            let most = u64::MAX;
            ok(format!(r#"{{"files":{most},"directories":0,"links":{most},"bytes":{most}}}"#))
        }
        _ => refused("503 Service Unavailable", "AGENT_UNREACHABLE", "no log here"),
    });
    let user = with_sync(
        stub.port,
        "features:\n  a: {paths: [{source: ~/f, target: ~/a}, {source: ~/f, target: ~/b}]}\n\
         \x20 b: {paths: [{source: ~/f, target: ~/b}]}\n",
    );
    fs::write(user.home.path().join("f"), "x").unwrap();
    let ran = user.shed(&["sync", "web", "-f", "a", "-f", "b"]).exits(0);
    assert!(ran.stdout.contains(": 18446744073709551615 files, "), "{ran:?}");
}

#[test]
fn one_feature_that_fails_does_not_keep_the_others_back() {
    let stub = Stub::serve(|request| match request {
        "GET /api/sheds/web" => ok(SHED),
        _ => refused("503 Service Unavailable", "SHED_NOT_RUNNING", "shed `web` is not running"),
    });
    let user = with_sync(
        stub.port,
        "features:\n  a: {paths: [{source: ~/f, target: ~/a}]}\n  b: {paths: [{source: ~/f, target: ~/b}]}\n\
         \x20 c: {paths: [{source: ~/f, target: ~/c, include: [x]}]}\n\
         \x20 d: {paths: [{source: ~/gone, target: ~/d}]}\n",
    );
    fs::write(user.home.path().join("f"), "x").unwrap();
    let ran = user.shed(&["sync", "web", "-f", "a", "-f", "b", "-f", "c", "-f", "d"]).exits(1);
    for text in [
        "error: feature a: ~/f was not copied\n  caused by: shed `web` is not running\nhint: start it: shed start web\n",
        "error: feature b: ~/f was not copied\n",
        "error: feature c: ~/f was not copied\n  caused by: ~/f is a file, and `include` chooses from a directory\n",
        "d: ~/gone is not there; skipped\n",
    ] {
        assert!(ran.stderr.contains(text), "{text:?} is not in {ran:?}");
    }
    assert!(ran.stdout.starts_with("Synced 1 feature of 4 to shed web on test: 0 files, 0B"), "{ran:?}");
    let puts = stub.asked().into_iter().filter(|asked| asked.starts_with("PUT")).collect::<Vec<_>>();
    assert_eq!(puts, ["PUT /api/sheds/web/files?path=%7E", "PUT /api/sheds/web/files?path=%7E"]);
    let ran = user.shed(&["sync", "web", "-f", "a", "--json"]).exits(1);
    let value = json(&ran.stdout);
    assert_eq!(
        (&value["status"], &value["details"]["features"][0]["status"]),
        (&"partial".into(), &"failed".into())
    );
    assert!(json(ran.stderr.lines().last().unwrap())["error"].is_string(), "{ran:?}");
}

#[test]
fn a_create_with_a_profile_that_is_not_there_makes_nothing() {
    let stub = Stub::serve(|_| refused("500 Internal Server Error", "BACKEND_ERROR", "asked"));
    let user = with_sync(stub.port, "profiles: {work: {features: []}}\n");
    user.shed(&["create", "web", "--sync-profile", "play"]).exits(2).says("has no profile play");
    let without = User::with_server(stub.port);
    without.shed(&["create", "web", "--sync-profile", "play"]).exits(2).says("there is no ");
    without
        .shed(&["create", "web", "--sync-profile", "play", "--no-sync"])
        .exits(2)
        .says("cannot be used with");
    assert!(stub.asked().is_empty());
    // Nobody asked for the profile `default`, and there is none: nothing is said of it.
    let ran = user.shed(&["create", "web"]).exits(1);
    assert!(!ran.stderr.contains("sync"), "{ran:?}");
    // A file that cannot be read is no reason to make no shed.
    let broken = with_sync(stub.port, "features: [");
    let ran = broken.shed(&["create", "web"]).exits(1);
    assert!(ran.stderr.starts_with("warning: no files will be copied: "), "{ran:?}");
    let ran = broken.shed(&["create", "web", "--no-sync"]).exits(1);
    assert!(!ran.stderr.contains("warning"), "{ran:?}");
}
