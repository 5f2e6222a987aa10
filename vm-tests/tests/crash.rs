//! `kill -9` of the server at every point of create, start, stop and delete: afterwards each shed is whole or gone.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use rand::RngExt;
use serde_json::json;
use vm_tests::{BOOT, Cli, Expect, Http, Promises, Stage, wait_for};

const SHED: &str = "crash";

/// Phases of a create, in order.
const CREATE_PHASES: [&str; 7] = ["record", "disk", "vm", "boot", "identify", "commit", "provision"];

/// Phases of a start, in order.
const START_PHASES: [&str; 5] = ["record", "vm", "boot", "identify", "commit"];

/// Random moments tried besides the beginnings of phases.
const RANDOM_MOMENTS: usize = 3;

/// What a crash has made of a shed.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Gone,
    Running,
    Stopped,
}

/// Waits until the shed is in a state that lasts, and checks that everything fits it.
#[track_caller]
fn settle(stage: &Stage, http: Http, cli: &Cli) -> Fate {
    let status = wait_for("the shed to settle", BOOT, || {
        let reply = http.get(&format!("/api/sheds/{SHED}"));
        match reply.status {
            404 => Some(None),
            200 => {
                let status = reply.json()["status"].as_str().expect("a status").to_owned();
                (status != "starting" && status != "stopping").then_some(Some(status))
            }
            other => panic!("{other}: {}", reply.text()),
        }
    });
    match status.as_deref() {
        None => {
            stage.assert_only(&[]);
            Fate::Gone
        }
        Some("running") => {
            cli.exec(SHED, &["true"]).ok();
            stage.assert_only(&[Expect::Running(SHED)]);
            Fate::Running
        }
        Some("stopped") => {
            stage.assert_only(&[Expect::Stopped(SHED)]);
            Fate::Stopped
        }
        other => panic!("the shed reads {other:?}: {}", http.shed(SHED)),
    }
}

/// Waits until the moment has come. It is the moment itself that is tested, so there is no condition to wait for.
fn let_pass(delay: Duration) {
    let (_silent, nothing) = mpsc::channel::<()>();
    let _timed_out = nothing.recv_timeout(delay);
}

fn random_moment(within: Duration) -> Duration {
    rand::rng().random_range(Duration::ZERO..within)
}

