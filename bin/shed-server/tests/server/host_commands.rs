//! `setup`, `install` and `uninstall` as programs, as far as they change nothing here: what they print, and what they refuse.
//! What they do is shown in a machine of its own (vm-tests).

use std::{fs, process::Output};

use camino::Utf8Path;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{run, stderr};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_unit_can_be_printed_and_has_the_configuration_as_one_word() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let name = "it's 100% \"mine\"\nExecStartPre=x.yaml";
    fs::write(dir.join(name), "http_port: 0\nssh_port: 0\n").unwrap();
    let output = run(&["install", "--print", "--config", name], dir).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    let exec: Vec<&str> = text.lines().filter(|line| line.starts_with("Exec")).collect();
    assert_eq!(exec.len(), 1, "{text}");
    assert!(exec[0].ends_with(r#"/it's 100%% \"mine\"\nExecStartPre=x.yaml""#), "{text}");
    for setting in ["KillMode=process", "Restart=on-failure", "OOMPolicy=continue", "TimeoutStopSec=60"] {
        assert!(text.lines().any(|line| line == setting), "{setting}: {text}");
    }
}

#[tokio::test]
async fn without_root_setup_says_so_and_does_nothing() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    fs::write(dir.join("server.yaml"), "http_port: 0\nssh_port: 0\n").unwrap();
    let (program, user) = if rustix::process::geteuid().is_root() {
        // Read by somebody who is nobody.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.join("shed-server");
        fs::copy(env!("CARGO_BIN_EXE_shed-server"), &program).unwrap();
        (program, Some(65534))
    } else {
        (env!("CARGO_BIN_EXE_shed-server").into(), None)
    };
    for args in [&["setup"][..], &["setup", "--remove"]] {
        let mut command = Command::new(&program);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command
            .args(args)
            .current_dir(dir)
            .env("HOME", dir)
            .env_remove("SHED_CONFIG")
            .env_remove("SUDO_USER");
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains("only root may") && text.contains("sudo"), "{text}");
        assert_eq!(stdout(&output), "");
    }
}

#[tokio::test]
async fn users_that_are_none_are_refused_before_anything_is_done() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    for (user, code, words) in
        [("no-such-user-here", 1, "there is no user"), ("-x", 2, "user"), ("a b", 2, "no name of a user")]
    {
        let output = run(&["install", "--print", &format!("--user={user}")], dir).await;
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{user}: {text}");
        assert!(text.contains(words), "{user}: {text}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_stops_all_of_them() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    fs::write(dir.join("server.yaml"), "nonsense: 1\n").unwrap();
    let output = run(&["install", "--print"], dir).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("server.yaml:1:1"), "{}", stderr(&output));
}
