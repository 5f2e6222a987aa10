//! A person is asked before a key signs, at `shed-host-agent approvals`.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    bus::Bus,
    world::{World, begin, sign},
};

async fn asking(policy: &str) -> (World, Bus, Vec<u8>) {
    begin(&format!("ssh: {{approval: {{enabled: true, policy: {policy}, session_ttl: 1h}}}}")).await
}

/// Reads lines of `approvals watch` until one is about this shed, and returns its id.
fn next_of(lines: &mut impl Iterator<Item = std::io::Result<String>>, shed: &str) -> String {
    let line = lines.map(Result::unwrap).find(|line| line.contains(&format!("shed {shed} at "))).unwrap();
    assert!(line.contains("wants to sign with ssh-ed25519 SHA256:"), "{line}");
    line.split(' ').next().unwrap().to_owned()
}

// The bus runs on another thread than the one that waits for what a program prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_its_own_answer_and_delays_no_other() {
    let (world, mut bus, blob) = asking("per-request").await;
    let mut watch = world.command(&["approvals", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();

    let first = bus.send("api", &sign(&blob, b"first", 0));
    let first_id = next_of(&mut lines, "api");
    let second = bus.send("web", &sign(&blob, b"second", 0));
    let second_id = next_of(&mut lines, "web");
    // Others are answered while these wait.
    assert_eq!(bus.ask("web", &json!({"operation": "list"})).await["keys"].as_array().unwrap().len(), 1);
    let list = world.print(&["approvals", "list"]);
    assert!(list.contains(&first_id) && list.contains(&second_id), "{list}");
    let list: Value = serde_json::from_str(&world.print(&["approvals", "list", "--json"])).unwrap();
    assert_eq!((list[0]["shed"].as_str(), list[1]["id"].as_str()), (Some("api"), Some(second_id.as_str())));

    world.print(&["approvals", "approve", &second_id]);
    world.verify(&blob, b"second", &bus.answer(&second).await);
    world.print(&["approvals", "deny", &first_id]);
    assert_eq!(bus.answer(&first).await, json!({"error": "approval denied", "code": "SIGN_FAILED"}));
    let late = world.output(&["approvals", "approve", &first_id]);
    assert!(!late.status.success());
    assert!(String::from_utf8_lossy(&late.stderr).contains("answered already"), "{late:?}");
    assert_eq!(world.print(&["approvals", "list"]), "nothing waits for approval\n");
    watch.kill().unwrap();
    watch.wait().unwrap();

    let audit: Vec<_> = world.audit().into_iter().filter(|line| line["op"] == "sign").collect();
    assert_eq!((&audit[0]["result"], &audit[0]["approval"]), (&json!("ok"), &json!("prompt")));
    assert_eq!((&audit[1]["result"], &audit[1]["shed"]), (&json!("denied"), &json!("api")));
}

// The bus runs on another thread than the one that waits for what a program prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_is_good_for_the_shed_alone_and_a_shed_that_floods_waits_alone() {
    let (world, mut bus, blob) = asking("per-shed").await;
    let mut watch = world.command(&["approvals", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let waiting: Vec<_> = (0..8).map(|_| bus.send("api", &sign(&blob, b"x", 0))).collect();
    let id = next_of(&mut lines, "api");
    for _ in 1..8 {
        next_of(&mut lines, "api");
    }
    // The ninth at the same time is denied at once.
    assert_eq!(bus.ask("api", &sign(&blob, b"x", 0)).await["error"], "approval denied");
    let other = bus.send("web", &sign(&blob, b"x", 0));
    let other_id = next_of(&mut lines, "web");
    world.print(&["approvals", "approve", &id]);
    for id in waiting {
        world.verify(&blob, b"x", &bus.answer(&id).await);
    }
    world.verify(&blob, b"y", &bus.ask("api", &sign(&blob, b"y", 0)).await);
    let list: Value = serde_json::from_str(&world.print(&["approvals", "list", "--json"])).unwrap();
    assert_eq!((list.as_array().unwrap().len(), list[0]["id"].as_str()), (1, Some(other_id.as_str())));
    // Nobody answers this one: it is denied before the guest gives up.
    assert_eq!(bus.answer(&other).await["error"], "approval denied");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let remembered = world.audit().iter().filter(|line| line["approval"] == "remembered").count();
    assert_eq!(remembered, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_denies_what_waits() {
    let (mut world, mut bus, blob) = asking("per-session").await;
    let mut watch = world.command(&["approvals", "watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let id = bus.send("api", &sign(&blob, b"x", 0));
    next_of(&mut lines, "api");
    assert!(world.end("-TERM"), "{}", world.log());
    assert_eq!(bus.answer(&id).await["error"], "approval denied");
    assert_eq!(watch.wait().unwrap().code(), Some(1));
}
