//! Host directories of the `firecracker` backend: the backend, the real `shed-server serve-share`, and a machine that is
//! none. What a guest's kernel makes of it is for tests that boot one.

mod alone;
mod machine;

use std::{fs, os::unix::fs::MetadataExt, process::Stdio, time::Duration};

use machine::{Answer, LONG, Machine, OWNER, TAG, backend, dead, shed};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use shed_backend::{Backend, DiskAccess, firecracker::ShareState, process::ProcessId};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

/// EROFS (errno(3)).
const READ_ONLY: u32 = 30;

fn kill(id: ProcessId) {
    let pid = Pid::from_raw(i32::try_from(id.pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_guest_has_its_directory_as_the_owner_until_its_machine_ends() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[]);
    let vm = machine.found().await;
    let mut guest = machine.guest().await;
    assert_eq!((guest.tag.as_str(), machine.state()), (TAG, ShareState::Offered));
    guest.mount().await;
    assert_eq!(machine.state(), ShareState::Mounted);
    assert_eq!(guest.read("hello").await.unwrap(), "from the host");
    guest.write("new", "from the guest").await.unwrap();
    assert_eq!(fs::read_to_string(machine.path("web/new")).unwrap(), "from the guest");
    let owner = if geteuid().is_root() { OWNER } else { geteuid().as_raw() };
    assert_eq!(fs::metadata(machine.path("web/new")).unwrap().uid(), owner);

    // The stream ends with the machine, and who served it with the stream.
    let server = machine.server().expect("somebody serves it");
    machine.kill();
    drop(guest);
    timeout(LONG, vm.ended()).await.unwrap();
    dead(server).await;
    assert_eq!(machine.server(), None);
    let lost = timeout(Duration::from_millis(100), vm.share_lost()).await;
    assert!(lost.is_err(), "it ended with its machine: {}", machine.log());
}

#[tokio::test]
async fn a_directory_that_is_read_only_is_so_whatever_the_guest_does() {
    let mut machine = Machine::new(DiskAccess::ReadOnly, &[]);
    let _vm = machine.found().await;
    let mut guest = machine.guest().await;
    guest.mount().await;
    assert_eq!(guest.read("hello").await.unwrap(), "from the host");
    assert_eq!(guest.write("new", "x").await, Err(READ_ONLY));
    assert!(!machine.path("web/new").exists());
}

#[tokio::test]
async fn one_who_serves_is_found_by_the_next_server_and_missed_when_it_has_gone() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[]);
    let first = machine.found().await;
    let mut guest = machine.guest().await;
    guest.mount().await;
    let server = machine.server().expect("somebody serves it");
    drop(first);

    let next = machine.found().await;
    let lost = timeout(Duration::from_millis(300), next.share_lost()).await;
    assert!(lost.is_err() && machine.server() == Some(server), "{}", machine.log());
    assert_eq!(guest.read("hello").await.unwrap(), "from the host");

    kill(server);
    timeout(LONG, next.share_lost()).await.expect("the loss is an event");
    drop(next);
    // The one after it sees at once what nobody told it, and offers nothing that no guest would take.
    let last = machine.found().await;
    timeout(LONG, last.share_lost()).await.expect("the loss is known later, too");
    assert_eq!(machine.server(), None);
}

#[tokio::test]
async fn a_stream_that_no_guest_has_mounted_is_offered_again() {
    let answers = [Answer::Close, Answer::Garbage, Answer::DyingAgent, Answer::DyingAgent];
    let mut machine = Machine::new(DiskAccess::ReadWrite, &answers);
    let vm = machine.found().await;
    let guest = machine.guest().await;
    let first = machine.server().expect("somebody serves it");
    // The server goes, then the agent; the next server knows that the directory is still to be mounted.
    drop((vm, guest));
    dead(first).await;
    let vm = machine.found().await;
    let mut guest = machine.guest().await;
    guest.mount().await;
    assert_eq!(guest.read("hello").await.unwrap(), "from the host");
    let lost = timeout(Duration::from_millis(100), vm.share_lost()).await;
    assert!(lost.is_err(), "{}", machine.log());
}

