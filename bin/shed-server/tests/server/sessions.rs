//! tmux sessions over the API: lists, ends, refusals in their order, and guests that answer badly or not at all.

use std::time::{Duration, Instant};

use shed_backend::fake::{BootFault, FakeSession, FakeTmux};
use shed_testkit::wait_for;
use shed_types::ShedName;
use tokio::io::AsyncWriteExt;

use crate::{
    api::Api,
    common::{PATIENCE, connect},
};

/// How long the lifecycle waits for tmux.
const TMUX: Duration = Duration::from_secs(15);

fn session(name: &str) -> FakeSession {
    FakeSession { name: name.into(), created: 1_768_905_000, clients: 0, windows: 1 }
}

fn sessions(names: &[&str]) -> FakeTmux {
    FakeTmux::Sessions(names.iter().map(|name| session(name)).collect())
}

fn prints(stdout: impl Into<Vec<u8>>, stderr: &str, code: i32) -> FakeTmux {
    FakeTmux::Prints { stdout: stdout.into(), stderr: stderr.into(), code }
}

async fn with_tmux(api: &Api, name: &str, tmux: FakeTmux) -> ShedName {
    let shed = api.create(name).await;
    api.world.set_tmux(&shed, tmux);
    shed
}

/// Returns `shed/session` of every session in the reply to a GET.
async fn listed(api: &Api, path: &str) -> Vec<String> {
    let reply = api.send("GET", path, "").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let json = reply.json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let sessions = json["sessions"].as_array().unwrap();
    sessions.iter().map(|item| format!("{}/{}", text(&item["shed_name"]), text(&item["name"]))).collect()
}

