//! Many requests at once: one name goes to one shed, and every shed works.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use vm_tests::{Expect, Promises, Reply, SHORT, Stage, machine_of};

/// Runs `count` calls at the same time and returns their results in order.
fn at_once<T: Send>(count: usize, call: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    let call = |number| {
        barrier.wait();
        call(number)
    };
    let call = &call;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || call(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the call does not panic")).collect()
    })
}

fn statuses(replies: &[Reply]) -> Vec<u16> {
    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    statuses
}

/// Requests on one shed are joined, refused or cancelled, never mixed up.
#[test]
fn requests_on_one_shed_at_the_same_time() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();

    promises.keep("of two creates of one name exactly one gets 201, the other 409", || {
        let replies = at_once(2, |_| http.create(&json!({ "name": "one", "memory_mb": 768 })));
        assert_eq!(statuses(&replies), [201, 409]);
        let refused = replies.iter().find(|reply| reply.status == 409).unwrap();
        assert_eq!(refused.error().0, "SHED_ALREADY_EXISTS");
        assert_eq!(http.names(), ["one"]);
        assert_eq!(cli.exec("one", &["hostname"]).ok().out(), "one");
        stage.assert_only(&[Expect::Running("one")]);
    });
    promises.keep("stops at once are joined: all get 200", || {
        let replies = at_once(3, |_| http.post("/api/sheds/one/stop", None));
        assert_eq!(statuses(&replies), [200, 200, 200]);
        stage.assert_only(&[Expect::Stopped("one")]);
    });
    promises.keep("starts at once are joined: all get 200 and the same machine", || {
        let replies = at_once(3, |_| http.post("/api/sheds/one/start", None));
        assert_eq!(statuses(&replies), [200, 200, 200]);
        let pid = u64::from(machine_of(&stage, "one").pid);
        assert!(replies.iter().all(|reply| reply.json()["pid"].as_u64() == Some(pid)));
    });
    promises.keep("deletes at once are joined or find nothing: 204 or 404, and it is gone", || {
        let replies = at_once(3, |_| http.delete("/api/sheds/one"));
        assert!(replies.iter().all(|reply| matches!(reply.status, 204 | 404)), "{:?}", statuses(&replies));
        assert!(replies.iter().any(|reply| reply.status == 204));
        stage.assert_only(&[]);
    });
    promises.keep(
        "while a shed is created it reads `starting`, and cannot be started, stopped or used",
        || {
            let mut events = http.create_events(&json!({ "name": "slow", "memory_mb": 768 }));
            events.wait_for_phase("boot");
            assert_eq!(http.status("slow"), "starting");
            assert_eq!(http.post("/api/sheds/slow/start", None).is(409).error().0, "SHED_BUSY");
            assert_eq!(http.post("/api/sheds/slow/stop", None).is(409).error().0, "SHED_BUSY");
            let upgrade = "Connection: Upgrade\r\nUpgrade: shed-exec\r\n";
            let exec = http.request("GET", "/api/sheds/slow/exec", upgrade, None);
            assert_eq!(exec.is(503).error().0, "SHED_NOT_RUNNING");
            // Delete cancels it.
            let begun = Instant::now();
            http.delete("/api/sheds/slow").is(204);
            assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
            let last = events.all().pop().expect("an event");
            assert_eq!(last.name, "error", "{last:?}");
            stage.assert_only(&[]);
        },
    );
    promises.keep("a client that goes away cancels its create", || {
        let mut events = http.create_events(&json!({ "name": "gone", "memory_mb": 768 }));
        events.wait_for_phase("boot");
        drop(events);
        vm_tests::wait_for("the create to be undone", SHORT, || http.names().is_empty().then_some(()));
        stage.assert_only(&[]);
    });
    promises.keep("Ctrl-C of `shed create` cancels it", || {
        let create = cli.spawn(&["create", "gone", "--memory", "768"]);
        vm_tests::wait_for("the create to boot", SHORT, || {
            create.stderr_so_far().contains("Booting").then_some(())
        });
        create.signal(rustix::process::Signal::INT);
        create.wait(SHORT).exits(130);
        vm_tests::wait_for("the create to be undone", SHORT, || http.names().is_empty().then_some(()));
        stage.assert_only(&[]);
    });
    promises.keep("stop cancels a start, and the shed is stopped", || {
        cli.create("one", &["--memory", "768"]);
        cli.run(&["stop", "one"]).ok();
        let mut events = http.start_events("one");
        events.wait_for_phase("boot");
        http.post("/api/sheds/one/stop", None).is(200);
        assert_eq!(events.all().pop().expect("an event").name, "error");
        assert_eq!(http.status("one"), "stopped");
        stage.assert_only(&[Expect::Stopped("one")]);
        cli.delete("one");
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

/// Eight sheds created at once all work, and all go.
#[test]
fn eight_creates_at_once() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    let names: Vec<String> = (1..=8).map(|number| format!("crowd-{number}")).collect();

    promises.keep("8 creates at once of different names all succeed", || {
        let replies =
            at_once(8, |number| http.create(&json!({ "name": names[number], "memory_mb": 512, "cpus": 1 })));
        for reply in replies {
            reply.is(201);
        }
        assert_eq!(http.names(), names);
    });
    promises.keep("each of them runs commands and is its own machine", || {
        let ids = at_once(8, |number| {
            let seen =
                cli.sh(&names[number], "hostname; cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id");
            assert_eq!(seen.lines().next(), Some(names[number].as_str()));
            seen.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        });
        let different: std::collections::BTreeSet<_> = ids.iter().flatten().collect();
        assert_eq!(different.len(), 16, "{ids:?}");
        let expected: Vec<Expect<'_>> = names.iter().map(|name| Expect::Running(name)).collect();
        stage.assert_only(&expected);
    });
    promises.keep("all are deleted at once", || {
        let replies = at_once(8, |number| http.delete(&format!("/api/sheds/{}", names[number])));
        assert_eq!(statuses(&replies), [204; 8]);
        assert!(http.names().is_empty());
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