/// A create that is cut short leaves nothing: no machine, no socket, no file, and its name is free.
#[test]
fn a_crash_during_create_leaves_a_whole_shed_or_nothing() {
    let Some(stage) = Stage::new() else { return };
    let cli = stage.cli();
    let mut promises = Promises::new();
    let body = json!({ "name": SHED, "memory_mb": 768 });
    let mut longest = Duration::ZERO;
    for phase in CREATE_PHASES {
        promises.keep(&format!("crash as `{phase}` begins"), || {
            let server = stage.serve();
            let begun = Instant::now();
            let mut events = server.http().create_events(&body);
            events.wait_for_phase(phase);
            server.crash();
            longest = longest.max(begun.elapsed());
            let server = stage.serve();
            // The same name each time: that it is free again is part of the promise.
            match settle(&stage, server.http(), &cli) {
                Fate::Gone => assert_ne!(phase, "provision", "a shed whose create was committed"),
                Fate::Running => {
                    assert!(
                        matches!(phase, "commit" | "provision"),
                        "a shed whose create was not yet committed"
                    );
                    cli.delete(SHED);
                }
                Fate::Stopped => panic!("half a shed is left"),
            }
            stage.assert_only(&[]);
        });
    }
    for _ in 0..RANDOM_MOMENTS {
        let moment = random_moment(longest.max(Duration::from_secs(1)));
        promises.keep(&format!("crash {moment:?} after the request"), || {
            let server = stage.serve();
            let _events = server.http().create_events(&body);
            let_pass(moment);
            server.crash();
            let server = stage.serve();
            match settle(&stage, server.http(), &cli) {
                Fate::Gone => {}
                Fate::Running => cli.delete(SHED),
                Fate::Stopped => panic!("half a shed is left"),
            }
            stage.assert_only(&[]);
        });
    }
    promises.keep("the name can be used", || {
        let _server = stage.serve();
        cli.create(SHED, &["--memory", "768"]);
        assert_eq!(cli.exec(SHED, &["hostname"]).ok().out(), SHED);
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}

/// A start, stop or delete that is cut short is finished or undone by the next server, and the files stay.
#[test]
fn a_crash_during_start_stop_or_delete_is_put_right() {
    let Some(stage) = Stage::new() else { return };
    let cli = stage.cli();
    let mut promises = Promises::new();
    let server = stage.serve();
    cli.create(SHED, &["--memory", "768"]);
    cli.sh(SHED, "echo precious > /workspace/file; sync");
    cli.run(&["stop", SHED]).ok();
    server.crash();

    promises.keep("half a record that a killed write left is swept away", || {
        let half = stage.shed_file(SHED, ".metadata.json.x7Fq2a.tmp");
        std::fs::write(&half, br#"{"version":1,"name":"cra"#).unwrap();
        let server = stage.serve();
        assert_eq!(server.http().status(SHED), "stopped");
        assert!(!half.exists());
    });
    for phase in START_PHASES {
        promises.keep(&format!("crash as `{phase}` of a start begins"), || {
            let server = stage.serve();
            if server.http().status(SHED) == "running" {
                cli.run(&["stop", SHED]).ok();
            }
            let mut events = server.http().start_events(SHED);
            events.wait_for_phase(phase);
            server.crash();
            let server = stage.serve();
            let fate = settle(&stage, server.http(), &cli);
            assert_ne!(fate, Fate::Gone);
        });
    }
    promises.keep("after all these crashes the shed starts and has its files", || {
        let server = stage.serve();
        if server.http().status(SHED) == "stopped" {
            cli.run(&["start", SHED]).ok();
        }
        assert_eq!(cli.sh(SHED, "cat /workspace/file"), "precious");
    });
    for moment in [Duration::from_millis(1), Duration::from_millis(50), random_moment(Duration::from_secs(3))]
    {
        promises.keep(&format!("crash {moment:?} into a stop"), || {
            let server = stage.serve();
            if server.http().status(SHED) == "stopped" {
                cli.run(&["start", SHED]).ok();
            }
            let mut stop = cli.spawn(&["stop", SHED]);
            stop.close_stdin();
            let_pass(moment);
            server.crash();
            drop(stop);
            let server = stage.serve();
            let fate = settle(&stage, server.http(), &cli);
            assert_ne!(fate, Fate::Gone);
            if fate == Fate::Stopped {
                cli.run(&["start", SHED]).ok();
            }
            assert_eq!(cli.sh(SHED, "cat /workspace/file"), "precious");
        });
    }
    for moment in [Duration::ZERO, Duration::from_millis(15), random_moment(Duration::from_millis(300))] {
        promises.keep(&format!("crash {moment:?} into a delete"), || {
            let server = stage.serve();
            if !server.http().names().contains(&SHED.to_owned()) {
                cli.create(SHED, &["--memory", "768"]);
            }
            let http = server.http();
            // The request is on its way when the head is written; its answer will never come.
            let mut connection = http.connect().unwrap();
            let request = format!("DELETE /api/sheds/{SHED} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            std::io::Write::write_all(&mut connection, request.as_bytes()).unwrap();
            let_pass(moment);
            server.crash();
            let server = stage.serve();
            // Either the delete was heard and is finished, or it was not.
            let fate = settle(&stage, server.http(), &cli);
            assert_ne!(fate, Fate::Stopped);
        });
    }
    promises.keep("the name is free in the end", || {
        let server = stage.serve();
        if !server.http().names().is_empty() {
            cli.delete(SHED);
        }
        stage.assert_only(&[]);
    });
    promises.finish();
}
