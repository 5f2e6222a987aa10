//! Directories of the host by 9P, in a real guest: mounted by the agent over vsock, with the guest's own kernel as the
//! client, and served by `shed-ninep` in a process of its own, as the `firecracker` backend does it.
//!
//! What runs in the guest is in `vm-tests/ninep`. As root the directory belongs to somebody of the host whom no image knows.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use shed_protocol::{Mount, MountKind};
use vm_tests::{BOOT, Promises, SHORT, VsockMachine, listing, wait_for};

/// The program that serves a directory.
const SERVER: &str = env!("CARGO_BIN_EXE_shed-ninep-share");

/// Somebody of the host whom no image knows, and who is nobody of importance here.
const OWNER: u32 = 61_235;

/// How long each kind of race goes on, in seconds.
const RACES: &str = "6";

/// What no guest may see.
const SECRET: &[u8] = b"of the host";

/// Directories beside each other: `share` and `read-only`, which the guest gets, and `outside`, which it must not.
struct Places {
    share: Utf8PathBuf,
    read_only: Utf8PathBuf,
    outside: Utf8PathBuf,
}

impl Places {
    fn beside(dir: &Utf8Path) -> Self {
        let places = Self {
            share: dir.join("host/share"),
            read_only: dir.join("host/read-only"),
            outside: dir.join("host/outside"),
        };
        for dir in [&places.share, &places.read_only.join("d"), &places.outside] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(places.read_only.join("f"), "f of the host\n").unwrap();
        fs::write(places.read_only.join("d/g"), "g of the host\n").unwrap();
        symlink("f", places.read_only.join("l")).unwrap();
        fs::write(places.outside.join("sentinel"), SECRET).unwrap();
        fs::write(places.outside.join("host-only"), SECRET).unwrap();
        // Open to everybody on the host: no mode protects it, only the share's edge.
        for path in [&places.outside.join("sentinel"), &places.outside.join("host-only")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        fs::set_permissions(&places.outside, fs::Permissions::from_mode(0o777)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&places.share, Some(OWNER), Some(OWNER)).unwrap();
            for name in ["", "f", "d", "d/g", "l"] {
                lchown(places.read_only.join(name), Some(OWNER), Some(OWNER)).unwrap();
            }
        }
        places
    }

    /// What shows that somebody was outside: names, and of each file its mode, links, length and all its times.
    fn outside_as_it_is(&self) -> Vec<String> {
        let names = |dir: &Utf8Path| {
            let entries = dir.read_dir_utf8().unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_owned()).collect();
            names.sort();
            names
        };
        let mut seen = names(self.outside.parent().unwrap());
        for name in names(&self.outside) {
            let meta = fs::symlink_metadata(self.outside.join(&name)).unwrap();
            let times = [
                (meta.atime(), meta.atime_nsec()),
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ];
            seen.push(format!("{name} {:o} {} {} {times:?}", meta.mode(), meta.nlink(), meta.size()));
        }
        let dir = fs::metadata(&self.outside).unwrap();
        seen.push(format!("{:o} {}.{}", dir.mode(), dir.mtime(), dir.mtime_nsec()));
        seen
    }
}

fn mount(tag: &str, target: &str, read_only: bool) -> Mount {
    Mount { tag: tag.into(), kind: MountKind::NineP, target: target.parse().unwrap(), read_only }
}

/// Runs a script of `vm-tests/ninep` in the guest; returns what it printed.
#[track_caller]
fn guest(machine: &VsockMachine, user: &str, program: &str, script: &str, arguments: &[&str]) -> String {
    let mut command = match program {
        // What hangs is seen in the trace.
        "sh" => vec!["timeout", "400", "sh", "-x", "-s"],
        program => vec![program, "-"],
    };
    command.extend(arguments);
    let done = machine.run(user, &command, script.as_bytes().to_vec(), BOOT * 2);
    print(&format!("{} ({:?})", done.out(), done.took));
    done.ok().out()
}

