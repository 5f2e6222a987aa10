//! Processes that outlive who started them: what they have, what they print, and how they end.

#[cfg(target_os = "linux")]
mod linux;

use std::{
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use super::*;
use crate::process::Signal;

struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }
}

fn setup() -> Setup {
    Setup { dir: tempfile::tempdir().unwrap() }
}

/// Runs a script that inherits two listening sockets.
fn run(setup: &Setup, script: &str) -> Launched {
    let listen = |name: &str| {
        let path = setup.path(name);
        // Of an earlier process.
        let _none = fs::remove_file(&path);
        OwnedFd::from(UnixListener::bind(path).unwrap())
    };
    let args = ["-c".to_owned(), script.to_owned()];
    let (inherited, log) = (vec![listen("one"), listen("two")], setup.path("vmm.log"));
    launch(Program { args: &args, inherited, ..Program::new(Utf8Path::new("/bin/sh"), &log) }).unwrap()
}

async fn dead(process: &WatchedProcess) {
    tokio::time::timeout(Duration::from_secs(20), process.dead()).await.unwrap().unwrap();
}

#[tokio::test]
async fn output_of_this_process_alone_is_its_tail() {
    let setup = setup();
    dead(&run(&setup, "echo first").process).await;
    let second = run(&setup, "echo second; printf 'third\\033[1m' >&2");
    dead(&second.process).await;
    assert_eq!(second.output.tail(), "second\nthird[1m");
    let silent = run(&setup, ":");
    dead(&silent.process).await;
    assert_eq!(silent.output.tail(), "it printed nothing");
}

#[tokio::test]
async fn the_sockets_can_be_connected_to_while_the_process_runs_and_not_after() {
    let setup = setup();
    let launched = run(&setup, "exec sleep 600");
    UnixStream::connect(setup.path("one")).unwrap();
    UnixStream::connect(setup.path("two")).unwrap();
    launched.process.signal(Signal::KILL).unwrap();
    dead(&launched.process).await;
    assert_eq!(UnixStream::connect(setup.path("one")).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let setup = setup();
    let (binary, log) = (Utf8Path::new("/no/such/vmm"), setup.path("vmm.log"));
    let program = Program::new(binary, &log);
    assert_eq!(launch(program).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn what_a_machine_prints_may_have_a_file_of_its_own() {
    let setup = setup();
    let args = ["-c".to_owned(), "echo console; echo error >&2".to_owned()];
    let (console, log) = (setup.path("console.log"), setup.path("vmm.log"));
    let (binary, stdout) = (Utf8Path::new("/bin/sh"), Some(&*console));
    let launched = launch(Program { args: &args, stdout, ..Program::new(binary, &log) }).unwrap();
    dead(&launched.process).await;
    assert_eq!(launched.output.tail(), "error");
    assert_eq!(fs::read_to_string(console).unwrap(), "console\n");
}

#[tokio::test]
async fn a_lock_that_is_standard_input_ends_with_the_process() {
    let setup = setup();
    let disk = setup.path("disk");
    let open = || OpenOptions::new().create(true).append(true).open(&disk).unwrap();
    let locked = open();
    locked.lock().unwrap();
    // Its other descriptors it closes, as a jailer does; what it reads is not the disk.
    let script = "read line || echo nothing >&2; exec 3>&- sleep 600";
    let (args, log) = (["-c".to_owned(), script.to_owned()], setup.path("vmm.log"));
    let (binary, stdin) = (Utf8Path::new("/bin/sh"), Some(locked.into()));
    let launched = launch(Program { args: &args, stdin, ..Program::new(binary, &log) }).unwrap();
    assert!(open().try_lock().is_err());
    launched.process.signal(Signal::KILL).unwrap();
    dead(&launched.process).await;
    open().try_lock().unwrap();
}

#[test]
fn only_faults_of_the_process_itself_are_crashes() {
    let (abort, segv, kill, term) = (6, 11, 9, 15);
    for signal in [abort, segv] {
        assert!(
            is_crash(<ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(signal)),
            "{signal}"
        );
    }
    for status in [0, 1 << 8, kill, term] {
        assert!(
            !is_crash(<ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(status)),
            "{status}"
        );
    }
}
