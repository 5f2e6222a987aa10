//! `shed tunnels start -d`: what it leaves behind, and how that ends.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    pty::Pty,
    tunnel_server::{Detached, Mode, TunnelServer, echo, eventually, exit_code, free_ports, is_alive},
    user::{User, json},
};

pub(crate) fn stage() -> (TunnelServer, Detached) {
    let server = TunnelServer::start(Mode::Running);
    let user = Detached(User::with_server(server.port));
    (server, user)
}

fn state(user: &User) -> String {
    fs::read_to_string(user.home.path().join(".shed/tunnel-state.json")).unwrap()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn they_are_listed_and_stopped() {
    let (_server, user) = stage();
    let [local] = free_ports();
    let mapping = format!("{local}:80");
    let ran = user.0.shed(&["tunnels", "start", "web", "-d", "-t", &mapping]).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let leads = format!("  127.0.0.1:{local} leads to port 80");
    assert_eq!(lines, ["Started tunnels to shed web on test (explicit)", &leads]);
    assert_eq!(echo(local, b"x").unwrap(), b"x");

    let list = user.list();
    let one = &list[0];
    assert_eq!((list.len(), &one["shed_name"], &one["profile"]), (1, &"web".into(), &"explicit".into()));
    assert_eq!((&one["server_name"], &one["state"]), (&"test".into(), &"running".into()));
    assert_eq!(one["ports"], serde_json::json!([{"local": local, "remote": 80}]));
    let pid = u32::try_from(one["pid"].as_u64().unwrap()).unwrap();
    let table = user.0.shed(&["tunnels", "list", "-v"]).exits(0).stdout;
    assert!(table.starts_with("SHED  SERVER  PROFILE   PORTS"), "{table}");

    let log = user.0.home.path().join(".shed/logs/tunnels-web.log");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&log), mode(&user.0.home.path().join(".shed/tunnel-state.json"))), (0o600, 0o600));
    let ran = user.0.shed(&["tunnels", "stop", "web"]).exits(0);
    assert_eq!(ran.stdout, format!("Stopped the tunnels to shed web ({mapping})\n"));
    assert!(!is_alive(pid), "stop waits for the end");
    TcpListener::bind(("127.0.0.1", local)).unwrap();
    assert_eq!(user.list().len(), 0);
    let said = fs::read_to_string(log).unwrap();
    assert!(
        said.contains(&format!("tunnels to shed web on test: {mapping}\n")) && said.ends_with(" stopped\n"),
        "{said}"
    );
}

