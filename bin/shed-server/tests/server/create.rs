//! `POST /api/sheds` as JSON: what is refused, in which order, and that a refusal leaves nothing.

use std::time::Duration;

use serde_json::json;
use shed_backend::fake::{BootFault, FakeStep, Faults, StartFault};
use shed_protocol::{Failure, Occasion, Step, StepEnd};
use shed_types::ShedName;
use tokio::io::AsyncWriteExt;

use crate::{
    api::Api,
    common::{PATIENCE, connect, raw, read_reply},
};

async fn refused(api: &Api, body: impl AsRef<[u8]>, status: u16, code: &str) -> String {
    let body = body.as_ref();
    let reply = api.send("POST", "/api/sheds", body).await;
    let shown: String = String::from_utf8_lossy(body).chars().take(100).collect();
    assert_eq!(reply.error(), (status, code.into()), "{shown}");
    api.assert_clean();
    reply.message()
}

#[tokio::test]
async fn bodies_that_are_no_request_are_refused() {
    let api = Api::new().await;
    let deep = format!(r#"{{"name":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "null",
        "[]",
        "\"api\"",
        "{",
        "{}",
        r#"{"name":null}"#,
        r#"{"name":7}"#,
        r#"{"name":"api","cpus":"2"}"#,
        r#"{"name":"api","cpus":1.5}"#,
        r#"{"name":"api","memory_mb":99999999999999999999}"#,
        r#"{"name":"api","name":"api"}"#,
        r#"{"name":"api"} trailing"#,
        "{\"name\":\"\u{0}\u{1}\"}",
        &deep,
    ] {
        let message = refused(&api, body, 400, "INVALID_SHED_NAME").await;
        assert!(message.starts_with("invalid request body: "), "{message}");
    }
    refused(&api, b"{\"name\":\"\xff\"}", 400, "INVALID_SHED_NAME").await;
}