#[tokio::test]
async fn the_json_of_each_reply_keeps_its_shape() {
    let api = Api::new().await;
    let shed = api.create("codelens").await;
    insta::assert_snapshot!(api.send("GET", "/api/sessions", "").await.body, @r#"{"sessions":[]}"#);
    let path = "/api/sheds/codelens/sessions";
    insta::assert_snapshot!(api.send("GET", path, "").await.body, @r#"{"sessions":[]}"#);
    let attached = FakeSession { clients: 2, windows: 3, ..session("default") };
    api.world.set_tmux(&shed, FakeTmux::Sessions(vec![attached, session("a b:\u{fc}")]));
    let reply = api.send("GET", path, "").await;
    assert_eq!(reply.headers["content-type"], "application/json");
    insta::assert_json_snapshot!("of_one_shed", reply.json());
    with_tmux(&api, "aaa", sessions(&["z"])).await;
    with_tmux(&api, "mute", FakeTmux::HangsUp).await;
    insta::assert_json_snapshot!("of_all_sheds", api.send("GET", "/api/sessions", "").await.json());
    let reply = api.send("DELETE", "/api/sheds/codelens/sessions/default", "").await;
    assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    let reply = api.send("DELETE", "/api/sheds/codelens/sessions/default", "").await;
    insta::assert_snapshot!(reply.body, @r#"{"error":{"code":"SESSION_NOT_FOUND","message":"shed `codelens` has no tmux session named `default`"}}"#);
}

#[tokio::test]
async fn a_session_ends_by_its_whole_name_down_to_the_last() {
    let api = Api::new().await;
    let shed = with_tmux(&api, "api", sessions(&["main", "main-2"])).await;
    let kill = |name: &'static str| api.send("DELETE", name, "");
    assert_eq!(kill("/api/sheds/api/sessions/mai").await.error(), (404, "SESSION_NOT_FOUND".into()));
    assert_eq!(kill("/api/sheds/api/sessions/main").await.status, 204);
    assert_eq!(listed(&api, "/api/sheds/api/sessions").await, ["api/main-2"]);
    assert_eq!(kill("/api/sheds/api/sessions/main%2D2").await.status, 204);
    assert_eq!(api.world.tmux(&shed), sessions(&[]));
    assert_eq!(listed(&api, "/api/sheds/api/sessions").await, Vec::<String>::new());
    assert_eq!(kill("/api/sheds/api/sessions/main-2").await.error(), (404, "SESSION_NOT_FOUND".into()));
}

#[tokio::test]
async fn refusals_come_in_their_order() {
    let api = Api::new().await;
    let error = async |method: &str, path: &str| api.send(method, path, "").await.error();
    let long = format!("/api/sheds/api/sessions/{}", "a".repeat(64));
    assert_eq!(error("GET", "/api/sheds/A/sessions").await, (400, "INVALID_SHED_NAME".into()));
    assert_eq!(error("DELETE", "/api/sheds/A/sessions/-x").await, (400, "INVALID_SHED_NAME".into()));
    for name in ["-x", "_x", "a.b", "a:b", "a%20b", "%3Dx", "a%2Fb", "%FF", "%C3%BC", "a%00", "x%0A", "$1"] {
        let reply = error("DELETE", &format!("/api/sheds/none/sessions/{name}")).await;
        assert_eq!(reply, (400, "INVALID_SESSION_NAME".into()), "{name}");
    }
    assert_eq!(error("DELETE", &long).await, (400, "INVALID_SESSION_NAME".into()));
    assert_eq!(error("GET", "/api/sheds/none/sessions").await, (404, "SHED_NOT_FOUND".into()));
    assert_eq!(error("DELETE", "/api/sheds/none/sessions/x").await, (404, "SHED_NOT_FOUND".into()));

    let shed = with_tmux(&api, "api", FakeTmux::Absent).await;
    api.client.stop(&shed).await.unwrap();
    assert_eq!(error("GET", "/api/sheds/api/sessions").await, (409, "SHED_ALREADY_STOPPED".into()));
    assert_eq!(error("DELETE", "/api/sheds/api/sessions/x").await, (409, "SHED_ALREADY_STOPPED".into()));
    let _started = api.client.start(&shed).await.unwrap();
    assert_eq!(error("GET", "/api/sheds/api/sessions").await, (503, "TMUX_NOT_AVAILABLE".into()));
    assert_eq!(error("DELETE", "/api/sheds/api/sessions/x").await, (503, "TMUX_NOT_AVAILABLE".into()));
    assert_eq!(listed(&api, "/api/sessions").await, Vec::<String>::new());
    api.world.set_tmux(&shed, sessions(&["y"]));
    assert_eq!(error("DELETE", "/api/sheds/api/sessions/x").await, (404, "SESSION_NOT_FOUND".into()));

    for (method, path, allowed) in [
        ("POST", "/api/sheds/api/sessions", "GET,HEAD"),
        ("GET", "/api/sheds/api/sessions/x", "DELETE"),
        ("DELETE", "/api/sessions", "GET,HEAD"),
    ] {
        let reply = api.send(method, path, "").await;
        assert_eq!(reply.error(), (405, "METHOD_NOT_ALLOWED".into()), "{method} {path}");
        assert_eq!(reply.headers["allow"], allowed, "{method} {path}");
    }
    assert_eq!(error("DELETE", "/api/sheds/api/sessions/").await, (404, "NOT_FOUND".into()));
}

#[tokio::test]
async fn a_shed_on_its_way_up_is_409_and_says_so() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    api.client.stop(&shed).await.unwrap();
    api.set_boot(&shed, BootFault::Never);
    let client = api.client.clone();
    let starting = tokio::spawn(async move { client.start(&"api".parse().unwrap()).await });
    api.wait_for_status(&shed, "starting").await;
    let reply = api.send("GET", "/api/sheds/api/sessions", "").await;
    assert_eq!(reply.error(), (409, "SHED_ALREADY_STOPPED".into()));
    assert!(reply.message().contains("is starting"), "{}", reply.message());
    api.client.delete(&shed).await.unwrap();
    starting.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn hostile_output_is_an_error_that_can_be_printed() {
    let api = Api::new().await;
    let shed = api.create("api").await;
    let (backend, connect) = ((500, "BACKEND_ERROR"), (502, "CONNECT_FAILED"));
    // What tmux prints when it has ended a session is nothing to anybody, unless it does not stop.
    for (tmux, listing, killing) in [
        (prints("\u{1b}[2Jx:1:0:1\n", "", 0), backend, None),
        (prints("x:99999999999999999999:0:1\n", "", 0), backend, None),
        (prints(vec![b'x'; (1 << 20) + 1], "", 0), backend, Some(backend)),
        (prints("", &"e".repeat((1 << 20) + 1), 1), backend, Some(backend)),
        (prints("", &"\u{1b}]0;x\u{7}y".repeat(10_000), 2), backend, Some(backend)),
        (FakeTmux::HangsUp, connect, Some(connect)),
    ] {
        api.world.set_tmux(&shed, tmux);
        for (method, end, expected) in [("GET", "", Some(listing)), ("DELETE", "/x", killing)] {
            let reply = api.send(method, &format!("/api/sheds/api/sessions{end}"), "").await;
            let Some((status, code)) = expected else {
                assert_eq!(reply.status, 204, "{reply:?}");
                continue;
            };
            assert_eq!(reply.error(), (status, code.to_owned()), "{method}");
            let message = reply.message();
            assert!(message.contains("`api`") && !message.contains(char::is_control), "{message:?}");
            assert!(message.len() < 600, "{} bytes", message.len());
        }
        let all = api.send("GET", "/api/sessions", "").await.json();
        assert_eq!(all["warnings"].as_array().map(Vec::len), Some(1), "{all}");
    }
    api.world.set_tmux(&shed, sessions(&["fine"]));
    assert_eq!(listed(&api, "/api/sessions").await, ["api/fine"]);
}

/// Takes the fifteen seconds that the lifecycle waits for tmux, once: all sheds are asked at the same time.
#[tokio::test]
async fn a_guest_that_never_answers_delays_the_others_once_and_hides_none() {
    let api = Api::new().await;
    with_tmux(&api, "good", sessions(&["main"])).await;
    let hangs = with_tmux(&api, "hangs", FakeTmux::Hangs).await;
    with_tmux(&api, "hangs-too", FakeTmux::Hangs).await;
    let begun = Instant::now();
    let (all, one) = tokio::join!(
        api.send("GET", "/api/sessions", ""),
        api.send("DELETE", "/api/sheds/hangs/sessions/main", "")
    );
    let took = begun.elapsed();
    assert!(took >= TMUX && took < TMUX * 2, "{took:?}");
    let all = all.json();
    let text = |value: &serde_json::Value| value.to_string();
    assert_eq!(text(&all["sessions"][0]["shed_name"]), "\"good\"");
    assert_eq!(all["sessions"].as_array().unwrap().len(), 1);
    let warnings: Vec<_> = all["warnings"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("shed `hangs` did not end within 15 s"), "{warnings:?}");
    assert!(warnings[1].contains("shed `hangs-too`"), "{warnings:?}");
    assert_eq!(one.error(), (502, "CONNECT_FAILED".into()));
    wait_for("the commands to end", PATIENCE, || std::future::ready(api.world.commands(&hangs) == 0))
        .await
        .unwrap();
}

/// Takes the ten seconds that the lifecycle waits for an agent.
#[tokio::test]
async fn an_agent_that_is_away_is_a_failed_connection() {
    let api = Api::new().await;
    let shed = with_tmux(&api, "api", sessions(&["main"])).await;
    api.world.set_agent_up(&shed, false);
    let reply = api.send("GET", "/api/sheds/api/sessions", "").await;
    assert_eq!(reply.error(), (502, "CONNECT_FAILED".into()));
    assert!(reply.message().contains("did not answer within 10 s"), "{}", reply.message());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_command_in_the_guest() {
    let api = Api::new().await;
    let shed = with_tmux(&api, "api", FakeTmux::Hangs).await;
    let running = |count| {
        let world = &api.world;
        let shed = &shed;
        wait_for("tmux in the guest", PATIENCE, move || std::future::ready(world.commands(shed) == count))
    };
    let mut stream = connect(api.port).await;
    stream.write_all(b"GET /api/sheds/api/sessions HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    running(1).await.unwrap();
    let begun = Instant::now();
    drop(stream);
    running(0).await.unwrap();
    assert!(begun.elapsed() < TMUX, "it was not the deadline");
}