#[test]
fn they_outlive_their_terminal_and_hang_ups() {
    let (_server, user) = stage();
    let [local] = free_ports();
    let pty = Pty::open();
    // A shell that leads a session with this terminal: when the terminal goes, the kernel sends SIGHUP to all in it.
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut shell = Command::new("setsid")
        .args(["--ctty", "sh", "-c", r#""$0" tunnels start web -d -t "$1"; echo begun; read line"#])
        .args([env!("CARGO_BIN_EXE_shed"), &local.to_string()])
        .env("HOME", user.0.home.path())
        .env_remove("SHED_CONFIG")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    pty.shows("begun\r\n");
    let pid = u32::try_from(user.list()[0]["pid"].as_u64().unwrap()).unwrap();
    drop(pty);
    exit_code(&mut shell);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    signal(pid, Signal::HUP);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    assert_eq!(rustix::process::getsid(Some(process)).unwrap(), process, "a session of its own");
    user.0.shed(&["tunnels", "stop", "web"]).exits(0);
    assert!(!is_alive(pid));
}

/// Starts tunnels by a shell that has its output open once more, and a file, which it also reads.
pub(crate) fn start_with_more_open(user: &Detached, local: u16, held: &Path) {
    let script = r#"exec 9>&1 8<"$2" <"$2"; "$0" tunnels start web -d -t "$1""#;
    File::create(held).unwrap();
    // The output ends when nobody has its pipe any more.
    let ran = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_shed"), &local.to_string()])
        .arg(held)
        .env("HOME", user.0.home.path())
        .env_remove("SHED_CONFIG")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

#[test]
fn no_output_that_was_handed_down_is_held_open() {
    let (_server, user) = stage();
    let [local] = free_ports();
    start_with_more_open(&user, local, &user.0.home.path().join("held"));
    assert_eq!(echo(local, b"x").unwrap(), b"x");
}

#[test]
fn many_sheds_at_once_each_keep_their_entry() {
    let (_server, user) = stage();
    let ports: [u16; 8] = free_ports();
    thread::scope(|scope| {
        for (number, port) in ports.iter().enumerate() {
            let user = &user;
            scope.spawn(move || user.start(&[&format!("web{number}"), "-t", &port.to_string()]));
        }
    });
    let names: Vec<String> =
        user.list().iter().map(|one| one["shed_name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, (0..8).map(|number| format!("web{number}")).collect::<Vec<_>>());
    for port in ports {
        assert_eq!(echo(port, b"x").unwrap(), b"x");
    }
    let ran = user.0.shed(&["tunnels", "stop", "--all"]).exits(0);
    assert_eq!(ran.stdout.lines().count(), 8);
    assert_eq!(user.list().len(), 0);
}

#[test]
fn of_two_starts_of_one_shed_at_once_one_wins() {
    let (_server, user) = stage();
    let ports: [u16; 4] = free_ports();
    let codes: Vec<i32> = thread::scope(|scope| {
        let starts: Vec<_> = ports
            .iter()
            .map(|port| {
                let user = &user;
                scope.spawn(move || {
                    user.0.shed(&["tunnels", "start", "web", "-d", "-t", &port.to_string()]).code
                })
            })
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    let winner = codes.iter().position(|code| *code == 0).unwrap();
    for (number, port) in ports.into_iter().enumerate() {
        eventually("the losers' ports to be free", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok() == (number == winner)
        });
    }
}

#[test]
fn one_that_is_replaced_gives_up_its_ports_and_only_then() {
    let (_server, user) = stage();
    let [local, other] = free_ports();
    let first = user.start(&["web", "-t", &local.to_string()]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().port().to_string();
    let (one, two) = (local.to_string(), other.to_string());
    user.0
        .shed(&["tunnels", "start", "web", "-d", "--replace", "-t", &one, "-t", &busy])
        .exits(1)
        .says("is in use");
    assert!(is_alive(first), "a start that fails changes nothing");
    let second = user.start(&["web", "--replace", "-t", &one, "-t", &two]);
    assert!(!is_alive(first) && is_alive(second));
    assert_eq!((echo(local, b"x").unwrap(), echo(other, b"y").unwrap()), (b"x".to_vec(), b"y".to_vec()));
}

#[test]
fn one_that_cannot_be_replaced_in_the_background_lives_on() {
    let (_server, user) = stage();
    let [local, other] = free_ports();
    let first = user.start(&["web", "-t", &local.to_string()]);
    let shed = user.0.home.path().join(".shed");
    let log = shed.join("logs/tunnels-web.log");
    fs::remove_file(&log).unwrap();
    // Nothing can be written there.
    fs::create_dir(&log).unwrap();
    for port in [local, other] {
        user.0
            .shed(&["tunnels", "start", "web", "-d", "--replace", "-t", &port.to_string()])
            .exits(1)
            .says("could not open the log");
        assert!(is_alive(first));
        assert_eq!(echo(local, b"x").unwrap(), b"x");
    }
    fs::remove_dir(&log).unwrap();
    let second = user.start(&["web", "--replace", "-t", &other.to_string()]);
    assert!(!is_alive(first) && is_alive(second), "without a port in common, too");
    assert_eq!(echo(other, b"x").unwrap(), b"x");
}

#[test]
fn on_a_terminal_a_second_start_asks() {
    let (_server, user) = stage();
    let [local] = free_ports();
    let mapping = local.to_string();
    let first = user.start(&["web", "-t", &mapping]);
    for (answer, code) in [("n\r", 1), ("\r", 1), ("y\r", 0)] {
        let pty = Pty::open();
        let mut child = pty.spawn(&user.0, &["tunnels", "start", "web", "-d", "-t", &mapping]);
        let shown = pty.shows("Replace them? [y/N] ");
        assert!(
            shown.starts_with(&format!("There are tunnels to shed web on test already ({local}, process ")),
            "{shown}"
        );
        assert!(is_alive(first));
        pty.types(answer.as_bytes());
        assert_eq!(exit_code(&mut child), Some(code), "{answer:?}");
        assert_eq!(is_alive(first), code != 0);
        assert_eq!(echo(local, b"x").unwrap(), b"x");
    }
}

#[test]
fn a_process_that_is_no_longer_ours_is_never_signalled() {
    let (_server, user) = stage();
    let [local] = free_ports();
    let pid = user.start(&["web", "-t", &local.to_string()]);
    signal(pid, Signal::KILL);
    eventually("its end", || !is_alive(pid));
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    let path = user.0.home.path().join(".shed/tunnel-state.json");
    for rest in ["", r#""process_start_time": 1,"#] {
        fs::write(
            &path,
            format!(
                r#"{{"tunnels": {{"web": {{"shed_name": "web", "profile": "default", "pid": {}, {rest} "ports": [],
                    "started_at": "2026-01-20T10:30:00Z", "server_name": "test"}}}}}}"#,
                bystander.id()
            ),
        )
        .unwrap();
        user.0.shed(&["tunnels", "stop", "web"]).exits(4);
        user.0.shed(&["stop", "web"]).exits(0);
    }
    assert_eq!(bystander.try_wait().unwrap(), None);
    assert_eq!(json(&state(&user.0)), serde_json::json!({"tunnels": {}}), "what is dead is dropped");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_broken_state_file_is_named_and_stays_and_sheds_are_stopped_all_the_same() {
    let (_server, user) = stage();
    let path = user.0.home.path().join(".shed/tunnel-state.json");
    fs::write(&path, "{oh").unwrap();
    for line in
        [&["tunnels", "list"][..], &["tunnels", "stop", "--all"], &["tunnels", "start", "web", "-t", "3000"]]
    {
        user.0.shed(line).exits(1).says("tunnel-state.json is not a list of running tunnels").says("rm ");
    }
    let ran = user.0.shed(&["stop", "web"]).exits(0).says("warning: the tunnels to shed web may run on");
    assert_eq!(ran.stdout, "Stopped shed web on test\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{oh");
    fs::remove_file(path).unwrap();
}

#[test]
fn a_shed_that_is_stopped_or_deleted_takes_its_tunnels_along() {
    let (server, user) = stage();
    let [local] = free_ports();
    for line in [&["stop", "web"][..], &["delete", "-f", "web"]] {
        server.become_(Mode::Running);
        let pid = user.start(&["web", "-t", &local.to_string()]);
        user.0.shed(line).exits(0).says("Stopped the tunnels to shed web.");
        assert!(!is_alive(pid), "{line:?}");
    }
    server.become_(Mode::Running);
    let pid = user.start(&["web", "-t", &local.to_string()]);
    user.0.shed(&["stop", "api"]).exits(0);
    assert!(is_alive(pid), "another shed's stay");
    // Somebody else deletes it.
    server.become_(Mode::Deleted);
    assert!(echo(local, b"x").is_err());
    eventually("the end of the tunnels", || !is_alive(pid));
    let log = fs::read_to_string(user.0.home.path().join(".shed/logs/tunnels-web.log")).unwrap();
    assert!(log.ends_with(" there is no shed web on test any more, so its tunnels have ended\n"), "{log}");
    assert_eq!(user.list().len(), 0);
}

#[test]
fn with_a_config_file_elsewhere_all_is_there() {
    let (_server, user) = stage();
    let [local] = free_ports();
    let elsewhere = user.0.home.path().join("else where");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(user.0.home.path().join(".shed/config.yaml"), elsewhere.join("c.yaml")).unwrap();
    fs::write(elsewhere.join("tunnels.yaml"), format!("profiles: {{default: [{local}]}}")).unwrap();
    let run = |line: &[&str]| {
        let mut command = user.0.command(&["--config", "c.yaml"]);
        let output = command.args(line).current_dir(&elsewhere).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["tunnels", "start", "web", "-d"]);
    assert_eq!(echo(local, b"x").unwrap(), b"x");
    assert!(run(&["tunnels", "list"]).contains("default"));
    assert!(elsewhere.join("logs/tunnels-web.log").exists() && elsewhere.join("tunnel-state.json").exists());
    assert_eq!(user.list().len(), 0);
    run(&["tunnels", "stop", "web"]);
}
