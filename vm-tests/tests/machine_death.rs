//! A machine that dies by itself, or is killed, is noticed; its shed reads `stopped` and starts again.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use vm_tests::{Config, Expect, Promises, SHORT, Stage, is_alive, kill_process, machine_of, wait_for};

const SHED: &str = "mortal";

/// How soon a dead machine must be noticed.
const NOTICED: Duration = Duration::from_secs(2);

/// A killed VMM is noticed within two seconds, leaves nothing but the shed's disk, and the shed starts again.
#[test]
fn a_killed_machine_is_noticed_and_can_be_started_again() {
    let Some(mut stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    cli.create(SHED, &[]);
    cli.sh(SHED, "echo synced > /workspace/file; sync");

    promises.keep("a killed VMM reads `stopped` within 2 s, and running commands fail at once", || {
        let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", "echo on; exec sleep 86400"]);
        running.wait_for_stdout("on", SHORT);
        let killed = Instant::now();
        kill_process(machine_of(&stage, SHED).pid, Signal::KILL);
        wait_for("the shed to read stopped", SHORT, || (http.status(SHED) == "stopped").then_some(()));
        assert!(killed.elapsed() < NOTICED, "it took {:?}", killed.elapsed());
        running.wait(NOTICED * 5).exits(255);
        assert!(http.shed(SHED).get("pid").is_none());
        stage.assert_only(&[Expect::Stopped(SHED)]);
    });
    promises.keep("a command starts it again and says so, and the file system is intact", || {
        let started = cli.exec(SHED, &["true"]).ok();
        assert_eq!(started.err().trim_end(), format!("Shed '{SHED}' is stopped; starting it..."));
        assert_eq!(cli.sh(SHED, "cat /workspace/file"), "synced");
        let log = cli.sh(SHED, "sudo -n dmesg | grep -ciE 'EXT4-fs error|corrupt' || true");
        assert_eq!(log, "0");
    });
    promises.keep("a VMM that dies while no server runs reads `stopped` for the next one", || {
        let pid = machine_of(&stage, SHED).pid;
        server.crash();
        kill_process(pid, Signal::KILL);
        let server = stage.serve();
        assert_eq!(server.http().status(SHED), "stopped");
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/file"), "synced");
    });
    promises.keep("a VMM that dies while its shed boots fails the start with a reason", || {
        let server = stage.serve();
        cli.run(&["stop", SHED]).ok();
        let mut events = server.http().start_events(SHED);
        events.wait_for_phase("boot");
        let pid = wait_for("the machine", SHORT, || {
            vm_tests::vmm_processes(stage.dir()).first().map(|vmm| vmm.pid)
        });
        kill_process(pid, Signal::KILL);
        let last = events.all().pop().expect("an event");
        assert_eq!(
            (last.name.as_str(), last.data["code"].as_str()),
            ("error", Some("BACKEND_ERROR")),
            "{last:?}"
        );
        assert!(last.data["message"].as_str().unwrap().contains("ended while it booted"), "{last:?}");
        assert_eq!(server.http().status(SHED), "stopped");
        stage.assert_only(&[Expect::Stopped(SHED)]);
    });
    stage.configure(Config { stop_timeout: Some("4s"), ..Config::default() });
    promises.keep("a machine that is frozen is stopped by force soon after stop_timeout", || {
        let server = stage.serve();
        cli.run(&["start", SHED]).ok();
        let pid = machine_of(&stage, SHED).pid;
        kill_process(pid, Signal::STOP);
        let begun = Instant::now();
        cli.run(&["stop", SHED]).ok();
        assert!(begun.elapsed() < Duration::from_secs(4) + SHORT / 2, "it took {:?}", begun.elapsed());
        assert!(!is_alive(pid));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        assert!(server.answers());
    });
    promises.keep("a machine that is frozen can be deleted at once", || {
        let _server = stage.serve();
        cli.run(&["start", SHED]).ok();
        kill_process(machine_of(&stage, SHED).pid, Signal::STOP);
        let begun = Instant::now();
        cli.delete(SHED);
        assert!(begun.elapsed() < NOTICED * 5, "it took {:?}", begun.elapsed());
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
