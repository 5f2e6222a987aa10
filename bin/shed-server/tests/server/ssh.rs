//! SSH as everybody has it: the `ssh` of OpenSSH against a server over a fake backend.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use shed_backend::fake::{BootFault, FakeService};
use shed_testkit::wait_for;
use shed_types::TcpPort;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{api::Api, common::PATIENCE};

/// The words of an `ssh` that knows only this server.
fn ssh(api: &Api, user: &str) -> Command {
    let hosts = api.known_hosts();
    let mut command = Command::new("ssh");
    command
        .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
        .args(["-o", "IdentityAgent=none", "-o", "IdentityFile=/dev/null"])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={hosts}"))
        .args(["-p", &api.ssh_port.to_string(), "-l", user, "127.0.0.1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> Output {
    timeout(PATIENCE * 2, command.output()).await.expect("ssh ends").unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn run(api: &Api, user: &str, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = ssh(api, user);
    command.args(words);
    let output = output(command).await;
    (output.status.code(), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
}

#[tokio::test]
async fn a_command_runs_and_its_outputs_and_exit_code_come_back() {
    let api = Api::new().await;
    api.create("api").await;
    assert_eq!(run(&api, "api", &["echo", "a", "b"]).await, (Some(0), "a b\n".into(), String::new()));
    assert_eq!(run(&api, "api", &["complain", "loudly"]).await, (Some(1), String::new(), "loudly\n".into()));
    assert_eq!(run(&api, "api", &["exit", "42"]).await.0, Some(42));
}

#[tokio::test]
async fn a_command_is_passed_on_as_one_string_without_a_terminal() {
    let api = Api::new().await;
    api.create("api").await;
    let (code, stdout, stderr) = run(&api, "api", &["request   \"$HOME\"  ;"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let request: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(request["tty"], false);
    assert_eq!(request.get("env"), None);
}

#[tokio::test]
async fn a_terminal_has_the_clients_type_in_words_of_the_guest() {
    let api = Api::new().await;
    api.create("api").await;
    let mut command = ssh(&api, "api");
    command.args(["-tt", "request"]).env("TERM", "xterm-ghostty");
    let stdout = output(command).await.stdout;
    let request: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!((&request["tty"], &request["env"][0]), (&true.into(), &"TERM=xterm-256color".into()));
}

/// Starts an `ssh` whose input the test writes.
fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn a_shell_takes_input_and_ends_with_it() {
    let api = Api::new().await;
    api.create("api").await;
    let mut shell = spawn(ssh(&api, "api"));
    let mut stdin = shell.stdin.take().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    for line in ["one", "two"] {
        stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        assert_eq!(timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap(), line);
    }
    drop(stdin);
    assert_eq!(timeout(PATIENCE, shell.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_unknown_shed_is_an_error_on_stderr() {
    let api = Api::new().await;
    let (code, stdout, stderr) = run(&api, "nobody", &["echo", "x"]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("Error: shed 'nobody' not found"), "{stderr}");
    assert!(stderr.contains("shed create nobody"), "{stderr}");
    for user in ["_api", "Not_A_Name", "root"] {
        let (code, _, stderr) = run(&api, user, &["echo", "x"]).await;
        assert_eq!(code, Some(1), "{user}: {stderr}");
        assert!(stderr.starts_with("Error: ") && stderr.contains(user), "{stderr}");
    }
}

#[tokio::test]
async fn a_stopped_shed_is_started_and_one_that_starts_is_awaited() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    api.set_boot(&name, BootFault::Slow(Duration::from_millis(500)));
    let (first, second) = tokio::join!(run(&api, "api", &["echo", "up"]), run(&api, "api", &["echo", "up"]));
    for (code, stdout, stderr) in [first, second] {
        assert_eq!((code, stdout.as_str()), (Some(0), "up\n"), "{stderr}");
        let words =
            ["", "Shed 'api' is stopped; starting it...\n", "Shed 'api' is starting; waiting for it...\n"];
        assert!(words.contains(&stderr.as_str()), "{stderr:?}");
    }
    let (code, _, stderr) = run(&api, "api", &["echo", "again"]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_shed_that_does_not_come_up_is_an_error_with_its_reason() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.client.stop(&name).await.unwrap();
    api.set_boot(&name, BootFault::Crashes);
    let (code, _, stderr) = run(&api, "api", &["echo", "up"]).await;
    assert_eq!(code, Some(1));
    let mut lines = stderr.lines();
    assert_eq!(lines.next(), Some("Shed 'api' is stopped; starting it..."));
    assert!(lines.next().unwrap().starts_with("Error: shed 'api' could not be started: "), "{stderr}");
}

#[tokio::test]
async fn sftp_without_its_server_in_the_image_says_what_to_install() {
    let api = Api::new().await;
    api.create("api").await;
    let mut command = ssh(&api, "api");
    command.args(["-s", "sftp"]);
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).contains("apt-get install openssh-sftp-server"), "{output:?}");
}

#[tokio::test]
async fn another_subsystem_is_refused() {
    let api = Api::new().await;
    api.create("api").await;
    let mut command = ssh(&api, "api");
    command.args(["-s", "netconf"]);
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("subsystem request failed"), "{output:?}");
}

#[tokio::test]
async fn megabytes_come_back_unchanged() {
    back_and_forth(20, &[]).await;
}

#[tokio::test]
async fn new_keys_in_the_middle_change_nothing() {
    for cipher in ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"] {
        back_and_forth(4, &["-c", cipher, "-o", "RekeyLimit=1M"]).await;
    }
}

/// Sends mebibytes through a command and back, and compares.
async fn back_and_forth(mebibytes: u32, options: &[&str]) {
    let api = Api::new().await;
    api.create("api").await;
    let data: Vec<u8> = (0..mebibytes << 18).flat_map(u32::to_le_bytes).collect();
    let mut command = ssh(&api, "api");
    command.args(options).arg("cat");
    let mut cat = spawn(command);
    let mut stdin = cat.stdin.take().unwrap();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
    });
    let mut back = Vec::new();
    timeout(PATIENCE * 2, cat.stdout.take().unwrap().read_to_end(&mut back))
        .await
        .expect("cat ends")
        .unwrap();
    sending.await.unwrap();
    assert!(back == data, "{} bytes of {}", back.len(), data.len());
}

#[tokio::test]
async fn a_port_of_the_shed_is_forwarded() {
    let api = Api::new().await;
    let name = api.create("api").await;
    api.world.set_service(&name, TcpPort::new(3000).unwrap(), FakeService::Echo);
    let mut command = ssh(&api, "api");
    command.args(["-W", "localhost:3000"]);
    let mut tunnel = spawn(command);
    let mut stdin = tunnel.stdin.take().unwrap();
    stdin.write_all(b"through the tunnel").await.unwrap();
    drop(stdin);
    let mut back = String::new();
    timeout(PATIENCE, tunnel.stdout.take().unwrap().read_to_string(&mut back))
        .await
        .expect("the end")
        .unwrap();
    assert_eq!(back, "through the tunnel");
    for (target, words) in
        [("localhost:3001", "Connection refused"), ("example.com:80", "is not the shed itself")]
    {
        let mut command = ssh(&api, "api");
        command.args(["-v", "-W", target]);
        let output = output(command).await;
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(255), "{stderr}");
        assert!(stderr.contains("open failed") && stderr.contains(words), "{stderr}");
    }
}

#[tokio::test]
async fn a_server_that_ends_lets_its_clients_know() {
    let mut api = Api::new().await;
    let name = api.create("api").await;
    let mut shell = spawn(ssh(&api, "api"));
    let mut stdin = shell.stdin.take().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    stdin.write_all(b"one\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap(), "one");
    api.end().await;
    let ended = timeout(PATIENCE, shell.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(255));
    assert!(text(&ended.stderr).contains("shed-server is shutting down"), "{ended:?}");
    wait_for("the machine to stay", PATIENCE, || std::future::ready(api.world.running() == [name.clone()]))
        .await
        .unwrap();
}

#[tokio::test]
async fn twenty_sessions_share_one_connection() {
    let api = Api::new().await;
    api.create("api").await;
    let socket = api.known_hosts().with_file_name("master");
    let mut master = ssh(&api, "api");
    master.args(["-N", "-o", "ControlMaster=yes", "-o"]).arg(format!("ControlPath={socket}"));
    let _master = spawn(master);
    wait_for("the master's socket", PATIENCE, || std::future::ready(socket.exists())).await.unwrap();
    let sessions = (0..20).map(|number| {
        let mut command = ssh(&api, "api");
        command.arg("-o").arg(format!("ControlPath={socket}")).arg(format!("echo session {number}"));
        output(command)
    });
    for (number, output) in futures::future::join_all(sessions).await.into_iter().enumerate() {
        assert_eq!(text(&output.stdout), format!("session {number}\n"), "{output:?}");
    }
    let text = api.send("GET", "/metrics", "").await.body;
    assert!(text.contains("shed_ssh_connections{stage=\"open\"} 1\n"), "{text}");
}

#[tokio::test]
async fn a_machine_that_goes_away_is_an_error_of_its_commands() {
    let api = Api::new().await;
    let name = api.create("api").await;
    let mut command = ssh(&api, "api");
    command.arg("deaf");
    let waiting = tokio::spawn(output(command));
    wait_for("the command to run", PATIENCE, || std::future::ready(api.world.commands(&name) == 1))
        .await
        .unwrap();
    // A machine that goes away takes the command along, and nobody knows how it would have ended.
    api.world.crash(&name);
    let output = waiting.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("shed 'api' ended the connection before"), "{output:?}");
}
