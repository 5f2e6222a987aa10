//! Images without an init: the agent is PID 1 there, and does what one must do.

use std::{fs, path::Path, process::Command};

use camino::Utf8Path;
use vm_tests::{BOOT, Cli, Expect, Http, Promises, SHORT, Stage, image_without_init, skipped, wait_for};

/// Where Debian and others put a busybox that is linked statically.
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];

fn prove(promises: &mut Promises, stage: &Stage, cli: &Cli, http: Http, image: &str) {
    let shed = format!("bare-{image}");
    let about = |promise: &str| format!("{image}: {promise}");
    promises.keep(&about("it is created, and the agent is PID 1"), || {
        cli.create(&shed, &["--image", image, "--memory", "768"]);
        assert_eq!(cli.sh(&shed, "cat /proc/1/comm"), "shed-agent");
        assert_eq!(http.shed(&shed)["image"], image);
    });
    promises.keep(&about("commands run with code, streams and stdin"), || {
        let done = cli.exec_with(&shed, &["sh", "-c", "cat; echo b >&2; exit 7"], b"a").exits(7);
        assert_eq!((done.out().as_str(), done.err().as_str()), ("a", "b"));
        assert_eq!(cli.sh(&shed, "cat /proc/sys/kernel/hostname"), shed);
        assert_eq!(cli.sh(&shed, "cd /workspace && echo x > file && cat file"), "x");
    });
    promises.keep(&about("what every program expects is mounted"), || {
        let mounts = cli.sh(&shed, "cat /proc/mounts");
        for place in ["/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp"] {
            assert!(
                mounts.lines().any(|line| line.split(' ').nth(1) == Some(place)) || place == "/tmp",
                "no {place} in {mounts}"
            );
        }
        cli.sh(
            &shed,
            "echo x > /dev/null && test -c /dev/urandom && test -w /tmp && test -d /sys/class/net/lo",
        );
    });
    promises.keep(&about("a terminal works"), || {
        let mut pty =
            cli.on_terminal(&["exec", &shed, "--", "sh", "-c", "test -t 0 && echo a-tty; exit 3"], 24, 80);
        pty.wait_for("a-tty", SHORT);
        assert_eq!(pty.wait(SHORT), 3, "{}", pty.screen());
    });
    promises.keep(&about("orphans are reaped: no zombie stays"), || {
        cli.sh(&shed, "for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'exit 0' & ) ; done; (sleep 1 & ) ; exit 0");
        let script = "n=0; for s in /proc/[0-9]*/stat; do case $(cat $s 2>/dev/null) in *') Z '*) n=$((n+1));; esac; done; echo $n";
        wait_for("the zombies to go", SHORT, || (cli.sh(&shed, script) == "0").then_some(()));
    });
    promises.keep(&about("the codes of commands are right although PID 1 reaps everything"), || {
        for code in [0, 3, 99] {
            cli.exec(&shed, &["sh", "-c", &format!("(sh -c 'exit 5' &); exit {code}")]).exits(code);
        }
    });
    promises.keep(&about("stop powers it off cleanly, restart has the files"), || {
        // As root, for the root of an image is nobody else's.
        cli.run(&["exec", "-u", "root", &shed, "--", "sh", "-c", "echo kept > /kept"]).ok();
        cli.sh(&shed, "echo too > /workspace/too");
        let begun = std::time::Instant::now();
        cli.run(&["stop", &shed]).ok();
        // stop_timeout under emulation is a minute: a guest that has to be killed takes that long.
        assert!(begun.elapsed() < SHORT, "it took {:?}", begun.elapsed());
        stage.assert_only(&[Expect::Stopped(&shed)]);
        cli.run(&["start", &shed]).ok();
        assert_eq!(cli.sh(&shed, "cat /kept /workspace/too"), "kept\ntoo");
    });
    promises.keep(&about("the signal that `reboot` sends to PID 1 reboots it"), || {
        let boot = ["cat", "/proc/sys/kernel/random/boot_id"];
        let before = cli.exec(&shed, &boot).ok().out();
        cli.run(&["exec", "-u", "root", &shed, "--", "sh", "-c", "kill -TERM 1"]);
        wait_for("the rebooted guest to answer", BOOT, || {
            // Asked for first, since a command starts a shed that has stopped.
            assert_ne!(http.status(&shed), "stopped");
            let asked = cli.exec(&shed, &boot);
            (asked.code == 0 && asked.out() != before).then_some(())
        });
        assert_eq!(cli.sh(&shed, "cat /kept /workspace/too"), "kept\ntoo");
    });
    promises.keep(&about("the disk was unmounted, not torn away"), || {
        let console = fs::read_to_string(stage.shed_file(&shed, "console.log")).unwrap();
        assert!(!console.contains("recovery") && !console.contains("orphan cleanup"), "{console}");
    });
    promises.keep(&about("delete leaves nothing"), || {
        cli.delete(&shed);
        stage.assert_only(&[]);
    });
}

/// The base image with its init removed is a whole system run by the agent.
#[test]
fn the_agent_is_a_good_pid_1() {
    let Some(stage) = Stage::new() else { return };
    image_without_init(&stage.parts().base_image(), &stage.images_dir().join("headless-rootfs.ext4"));
    let server = stage.serve();
    let mut promises = Promises::new();
    prove(&mut promises, &stage, &stage.cli(), server.http(), "headless");
    promises.finish();
}

/// An image that is one static program and its names has no passwd, no /etc, no directories: it is a shed, too.
#[test]
fn an_image_that_is_only_busybox_is_a_shed() {
    let Some(stage) = Stage::new() else { return };
    let Some(busybox) = BUSYBOX.into_iter().find(|path| Path::new(path).is_file()) else {
        skipped(&format!("there is no static busybox at {BUSYBOX:?}; the package busybox-static has it"));
        return;
    };
    busybox_image(Utf8Path::new(busybox), &stage);
    let server = stage.serve();
    let mut promises = Promises::new();
    prove(&mut promises, &stage, &stage.cli(), server.http(), "busybox");
    promises.finish();
}

fn busybox_image(busybox: &Utf8Path, stage: &Stage) {
    let tree = stage.dir().join("busybox-tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(busybox, tree.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "echo", "sleep", "test", "true", "ls"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    let image = stage.images_dir().join("busybox-rootfs.ext4");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d", tree.as_str(), image.as_str(), "16m"])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .expect("mke2fs, of e2fsprogs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
