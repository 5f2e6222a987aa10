//! Whole sheds with the vz backend, on Linux: the server with its client, and the stand-in for vfkit, which takes vfkit's
//! command line and emulates the same devices. What only macOS can prove is in docs/macos-checklist.md.

use std::{fs, io::Write, os::unix::fs::PermissionsExt};

use rustix::process::Signal;
use serde_json::json;
use shed_types::BackendKind;
use vm_tests::{
    BOOT, Cli, Config, Expect, Promises, SHORT, Stage, is_alive, kill_process, machine_of, wait_for,
};

const SHED: &str = "first";

/// Bytes that go into a guest and out again.
const BULK: usize = 8 << 20;

fn boot_id(cli: &Cli, shed: &str) -> String {
    cli.sh(shed, "cat /proc/sys/kernel/random/boot_id")
}

/// Makes a stage whose sheds run on vz, with a credential to watch and a name that has a space in its paths.
fn stage() -> Option<Stage> {
    let mut stage = Stage::configured(Config { backend: Some(BackendKind::Vz), ..Config::default() })?;
    let token = stage.home().join(".tool");
    fs::create_dir_all(&token).expect("a directory");
    fs::write(token.join("token"), "from the host").expect("a file");
    fs::write(stage.home().join(".single"), "one file").expect("a file");
    let instances = stage.dir().join("Application Support");
    fs::create_dir_all(&instances).expect("a directory");
    let credentials = json!({
        "tool": { "source": token, "target": "/home/shed/.tool", "readonly": false },
        "single": { "source": stage.home().join(".single"), "target": "/home/shed/.config/single", "readonly": true },
    });
    stage.configure(Config {
        backend: Some(BackendKind::Vz),
        credentials: Some(credentials),
        instance_dir: Some(instances),
        ..Config::default()
    });
    Some(stage)
}

