//! Connections that break, servers that are held or silent, agents that are killed.

use serde_json::json;

use crate::{
    bus::Bus,
    world::{World, begin, mode},
};

#[tokio::test]
async fn the_agent_comes_back_after_a_broken_stream_and_gives_way_while_another_listens() {
    let (mut world, mut bus, _blob) = begin("").await;
    bus.hang_up();
    bus.listened().await;
    assert_eq!(bus.ask("api", &json!({"operation": "ping"})).await["status"], "ok");

    bus.hold(true);
    bus.hang_up();
    bus.refused(2).await;
    let status = world.print(&["status"]);
    assert!(status.contains("held by another agent"), "{status}");
    bus.hold(false);
    bus.listened().await;
    assert_eq!(world.log().matches("another agent listens there").count(), 1, "{}", world.log());
    assert!(world.end("-TERM"), "{}", world.log());
    bus.left().await;
    assert!(!world.home.join("run/shed/host-agent.sock").exists());
}

#[tokio::test]
async fn an_event_without_an_end_breaks_the_connection_and_not_the_agent() {
    let (_world, mut bus, _blob) = begin("").await;
    bus.write(&format!("event: message\ndata: {}", "x".repeat(2 << 20)));
    bus.left().await;
    bus.listened().await;
    assert_eq!(bus.ask("api", &json!({"operation": "ping"})).await["status"], "ok");
}

#[tokio::test]
async fn a_second_agent_does_not_start_and_one_after_a_kill_does() {
    let mut world = World::new();
    let mut bus = Bus::start().await;
    world.configure(&format!("server: {}\n", bus.url()));
    let none = world.output(&["status"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no shed-host-agent runs"), "{none:?}");
    world.start();
    bus.listened().await;
    let socket = world.home.join("run/shed/host-agent.sock");
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let second = world.output(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another shed-host-agent runs already"),
        "{second:?}"
    );

    world.end("-KILL");
    bus.left().await;
    assert!(socket.exists());
    let none = world.output(&["approvals", "list"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no shed-host-agent runs"), "{none:?}");
    world.start();
    bus.listened().await;
    assert_eq!(bus.ask("api", &json!({"operation": "ping"})).await["status"], "ok");
    assert!(world.print(&["status"]).contains("listening"));
    assert!(world.end("-INT"));
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let world = World::new();
    let fails = |arguments: &[&str], says: &str| {
        let output = world.output(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code().is_some_and(|code| code != 0) && text.contains(says),
            "{arguments:?}: {text}"
        );
    };
    fails(&["--config", "/nonexistent.yaml"], "there is no configuration at /nonexistent.yaml");
    fails(&["approvals", "approve"], "Usage");
    world.configure("ssh:\n  aproval: {enabled: true}\n");
    fails(&["run"], "extensions.yaml:2:3");
    world.configure("logging: {path: /dev/null}\n");
    fails(&["run"], "the audit log is on");
    assert!(world.print(&["--version"]).starts_with("shed-host-agent "));
    assert!(world.print(&["--help"]).contains("approvals"));
}
