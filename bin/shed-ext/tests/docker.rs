//! `docker-credential-shed` as Docker calls it.

#![cfg(target_os = "linux")]

mod common;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::{Answer, Bus, output, program, text};

const NOT_FOUND: &str = "credentials not found in native keychain";

fn helper(action: &str, url: &str, input: &str) -> (Option<i32>, String, String) {
    let run =
        output(program("docker-credential-shed").arg(action).env("SHED_PUBLISH_URL", url), input.as_bytes());
    (run.status.code(), text(&run.stdout), text(&run.stderr))
}

fn bus() -> Bus {
    Bus::serve(|namespace, payload| {
        assert_eq!(namespace, "docker-credentials");
        let failure = |code: &str| Answer::Payload(json!({"error": "no such thing", "code": code}));
        match (payload["operation"].as_str().unwrap(), payload["server_url"].as_str()) {
            ("list", _) => Answer::Payload(json!({"registries": {"https://r.example": "me"}})),
            ("get", Some("https://r.example")) => {
                Answer::Payload(json!({"server_url": "r.example", "username": "me", "secret": "hunter2"}))
            }
            ("get", Some("unknown.example")) => failure("CREDENTIALS_NOT_FOUND"),
            ("get", Some("forbidden.example")) => failure("REGISTRY_NOT_ALLOWED"),
            ("get", Some("broken.example")) => Answer::Payload(json!({"secret": "hunter2", "username": 7})),
            ("get", Some("silent.example")) => Answer::Silence,
            ("get", Some("late.example")) => Answer::Error(504, "TIMEOUT"),
            ("get", Some(_)) => failure("HELPER_FAILED"),
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn credentials_are_given_as_docker_reads_them() {
    let bus = bus();
    let (code, out, err) = helper("get", &bus.url, "https://r.example\n");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found, json!({"ServerURL": "https://r.example", "Username": "me", "Secret": "hunter2"}));
    let (code, out, _) = helper("list", &bus.url, "");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()),
        (Some(0), json!({"https://r.example": "me"}))
    );
    let (code, out, _) = helper("version", &bus.url, "");
    assert_eq!(
        (code, out),
        (Some(0), format!("docker-credential-shed (shed) {}", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn what_is_not_found_lets_docker_go_on_and_the_rest_is_an_error() {
    let bus = bus();
    let (code, out, err) = helper("get", &bus.url, "unknown.example");
    assert_eq!((code, out.as_str(), err.as_str()), (Some(1), NOT_FOUND, ""));
    let (code, out, err) = helper("get", &bus.url, "forbidden.example");
    assert_eq!((code, out.as_str()), (Some(1), NOT_FOUND));
    assert!(err.contains("docker.registries"), "{err}");
    for (registry, expected) in [
        ("else.example", "no such thing"),
        ("late.example", "shed-host-agent"),
        ("broken.example", "not understood"),
        ("", "no credentials server URL"),
    ] {
        let (code, out, err) = helper("get", &bus.url, registry);
        assert_eq!((code, err.as_str()), (Some(1), ""), "{registry}");
        assert!(out.contains(expected) && !out.contains("hunter2") && out.lines().count() == 1, "{out}");
    }
    let (code, out, _) = helper("get", &bus.url, &"x".repeat(100_000));
    assert!(code == Some(1) && out.contains("more than 4096"), "{out}");
}

#[test]
fn nothing_is_stored_or_erased_or_asked() {
    let bus = bus();
    for action in ["store", "erase"] {
        let input = json!({"ServerURL": "r.example", "Username": "me", "Secret": "hunter2"}).to_string();
        let (code, out, err) = helper(action, &bus.url, &input);
        assert_eq!(code, Some(1));
        assert!(out.contains("on your own machine") && !format!("{out}{err}").contains("hunter2"), "{out}");
    }
    assert!(bus.asked.lock().unwrap().is_empty());
    assert_eq!(helper("eat", &bus.url, "").0, Some(2));
}

#[test]
fn a_bus_that_is_down_or_silent_is_an_error_in_time() {
    let (code, out, _) = helper("get", "http://127.0.0.1:1", "r.example");
    assert!(code == Some(1) && out.contains("shed-agent"), "{out}");
    let begun = Instant::now();
    let (code, out, _) = helper("get", &bus().url, "silent.example");
    assert!(code == Some(1) && out.contains("within 5 s"), "{out}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
