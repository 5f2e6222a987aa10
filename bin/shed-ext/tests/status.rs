//! `shed-ext status` and its exit codes.

#![cfg(target_os = "linux")]

mod common;

use serde_json::{Value, json};

use common::{Answer, Bus, output, program, text};

fn bus(docker: fn() -> Answer) -> Bus {
    Bus::serve(move |namespace, payload| {
        assert_eq!(payload["operation"], "status");
        match namespace {
            "ssh-agent" => {
                Answer::Payload(json!({"connected": true, "mode": "agent-forward", "key_count": 2}))
            }
            "aws-credentials" => Answer::Payload(json!({"connected": true, "role": "r\u{1b}[2J"})),
            _ => docker(),
        }
    })
}

#[test]
fn all_connected_is_0_and_one_that_is_not_is_1() {
    let all = bus(|| Answer::Payload(json!({"connected": true, "allow_all": true, "registry_count": 0})));
    let run = output(program("shed-ext").args(["status", "--publish-url", &all.url]), b"");
    let lines = "✓ ssh-agent: connected (agent-forward, 2 keys)\n✓ aws-credentials: connected (r [2J)\n✓ \
                 docker-credentials: connected (all registries)";
    assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(0), lines));

    let one = bus(|| Answer::Error(504, "TIMEOUT"));
    let run = output(program("shed-ext").args(["status"]).env("SHED_PUBLISH_URL", &one.url), b"");
    assert_eq!(run.status.code(), Some(1));
    let out = text(&run.stdout);
    assert!(out.contains("✗ docker-credentials: not connected (nobody answered"), "{out}");
    assert!(out.contains("`shed-host-agent status`"), "{out}");

    let silent = bus(|| Answer::Silence);
    let run = output(program("shed-ext").args(["status", "--json", "--publish-url", &silent.url]), b"");
    assert_eq!(run.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["extensions"][0]["connected"], true);
    assert_eq!(report["extensions"][2]["connected"], false);
}

#[test]
fn a_wrong_command_line_is_2_and_no_bus_is_1() {
    for arguments in [&["status", "--publish-url", "ftp://x"][..], &["what"], &[], &["status", "--port", "1"]]
    {
        let run = output(program("shed-ext").args(arguments), b"");
        assert_eq!(run.status.code(), Some(2), "{arguments:?}");
        assert!(text(&run.stderr).contains("--help"), "{}", text(&run.stderr));
    }
    let run = output(program("shed-ext").args(["status", "--publish-url", "http://127.0.0.1:1"]), b"");
    assert_eq!((run.status.code(), text(&run.stdout).lines().count()), (Some(1), 3));
    let dir = tempfile::tempdir().unwrap();
    let health = ["health", "--json", "--publish-url", "http://127.0.0.1:1", "--run-dir"];
    let run = output(program("shed-ext").args(health).arg(dir.path()), b"");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(report["extensions"][0]["guest"], "stopped");
    assert_eq!(report["extensions"][2]["host"], "unreachable");
}

#[test]
fn each_name_has_help_and_a_version() {
    for name in ["shed-ext", "shed-ssh-agent", "shed-aws-proxy", "docker-credential-shed"] {
        for option in ["--help", "--version"] {
            let run = output(program(name).arg(option), b"");
            assert_eq!(run.status.code(), Some(0));
            assert!(text(&run.stdout).starts_with(name), "{}", text(&run.stdout));
        }
    }
}
