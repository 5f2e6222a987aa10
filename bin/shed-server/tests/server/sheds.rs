//! Info, list, get, start, stop, delete; paths and names that are not there.

use std::time::Duration;

use shed_backend::fake::{BootFault, Faults, KillFault, PowerOffFault};
use shed_testkit::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    api::{Api, redact},
    common::{PATIENCE, connect, raw, send_with},
};

#[tokio::test]
async fn the_json_of_each_reply_keeps_its_shape() {
    let api = Api::new().await;
    insta::assert_json_snapshot!("info", redact(api.send("GET", "/api/info", "").await.json()));
    insta::assert_snapshot!(api.send("GET", "/api/sheds", "").await.body, @r#"{"sheds":[]}"#);
    let reply =
        api.send("POST", "/api/sheds", r#"{"name":"api","cpus":1,"repo":"https://u:pw@host/x"}"#).await;
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (201, "application/json"));
    insta::assert_json_snapshot!("created", redact(reply.json()));
    insta::assert_json_snapshot!("got", redact(api.send("GET", "/api/sheds/api", "").await.json()));
    api.create("aaa").await;
    insta::assert_json_snapshot!("list", redact(api.send("GET", "/api/sheds", "").await.json()));
    insta::assert_json_snapshot!("stopped", redact(api.send("POST", "/api/sheds/api/stop", "").await.json()));
    insta::assert_json_snapshot!(
        "started",
        redact(api.send("POST", "/api/sheds/api/start", "").await.json())
    );
    let reply = api.send("GET", "/api/sheds/none", "").await;
    insta::assert_snapshot!(reply.body, @r#"{"error":{"code":"SHED_NOT_FOUND","message":"there is no shed named `none`"}}"#);
}

#[tokio::test]
async fn a_shed_that_is_not_there_is_404_everywhere() {
    let api = Api::new().await;
    for (method, path) in [
        ("GET", "/api/sheds/none"),
        ("DELETE", "/api/sheds/none"),
        ("DELETE", "/api/sheds/none?keep_volume=true"),
        ("POST", "/api/sheds/none/start"),
        ("POST", "/api/sheds/none/stop"),
    ] {
        assert_eq!(
            api.send(method, path, "").await.error(),
            (404, "SHED_NOT_FOUND".into()),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn start_and_stop_refuse_what_is_already_so() {
    let api = Api::new().await;
    let name = api.create("api").await;
    assert_eq!(
        api.send("POST", "/api/sheds/api/start", "").await.error(),
        (409, "SHED_ALREADY_RUNNING".into())
    );
    assert_eq!(api.send("POST", "/api/sheds/api/stop", "").await.json()["status"], "stopped");
    assert_eq!(
        api.send("POST", "/api/sheds/api/stop", "").await.error(),
        (409, "SHED_ALREADY_STOPPED".into())
    );
    assert_eq!(api.send("POST", "/api/sheds/api/start", "").await.json()["status"], "running");
    assert_eq!(api.world.starts(&name), 2);
    assert_eq!(api.send("DELETE", "/api/sheds/api?keep_volume=true", "").await.status, 204);
    api.assert_clean();
    assert_eq!(api.send("GET", "/api/sheds/api", "").await.status, 404);
}

#[tokio::test]
async fn names_that_break_the_rules_are_400_and_reach_no_file() {
    let api = Api::new().await;
    assert_eq!(api.send("POST", "/api/sheds//start", "").await.error(), (400, "INVALID_SHED_NAME".into()));
    let long = "a".repeat(64);
    for name in [
        "A",
        "aB",
        "1a",
        "-a",
        "a-",
        "a_b",
        "a.b",
        "_api",
        &long,
        "%2e%2e",
        "..%2f..%2fetc",
        "%2Fetc",
        "a%2Fb",
        "a%00",
        "%C3%BC",
        "%FF",
        "a%20b",
        "%0d%0ax",
        "a%3Fb",
    ] {
        for (method, end) in
            [("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop"), ("GET", "/exec")]
        {
            let reply = api.send(method, &format!("/api/sheds/{name}{end}"), "").await;
            assert_eq!(reply.error(), (400, "INVALID_SHED_NAME".into()), "{method} {name}{end}");
        }
    }
    api.assert_clean();
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_answer_in_the_error_shape() {
    let api = Api::new().await;
    for path in
        ["/", "/api", "/api/", "/api/sheds/", "/api/sheds/a/b/c", "/api/../etc/passwd", "/x", "/API/info"]
    {
        assert_eq!(api.send("GET", path, "").await.error(), (404, "NOT_FOUND".into()), "{path}");
    }
    for (method, path, allowed) in [
        ("POST", "/api/info", "GET,HEAD"),
        ("DELETE", "/api/sheds", "GET,HEAD,POST"),
        ("PUT", "/api/sheds/a", "GET,HEAD,DELETE"),
        ("GET", "/api/sheds/a/start", "POST"),
        ("BREW", "/api/sheds/a/stop", "POST"),
    ] {
        let reply = api.send(method, path, "").await;
        assert_eq!(reply.error(), (405, "METHOD_NOT_ALLOWED".into()), "{method} {path}");
        assert_eq!(reply.headers["allow"], allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn every_reply_has_a_request_id_and_keeps_the_clients() {
    let api = Api::new().await;
    let id = |reply: crate::common::RawReply| reply.headers["x-request-id"].clone();
    let own = id(api.send("GET", "/api/info", "").await);
    assert_eq!(own.len(), 32, "{own}");
    assert_ne!(own, id(api.send("GET", "/nothing", "").await));
    assert_eq!(id(send_with(api.port, "GET", "/api/info", "x-request-id: my.id-1\r\n", "").await), "my.id-1");
    let hostile = format!("x-request-id: {}\r\n", "a".repeat(65));
    assert_ne!(id(send_with(api.port, "GET", "/api/info", &hostile, "").await), "a".repeat(65));
    assert_eq!(id(send_with(api.port, "GET", "/api/info", "x-request-id: a b\r\n", "").await).len(), 32);
}

#[tokio::test]
async fn a_web_page_cannot_use_the_api() {
    let api = Api::new().await;
    for (method, path) in
        [("POST", "/api/sheds"), ("GET", "/api/sheds"), ("OPTIONS", "/api/sheds"), ("GET", "/x")]
    {
        let headers = "origin: http://127.0.0.1:8080\r\ncontent-type: text/plain\r\n";
        let reply = send_with(api.port, method, path, headers, r#"{"name":"api"}"#).await;
        assert_eq!(reply.error(), (400, "INVALID_REQUEST".into()), "{method} {path}");
        assert!(!reply.headers.contains_key("access-control-allow-origin"), "{reply:?}");
    }
    api.assert_clean();
}

#[tokio::test]
async fn what_is_no_http_does_no_harm() {
    let api = Api::new().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = connect(api.port).await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        // Hyper knows the first words of HTTP/2 and answers them with nothing.
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let many = "x: y\r\n".repeat(20_000);
    let reply = raw(api.port, format!("GET /api/info HTTP/1.1\r\n{many}\r\n")).await;
    assert_eq!(reply.status, 431);
    assert_eq!(api.send("GET", "/api/info", "").await.status, 200);
}

#[tokio::test]
async fn a_start_goes_on_when_its_client_goes_away() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    api.set_boot(&name, BootFault::Slow(Duration::from_millis(300)));
    let mut stream = connect(api.port).await;
    let request = "POST /api/sheds/api/start HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    api.wait_for_status(&name, "starting").await;
    drop(stream);
    api.wait_for_status(&name, "running").await;
    assert_eq!(api.world.starts(&name), 2);
}

#[tokio::test]
async fn several_starts_at_once_get_the_same_machine() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    api.set_boot(&name, BootFault::Slow(Duration::from_millis(100)));
    let results = futures::future::join_all((0..5).map(|_| api.client.start(&name))).await;
    let pids: Vec<_> = results.into_iter().map(|shed| shed.unwrap().pid).collect();
    assert!(pids.iter().all(|pid| pid.is_some() && *pid == pids[0]), "{pids:?}");
    assert_eq!(api.world.starts(&name), 2);
}

#[tokio::test]
async fn a_machine_that_ends_by_itself_reads_stopped_and_starts_again() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.world.crash(&name);
    api.wait_for_status(&name, "stopped").await;
    let shed = api.client.get(&name).await.unwrap();
    assert!(shed.pid.is_none() && shed.last_healthy.is_none(), "{shed:?}");
    assert_eq!(api.client.start(&name).await.unwrap().status.as_str(), "running");
}

#[tokio::test]
async fn a_stop_and_a_delete_that_cannot_end_the_machine_are_backend_errors() {
    let api = Api::with(|settings| settings.stop_timeout = Duration::from_millis(50)).await;
    let name = "api".parse().unwrap();
    let stubborn =
        Faults { power_off: PowerOffFault::Ignored, kill: KillFault::StillRunning, ..Faults::default() };
    api.world.set_faults(&name, stubborn);
    api.create("api").await;
    for (method, path) in [("POST", "/api/sheds/api/stop"), ("DELETE", "/api/sheds/api")] {
        let reply = api.send(method, path, "").await;
        assert_eq!(reply.error(), (500, "BACKEND_ERROR".into()), "{method}");
        assert!(reply.message().contains("could not be ended"), "{}", reply.message());
    }
    assert_eq!(api.world.running().len(), 1, "it is not said to be gone");
}

#[tokio::test]
async fn a_delete_ends_a_start_in_progress() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    api.set_boot(&name, BootFault::Never);
    let client = api.client.clone();
    let starting = tokio::spawn({
        let name = name.clone();
        async move { client.start(&name).await }
    });
    api.wait_for_status(&name, "starting").await;
    api.client.delete(&name).await.unwrap();
    let error = starting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(shed_api::ErrorCode::ShedBusy), "{error}");
    api.assert_clean();
}

#[tokio::test]
async fn machines_outlive_the_server() {
    let mut api = Api::new().await;
    let name = api.create("api").await;
    api.end().await;
    assert_eq!(api.world.running(), [name]);
    wait_for("the port to be closed", PATIENCE, || async {
        tokio::net::TcpStream::connect(("127.0.0.1", api.port)).await.is_err()
    })
    .await
    .unwrap();
}
