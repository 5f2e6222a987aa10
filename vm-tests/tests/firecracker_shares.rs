//! A directory of the host as the /workspace of a shed on the real Firecracker, in an L1, which is a machine with KVM on this
//! host: served by 9P, through everything that can happen to server, agent and machine. Skipped when there is no
//! Firecracker. What 9P itself can do in a guest is in `ninep_guest.rs`.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use vm_tests::{
    BOOT, Cli, Expect, L1, Promises, SHORT, Server, Stage, Watched, is_alive, kill_process, machine_of,
    wait_for,
};

const SHED: &str = "shared";

/// Somebody of the L1 whom no image knows.
const OWNER: u32 = 61_234;

/// What the L1 is searched for when the test has ended.
const WATCHED: Watched<'static> = Watched { dirs: &["/tmp", "/run/shed", "/var/lib/shed"], cgroups: &[] };

/// Makes a directory that everybody may enter and that belongs to [`OWNER`].
fn directory(stage: &Stage) -> Utf8PathBuf {
    let dir = stage.dir().join("project");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
    dir
}

/// Writes a file as the directory's owner would.
fn write(path: &Utf8Path, content: &str) {
    fs::write(path, content).unwrap();
    chown(path, Some(OWNER), Some(OWNER)).unwrap();
}

fn mounts(cli: &Cli) -> String {
    cli.sh(SHED, "grep ' /workspace ' /proc/mounts || true")
}