#[test]
fn guests_work_in_a_directory_by_9p_and_stay_in_it() {
    let Some(machine) = VsockMachine::boot("default") else { return };
    let mut promises = Promises::new();
    let places = Places::beside(machine.dir());
    let outside = places.outside_as_it_is();
    let mut share = machine.share(SERVER, "workspace", &places.share, &[]);
    let mut read_only = machine.share(SERVER, "read-only", &places.read_only, &["--read-only"]);

    promises.keep("the agent mounts what the host serves", || {
        let mounts =
            vec![mount("workspace", "/workspace", false), mount("read-only", "/mnt/read-only", false)];
        let mut channel = machine.channel();
        assert_eq!(channel.identify("shared", mounts.clone()), json!({}));
        // Told again, it leaves what is there.
        assert_eq!(channel.identify("shared", mounts), json!({}));
        let mounted = machine
            .sh("grep -c ' 9p ' /proc/mounts; grep ' /workspace ' /proc/mounts; stat -c '%u:%g' /workspace");
        assert!(
            mounted.starts_with("2\nworkspace /workspace 9p ") && mounted.ends_with("1000:1000"),
            "{mounted}"
        );
    });
    let _started = machine.sh("mkdir -p /workspace/t && chown shed:shed /workspace/t");
    promises.keep("it is a POSIX file system for its owner", || {
        let said = guest(&machine, "shed", "python3", include_str!("../ninep/posix.py"), &["/workspace/t"]);
        assert!(said.ends_with(" 0 failed"), "{said}");
    });
    promises.keep("and for root", || {
        let said = guest(&machine, "root", "python3", include_str!("../ninep/posix.py"), &["/workspace/t"]);
        assert!(said.ends_with(" 0 failed"), "{said}");
    });
    promises.keep("both sides see what the other does at once, also in files that are open", || {
        both_sides(&machine, &places.share);
    });
    promises.keep("a directory of 5,000 entries is listed whole, each once", || {
        let many = places.share.join("t/many");
        fs::create_dir(&many).unwrap();
        for index in 0..5000 {
            fs::write(many.join(format!("entry-{index:04}")), "").unwrap();
        }
        let script =
            "cd /workspace/t/many; ls | wc -l; ls | sort -u | wc -l; find . -type f -name 'entry-4*' | wc -l";
        assert_eq!(machine.sh(script), "5000\n5000\n1000");
        fs::remove_dir_all(many).unwrap();
    });
    promises.keep("git works in it", || {
        assert!(
            guest(&machine, "shed", "sh", include_str!("../ninep/git.sh"), &["/workspace/t"])
                .ends_with("git done")
        );
    });
    promises.keep("npm works in it", || {
        assert!(
            guest(&machine, "shed", "sh", include_str!("../ninep/npm.sh"), &["/workspace/t"])
                .ends_with("npm done")
        );
    });
    promises.keep("make, a compiler, Python, tar and rsync work in it", || {
        assert!(
            guest(&machine, "shed", "sh", include_str!("../ninep/build.sh"), &["/workspace/t"])
                .ends_with("build done")
        );
    });
    promises.keep("the guest's root does not get out of it", || {
        let arguments = ["/workspace", places.outside.as_str(), RACES];
        let said = guest(&machine, "root", "python3", include_str!("../ninep/attack.py"), &arguments);
        assert!(said.ends_with("nothing got out"), "{said}");
        assert_eq!(places.outside_as_it_is(), outside);
        assert_eq!(fs::read(places.outside.join("sentinel")).unwrap(), SECRET);
    });
    promises.keep("a directory that is served read-only is never changed", || {
        let before = listing(&places.read_only);
        for user in ["shed", "root"] {
            let said =
                guest(&machine, user, "python3", include_str!("../ninep/read_only.py"), &["/mnt/read-only"]);
            assert!(said.ends_with(" 0 not refused"), "{said}");
        }
        assert_eq!(listing(&places.read_only), before);
    });
    promises.keep("what the guest made belongs to the directory's owner", || {
        machine.sh("echo x >/workspace/t/by-root; mkdir /workspace/t/dir; ln -s x /workspace/t/link; chown -h 0:0 /workspace/t/*");
        let owner = fs::metadata(&places.share).unwrap();
        for name in ["t", "t/by-root", "t/dir", "t/link"] {
            let meta = fs::symlink_metadata(places.share.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (owner.uid(), owner.gid()), "{name}");
        }
    });
    promises.keep("a server that is killed leaves errors behind, and nothing that hangs", || {
        lost_server(&machine, &places.share, &mut share);
        // The other share goes on.
        assert_eq!(machine.sh("cat /mnt/read-only/f"), "f of the host");
    });
    promises.keep("a server ends when the guest unmounts", || {
        assert!(!read_only.has_ended());
        machine.sh("umount /mnt/read-only");
        wait_for("the server to end", SHORT * 2, || read_only.has_ended().then_some(()));
    });
    promises.finish();
}

