use std::process::{Child, Command, Stdio};

use super::*;

fn state() -> (tempfile::TempDir, TunnelState) {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap().join("config.yaml");
    let state = TunnelState::beside(&ConfigStore::locate(Some(&path)).unwrap());
    (dir, state)
}

/// A process that could be one of ours by its command line, and lives until its stdin ends.
fn process(words: &[&str]) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", "echo ready; read line", "sh"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A line that only the new program can write: its command line is there by then.
    let mut line = [0; 6];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    child
}

fn entry(shed: &str, child: &Child) -> Entry {
    let id = ProcessId::of(child.id()).unwrap().unwrap();
    Entry {
        shed_name: shed.parse().unwrap(),
        profile: "default".to_owned(),
        pid: id.pid,
        process_start_time: Some(id.start_time),
        ports: vec!["3000".parse().unwrap()],
        started_at: Timestamp::now(),
        server_name: "mini".parse().unwrap(),
    }
}

/// Writes the file as it may be found.
fn write(state: &TunnelState, entries: &[&Entry]) {
    let tunnels = entries.iter().map(|entry| (entry.shed_name.clone(), (*entry).clone())).collect();
    fs::write(&state.path, serde_json::to_string(&StateFile { tunnels }).unwrap()).unwrap();
}

fn names(state: &TunnelState) -> Vec<String> {
    state.running().unwrap().iter().map(|entry| entry.shed_name.to_string()).collect()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_shed_s_place_is_taken_once_and_given_back_by_who_has_it() {
    let (_dir, state) = state();
    let (first, second) = (process(&["tunnels", "web"]), process(&["tunnels", "web"]));
    let (a, b) = (entry("web", &first), entry("web", &second));
    assert!(matches!(state.claim(a.clone()).unwrap(), Claim::Taken));
    assert!(matches!(state.claim(b.clone()).unwrap(), Claim::Held(held) if *held == a));
    state.release(&b).unwrap();
    assert_eq!(names(&state), ["web"], "it was not theirs to give");
    end(first);
    assert!(matches!(state.claim(b.clone()).unwrap(), Claim::Taken), "the dead have no place");
    state.release(&b).unwrap();
    assert_eq!(names(&state), [""; 0]);
    end(second);
}

#[tokio::test]
async fn a_process_is_ours_by_pid_start_time_and_command_line_together() {
    let (_dir, state) = state();
    let ours = process(&["tunnels", "start", "web"]);
    let others =
        [process(&["something", "web"]), process(&["tunnels", "else"]), process(&["tunnels", "web"])];
    let right = entry("web", &ours);
    let reused = Entry { process_start_time: right.process_start_time.map(|time| time + 1), ..right.clone() };
    let unknown = Entry { process_start_time: None, ..right.clone() };
    let renamed = Entry { shed_name: "api".parse().unwrap(), ..right.clone() };
    for wrong in [&entry("web", &others[0]), &entry("web", &others[1]), &reused, &unknown, &renamed] {
        write(&state, &[wrong]);
        state.end(wrong).await.unwrap();
        write(&state, &[wrong]);
        assert_eq!(names(&state), [""; 0], "{wrong:?}");
        assert!(!fs::read_to_string(&state.path).unwrap().contains("pid"), "it is dropped from the file");
    }
    write(&state, &[&right]);
    assert_eq!(names(&state), ["web"]);
    for mut child in others.into_iter().chain([ours]) {
        assert_eq!(child.try_wait().unwrap(), None, "nobody was signalled");
        end(child);
    }
}

#[tokio::test]
async fn an_end_is_waited_for_and_forced_when_it_does_not_come() {
    let (_dir, state) = state();
    let mut child = process(&["tunnels", "web"]);
    // It cannot even die of SIGTERM while it is stopped.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::STOP).unwrap();
    let entry = entry("web", &child);
    write(&state, &[&entry]);
    assert!(
        !state.end_those_to(&entry.shed_name, &"other".parse().unwrap()).await.unwrap(),
        "another server's"
    );
    assert!(state.end_those_to(&entry.shed_name, &entry.server_name).await.unwrap());
    assert!(!child.wait().unwrap().success());
    assert_eq!(names(&state), [""; 0]);
}

#[test]
fn what_is_no_list_of_tunnels_is_an_error_and_stays() {
    let (_dir, state) = state();
    let text = r#"{"tunnels": {"web": {"shed_name": "web", "pid": -1}}}"#;
    for text in ["{", "[7]", "null", r#"{"tunnels": 7}"#, r#"{"tunnels": {"../x": {}}}"#, text, "\u{0}"] {
        fs::write(&state.path, text).unwrap();
        assert!(matches!(state.running(), Err(StateError::Parse { .. })), "{text:?}");
        assert_eq!(fs::read_to_string(&state.path).unwrap(), text);
    }
    for text in ["", "{}\n"] {
        fs::write(&state.path, text).unwrap();
        assert_eq!(names(&state), [""; 0]);
    }
    fs::write(&state.path, " ".repeat(2 << 20)).unwrap();
    assert!(matches!(state.running(), Err(StateError::TooLong { .. })));
}

#[test]
fn without_tunnels_nothing_is_written() {
    let (dir, state) = state();
    assert_eq!(names(&state), [""; 0]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
