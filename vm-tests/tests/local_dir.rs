//! A directory of the host as a shed's /workspace: both sides see the same files at once, whoever looks and whatever
//! happens to guest, machine and server; and neither side gets out of it.
//!
//! virtiofsd must be in `PATH` or where its packages put it; `scripts/setup.sh` sees to that.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
    thread,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use serde_json::json;
use vm_tests::{
    BOOT, Cli, Config, Expect, Promises, SHORT, Stage, is_alive, kill_process, machine_of, wait_for,
};

const SHED: &str = "shared";

/// Somebody of the host whom no image knows, and who is nobody of importance here.
const OWNER: u32 = 61_234;

/// Files that each side writes at once.
const MANY: usize = 5000;

/// Makes a directory beside the stage's own that everybody may enter. It belongs to [`OWNER`] where these tests run as
/// root, and to their user otherwise.
fn directory(stage: &Stage, name: &str) -> Utf8PathBuf {
    let dir = stage.dir().join(name);
    fs::create_dir(&dir).unwrap();
    if rustix::process::geteuid().is_root() {
        for above in dir.ancestors().skip(1).take_while(|above| above.starts_with(stage.dir())) {
            fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
        }
        chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
    }
    dir
}

/// Writes a file as the directory's owner would.
fn write(path: &Utf8Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    own(path);
}

fn own(path: &Utf8Path) {
    let dir = fs::metadata(path.parent().unwrap()).unwrap();
    lchown(path, Some(dir.uid()), Some(dir.gid())).unwrap();
}

fn is_mounted(cli: &Cli) -> bool {
    cli.exec(SHED, &["sh", "-c", "grep -q ' /workspace virtiofs ' /proc/mounts"]).code == 0
}

/// Runs a script in the guest that answers line by line, so that a round takes no new connection.
struct Answers {
    child: std::process::Child,
    stdin: std::process::ChildStdin,
    stdout: std::io::BufReader<std::process::ChildStdout>,
}

impl Answers {
    fn of(cli: &Cli, script: &str) -> Self {
        let mut command = cli.exec_command(SHED, &["sh", "-c", script]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: std::io::BufReader::new(stdout) }
    }

