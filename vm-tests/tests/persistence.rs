//! What users put into a shed stays, and a machine does not depend on the server that started it.

use vm_tests::{BOOT, Cli, Expect, Promises, SHORT, Server, Stage, is_alive, machine_of, wait_for};

const SHED: &str = "keeper";

fn boot_id(cli: &Cli) -> String {
    cli.sh(SHED, "cat /proc/sys/kernel/random/boot_id")
}

/// Replaces the server by a new one; two cannot hold one directory, so the old one ends first.
fn restart(stage: &Stage, server: &mut Option<Server>, end: impl FnOnce(Server)) {
    end(server.take().expect("a server"));
    *server = Some(stage.serve());
}

/// Files survive stop and start, reboot, and every way a server can end; the machine survives the server.
#[test]
fn files_and_machines_outlive_what_happens_to_the_server() {
    let Some(stage) = Stage::new() else { return };
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    let mut promises = Promises::new();
    cli.create(SHED, &[]);

    cli.sh(
        SHED,
        "echo one > /workspace/one; echo etc | sudo -n tee /etc/two >/dev/null; mkdir ~/three; sync",
    );
    cli.sh(SHED, "tmux new-session -d -s work 'while :; do date +%s%N > /tmp/alive; sleep 0.2; done'");
    let before = (boot_id(&cli), machine_of(&stage, SHED).pid);

    promises.keep("a second server on the same directories refuses to start, and harms nothing", || {
        let refused = vm_tests::run(
            std::process::Command::new(stage.parts().shed_server()).args([
                "serve",
                "--config",
                stage.server_yaml().as_str(),
            ]),
            b"",
            SHORT,
        );
        assert_ne!(refused.code, 0);
        assert!(format!("{}{}", refused.out(), refused.err()).contains("another shed-server"), "{refused:?}");
        assert_eq!(boot_id(&cli), before.0);
    });
    promises.keep("the machine runs on while no server does, and the next server has it back", || {
        restart(&stage, &mut server, |server| {
            server.crash();
            assert!(is_alive(before.1));
        });
        let shed = server.as_ref().expect("a server").http().shed(SHED);
        assert_eq!(shed["status"], "running", "{shed}");
        assert_eq!(shed["pid"].as_u64(), Some(u64::from(before.1)), "{shed}");
        assert_eq!((boot_id(&cli), machine_of(&stage, SHED).pid), before);
    });
    promises.keep("a tmux session goes on as if nothing had happened", || {
        cli.exec(SHED, &["tmux", "has-session", "-t", "work"]).ok();
        let first = cli.sh(SHED, "cat /tmp/alive");
        wait_for("the session to go on", SHORT, || (cli.sh(SHED, "cat /tmp/alive") != first).then_some(()));
    });
    promises.keep("a command that runs while the server dies fails, and does not hang", || {
        let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", "echo on; exec sleep 86400"]);
        running.wait_for_stdout("on", SHORT);
        restart(&stage, &mut server, Server::crash);
        let done = running.wait(SHORT).exits(255);
        assert!(!done.err().is_empty());
        wait_for("the command to end in the guest", SHORT, || {
            (cli.exec(SHED, &["pgrep", "-f", "sleep 8640[0]"]).code != 0).then_some(())
        });
    });
    promises.keep("a terminal is itself again when the server dies under it", || {
        let mut pty = cli.on_terminal(&["exec", SHED, "--", "sh", "-c", "echo on; exec sleep 86401"], 24, 80);
        let before = format!("{:?}", pty.modes());
        pty.wait_for("on", SHORT);
        restart(&stage, &mut server, Server::crash);
        assert_eq!(pty.wait(SHORT), 255, "{}", pty.screen());
        assert_eq!(format!("{:?}", pty.modes()), before);
    });
    promises.keep("crash after crash, the machine is found again", || {
        for _ in 0..3 {
            restart(&stage, &mut server, Server::crash);
        }
        assert_eq!((boot_id(&cli), machine_of(&stage, SHED).pid), before);
    });
    promises.keep("a server that is asked to end leaves the machine running for the next", || {
        restart(&stage, &mut server, |server| assert!(server.terminate() < SHORT));
        assert_eq!((boot_id(&cli), machine_of(&stage, SHED).pid), before);
        stage.assert_only(&[Expect::Running(SHED)]);
    });

    promises.keep("files survive stop and start", || {
        cli.run(&["stop", SHED]).ok();
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        let files = cli.sh(SHED, "cat /workspace/one /etc/two; test -d ~/three && echo three");
        assert_eq!(files, "one\netc\nthree");
        assert_ne!(boot_id(&cli), before.0);
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    promises.keep("a stopped shed is still stopped after a crash of the server, and starts", || {
        cli.run(&["stop", SHED]).ok();
        restart(&stage, &mut server, Server::crash);
        assert_eq!(server.as_ref().expect("a server").http().status(SHED), "stopped");
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/one"), "one");
    });
    promises.keep("a reboot from inside comes back, in the same shed and machine", || {
        let (before, machine) = (boot_id(&cli), machine_of(&stage, SHED).pid);
        let _cut_off = cli.exec(SHED, &["sudo", "-n", "systemctl", "reboot"]);
        wait_for("the rebooted guest to answer", BOOT, || {
            let asked = cli.exec(SHED, &["cat", "/proc/sys/kernel/random/boot_id"]);
            (asked.code == 0 && asked.out() != before).then_some(())
        });
        wait_for("the rebooted guest to have its name", SHORT, || {
            (cli.sh(SHED, "hostname") == SHED).then_some(())
        });
        assert_eq!(cli.sh(SHED, "cat /workspace/one"), "one");
        assert_eq!(server.as_ref().expect("a server").http().status(SHED), "running");
        assert_eq!(machine_of(&stage, SHED).pid, machine);
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    promises.keep("a power-off from inside reads as stopped, and start brings the files back", || {
        let _cut_off = cli.exec(SHED, &["sudo", "-n", "systemctl", "poweroff"]);
        let http = server.as_ref().expect("a server").http();
        wait_for("the shed to read stopped", BOOT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/one"), "one");
    });
    cli.delete(SHED);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