#[tokio::test]
async fn a_machine_that_never_answers_is_asked_again() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[Answer::Silence]);
    let vm = machine.found().await;
    let mut guest = machine.guest().await;
    guest.mount().await;
    assert_eq!(guest.read("hello").await.unwrap(), "from the host");
    drop(vm);
}

#[tokio::test]
async fn who_serves_is_ended_when_the_stream_outlives_the_machine() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[]);
    let vm = machine.found().await;
    let mut guest = machine.guest().await;
    guest.mount().await;
    let server = machine.server().expect("somebody serves it");
    machine.kill();
    timeout(LONG, vm.ended()).await.unwrap();
    dead(server).await;
    guest.closed().await;
}

#[tokio::test]
async fn leftovers_are_removed_of_this_shed_and_of_no_other() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[]);
    drop(machine.found().await);
    let vm = machine.found().await;
    let mut guest = machine.guest().await;
    guest.mount().await;
    drop(vm);
    let server = machine.server().expect("somebody serves it");
    machine.backend().remove_leftovers(&shed("ap")).await.unwrap();
    assert_eq!(machine.server(), Some(server));
    for _ in 0..2 {
        machine.backend().remove_leftovers(&machine.spec.shed).await.unwrap();
        assert_eq!(machine.server(), None);
    }
    guest.closed().await;
}

#[tokio::test]
async fn a_directory_that_has_gone_is_served_when_it_is_back() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[]);
    fs::rename(machine.path("web"), machine.path("away")).unwrap();
    let vm = machine.found().await;
    assert!(!machine.is_offered(Duration::from_millis(300)).await);
    fs::rename(machine.path("away"), machine.path("web")).unwrap();
    let mut guest = machine.guest().await;
    guest.mount().await;
    assert_eq!(guest.read("hello").await.unwrap(), "from the host");
    drop(vm);
}

/// Set for this program when it is to be a server that another test kills.
const PLAYS_SERVER: &str = "SHED_TEST_PLAYS_SERVER";

/// Finds the machine of the test that started it, and waits to be killed. By itself it does nothing.
#[tokio::test]
async fn plays_a_server_that_is_killed() {
    let Ok(words) = std::env::var(PLAYS_SERVER) else { return };
    let spec: Vec<&str> = words.split(' ').collect();
    let [dir, launch] = spec[..] else { panic!("{words}") };
    let machine = Machine::new(DiskAccess::ReadWrite, &[]);
    let (dir, launch_id) = (camino::Utf8Path::new(dir), launch.parse().unwrap());
    let mut spec = shed_backend::VmSpec { launch_id, vmm_log: dir.join("vmm.log"), ..machine.spec.clone() };
    spec.shares[0].source = dir.join("web");
    let _vm = backend(&dir.join("s")).find(&spec, None).await.unwrap().expect("it runs");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_directory_is_served_on_when_the_server_is_killed_and_nothing_of_it_is_held() {
    let mut machine = Machine::new(DiskAccess::ReadWrite, &[]);
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shares::plays_a_server_that_is_killed", "--nocapture"])
        .env(PLAYS_SERVER, format!("{} {}", machine.dir.path().display(), machine.spec.launch_id))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut guest = machine.guest().await;
    guest.mount().await;
    let share = machine.server().expect("somebody serves it");
    server.kill().await.unwrap();
    // Whoever holds its output would keep it from ending.
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let end = async { while lines.next_line().await.unwrap().is_some() {} };
    timeout(LONG, end).await.expect("nothing of the server is held");
    guest.write("new", "after it").await.unwrap();
    assert_eq!(machine.server(), Some(share));

    let held: Vec<String> = fs::read_dir(format!("/proc/{}/fd", share.pid))
        .unwrap()
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .filter(|held| !held.starts_with("socket:"))
        .collect();
    let expected = [machine.path("web"), machine.path("vmm.log"), machine.path("vmm.share-workspace")];
    for held in held.iter().filter(|held| !held.starts_with("/proc/")) {
        assert!(expected.iter().any(|path| path.as_str() == held), "{held}");
    }
    // And the next server takes it over.
    let vm = machine.found().await;
    assert_eq!(guest.read("new").await.unwrap(), "after it");
    machine.kill();
    drop(guest);
    timeout(LONG, vm.ended()).await.unwrap();
    dead(share).await;
}