    fn ask(&mut self, line: &str) -> String {
        use std::io::{BufRead, Write};
        writeln!(self.stdin, "{line}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn end(mut self) {
        drop(self.stdin);
        assert!(self.child.wait().unwrap().success());
    }
}

/// What one side does the other sees at once and whole, with the right owner, through every restart there is.
#[test]
fn both_sides_see_the_same_files_whatever_happens() {
    let Some(stage) = Stage::new() else { return };
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    let mut promises = Promises::new();
    let dir = directory(&stage, "project");
    write(&dir.join("first"), b"before the shed");
    cli.create(SHED, &["--local-dir", dir.as_str()]);
    let owner = fs::metadata(&dir).unwrap().uid();

    promises.keep("what is there is shed's in the guest, and what shed and root make there is the owner's here", || {
        let listed = cli.sh(SHED, "cat /workspace/first; stat -c ' %u:%g %U' /workspace /workspace/first");
        assert_eq!(listed, "before the shed 1000:1000 shed\n 1000:1000 shed");
        cli.sh(SHED, "cd /workspace && mkdir made && echo x > made/by-shed && sudo -n touch made/by-root && sudo -n chown 0:0 made/by-root && sudo -n chown -R shed:shed made && ln -s by-shed made/link");
        for name in ["made", "made/by-shed", "made/by-root", "made/link"] {
            let meta = fs::symlink_metadata(dir.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (owner, fs::metadata(&dir).unwrap().gid()), "{name}");
        }
        if rustix::process::geteuid().is_root() {
            // Somebody else's file is nobody's, and closed to shed where its mode says so.
            fs::write(dir.join("foreign"), "x").unwrap();
            fs::set_permissions(dir.join("foreign"), fs::Permissions::from_mode(0o600)).unwrap();
            let said = cli.sh(SHED, "stat -c '%u %a' /workspace/foreign; cat /workspace/foreign 2>&1 || true; sudo -n chown shed /workspace/foreign 2>&1 || true");
            assert!(said.starts_with("65534 600") && said.contains("denied") && said.contains("not permitted"), "{said}");
            assert_eq!(fs::metadata(dir.join("foreign")).unwrap().uid(), 0);
            fs::remove_file(dir.join("foreign")).unwrap();
        }
    });
    promises.keep("modes, times and links go both ways", || {
        cli.sh(SHED, "cd /workspace && chmod 640 made/by-shed && touch -d @1700000000 made/by-shed && ln made/by-shed made/hard");
        let meta = fs::metadata(dir.join("made/by-shed")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.nlink()), (0o640, 1_700_000_000, 2));
        fs::set_permissions(dir.join("made/hard"), fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(cli.sh(SHED, "stat -c %a /workspace/made/by-shed; readlink /workspace/made/link"), "604\nby-shed");
    });
    promises.keep("the guest sees at once what the host writes, changes, renames and removes", || {
        let mut guest = Answers::of(
            &cli,
            "cd /workspace; while read -r f; do cat \"$f\" 2>/dev/null | tr -d '\\n'; echo; done",
        );
        for round in 0..60 {
            let (file, other) = (format!("h{}", round % 7), format!("r{}", round % 7));
            // Now of one length, now of another.
            let content = format!("{round:05}{}", "x".repeat((round / 2) * 301 % 9000));
            write(&dir.join(&file), content.as_bytes());
            assert_eq!(guest.ask(&file), content, "round {round}");
            fs::rename(dir.join(&file), dir.join(&other)).unwrap();
            assert_eq!((guest.ask(&file), guest.ask(&other)), (String::new(), content), "round {round}");
            if round % 3 == 0 {
                fs::remove_file(dir.join(&other)).unwrap();
                assert_eq!(guest.ask(&other), "", "round {round}");
            }
        }
        guest.end();
    });
    promises.keep("the host sees at once what the guest writes, changes, renames and removes", || {
        let script = "cd /workspace; while read -r verb a b; do case $verb in w) printf %s \"$b\" > \"$a\" ;; m) mv \"$a\" \"$b\" ;; d) rm \"$a\" ;; esac; echo done; done";
        let mut guest = Answers::of(&cli, script);
        for round in 0..60 {
            let (file, other) = (format!("g{}", round % 5), format!("m{}", round % 5));
            let content = format!("{round:05}{}", "y".repeat((round / 2) * 97 % 2000));
            guest.ask(&format!("w {file} {content}"));
            assert_eq!(fs::read_to_string(dir.join(&file)).unwrap(), content, "round {round}");
            guest.ask(&format!("m {file} {other}"));
            assert!(!dir.join(&file).exists(), "round {round}");
            assert_eq!(fs::read_to_string(dir.join(&other)).unwrap(), content, "round {round}");
            if round % 3 == 0 {
                guest.ask(&format!("d {other}"));
                assert!(!dir.join(&other).exists(), "round {round}");
            }
        }
        guest.end();
    });
    promises.keep("ten thousand files that both sides write at once are all there and whole", || {
        let (here, there) = (dir.join("many/host"), dir.join("many/guest"));
        cli.sh(SHED, "mkdir -p /workspace/many/host /workspace/many/guest");
        let guest = cli.spawn(&["exec", SHED, "--", "sh", "-c", &format!(
            "cd /workspace/many/guest && seq {MANY} | awk '{{ f = \"f\" $1; printf \"file %d of the guest\\n\", $1 > f; close(f) }}'"
        )]);
        for number in 1..=MANY {
            write(&here.join(format!("f{number}")), format!("file {number} of the host\n").as_bytes());
        }
        guest.wait(BOOT * 2).exits(0);
        for number in 1..=MANY {
            let path = there.join(format!("f{number}"));
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("file {number} of the guest\n"), "{path}");
        }
        // Each has a line of its own, so none is empty.
        let seen = "cd /workspace/many/host && ls | wc -l && cat $(ls) | sort -u | wc -l";
        let lines = vm_tests::run(&mut cli.exec_command(SHED, &["sh", "-c", seen]), b"", BOOT * 2).ok().out();
        assert_eq!(lines, format!("{MANY}\n{MANY}"));
        fs::remove_dir_all(dir.join("many")).unwrap();
    });
    promises.keep("a file can be mapped into memory and locked, as compilers and databases do", || {
        write(&dir.join("mapped"), &[b'a'; 8192]);
        let script = "import mmap,fcntl\nf=open('/workspace/mapped','r+b')\nfcntl.lockf(f,fcntl.LOCK_EX)\nm=mmap.mmap(f.fileno(),0)\nassert m[0:1]==b'a'\nm[4096:4101]=b'hello'\nm.flush()\nprint('ok')\n";
        assert_eq!(cli.exec_with(SHED, &["python3", "-"], script.as_bytes()).ok().out(), "ok");
        assert_eq!(&fs::read(dir.join("mapped")).unwrap()[4096..4101], b"hello");
    });
    promises.keep("the mount returns after stop and start, and after a reboot in the guest", || {
        cli.sh(SHED, "echo kept > /workspace/kept");
        cli.run(&["stop", SHED]).ok();
        assert!(stage.serving().is_empty());
        stage.assert_only(&[Expect::Stopped(SHED)]);
        write(&dir.join("meanwhile"), b"stopped");
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/kept /workspace/meanwhile"), "kept\nstopped");
        let boot = "cat /proc/sys/kernel/random/boot_id";
        let before = cli.sh(SHED, boot);
        let _cut_short = cli.exec(SHED, &["sudo", "-n", "systemctl", "reboot"]);
        wait_for("the guest to be up again", BOOT, || {
            let after = cli.exec(SHED, &["sh", "-c", boot]);
            (after.code == 0 && after.out() != before).then_some(())
        });
        wait_for("the mount after the reboot", SHORT * 2, || is_mounted(&cli).then_some(()));
        assert_eq!(cli.sh(SHED, "cat /workspace/kept"), "kept");
    });
    promises.keep("it stays when the server is killed, and when the agent is", || {
        let serving = stage.serving();
        assert!(!serving.is_empty());
        server.take().expect("a server").crash();
        assert!(serving.iter().all(|process| is_alive(process.pid)));
        server = Some(stage.serve());
        cli.wait_for_exec(SHED, SHORT * 2);
        assert_eq!(cli.sh(SHED, "cat /workspace/kept"), "kept");
        assert_eq!(stage.serving(), serving);
        let _cut_short = cli.exec(SHED, &["sudo", "-n", "systemctl", "kill", "-s", "KILL", "shed-agent"]);
        wait_for("the agent", SHORT * 2, || (cli.exec(SHED, &["true"]).code == 0).then_some(()));
        assert_eq!(cli.sh(SHED, "grep -c ' /workspace virtiofs ' /proc/mounts"), "1");
    });
    promises.keep("the list says where the files are", || {
        assert!(cli.run(&["list", "-v"]).ok().out().contains(dir.as_str()));
        assert_eq!(server.as_ref().expect("a server").http().shed(SHED)["local_dir"], dir.as_str());
    });
    promises.keep("a machine that is killed takes those who served it along", || {
        kill_process(machine_of(&stage, SHED).pid, Signal::KILL);
        let http = server.as_ref().expect("a server").http();
        wait_for("the shed to read stopped", SHORT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
        assert!(is_mounted(&cli));
    });
    promises.keep(
        "when those who serve it are killed the shed says so, and a new start brings the files back",
        || {
            for process in stage.serving() {
                kill_process(process.pid, Signal::KILL);
            }
            let http = server.as_ref().expect("a server").http();
            let reason = wait_for("the shed to say so", SHORT, || {
                http.shed(SHED)["error"].as_str().map(str::to_owned)
            });
            assert!(reason.contains("host directory") && reason.contains("shed start"), "{reason}");
            cli.run(&["stop", SHED]).ok();
            cli.run(&["start", SHED]).ok();
            assert_eq!(cli.sh(SHED, "cat /workspace/kept"), "kept");
            assert!(http.shed(SHED).get("error").is_none());
        },
    );
    promises.keep("a directory that is gone fails the start and the shed stays stopped", || {
        cli.run(&["stop", SHED]).ok();
        let away = dir.with_extension("away");
        fs::rename(&dir, &away).unwrap();
        let failed = cli.run(&["start", SHED]).exits(1);
        assert!(failed.err().contains("does not exist"), "{}", failed.err());
        stage.assert_only(&[Expect::Stopped(SHED)]);
        fs::rename(&away, &dir).unwrap();
        cli.run(&["start", SHED]).ok();
    });
    promises.keep("a delete leaves the directory as it is, and nothing else", || {
        cli.delete(SHED);
        assert_eq!(fs::read_to_string(dir.join("kept")).unwrap(), "kept\n");
        stage.assert_only(&[]);
    });
    promises.finish();
}

/// Neither a hostile guest nor a link of the host's leads out of the directory, and nothing dangerous is left in it.
#[test]
fn nothing_leads_out_of_the_directory() {
    let Some(stage) = Stage::new() else { return };
    let _server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    let dir = directory(&stage, "jail");
    let secret = stage.dir().join("secret");
    fs::write(&secret, "of the host").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    symlink("/etc/hostname", dir.join("absolute")).unwrap();
    symlink("../secret", dir.join("relative")).unwrap();
    symlink(&secret, dir.join("to-secret")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    cli.create(SHED, &["--local-dir", dir.as_str()]);

    promises.keep("the host's links are the guest's own to resolve", || {
        assert_eq!(cli.sh(SHED, "cat /workspace/absolute"), SHED);
        for link in ["relative", "to-secret", "up/secret"] {
            let read = cli.exec(SHED, &["sudo", "-n", "cat", &format!("/workspace/{link}")]);
            assert!(read.code != 0 && !read.out().contains("of the host"), "{link}: {read:?}");
        }
        assert_eq!(cli.sh(SHED, "readlink /workspace/up; ls /workspace/up/ | grep -c '^etc$'"), "..\n1");
    });
    promises.keep("links that the guest makes write nowhere but in the guest", || {
        let script = format!(
            "cd /workspace && ln -s {secret} l1 && ln -s ../secret l2 && ln -s / root && mkdir -p d && ln -s ../../.. d/up
             for t in l1 l2 root{secret} d/up/secret; do echo bad | sudo -n tee $t >/dev/null 2>&1; done; true"
        );
        cli.sh(SHED, &script);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
    });
    promises.keep("a link put in a directory's place while the guest works in it leads nowhere", || {
        let script = "cd /workspace && mkdir -p race && (i=0; while [ $i -lt 400 ]; do echo bad > race/secret; cat race/secret; i=$((i+1)); done 2>/dev/null | grep -c 'of the host')";
        let running = cli.spawn(&["exec", SHED, "--", "sh", "-c", script]);
        let raced = dir.join("race");
        wait_for("the directory", SHORT, || raced.is_dir().then_some(()));
        for _ in 0..2000 {
            if fs::rename(&raced, dir.join("aside")).is_ok() {
                let _there = symlink("..", &raced);
                let _gone = fs::remove_file(&raced);
                let _back = fs::rename(dir.join("aside"), &raced);
            }
        }
        // `grep -c` counts none, and then its code is 1.
        assert_eq!(running.wait(BOOT).exits(1).out(), "0");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
    });
    promises.keep("no setuid bit, no setgid bit and no device can be made, by root neither", || {
        let script = "cd /workspace && cp /bin/true t && for m in 4755 2755 6755; do sudo -n chmod $m t 2>/dev/null && echo bad $m; done
            sudo -n mknod c c 1 3 2>/dev/null && echo bad c; sudo -n mknod b b 8 0 2>/dev/null && echo bad b; sudo -n cp -p --preserve=mode /usr/bin/sudo s 2>/dev/null; sudo -n install -m 4755 /bin/true i 2>/dev/null; true";
        assert_eq!(cli.sh(SHED, script), "");
        for entry in dir.read_dir_utf8().unwrap().flatten() {
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(meta.mode() & 0o6000, 0, "{}", entry.path());
            let kind = meta.mode() & 0o170_000;
            assert!(kind != 0o020_000 && kind != 0o060_000, "{}", entry.path());
        }
        assert!(cli.sh(SHED, "grep ' /workspace ' /proc/mounts").contains("nosuid,nodev"));
    });
    promises.keep("those who serve it are not root, and may do little", || {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let serving = stage.serving();
        for process in &serving {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
            let line =
                |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            assert!(line("Uid:").contains(&OWNER.to_string()), "{status}");
            assert_eq!(line("NoNewPrivs:"), "NoNewPrivs:\t1");
        }
        assert!(serving.len() >= 2, "{serving:?}");
    });
    promises.keep("the server's own directories and what holds them are refused", || {
        for own in
            [stage.instance_dir(), stage.images_dir(), stage.socket_dir(), stage.dir(), Utf8Path::new("/")]
        {
            let refused = cli.run(&["create", "other", "--local-dir", own.as_str()]).exits(1);
            assert!(refused.err().contains("no guest may see"), "{own}: {}", refused.err());
        }
    });
    promises.keep("nothing is left", || {
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}

/// git and a compiler work in the directory, and see what the host's own git does.
#[test]
fn git_and_builds_work_in_it() {
    let Some(stage) = Stage::new() else { return };
    let _server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    let dir = directory(&stage, "code");
    cli.create(SHED, &["--local-dir", dir.as_str()]);
    let guest = |script: &str| {
        vm_tests::run(&mut cli.exec_command(SHED, &["sh", "-ec", script]), b"", BOOT * 2).ok().out()
    };

    promises.keep("git works in it", || {
        let said = guest(
            "cd /workspace && git init -q . && git config user.email a@b && git config user.name a && mkdir src &&
             for i in $(seq 200); do echo $i > src/$i; done && git add . && git commit -qm one && echo x >> src/7 && rm src/8 &&
             git status --short && git checkout -q . && git status --short && git gc -q && git fsck 2>&1 && git log --oneline | wc -l",
        );
        assert_eq!(said, "M src/7\n D src/8\n1");
    });
    promises.keep("the host's git sees the same, and the guest sees what it changes", || {
        let git = |words: &[&str]| {
            let mut command = std::process::Command::new("git");
            command.arg("-C").arg(&dir).args(["-c", &format!("safe.directory={dir}")]).args(words);
            vm_tests::run(&mut command, b"", SHORT).ok().out()
        };
        assert_eq!(git(&["status", "--short"]), "");
        write(&dir.join("src/9"), b"changed here\n");
        assert_eq!(guest("cd /workspace && git status --short"), "M src/9");
        guest("cd /workspace && git commit -qam two");
        assert_eq!(git(&["log", "--oneline"]).lines().count(), 2);
    });
    promises.keep("make and a compiler build a program there that runs on both sides", || {
        write(&dir.join("main.c"), b"#include <stdio.h>\nint main(void) { puts(\"built\"); return 0; }\n");
        write(&dir.join("Makefile"), b"prog: main.o\n\tcc -static -o $@ $^\n");
        assert_eq!(guest("cd /workspace && make -s && ./prog && make -q && ls main.o"), "built\nmain.o");
        let mut here = std::process::Command::new(dir.join("prog"));
        assert_eq!(vm_tests::run(&mut here, b"", SHORT).ok().out(), "built");
        write(&dir.join("main.c"), b"#include <stdio.h>\nint main(void) { puts(\"again\"); return 0; }\n");
        assert_eq!(guest("cd /workspace && make -s && ./prog"), "again");
    });
    promises.keep("cargo builds a crate with the host's toolchain in the directory", || {
        cargo_build(&dir, &guest);
    });
    promises.keep("nothing is left", || {
        cli.delete(SHED);
        stage.assert_only(&[]);
    });
    promises.finish();
}

/// Builds a small crate in the guest, with a copy of this host's toolchain: no image has one.
fn cargo_build(dir: &Utf8Path, guest: &dyn Fn(&str) -> String) {
    let sysroot = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = Utf8PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim());
    let tools = dir.join("toolchain");
    fs::create_dir(&tools).unwrap();
    for (from, to) in [("bin/rustc", "bin"), ("bin/cargo", "bin"), ("lib", ".")] {
        fs::create_dir_all(tools.join(to)).unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.args(["-a", "--reflink=auto"]).arg(sysroot.join(from)).arg(tools.join(to));
        vm_tests::run(&mut copy, b"", BOOT).ok();
    }
    let krate = dir.join("krate");
    fs::create_dir_all(krate.join("src")).unwrap();
    fs::write(
        krate.join("Cargo.toml"),
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    )
    .unwrap();
    fs::write(krate.join("src/main.rs"), "fn main() { println!(\"hello\"); }\n").unwrap();
    let mut all = std::process::Command::new("chown");
    let owner = fs::metadata(dir).unwrap();
    all.arg("-R").arg(format!("{}:{}", owner.uid(), owner.gid())).arg(dir);
    vm_tests::run(&mut all, b"", BOOT).ok();
    let said = guest(
        "cd /workspace/krate && export PATH=/workspace/toolchain/bin:$PATH CARGO_HOME=/tmp/cargo && cargo build -q --offline && ./target/debug/small && cargo build --offline 2>&1 | grep -c Finished",
    );
    assert_eq!(said, "hello\n1");
    fs::remove_dir_all(&tools).unwrap();
}

/// A share that cannot be had fails the create, and nothing of it is left; so does every way a create can be cut short.
#[test]
fn a_share_that_fails_leaves_nothing() {
    let Some(mut stage) = Stage::new() else { return };
    let cli = stage.cli();
    let mut promises = Promises::new();
    let dir = directory(&stage, "there");
    let body = json!({ "name": SHED, "local_dir": dir, "memory_mb": 768 });

    promises.keep("a server killed in any phase of the create leaves no process and no socket", || {
        for phase in ["record", "vm", "boot", "identify"] {
            let server = stage.serve();
            let mut events = server.http().create_events(&body);
            events.wait_for_phase(phase);
            server.crash();
            let server = stage.serve();
            wait_for("the create to be undone", BOOT, || {
                (server.http().get(&format!("/api/sheds/{SHED}")).status == 404).then_some(())
            });
            stage.assert_only(&[]);
        }
    });
    promises.keep("a client that goes away leaves nothing either", || {
        let server = stage.serve();
        let mut events = server.http().create_events(&body);
        events.wait_for_phase("boot");
        drop(events);
        wait_for("the create to be undone", BOOT, || {
            (server.http().get(&format!("/api/sheds/{SHED}")).status == 404).then_some(())
        });
        stage.assert_only(&[]);
    });
    let fake = |script: &str| {
        let path = stage.dir().join("virtiofsd");
        fs::write(
            &path,
            format!("#!/bin/sh\n[ \"$1\" = --version ] && echo virtiofsd 1.14.0 && exit\n{script}\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Config { virtiofsd: Some(path), ..Config::default() }
    };
    let broken = fake("echo out of luck >&2; exit 3");
    stage.configure(broken);
    promises.keep("a virtiofsd that ends at once fails the create with its own words", || {
        let _server = stage.serve();
        let failed = cli.run(&["create", SHED, "--local-dir", dir.as_str()]).exits(1);
        assert!(failed.err().contains("out of luck"), "{}", failed.err());
        stage.assert_only(&[]);
    });
    stage.configure(Config { virtiofsd: Some("/no/such/virtiofsd".into()), ..Config::default() });
    promises.keep(
        "without virtiofsd a create says what is missing, where it was looked for, and how to get it",
        || {
            let _server = stage.serve();
            let failed = cli.run(&["create", SHED, "--local-dir", dir.as_str()]).exits(1);
            for part in ["virtiofsd", "/no/such/virtiofsd", "scripts/setup.sh", "cargo install"] {
                assert!(failed.err().contains(part), "{part}: {}", failed.err());
            }
            stage.assert_only(&[]);
            cli.create("plain", &[]);
            assert!(!machine_of(&stage, "plain").command_line.contains("vhost-user"));
            cli.delete("plain");
        },
    );
    stage.configure(Config::default());
    promises.keep("two sheds may have the same directory, and each sees the other's files", || {
        let _server = stage.serve();
        thread::scope(|scope| {
            for name in ["one", "two"] {
                let (cli, dir) = (&cli, &dir);
                scope.spawn(move || cli.create(name, &["--local-dir", dir.as_str()]));
            }
        });
        cli.sh("one", "echo hello > /workspace/from-one");
        assert_eq!(cli.sh("two", "cat /workspace/from-one"), "hello");
        let pids: BTreeSet<u32> = stage.serving().iter().map(|process| process.pid).collect();
        cli.delete("one");
        let left: BTreeSet<u32> = stage.serving().iter().map(|process| process.pid).collect();
        assert!(left.len() < pids.len() && left.is_subset(&pids));
        assert_eq!(cli.sh("two", "cat /workspace/from-one"), "hello");
        cli.delete("two");
        stage.assert_only(&[]);
    });
    promises.finish();
}