/// What a user does with a shed works on vz as on every other backend.
#[test]
fn a_shed_on_vz_is_a_shed() {
    let Some(stage) = stage() else { return };
    let mut server = stage.serve();
    let cli = stage.cli();
    let http = server.http();
    let mut promises = Promises::new();
    let project = stage.dir().join("project");
    fs::create_dir_all(&project).expect("a directory");
    fs::write(project.join("file"), "of the host\n").expect("a file");
    // Whose files these are in the guest is macOS's to say; the stand-in leaves them the host's.
    fs::set_permissions(&project, fs::Permissions::from_mode(0o777)).expect("a directory for all");

    promises.keep("a create says what runs the shed", || {
        cli.create(SHED, &["--cpus", "2", "--memory", "512", "--local-dir", project.as_str()]);
        let shed = http.shed(SHED);
        assert_eq!((&shed["backend"], &shed["status"]), (&json!("vz"), &json!("running")), "{shed}");
        assert_eq!(cli.sh(SHED, "nproc; hostname; grep -c shed.link=vsock /proc/cmdline"), "2\nfirst\n1");
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    promises.keep("commands have their exit codes and their own streams", || {
        let done = cli.exec(SHED, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((done.code, done.out().as_str(), done.err().trim_end()), (7, "out", "err"));
    });
    promises.keep("bytes arrive as they are, both ways", || {
        let bytes: Vec<u8> = (0..BULK).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let done = cli.exec_with(SHED, &["cat"], &bytes).ok();
        assert!(done.stdout == bytes, "{} of {} bytes, or others", done.stdout.len(), bytes.len());
    });
    promises.keep("the console is kept", || {
        let log = cli.run(&["logs", "--console", SHED]).ok().out();
        assert!(log.contains("shed-init: root assembled"), "{log}");
    });
    promises.keep("a directory of the host is /workspace, both ways", || {
        assert_eq!(cli.sh(SHED, "cat /workspace/file"), "of the host");
        cli.sh(SHED, "echo of the guest >/workspace/made && mkdir -m 777 /workspace/sub");
        assert_eq!(fs::read_to_string(project.join("made")).expect("a file of the guest"), "of the guest\n");
        fs::write(project.join("sub/later"), "later\n").expect("a file");
        assert_eq!(cli.sh(SHED, "cat /workspace/sub/later"), "later");
    });
    promises.keep("a credential is there, and what the guest makes of it comes back", || {
        assert_eq!(cli.sh(SHED, "cat ~/.tool/token ~/.config/single"), "from the hostone file");
        cli.sh(SHED, "echo changed >~/.config/single; echo renewed >~/.tool/token");
        let token = stage.home().join(".tool/token");
        wait_for("the token on the host", SHORT, || {
            (fs::read_to_string(&token).is_ok_and(|text| text == "renewed\n")).then_some(())
        });
        let single = fs::read_to_string(stage.home().join(".single")).expect("the file");
        assert_eq!(single, "one file", "a credential to be read alone stays the host's");
    });
    promises.keep("a port of the guest is reached through the server", || {
        cli.start_service(
            SHED,
            "echo",
            "my $s = listen_on('127.0.0.1', 7001); ready(); \
             while (1) { my $c = take($s); say($c, 'got ' . read_all($c)); close $c; }",
        );
        let mut tunnel = http.tunnel(SHED, 7001).unwrap_or_else(|reply| panic!("{}", reply.text()));
        tunnel.write_all(b"question").expect("the tunnel takes it");
        tunnel.shut().expect("one half ends");
        assert_eq!(tunnel.rest().expect("an answer"), b"got question");
    });
    promises.keep("what was written is there after stop and start, with the directory", || {
        cli.sh(SHED, "echo one >/home/shed/one; sync");
        let before = boot_id(&cli, SHED);
        cli.run(&["stop", SHED]).ok();
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat ~/one /workspace/made"), "one\nof the guest");
        assert_ne!(boot_id(&cli, SHED), before);
    });
    promises.keep("a machine and what runs in it outlive the server, and the next one has them", || {
        cli.sh(SHED, "tmux new-session -d -s work");
        let before = (boot_id(&cli, SHED), machine_of(&stage, SHED).pid);
        server.restart(&stage, Signal::KILL);
        assert!(is_alive(before.1));
        let shed = server.http().shed(SHED);
        assert_eq!((&shed["status"], shed["pid"].as_u64()), (&json!("running"), Some(u64::from(before.1))));
        assert_eq!((boot_id(&cli, SHED), machine_of(&stage, SHED).pid), before);
        cli.exec(SHED, &["tmux", "has-session", "-t", "work"]).ok();
        server.restart(&stage, Signal::TERM);
        assert_eq!((boot_id(&cli, SHED), machine_of(&stage, SHED).pid), before);
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    let http = server.http();
    promises.keep("a reboot from inside is one of the guest alone, and the shed is what it was", || {
        let before = (boot_id(&cli, SHED), machine_of(&stage, SHED).pid);
        let _cut_off = cli.exec(SHED, &["sudo", "-n", "systemctl", "reboot"]);
        wait_for("another boot", BOOT, || {
            let now = cli.exec(SHED, &["cat", "/proc/sys/kernel/random/boot_id"]);
            (now.code == 0 && now.out() != before.0).then_some(())
        });
        assert_eq!((http.status(SHED), machine_of(&stage, SHED).pid), ("running".to_owned(), before.1));
        // The directory comes with the identity, which the new agent is told anew.
        wait_for("the directory", SHORT, || {
            (cli.exec(SHED, &["cat", "/workspace/file"]).out() == "of the host").then_some(())
        });
        assert_eq!(cli.sh(SHED, "hostname; cat ~/one ~/.tool/token"), "first\none\nrenewed");
    });
    promises.keep("a clock that stood still while the host slept is put right", || {
        cli.assert_clock_comes_right(SHED);
    });
    promises.keep("a power-off from inside reads as stopped", || {
        let _cut_off = cli.exec(SHED, &["sudo", "-n", "systemctl", "poweroff"]);
        wait_for("the shed to read stopped", BOOT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
    });
    promises.keep("a killed vfkit is noticed, leaves nothing, and the shed starts again", || {
        cli.sh(SHED, "echo two >~/two; sync");
        kill_process(machine_of(&stage, SHED).pid, Signal::KILL);
        wait_for("the shed to read stopped", SHORT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat ~/one ~/two"), "one\ntwo");
    });
    promises.keep("a delete leaves nothing, and the directory of the host is as it was", || {
        cli.delete(SHED);
        stage.assert_only(&[]);
        assert_eq!(fs::read_to_string(project.join("file")).expect("the user's file"), "of the host\n");
    });
    drop(server);
    stage.finish();
    promises.finish();
}
