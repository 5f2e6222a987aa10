//! The key of the SSH server: told by the API, kept over restarts, and what is wrong with it said at the start.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use camino::Utf8Path;
use tempfile::TempDir;

use crate::{api::Api, common::send, process};

#[tokio::test]
async fn the_api_tells_the_public_key_without_a_comment() {
    let api = Api::new().await;
    let reply = api.send("GET", "/api/ssh-host-key", "").await;
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "application/json"));
    assert_eq!(reply.json(), serde_json::json!({ "host_key": api.host_key }));
    let words: Vec<&str> = api.host_key.split(' ').collect();
    assert!(words[0] == "ssh-ed25519" && words[1].starts_with("AAAA") && words.len() == 2, "{words:?}");
}

#[tokio::test]
async fn the_key_is_in_its_file_and_outlives_the_server() {
    let mut test = process::server().await;
    let told = async |port| send(port, "GET", "/api/ssh-host-key", "").await.json()["host_key"].clone();
    let first = told(test.server.client().server().port()).await;
    let file = test.server.dir().join("host_key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let keygen = Command::new("ssh-keygen").args(["-y", "-f", file.as_str()]).output().unwrap();
    let line = String::from_utf8(keygen.stdout).unwrap();
    assert!(line.starts_with(first.as_str().unwrap()), "{line} {first}");
    test.server.kill().unwrap();
    test.server.restart().await.unwrap();
    assert_eq!(told(test.server.client().server().port()).await, first);
    assert!(!test.server.log().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn a_key_that_cannot_be_used_ends_the_start_with_what_to_do() {
    let dir = TempDir::new().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let key = dir.join("key");
    fs::write(dir.join("server.yaml"), format!("http_port: 0\nssh_port: 0\nssh_host_key: {key}\n")).unwrap();
    fs::write(&key, "not a key").unwrap();
    for (mode, words) in [(0o600, "OpenSSH's format"), (0o644, "chmod 600")] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        for (command, code) in [("serve", 1), ("doctor", 1)] {
            let output = process::run(&[command], dir).await;
            assert_eq!(output.status.code(), Some(code));
            let text = format!("{}{}", process::stderr(&output), String::from_utf8_lossy(&output.stdout));
            assert!(text.contains(key.as_str()) && text.contains(words), "{command}: {text}");
        }
    }
    assert_eq!(fs::read(&key).unwrap(), b"not a key");
}
