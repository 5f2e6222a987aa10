//! The program itself: its command line, its signals, its port. No machine is started; the QEMU in these tests is a
//! script that says which version it is.

use std::{os::unix::fs::PermissionsExt, process::Output, time::Duration};

use camino::Utf8Path;
use rustix::process::Signal;
use shed_client::ClientError;
use shed_testkit::{Setup, TestServer, wait_for};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::common::{PATIENCE, connect, read_reply};

/// Answers what QEMU's monitor is asked before the first machine, and nothing else.
pub(crate) const QEMU: &str = r#"#!/bin/sh
echo '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}'
read capabilities
read quit
"#;

pub(crate) fn write_program(path: &Utf8Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub(crate) struct Scripted {
    pub(crate) server: TestServer,
    _qemu: TempDir,
}

pub(crate) async fn server() -> Scripted {
    let dir = TempDir::new().unwrap();
    let qemu = Utf8Path::from_path(dir.path()).unwrap().join("qemu");
    write_program(&qemu, QEMU);
    let setup = Setup { program: Some(env!("CARGO_BIN_EXE_shed-server").into()), ..Setup::default() };
    let server = TestServer::start(setup.qemu("binary", &qemu).qemu("accel", "tcg")).await.unwrap();
    Scripted { server, _qemu: dir }
}

pub(crate) async fn run(args: &[&str], dir: &Utf8Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shed-server"));
    command
        .args(args)
        .current_dir(dir)
        .env("HOME", dir)
        .env_remove("XDG_DATA_HOME")
        .env_remove("SHED_CONFIG");
    command.kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("the program ends").unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn it_tells_its_port_answers_and_ends_on_sigterm() {
    let mut test = server().await;
    let info = test.server.client().info().await.unwrap();
    assert_eq!((info.name.as_str(), info.backend.as_str()), ("test", "qemu"));
    assert_eq!(info.http_port, test.server.client().server().port());
    assert_eq!(info.ssh_port, test.server.ssh_port().get());
    let mut greeting = [0; 8];
    let mut ssh = tokio::net::TcpStream::connect(("127.0.0.1", info.ssh_port)).await.unwrap();
    tokio::io::AsyncReadExt::read_exact(&mut ssh, &mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");
    assert_eq!(test.server.client().list().await.unwrap(), []);
    let client = test.server.client().clone();
    let status = test.server.stop().await.unwrap();
    assert!(status.success(), "{status}\n{}", test.server.log());
    assert!(matches!(client.info().await.unwrap_err(), ClientError::Unreachable { .. }));
    test.server.assert_clean();
}

#[tokio::test]
async fn a_killed_server_starts_again_on_the_same_state() {
    let mut test = server().await;
    test.server.kill().unwrap();
    test.server.restart().await.unwrap();
    assert_eq!(test.server.client().list().await.unwrap(), []);
}

#[tokio::test]
async fn a_second_server_on_the_same_sheds_is_refused() {
    let test = server().await;
    let config = test.server.dir().join("server.yaml");
    let output = run(&["serve", "--config", config.as_str()], test.server.dir()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another shed-server uses"), "{}", stderr(&output));
    assert!(test.server.client().info().await.is_ok(), "the first one goes on");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_a_hint() {
    let test = server().await;
    let config = test.server.dir().join("other.yaml");
    let ports = [
        ("http_port", "ssh_port", test.server.client().server().port()),
        ("ssh_port", "http_port", test.server.ssh_port().get()),
    ];
    for (key, other, port) in ports {
        std::fs::write(&config, format!("{key}: {port}\n{other}: 0\n")).unwrap();
        let output = run(&["serve", "--config", config.as_str()], test.server.dir()).await;
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains(&format!("`{key}`")), "{text}");
    }
}

#[tokio::test]
async fn a_request_in_progress_is_answered_after_sigterm_and_a_new_one_is_not() {
    let mut test = server().await;
    let port = test.server.client().server().port();
    let mut stream = unfinished_create(port).await;
    test.server.signal(Signal::TERM).unwrap();
    wait_until_refused(port).await;
    stream.write_all(b"[123456789").await.unwrap();
    assert_eq!(read_reply(&mut stream).await.error(), (400, "INVALID_SHED_NAME".into()));
    assert!(test.server.wait_for_end().await.unwrap().success());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut test = server().await;
    let port = test.server.client().server().port();
    let _stream = unfinished_create(port).await;
    test.server.signal(Signal::TERM).unwrap();
    wait_until_refused(port).await;
    let begun = std::time::Instant::now();
    test.server.signal(Signal::INT).unwrap();
    let status = test.server.wait_for_end().await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(20), "it did not wait for the drain of 30 s");
}

/// Begins a create, and returns when the server waits for the rest of its body, which has 10 bytes.
async fn unfinished_create(port: u16) -> TcpStream {
    let mut stream = connect(port).await;
    let head = "POST /api/sheds HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Says that the handler is reading the body.
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn wait_until_refused(port: u16) {
    wait_for("new connections to be refused", PATIENCE, || async move {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_bad_configuration_ends_it_with_the_place_and_the_problem() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    std::fs::write(dir.join("server.yaml"), "qemu:\n  default_cpus: 99\n").unwrap();
    let output = run(&["serve"], dir).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("server.yaml:2:17: qemu.default_cpus") && text.contains("between 1 and 32"),
        "{text}"
    );

    let output = run(&["serve", "--config", "nowhere.yaml"], dir).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nowhere.yaml"), "{}", stderr(&output));
}

#[tokio::test]
async fn the_configuration_in_force_can_be_printed() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    std::fs::write(dir.join("server.yaml"), "name: here\n").unwrap();
    let output = run(&["serve", "--print-config"], dir).await;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("name: \"here\"\n") && text.contains("http_port: 8080\n"), "{text}");
}

#[tokio::test]
async fn it_says_its_version() {
    let output = run(&["version"], Utf8Path::new("/tmp")).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("shed-server {}\n", env!("CARGO_PKG_VERSION"))
    );
}
