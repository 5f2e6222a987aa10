//! The way of a newcomer: a server is added, a shed created, used, stopped, started and deleted.

use vm_tests::{BOOT, Expect, Promises, Stage};

/// Phases of a create, in order (they are part of the API: `PhaseTime`).
const CREATE_PHASES: [&str; 7] = ["record", "disk", "vm", "boot", "identify", "commit", "provision"];

/// Phases of a start: the disk is there already.
const START_PHASES: [&str; 6] = ["record", "vm", "boot", "identify", "commit", "provision"];

/// Leaves repetitions out: a VMM that crashes while the guest boots is started once more, and said so.
fn in_order_of_appearance(phases: Vec<&str>) -> Vec<&str> {
    phases.into_iter().fold(Vec::new(), |mut seen, phase| {
        if !seen.contains(&phase) {
            seen.push(phase);
        }
        seen
    })
}

/// Every command of the first five minutes does what it says, in text and in JSON, and leaves nothing behind.
#[test]
fn the_first_five_minutes() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();

    promises.keep("info names the resolved backend, the version and the ports", || {
        let info = http.get("/api/info").is(200).json();
        assert_eq!(
            (info["name"].as_str(), info["backend"].as_str()),
            (Some("stage"), Some("qemu")),
            "{info}"
        );
        assert_eq!(info["http_port"].as_u64(), Some(u64::from(server.port())), "{info}");
        assert!(info["version"].is_string() && info["ssh_port"].is_u64(), "{info}");
    });
    promises.keep("an added server is listed as online and is the default", || {
        let listed = cli.run(&["server", "list"]).ok().out();
        assert!(listed.contains("stage") && listed.contains("127.0.0.1"), "{listed}");
        let json = cli.run(&["server", "list", "--json"]).ok().json().to_string();
        assert!(json.contains("\"stage\"") && json.contains("online"), "{json}");
    });
    promises.keep("servers can be added twice under two names, made the default and removed", || {
        let port = server.port().to_string();
        cli.run(&["server", "add", "localhost", "--port", &port, "--name", "second"]).ok();
        cli.run(&["server", "add", "localhost", "--port", &port, "--name", "third"]).exits(1);
        cli.run(&["server", "set-default", "second"]).ok();
        assert_eq!(cli.run(&["list", "--json"]).ok().json()["sheds"], serde_json::json!([]));
        cli.run(&["server", "set-default", "stage"]).ok();
        cli.run(&["server", "remove", "second"]).ok();
        assert!(!cli.run(&["server", "list"]).ok().out().contains("second"));
        assert_eq!(cli.run(&["--server", "second", "list"]).code, 4, "a server that is not there");
    });
    promises.keep("the version is printed, of client and server", || {
        assert!(cli.run(&["version"]).ok().out().contains(env!("CARGO_PKG_VERSION")));
        let verbose = cli.run(&["version", "-v", "--json"]).ok().json().to_string();
        assert!(verbose.matches(env!("CARGO_PKG_VERSION")).count() >= 2, "{verbose}");
    });
    promises.keep("an empty server lists no sheds, as a list", || {
        assert_eq!(cli.run(&["list", "--json"]).ok().json(), serde_json::json!({ "sheds": [] }));
    });

    promises.keep("create reports each phase with its time, and says what it made", || {
        let created = cli.run(&["create", "demo", "--trace"]).ok();
        for phase in CREATE_PHASES {
            assert!(
                created.out().lines().any(|line| line.trim_start().starts_with(phase)),
                "no {phase} in {}",
                created.out()
            );
        }
        assert!(created.out().contains("demo") && created.out().contains("total"), "{}", created.out());
    });
    promises.keep("the shed is listed as running, with its machine", || {
        let listed = cli.run(&["list"]).ok().out();
        assert!(listed.contains("demo") && listed.contains("running"), "{listed}");
        let shed = cli.run(&["list", "--json"]).ok().json()["sheds"][0].clone();
        assert_eq!(
            (shed["name"].as_str(), shed["status"].as_str()),
            (Some("demo"), Some("running")),
            "{shed}"
        );
        assert_eq!(
            (shed["backend"].as_str(), shed["image"].as_str()),
            (Some("qemu"), Some("base")),
            "{shed}"
        );
        let pid =
            shed["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a running shed has a pid");
        assert_eq!(vm_tests::machine_of(&stage, "demo").pid, pid);
        assert!(shed["last_healthy"].is_string() && shed["started_at"].is_string(), "{shed}");
        assert!(cli.run(&["list", "-v"]).ok().out().contains("2c/2048MB"));
    });
    promises.keep("uname runs in the guest and names Linux and the shed", || {
        let uname = cli.exec("demo", &["uname", "-a"]).ok().out();
        assert!(uname.starts_with("Linux demo "), "{uname}");
    });
    promises.keep("create of a name that exists is refused with exit code 1", || {
        let refused = cli.run(&["create", "demo"]).exits(1);
        assert!(
            refused.err().contains("demo") && refused.err().contains("already exists"),
            "{}",
            refused.err()
        );
        let json = cli.run(&["create", "demo", "--json"]).exits(1);
        let error: serde_json::Value = serde_json::from_str(&json.err()).expect("an error in JSON");
        assert!(error["error"].is_string(), "{error}");
    });
    promises.keep("start of a running shed is refused", || {
        let refused = cli.run(&["start", "demo"]).exits(1);
        assert!(refused.err().contains("already running"), "{}", refused.err());
    });
    promises.keep("delete with nobody to ask does nothing without --force", || {
        cli.run(&["delete", "demo"]).exits(2);
        cli.run(&["delete", "demo", "--json"]).exits(2);
        assert_eq!(http.status("demo"), "running");
    });
    promises.keep("commands about a shed that is not there exit with 4", || {
        cli.run(&["stop", "nobody"]).exits(4);
        cli.run(&["start", "nobody"]).exits(4);
        cli.run(&["delete", "--force", "nobody"]).exits(4);
        cli.exec("nobody", &["true"]).exits(255);
    });

    promises.keep("stop powers the guest off and keeps its files; a second stop is refused", || {
        cli.sh("demo", "echo precious > /workspace/file && sync");
        let stopped = cli.run(&["stop", "demo", "--json"]).ok().json();
        assert_eq!(
            (stopped["status"].as_str(), stopped["action"].as_str()),
            (Some("ok"), Some("stop")),
            "{stopped}"
        );
        let shed = http.shed("demo");
        assert_eq!(shed["status"], "stopped", "{shed}");
        assert!(shed.get("pid").is_none(), "{shed}");
        stage.assert_only(&[Expect::Stopped("demo")]);
        assert!(cli.run(&["stop", "demo"]).exits(1).err().contains("already stopped"));
    });
    promises.keep("the shutdown was orderly: the guest said so on its console", || {
        let console = std::fs::read_to_string(stage.shed_file("demo", "console.log")).expect("a console");
        assert!(
            console.contains("Power down")
                || console.contains("power off")
                || console.contains("Powering off"),
            "{console}"
        );
    });
    promises.keep("start brings it back with its files, and reports each phase", || {
        let started = cli.run(&["start", "demo", "--trace", "--json"]).ok().json();
        let timeline = started["details"]["timeline"].as_array().expect("a timeline").clone();
        let phases: Vec<&str> = timeline.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
        assert_eq!(in_order_of_appearance(phases), START_PHASES, "{started}");
        assert_eq!(cli.sh("demo", "cat /workspace/file"), "precious");
    });
    promises.keep("the timeline of a create adds up to what the caller waits for", || {
        let events = http.create_events(&serde_json::json!({ "name": "second", "memory_mb": 512 })).all();
        let (last, progress) = events.split_last().expect("events");
        assert_eq!(last.name, "complete", "{events:?}");
        let announced: Vec<&str> = progress.iter().filter_map(|event| event.data["phase"].as_str()).collect();
        assert_eq!(in_order_of_appearance(announced), CREATE_PHASES);
        assert!(
            progress.iter().all(|event| event.data["message"].as_str().is_some_and(|text| !text.is_empty()))
        );
        let timeline = last.data["timeline"].as_array().expect("a timeline");
        let mut end = 0;
        for phase in timeline {
            let (start, ms) = (phase["start_ms"].as_u64().unwrap(), phase["ms"].as_u64().unwrap());
            assert!(start.abs_diff(end) <= 2, "a gap before {phase}");
            end = start + ms;
        }
        assert!(end > 500, "no machine boots within {end} ms");
    });
    promises.keep("the progress of a create is shown line by line where stderr is no terminal", || {
        cli.delete("second");
        let created = cli.run(&["create", "second", "--memory", "512m", "--cpus", "1"]).ok();
        assert!(created.err().contains("Booting the guest"), "{}", created.err());
        assert!(
            !created.err().contains('\u{1b}'),
            "escape sequences where no terminal is: {}",
            created.err()
        );
        let shed = http.shed("second");
        assert_eq!((shed["cpus"].as_u64(), shed["memory_mb"].as_u64()), (Some(1), Some(512)), "{shed}");
        assert_eq!(cli.sh("second", "nproc"), "1");
    });
    promises.keep("other sheds that come and go do not disturb the first", || {
        assert_eq!(http.status("demo"), "running");
        assert_eq!(cli.sh("demo", "cat /workspace/file"), "precious");
    });
    promises.keep("several sheds are stopped and deleted by one command", || {
        let deleted = cli.run(&["delete", "--force", "--json", "demo", "second"]).ok().out();
        assert_eq!(deleted.lines().count(), 2, "{deleted}");
        assert!(http.names().is_empty());
        http.delete("/api/sheds/demo").is(404);
    });
    promises.keep("SIGTERM ends the server at once", || {
        assert!(server.terminate() < BOOT / 8);
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.keep("without a server the client says so and exits with 3", || {
        let refused = cli.run(&["list"]).exits(3);
        assert!(refused.err().contains("cannot reach"), "{}", refused.err());
    });
    promises.finish();
}