#[tokio::test]
async fn unknown_keys_are_ignored_however_deep_they_are() {
    let api = Api::new().await;
    let body = format!(r#"{{"name":"api","later":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(api.send("POST", "/api/sheds", body).await.status, 201);
}

#[tokio::test]
async fn names_that_break_the_rules_are_refused_and_said_why() {
    let api = Api::new().await;
    for name in [
        "",
        "A",
        "aB",
        "1",
        "-a",
        "a-",
        "..",
        "a/b",
        "../../etc",
        "ü",
        "a b",
        "a\n",
        "a\u{0}",
        "_api",
        "名前",
        &"a".repeat(64),
    ] {
        let message = refused(&api, json!({ "name": name }).to_string(), 400, "INVALID_SHED_NAME").await;
        assert!(!message.starts_with("invalid request body"), "{message}");
    }
    let longest = "a".repeat(63);
    api.create(&longest).await;
}

#[tokio::test]
async fn sizes_out_of_range_are_refused_with_the_range() {
    let api = Api::new().await;
    for cpus in [-1, 33, 1000, i64::MIN, i64::MAX] {
        let message =
            refused(&api, json!({"name": "api", "cpus": cpus}).to_string(), 400, "INVALID_REQUEST").await;
        assert_eq!(message, format!("cpus must be between 1 and 32; got {cpus}"));
    }
    for memory in [1, -1, 127, 262_145, 1_000_000_000] {
        let body = json!({"name": "api", "memory_mb": memory}).to_string();
        let message = refused(&api, body, 400, "INVALID_REQUEST").await;
        assert_eq!(message, format!("memory_mb must be between 128 and 262144 MB; got {memory}"));
    }
    // 0 is what clients send that always send a number (spec A.4).
    let reply = api.send("POST", "/api/sheds", r#"{"name":"api","cpus":0,"memory_mb":0}"#).await.json();
    assert_eq!((&reply["cpus"], &reply["memory_mb"]), (&json!(2), &json!(512)), "{reply}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_however_it_is_sent() {
    let api = Api::new().await;
    let long = format!(r#"{{"name":"api","x":"{}"}}"#, "x".repeat(2 << 20));
    refused(&api, &long, 413, "BODY_TOO_LARGE").await;
    let head =
        "POST /api/sheds HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    assert_eq!(raw(api.port, format!("{head}{chunk}")).await.error(), (413, "BODY_TOO_LARGE".into()));
    // Announced only: refused without waiting for it.
    let head =
        "POST /api/sheds HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9000000000\r\n\r\n";
    assert_eq!(raw(api.port, head).await.error(), (413, "BODY_TOO_LARGE".into()));
    api.assert_clean();
}

#[tokio::test]
async fn a_body_that_ends_early_creates_nothing() {
    let api = Api::new().await;
    let mut stream = connect(api.port).await;
    stream
        .write_all(b"POST /api/sheds HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"name\":\"api\"}")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains(" 201 "));
    api.assert_clean();
}

#[tokio::test]
async fn checks_come_in_the_order_of_the_specification() {
    let api = Api::new().await;
    api.create("taken").await;
    // Each body has the faults of all later ones; the first fault is reported.
    let faults = [
        (r#""name":"A""#, "INVALID_SHED_NAME"),
        (r#""name":"taken","repo":"/x","local_dir":"x""#, "INVALID_LOCAL_DIR"),
        (r#""name":"taken","repo":"/x""#, "INVALID_REPO_URL"),
        (r#""name":"taken","cpus":-1"#, "INVALID_REQUEST"),
        (r#""name":"taken","backend":"vz""#, "BACKEND_NOT_ENABLED"),
    ];
    for (fields, code) in faults {
        let filler = [r#""cpus":-1"#, r#""backend":"vz""#, r#""image":"none""#];
        let rest: Vec<_> = filler.into_iter().filter(|field| !fields.contains(&field[..7])).collect();
        let body = format!("{{{fields},{}}}", rest.join(","));
        let body = if code == "BACKEND_NOT_ENABLED" { body.replace(r#","cpus":-1"#, "") } else { body };
        let reply = api.send("POST", "/api/sheds", &body).await;
        assert_eq!(reply.error(), (400, code.into()), "{body}");
    }
    let reply = api.send("POST", "/api/sheds", r#"{"name":"taken"}"#).await;
    assert_eq!(reply.error(), (409, "SHED_ALREADY_EXISTS".into()));
}

#[tokio::test]
async fn a_local_dir_is_checked_kept_and_nothing_of_the_servers_own() {
    let api = Api::new().await;
    let file = api.instance_dir().join(".lock");
    let (inside, above) = (api.instance_dir().to_string(), api.instance_dir().parent().unwrap().to_string());
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("link");
    std::os::unix::fs::symlink(api.instance_dir(), &link).unwrap();
    for (dir, reason) in [
        ("relative", "not an absolute path"),
        ("~/web", "not an absolute path"),
        ("/a,b", "comma"),
        ("/no/such/dir", "does not exist"),
        (file.as_str(), "not a directory"),
        ("/a\u{0}b", "does not exist"),
        ("/", "no guest may see"),
        (inside.as_str(), "no guest may see"),
        (above.as_str(), "no guest may see"),
        (link.to_str().unwrap(), "no guest may see"),
    ] {
        let message =
            refused(&api, json!({"name": "api", "local_dir": dir}).to_string(), 400, "INVALID_LOCAL_DIR")
                .await;
        assert!(message.contains(reason), "{dir}: {message}");
    }
    let both = json!({"name": "api", "local_dir": "/tmp", "repo": "a/b"}).to_string();
    assert!(refused(&api, both, 400, "INVALID_LOCAL_DIR").await.contains("exclude each other"));

    let dir = tempfile::tempdir().unwrap();
    let body = json!({"name": "api", "local_dir": dir.path()}).to_string();
    let made = api.send("POST", "/api/sheds", &body).await.json();
    assert_eq!(made["local_dir"].as_str(), dir.path().to_str(), "{made}");
    api.send("POST", "/api/sheds/api/stop", "").await;
    let path = dir.path().to_owned();
    drop(dir);
    let reply = api.send("POST", "/api/sheds/api/start", "").await;
    assert_eq!(reply.error(), (400, "INVALID_LOCAL_DIR".into()));
    let stopped = api.send("GET", "/api/sheds/api", "").await.json();
    assert_eq!(stopped["status"], "stopped");
    assert!(stopped["error"].as_str().unwrap().contains("cannot be mounted"), "{stopped}");
    std::fs::create_dir(&path).unwrap();
    let started = api.send("POST", "/api/sheds/api/start", "").await.json();
    assert_eq!((started["status"].as_str(), started.get("error")), (Some("running"), None));
    std::fs::remove_dir(&path).unwrap();
}

#[tokio::test]
async fn a_repository_is_checked_cloned_and_shown_without_its_password() {
    let api = Api::new().await;
    for repo in ["--upload-pack=x", "file:///etc", "ext::sh -c id", "a b", "/x", "x", "ftp://u:hush@host/x"] {
        let message =
            refused(&api, json!({"name": "api", "repo": repo}).to_string(), 400, "INVALID_REPO_URL").await;
        assert!(!message.contains("hush"), "{message}");
    }
    let name = "api".parse().unwrap();
    for (repo, shown, cloned) in [
        ("owner/repo", "owner/repo", "git@github.com:owner/repo.git"),
        ("https://u:hush@host/x", "https://u:***@host/x", "https://u:hush@host/x"),
    ] {
        let reply =
            api.send("POST", "/api/sheds", json!({"name": "api", "repo": repo}).to_string()).await.json();
        assert_eq!((reply["repo"].as_str(), reply.get("warnings")), (Some(shown), None));
        assert_eq!(api.send("GET", "/api/sheds/api", "").await.json()["repo"], shown);
        let setups = api.world.setups(&name);
        assert_eq!(setups.last().unwrap().clone.as_ref().unwrap().url, cloned);
        api.client.delete(&name).await.unwrap();
    }
}

#[tokio::test]
async fn what_fails_after_the_boot_is_a_warning_in_the_reply() {
    let api = Api::new().await;
    let name = "api".parse().unwrap();
    let failure = Failure {
        message: "the startup hook ended badly".into(),
        code: Some(3),
        timed_out: false,
        last_lines: vec!["the last line".into()],
        log: None,
    };
    for occasion in [Occasion::Create, Occasion::Start] {
        let ended = FakeStep::ended(Step::Startup, StepEnd::Failed(failure.clone()));
        api.world.set_setup(&name, occasion, vec![ended, FakeStep::done()]);
    }
    let expected = "the startup hook ended badly\nits last lines:\n  the last line";
    let reply = api.send("POST", "/api/sheds", r#"{"name":"api"}"#).await;
    assert_eq!((reply.status, &reply.json()["warnings"]), (201, &json!([expected])));
    api.client.stop(&name).await.unwrap();
    let reply = api.send("POST", "/api/sheds/api/start", "").await;
    assert_eq!((reply.status, &reply.json()["warnings"]), (200, &json!([expected])));
    // It tells of one create or start, and of no shed.
    assert_eq!(api.send("GET", "/api/sheds/api", "").await.json().get("warnings"), None);
}

#[tokio::test]
async fn without_provisioning_no_hook_is_asked_for() {
    let api = Api::new().await;
    let name = "api".parse().unwrap();
    let reply = api.send("POST", "/api/sheds", r#"{"name":"api","no_provision":true}"#).await;
    assert_eq!((reply.status, api.world.setups(&name)), (201, vec![]));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_shed_that_runs() {
    let api = Api::new().await;
    let name: ShedName = "api".parse().unwrap();
    api.world.set_setup(&name, Occasion::Create, vec![FakeStep::began(Step::Install), FakeStep::Hangs]);
    for accept in ["", "accept: text/event-stream\r\n"] {
        let mut stream = connect(api.port).await;
        let body = r#"{"name":"api"}"#;
        let head = format!(
            "POST /api/sheds HTTP/1.1\r\nhost: x\r\n{accept}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        api.wait_for_status(&name, "running").await;
        shed_testkit::wait_for("the setup", PATIENCE, || {
            std::future::ready(!api.world.setups(&name).is_empty())
        })
        .await
        .unwrap();
        drop(stream);
        // The server counts the create as one whose client left, and leaves the shed.
        shed_testkit::wait_for("the server to notice", PATIENCE, || async {
            let counted = if accept.is_empty() { 1 } else { 2 };
            let sample = format!(r#"{{operation="create",result="cancelled"}} {counted}"#);
            api.send("GET", "/metrics", "").await.body.contains(&sample)
        })
        .await
        .unwrap();
        assert_eq!(api.send("GET", "/api/sheds/api", "").await.json()["status"], "running");
        api.client.delete(&name).await.unwrap();
    }
}

#[tokio::test]
async fn images_and_backends_that_are_not_there_are_refused() {
    let api = Api::new().await;
    let message = refused(&api, r#"{"name":"api","image":"none"}"#, 400, "UNKNOWN_IMAGE").await;
    assert!(message.contains("`none`") && message.contains("base"), "{message}");
    for image in ["../base", "/etc/passwd", "-x", "a b"] {
        refused(&api, json!({"name": "api", "image": image}).to_string(), 400, "UNKNOWN_IMAGE").await;
    }
    for backend in ["vz", "firecracker", "docker", "QEMU"] {
        let body = json!({"name": "api", "backend": backend}).to_string();
        refused(&api, body, 400, "BACKEND_NOT_ENABLED").await;
    }
    for (name, backend) in [("a", "qemu"), ("b", "detect"), ("c", "")] {
        let body = json!({"name": name, "backend": backend, "image": "base"}).to_string();
        assert_eq!(api.send("POST", "/api/sheds", body).await.status, 201);
    }
}

#[tokio::test]
async fn a_missing_default_image_or_kernel_says_where_it_should_be() {
    let api =
        Api::with(|settings| std::fs::remove_file(settings.images_dir.join("base-rootfs.ext4")).unwrap())
            .await;
    let message = refused(&api, r#"{"name":"api"}"#, 400, "UNKNOWN_IMAGE").await;
    assert!(message.contains("base-rootfs.ext4"), "{message}");
    let api = Api::with(|settings| std::fs::remove_file(&settings.kernel).unwrap()).await;
    let message = refused(&api, r#"{"name":"api"}"#, 500, "BACKEND_ERROR").await;
    assert!(message.contains("kernel"), "{message}");
}

#[tokio::test]
async fn of_two_creates_of_one_name_exactly_one_wins() {
    let api = Api::new().await;
    for round in 0..5 {
        let body = json!({ "name": format!("api{round}") }).to_string();
        let replies = futures::future::join_all((0..8).map(|_| api.send("POST", "/api/sheds", &body))).await;
        let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
        let codes = replies.iter().filter(|reply| reply.status == 409).map(|reply| reply.error().1);
        assert!(codes.into_iter().all(|code| code == "SHED_ALREADY_EXISTS"));
    }
    assert_eq!(api.world.running().len(), 5);
    assert_eq!(api.world.disk_conflicts(), 0);
}

#[tokio::test]
async fn many_creates_of_different_names_all_work() {
    let api = Api::new().await;
    let names: Vec<String> = (0..8).map(|n| format!("shed{n}")).collect();
    let created = futures::future::join_all(names.iter().map(|name| api.create(name))).await;
    assert_eq!(api.world.running(), created);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_in_the_way_of_its_name() {
    let api = Api::with(|settings| {
        let dir = settings.instance_dir.join("api");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("metadata.json"), "{").unwrap();
    })
    .await;
    let reply = api.send("POST", "/api/sheds", r#"{"name":"api"}"#).await;
    assert_eq!(reply.error(), (409, "SHED_ALREADY_EXISTS".into()));
    assert_eq!(api.send("GET", "/api/sheds", "").await.body, r#"{"sheds":[]}"#);
}

#[tokio::test]
async fn a_boot_that_fails_says_why_and_leaves_nothing() {
    let api = Api::with(|settings| settings.start_timeout = Duration::from_millis(200)).await;
    let name = "api".parse().unwrap();
    for (faults, words) in [
        (Faults { start: StartFault::EndsAtOnce, ..Faults::default() }, "ended at once"),
        (Faults { boot: BootFault::Dies(Duration::ZERO), ..Faults::default() }, "Kernel panic"),
        (Faults { boot: BootFault::Never, ..Faults::default() }, "a disk that never comes"),
    ] {
        api.world.set_faults(&name, faults);
        let message = refused(&api, r#"{"name":"api"}"#, 500, "BACKEND_ERROR").await;
        assert!(message.contains(words) && message.contains("`api`"), "{message}");
    }
    api.world.set_faults(&name, Faults::default());
    api.create("api").await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_create_along() {
    let api = Api::new().await;
    let name = "api".parse().unwrap();
    api.set_boot(&name, BootFault::Never);
    for accept in ["", "accept: text/event-stream\r\n"] {
        let mut stream = connect(api.port).await;
        let body = r#"{"name":"api"}"#;
        let head = format!(
            "POST /api/sheds HTTP/1.1\r\nhost: x\r\n{accept}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        api.wait_for_status(&name, "starting").await;
        shed_testkit::wait_for("the machine", PATIENCE, || {
            std::future::ready(!api.world.running().is_empty())
        })
        .await
        .unwrap();
        drop(stream);
        api.wait_until_clean().await;
        shed_testkit::wait_for("the shed to be forgotten", PATIENCE, || async {
            api.send("GET", "/api/sheds/api", "").await.status == 404
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_delete_ends_a_create_in_progress() {
    let api = Api::new().await;
    let name = "api".parse().unwrap();
    api.set_boot(&name, BootFault::Never);
    let mut stream = connect(api.port).await;
    let body = r#"{"name":"api"}"#;
    let head = "POST /api/sheds HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    api.wait_for_status(&name, "starting").await;
    assert_eq!(api.send("DELETE", "/api/sheds/api", "").await.status, 204);
    assert_eq!(read_reply(&mut stream).await.error(), (409, "SHED_BUSY".into()));
    api.assert_clean();
}