fn both_sides(machine: &VsockMachine, share: &Utf8Path) {
    fs::write(share.join("t/from-host"), "one").unwrap();
    assert_eq!(machine.sh("cat /workspace/t/from-host"), "one");
    fs::write(share.join("t/from-host"), "another").unwrap();
    assert_eq!(machine.sh("cat /workspace/t/from-host; stat -c ' %s' /workspace/t/from-host"), "another 7");
    machine.sh("echo -n guest >/workspace/t/from-guest");
    assert_eq!(fs::read_to_string(share.join("t/from-guest")).unwrap(), "guest");
    // A file that stays open in the guest while the host appends to it.
    let script = "exec 3</workspace/t/log; cat <&3; touch /workspace/t/read; \
                  until [ -e /workspace/t/more ]; do sleep 0.1; done; cat <&3";
    fs::write(share.join("t/log"), "first ").unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| machine.sh(script));
        wait_for("the guest to have read", SHORT * 2, || share.join("t/read").exists().then_some(()));
        fs::write(share.join("t/log"), "first second").unwrap();
        fs::write(share.join("t/more"), "").unwrap();
        assert_eq!(reading.join().unwrap(), "first second");
    });
    // Entries that the host makes, renames and removes.
    fs::rename(share.join("t/log"), share.join("t/renamed")).unwrap();
    fs::remove_file(share.join("t/more")).unwrap();
    assert_eq!(machine.sh("ls /workspace/t"), "from-guest\nfrom-host\nread\nrenamed");
    fs::write(share.join("t/mapped"), "....").unwrap();
    chown(share.join("t/mapped"), Some(fs::metadata(share).unwrap().uid()), None).unwrap();
    machine.sh("python3 -c 'import mmap; f = open(\"/workspace/t/mapped\", \"r+b\"); m = mmap.mmap(f.fileno(), 0); m[1:3] = b\"MM\"; m.flush()'");
    assert_eq!(fs::read_to_string(share.join("t/mapped")).unwrap(), ".MM.");
    machine.sh("rm -r /workspace/t/*");
}

/// Kills the server while a program of the guest reads and another writes.
fn lost_server(machine: &VsockMachine, share: &Utf8Path, server: &mut vm_tests::Share) {
    fs::write(share.join("t/log"), "one").unwrap();
    assert_eq!(machine.sh("cat /workspace/t/log"), "one");
    server.kill();
    // The guest's kernel may still know of a name, as when it only changes into a directory; it gets no file's content.
    for command in ["ls /workspace", "cat /workspace/t/log", "touch /workspace/new", "stat /workspace/t"] {
        let done = machine.run("root", &["timeout", "60", "sh", "-c", command], Vec::new(), SHORT * 4);
        assert!(done.code != 0 && done.code != 124, "{command}: {} {}", done.code, done.err());
    }
    // What has nothing to do with it goes on, and the mount can be removed.
    machine.sh("timeout 60 sync; df / >/dev/null; timeout 60 umount /workspace; ! grep -q ' /workspace ' /proc/mounts");
}

#[expect(clippy::print_stderr, reason = "what was slow, or failed")]
fn print(line: &str) {
    eprintln!("{line}");
}