#[test]
fn a_shed_on_firecracker_has_its_directory_whatever_happens() {
    if !L1::is_here() {
        let Some(l1) = L1::boot() else { return };
        let before = l1.inventory(&WATCHED);
        l1.run_inside("a_shed_on_firecracker_has_its_directory_whatever_happens", BOOT * 15);
        l1.assert_nothing_beyond(&before, &WATCHED);
        l1.finish();
        return;
    }
    let stage = Stage::new().expect("the L1 has the parts");
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    let mut promises = Promises::new();
    let dir = directory(&stage);
    write(&dir.join("first"), "before the shed");
    cli.create(SHED, &["--cpus", "1", "--memory", "512", "--local-dir", dir.as_str()]);

    promises.keep("both sides see the same files, which are the owner's here and shed's there", || {
        let mounts = mounts(&cli);
        assert!(mounts.starts_with("workspace /workspace 9p rw,nosuid,nodev"), "{mounts}");
        // Linux 6.12 shows `mmap` by its bits: files and write-back (fs/9p/v9fs.h, `CACHE_FILE`, `CACHE_WRITEBACK`).
        assert!(mounts.contains("cache=0x5,") && mounts.contains("access=client"), "{mounts}");
        let listed = cli.sh(SHED, "cat /workspace/first; stat -c ' %u:%g' /workspace /workspace/first");
        assert_eq!(listed, "before the shed 1000:1000\n 1000:1000");
        cli.sh(SHED, "cd /workspace; echo one > by-shed; sudo -n sh -c 'echo two > by-root'; mkdir d; ln -s ../by-shed d/l");
        for name in ["by-shed", "by-root", "d", "d/l"] {
            let meta = fs::symlink_metadata(dir.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER), "{name}");
        }
        for round in 0..20 {
            let content = format!("{round}{}", "x".repeat(round * 211 % 3000));
            write(&dir.join("changing"), &content);
            assert_eq!(cli.sh(SHED, "cat /workspace/changing"), content, "round {round}");
        }
    });
    promises.keep("files can be mapped, and what is appended goes to the end", || {
        write(&dir.join("mapped"), &"a".repeat(8192));
        let script = "import mmap\nf=open('/workspace/mapped','r+b')\nm=mmap.mmap(f.fileno(),0)\nassert m[0:1]==b'a'\nm[4096:4101]=b'hello'\nm.flush()\nprint('ok')\n";
        assert_eq!(cli.exec_with(SHED, &["python3", "-"], script.as_bytes()).ok().out(), "ok");
        assert_eq!(&fs::read(dir.join("mapped")).unwrap()[4096..4101], b"hello");
        cli.sh(SHED, "cd /workspace; for i in 1 2 3; do echo $i >> log; done");
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "1\n2\n3\n");
    });
    promises.keep("one process serves it, which is not root and may do nothing else", || {
        let serving = stage.serving();
        assert_eq!(serving.len(), 1, "{serving:?}");
        let status = fs::read_to_string(format!("/proc/{}/status", serving[0].pid)).unwrap();
        assert!(status.contains(&format!("Uid:\t{OWNER}\t{OWNER}\t{OWNER}\t{OWNER}")), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    promises.keep("it stays when the server is killed, and when the agent is", || {
        let serving = stage.serving();
        cli.sh(SHED, "echo kept > /workspace/kept");
        server.take().expect("a server").crash();
        assert!(serving.iter().all(|process| is_alive(process.pid)));
        server = Some(stage.serve());
        cli.wait_for_exec(SHED, SHORT * 2);
        assert_eq!(cli.sh(SHED, "cat /workspace/kept"), "kept");
        assert_eq!(stage.serving(), serving);
        let _cut_short = cli.exec(SHED, &["sudo", "-n", "systemctl", "kill", "-s", "KILL", "shed-agent"]);
        wait_for("the agent", SHORT * 2, || (cli.exec(SHED, &["true"]).code == 0).then_some(()));
        assert_eq!(cli.sh(SHED, "cat /workspace/kept; grep -c ' /workspace 9p ' /proc/mounts"), "kept\n1");
        assert_eq!(stage.serving(), serving);
        let shed = server.as_ref().expect("a server").http().shed(SHED);
        assert!(shed.get("error").is_none(), "{shed}");
    });
    promises.keep("when who serves it is killed the shed says so, and a start brings the files back", || {
        fs::write(dir.join("large"), vec![7; 16 << 20]).unwrap();
        let loops = "(while cat /workspace/large; do :; done; touch /tmp/reader-ended) >/dev/null 2>&1 & \
             (while echo x >>/workspace/loop; do :; done; touch /tmp/writer-ended) >/dev/null 2>&1 &";
        cli.sh(SHED, loops);
        wait_for("the writer to write", SHORT, || {
            fs::metadata(dir.join("loop")).is_ok_and(|meta| meta.len() > 20).then_some(())
        });
        for process in stage.serving() {
            kill_process(process.pid, Signal::KILL);
        }
        let http = server.as_ref().expect("a server").http();
        let reason =
            wait_for("the shed to say so", SHORT, || http.shed(SHED)["error"].as_str().map(str::to_owned));
        assert!(reason.contains("host directory") && reason.contains("shed start"), "{reason}");
        // Whoever uses the files gets errors and ends, which leaves the machine fit to be stopped.
        wait_for("those who used the files to end", SHORT * 2, || {
            (cli.sh(SHED, "ls /tmp/*-ended 2>/dev/null | wc -l") == "2").then_some(())
        });
        cli.run(&["stop", SHED]).ok();
        assert!(stage.serving().is_empty());
        stage.assert_only(&[Expect::Stopped(SHED)]);
        write(&dir.join("meanwhile"), "stopped");
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/kept /workspace/meanwhile"), "kept\nstopped");
        assert!(http.shed(SHED).get("error").is_none());
    });
    promises.keep("a machine that is killed takes who served it along", || {
        kill_process(machine_of(&stage, SHED).pid, Signal::KILL);
        let http = server.as_ref().expect("a server").http();
        wait_for("the shed to read stopped", SHORT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        assert!(http.shed(SHED).get("error").is_none());
    });
    promises.keep("a delete leaves the directory as it is, and nothing else", || {
        cli.delete(SHED);
        assert_eq!(fs::read_to_string(dir.join("kept")).unwrap(), "kept\n");
        stage.assert_only(&[]);
    });
    drop::<Option<Server>>(server);
    promises.finish();
}
