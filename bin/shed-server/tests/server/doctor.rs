//! `shed-server doctor` as a program: what it says, its exit code, and that it changes nothing.

use std::{fs, net::TcpListener};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{QEMU, run, server, write_program};

/// A host with all that sheds need, or almost.
struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: TempDir::new().unwrap() };
        let dir = host.dir();
        write_program(&dir.join("qemu"), QEMU);
        fs::create_dir(dir.join("g")).unwrap();
        for file in ["k", "n", "base-rootfs.ext4"] {
            fs::write(dir.join("g").join(file), "x").unwrap();
        }
        host
    }

    fn dir(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap()
    }

    /// Writes the configuration, with these ports and more keys at the top.
    fn configure(&self, http_port: u16, more: &str) -> Utf8PathBuf {
        let dir = self.dir();
        let text = format!(
            "http_port: {http_port}\nssh_port: 0\nssh_host_key: {dir}/key\n{more}qemu: {{accel: tcg, binary: {dir}/qemu, \
             images_dir: {dir}/g, instance_dir: {dir}/i, socket_dir: {dir}/s, kernel_path: {dir}/g/k, initrd_path: {dir}/g/n}}\n"
        );
        let path = dir.join("server.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    async fn doctor(&self) -> (Option<i32>, String) {
        let output = run(&["doctor"], self.dir()).await;
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}

/// Returns the line about an item.
#[track_caller]
fn about<'a>(text: &'a str, item: &str) -> &'a str {
    let line = text.lines().find(|line| line[6..].starts_with(&format!("{item} ")));
    line.unwrap_or_else(|| panic!("nothing about {item}:\n{text}"))
}

#[tokio::test]
async fn all_that_is_there_passes_and_nothing_is_made() {
    let host = Host::new();
    host.configure(0, "");
    let (code, text) = host.doctor().await;
    assert_eq!(code, Some(0), "{text}");
    for (item, found) in [
        ("configuration", "server.yaml"),
        ("backend", "qemu: "),
        ("machine monitor", "10.0.0"),
        ("accelerator", "TCG"),
        ("kernel", "g/k"),
        ("default image", "base-rootfs.ext4"),
        ("instances", "(will be made)"),
        ("file system", "the same one"),
        ("SSH host key", "(will be made)"),
        ("HTTP port", "the system picks"),
    ] {
        let line = about(&text, item);
        assert!(line.starts_with("PASS  ") && line.contains(found), "{item}: {line}");
    }
    assert!(!text.contains("FAIL  ") && text.lines().last().unwrap().ends_with(", 0 FAIL"), "{text}");
    for made in ["i", "s", "key"] {
        assert!(!host.dir().join(made).exists(), "{made} was made");
    }
    let old = run(&["check"], host.dir()).await;
    assert_eq!(
        (old.status.code(), String::from_utf8(old.stdout).unwrap()),
        (Some(0), text),
        "by its old name"
    );
}

#[tokio::test]
async fn what_is_missing_fails_with_what_to_do() {
    let host = Host::new();
    host.configure(0, "");
    for gone in ["qemu", "g/k", "g/n", "g/base-rootfs.ext4"] {
        fs::remove_file(host.dir().join(gone)).unwrap();
    }
    let (code, text) = host.doctor().await;
    assert_eq!(code, Some(1), "{text}");
    for item in ["machine monitor", "kernel", "initramfs", "default image"] {
        assert!(about(&text, item).starts_with("FAIL  "), "{item}:\n{text}");
    }
    assert!(text.contains("-> build it with `./x build`"), "{text}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_a_failure_with_its_place() {
    let host = Host::new();
    host.configure(0, "nonsense: 1\n");
    let (code, text) = host.doctor().await;
    assert_eq!(code, Some(1));
    assert!(
        about(&text, "configuration").starts_with("FAIL  ") && text.contains("server.yaml:4:1"),
        "{text}"
    );
    host.configure(0, "default_image: x\n");
    let (code, text) = host.doctor().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("WARN  configuration") && text.contains("default_image"), "{text}");
}

#[tokio::test]
async fn a_port_is_free_a_shed_server_s_or_somebody_else_s() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Nobody answers there, which is the worst of all neighbours.
    host.configure(port, "");
    let (code, text) = host.doctor().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(about(&text, "HTTP port").starts_with("WARN  ") && text.contains("http_port"), "{text}");
    drop(listener);
    let (_, text) = host.doctor().await;
    assert!(about(&text, "HTTP port").contains("is free"), "{text}");

    let test = server().await;
    host.configure(test.server.client().server().port(), "");
    let (_, text) = host.doctor().await;
    let line = about(&text, "HTTP port");
    assert!(line.starts_with("PASS  ") && line.contains("a shed-server answers"), "{text}");
}

#[tokio::test]
async fn programs_can_read_it() {
    let host = Host::new();
    host.configure(0, "");
    let output = run(&["doctor", "--json"], host.dir()).await;
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["ok"], true);
    let findings = value["findings"].as_array().unwrap();
    assert!(
        findings.iter().all(|finding| finding["verdict"].is_string() && finding["text"].is_string()),
        "{value}"
    );
}

#[tokio::test]
async fn hostile_names_in_the_configuration_stay_on_their_line() {
    let host = Host::new();
    let more = "credentials: {a: {source: \"/nowhere\\nFAIL  fake  \\u001b[31m\", target: /etc/a}}\n";
    host.configure(0, more);
    let (code, text) = host.doctor().await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        about(&text, "configuration").contains("has a control character") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("FAIL")).count(), 1, "{text}");
}
