//! The stand-in for vfkit, with a real guest: each device does in it what vfkit's does, the machine ends in each of vfkit's
//! ways, and nothing of it stays.

use std::{
    fs,
    io::Read,
    os::unix::{fs::MetadataExt, net::UnixStream},
    process::Command,
};

use rustix::process::Signal;
use serde_json::json;
use vm_tests::{BOOT, Parts, Promises, SHORT, VfkitMachine, is_alive, run, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vfkit-stand-in");

/// Long enough for a guest to stop under emulation, where vfkit's five seconds are not.
const PATIENT: [(&str, &str); 1] = [("SHED_VFKIT_STOP_SECONDS", "200")];

/// Checks that all of these processes are gone, and their sockets.
fn assert_nothing_is_left(machine: &VfkitMachine, processes: &[u32]) {
    assert!(processes.len() > 3, "the stand-in, QEMU and two helpers, not {processes:?}");
    let alive = |processes: &[u32]| processes.iter().any(|pid| is_alive(*pid));
    wait_for("the machine's processes to be gone", SHORT, || (!alive(processes)).then_some(()));
    assert_eq!(machine.sockets(), Vec::<String>::new());
}

/// Waits until the stand-in has said it: its last words are still on their way when it has ended.
fn wait_for_word(machine: &VfkitMachine, word: &str) {
    wait_for(word, SHORT, || machine.said().contains(word).then_some(()));
}

/// Waits until the guest hears its power button: who listens to it begins long after the agent.
fn wait_for_button(machine: &VfkitMachine) {
    let script = "systemctl is-system-running --wait >/dev/null || true
        until grep -q 'Power Button' /sys/class/input/event*/device/name; do udevadm settle; done
        systemctl is-active systemd-logind";
    assert_eq!(machine.sh(script), "active");
}

fn wait_for_state(machine: &VfkitMachine, state: &str) {
    let state = format!("VirtualMachineState{state}");
    wait_for(&state, BOOT, || {
        let (status, body) = machine.rest("GET /vm/state", "").ok()?;
        assert_eq!(status, 200);
        (body["state"] == *state).then_some(())
    });
}

fn set_state(machine: &VfkitMachine, state: &str) -> u16 {
    machine.rest("POST /vm/state", &json!({ "state": state }).to_string()).expect("an answer").0
}

#[test]
fn a_machine_runs_as_under_vfkit() {
    let Some(parts) = Parts::find() else { return };
    let mut machine = VfkitMachine::boot(&parts, PROGRAM, "base", &PATIENT);
    let mut promises = Promises::new();
    promises.keep(
        "the agent says that it is there, over a port of the host, and is reached over one of the guest",
        || {
            machine.wait_for_agent();
            let seen = machine.sh("cat /proc/cmdline; cat /sys/class/tty/console/active; nproc");
            assert!(seen.contains("shed.link=vsock") && seen.ends_with("hvc0\n2"), "{seen}");
        },
    );
    promises.keep("disks have their names, and the image cannot be written", || {
        let disks = "for disk in /sys/block/vd*; do echo $(cat $disk/serial) $(cat $disk/ro); done";
        assert_eq!(machine.sh(disks), "shed-image 1\nshed-upper 0");
    });
    promises.keep("the network is there, with its address", || {
        assert!(machine.sh("cat /sys/class/net/*/address").contains("52:54:00:70:2b:71"));
    });
    promises.keep(
        "a directory is shared, and what root in the guest writes there is the host's user's",
        || {
            let share = machine.dir().join("share");
            fs::write(share.join("from host"), "hello").expect("a file");
            let seen =
                machine.sh("mount -t virtiofs stage /mnt; cat '/mnt/from host'; echo reply >/mnt/answer");
            assert_eq!(seen, "hello");
            assert_eq!(fs::read_to_string(share.join("answer")).expect("a file"), "reply\n");
            let owner = fs::metadata(share.join("answer")).expect("a file").uid();
            assert_eq!(owner, rustix::process::geteuid().as_raw());
            machine.sh("umount /mnt");
        },
    );
    promises.keep("the console is in its log, also after the log was emptied", || {
        // What the kernel says before its driver of the virtio console is there is lost; so it is under Apple's framework.
        let console = machine.console();
        assert!(console.contains("shed-agent: ready"), "{console:.2000}");
        fs::File::options()
            .write(true)
            .open(machine.dir().join("console.log"))
            .expect("a log")
            .set_len(0)
            .expect("empty");
        machine.sh("echo emptied >/dev/hvc0");
        let line = wait_for("the console's next line", SHORT, || {
            Some(machine.console()).filter(|console| console.contains("emptied"))
        });
        assert!(!line.contains('\0'), "{line:?}");
    });
    promises.keep("a connection to a port without a listener is taken, and ends", || {
        let mut nobody = UnixStream::connect(machine.dir().join("nobody")).expect("it is taken");
        nobody.set_read_timeout(Some(SHORT)).expect("a timeout");
        assert_eq!(nobody.read(&mut [0]).expect("an end"), 0);
    });
    promises.keep("the REST interface shows the machine, pauses it and lets it go on", || {
        let (status, seen) = machine.rest("GET /vm/inspect", "").expect("an answer");
        assert_eq!((status, &seen["vcpus"], &seen["memoryBytes"]), (200, &json!(2), &json!(1536_u64 << 20)));
        assert_eq!(seen["devices"].as_array().map(Vec::len), Some(9));
        assert_eq!(set_state(&machine, "Resume"), 500);
        assert_eq!(set_state(&machine, "Pause"), 202);
        wait_for_state(&machine, "Paused");
        assert_eq!(set_state(&machine, "Stop"), 500);
        assert_eq!(set_state(&machine, "Resume"), 202);
        wait_for_state(&machine, "Running");
        assert_eq!(machine.sh("echo awake"), "awake");
        assert_eq!(set_state(&machine, "Sleep"), 500);
        assert_eq!(machine.rest("POST /vm/state", "Stop").expect("an answer").0, 400);
        assert_eq!(machine.rest("GET /vm", "").expect("an answer").0, 404);
    });
    promises.keep("a guest that reboots comes back in the same process", || {
        let before = machine.processes();
        let _cut_off = machine.run("systemctl reboot");
        machine.wait_for_agent();
        assert_eq!(machine.sh("cut -d' ' -f1 /proc/loadavg >/dev/null; echo again"), "again");
        assert_eq!(machine.processes().len(), before.len());
    });
    promises.keep("a guest that is asked to stop ends, and with it all of its machine", || {
        let processes = machine.processes();
        let pid = fs::read_to_string(machine.dir().join("pid")).expect("a pid file");
        assert!(processes.iter().any(|process| process.to_string() == pid));
        wait_for_button(&machine);
        assert_eq!(set_state(&machine, "Stop"), 202);
        assert_eq!(machine.wait_for_end(BOOT), 0);
        assert!(machine.console().contains("Powering off"), "{}", machine.console());
        assert_nothing_is_left(&machine, &processes);
    });
    promises.finish();
}

#[test]
fn a_machine_ends_in_each_of_vfkits_ways() {
    let Some(parts) = Parts::find() else { return };
    let mut promises = Promises::new();
    promises.keep("SIGTERM asks the guest to stop", || {
        let mut machine = VfkitMachine::boot(&parts, PROGRAM, "base", &PATIENT);
        machine.wait_for_agent();
        wait_for_button(&machine);
        let processes = machine.processes();
        machine.signal(Signal::TERM);
        assert_eq!(machine.wait_for_end(BOOT), 0);
        assert!(machine.console().contains("Powering off"), "{}", machine.console());
        assert_nothing_is_left(&machine, &processes);
    });
    promises.keep("SIGINT ends a guest that does not hear it five seconds later", || {
        let mut machine = VfkitMachine::boot(&parts, PROGRAM, "base", &[]);
        wait_for_state(&machine, "Running");
        let processes = machine.processes();
        machine.signal(Signal::INT);
        assert_eq!(machine.wait_for_end(SHORT), 0);
        wait_for_word(&machine, "has not stopped within 5s");
        assert_nothing_is_left(&machine, &processes);
    });
    promises.keep("HardStop ends it at once", || {
        let mut machine = VfkitMachine::boot(&parts, PROGRAM, "base", &[]);
        wait_for_state(&machine, "Running");
        let processes = machine.processes();
        assert_eq!(set_state(&machine, "HardStop"), 202);
        assert_eq!(machine.wait_for_end(SHORT), 0);
        assert_nothing_is_left(&machine, &processes);
    });
    promises.keep(
        "a killed stand-in takes its processes with it; its sockets stay, as a killed vfkit's do",
        || {
            let mut machine = VfkitMachine::boot(&parts, PROGRAM, "base", &[]);
            wait_for_state(&machine, "Running");
            let processes = machine.processes();
            machine.signal(Signal::KILL);
            assert_eq!(machine.wait_for_end(SHORT), 128 + 9);
            wait_for("the machine's processes to be gone", SHORT, || {
                (!processes.iter().any(|pid| is_alive(*pid))).then_some(())
            });
            assert!(machine.sockets().contains(&"rest".to_owned()), "{:?}", machine.sockets());
        },
    );
    promises.keep("a machine whose QEMU is killed has failed", || {
        let mut machine = VfkitMachine::boot(&parts, PROGRAM, "base", &[]);
        wait_for_state(&machine, "Running");
        let processes = machine.processes();
        let is_qemu =
            |pid: &&u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/usr"));
        let qemu = processes.iter().find(|pid| is_qemu(pid) && is_alive(**pid)).expect("QEMU");
        vm_tests::kill_process(*qemu, Signal::KILL);
        assert_eq!(machine.wait_for_end(SHORT), 1);
        wait_for_word(&machine, "virtualization error");
        assert_nothing_is_left(&machine, &processes);
    });
    promises.finish();
}

#[test]
fn what_cannot_run_is_refused_before_anything_is_made() {
    let Some(parts) = Parts::find() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, initrd) = (parts.guest_dir.join("bzImage"), parts.guest_dir.join("initrd.img"));
    let boot = format!("linux,kernel={kernel},initrd={initrd}");
    let missing = format!("linux,kernel={kernel}-missing,initrd={initrd}");
    let elf = format!("linux,kernel={},initrd={initrd}", parts.guest_dir.join("vmlinux"));
    let taken = dir.path().join("taken");
    fs::write(&taken, "mine").expect("a file");
    let rest = format!("unix://{}", taken.display());
    for (args, reason) in [
        (&["-b", &missing][..], "bzImage-missing"),
        (&["-b", &elf], "is not a bzImage"),
        (&["-b", &boot, "-d", "virtio-blk,path=/nonexistent/disk"], "/nonexistent/disk"),
        (&["-b", &boot, "-d", "virtio-fs,sharedDir=/nonexistent/dir,mountTag=x"], "/nonexistent/dir"),
        (&["-b", &boot, "-d", "virtio-serial,logFilePath=/nonexistent/log"], "/nonexistent/log"),
        (&["-b", &boot, "-d", "virtio-serial,stdio"], "needs a terminal"),
        (&["-b", &boot, "-d", "virtio-vsock,socketURL=/x,connect"], "`port` is missing"),
        (&["-b", &boot, "-d", "virtio-9p"], "unknown device type"),
        (&["-b", &boot, "--restful-uri", &rest], "cannot listen"),
        (&["-b", &boot, "--frobnicate"], "unknown option"),
    ] {
        let refused = run(Command::new(PROGRAM).args(args).env("TMPDIR", dir.path()), &[], SHORT).exits(1);
        assert!(refused.err().contains(reason), "{args:?}: {}", refused.err());
        let left: Vec<_> = fs::read_dir(dir.path()).expect("a directory").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
    assert_eq!(fs::read_to_string(&taken).expect("a file"), "mine");
    let version = run(Command::new(PROGRAM).arg("--version"), &[], SHORT).ok();
    assert!(version.out().starts_with("vfkit version: v"), "{}", version.out());
}
