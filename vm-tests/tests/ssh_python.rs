//! SSH's other clients against a real shed: Ansible, Paramiko, AsyncSSH; and ssh-audit's opinion of the server.

use std::{fs, process::Command, time::Duration};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vm_tests::{BOOT, OpenSsh, Promises, PythonEnv, Stage, run, wait_for};

/// The shed that all promises of this file are proved on.
const SHED: &str = "scripted";

/// Where the guest's web server listens.
const WEB: u16 = 8322;

/// Our policy: nothing that ssh-audit calls broken or weak. An exchange that is safe against quantum computers is
/// offered first; behind it one that is not, for clients that have none other (OpenSSH before 9.9, Paramiko).
const TOLERATED: [&str; 2] = [
    "does not provide protection against post-quantum attacks",
    // hmac-sha2 without etm: for libssh2 before 1.11, which has no other beside CTR.
    "using encrypt-and-MAC mode",
];

/// A playbook starts a Python in the guest for every task, and each takes a second under emulation.
const LONG: Duration = Duration::from_secs(600);

/// Each library, each in its own way, runs commands, moves files and reaches ports; ssh-audit finds nothing that must
/// not be offered.
#[test]
fn other_clients_of_ssh_find_all_they_need() {
    let Some(stage) = Stage::new() else { return };
    let python = PythonEnv::find(&stage);
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let ssh = OpenSsh::new(&stage, &server, &[SHED]);
    let known_hosts = ssh.config().with_file_name("known_hosts");
    let port = server.ssh_port().to_string();
    let mut promises = Promises::new();

    promises.keep("ssh-audit finds no algorithm that is broken, and none that is weak", || {
        let mut audit = python.command("ssh-audit");
        audit.args(["--json", "--skip-rate-test", "--port", &port, "127.0.0.1"]);
        let done = run(&mut audit, b"", BOOT);
        let told: Value = done.json();
        let mut notes = Vec::new();
        for kind in ["kex", "key", "enc", "mac"] {
            let offered = told[kind].as_array().unwrap_or_else(|| panic!("no {kind} in {told}"));
            assert!(!offered.is_empty(), "no {kind} in {told}");
            for one in offered {
                for level in ["fail", "warn"] {
                    for note in one["notes"][level].as_array().into_iter().flatten() {
                        if TOLERATED.iter().any(|tolerated| note == tolerated) {
                            continue;
                        }
                        notes.push(format!("{level}: {kind} {}: {note}", one["algorithm"]));
                    }
                }
            }
        }
        assert!(notes.is_empty(), "{}", notes.join("\n"));
        assert_eq!(told["cves"].as_array().map_or(0, Vec::len), 0, "{}", told["cves"]);
    });
    cli.sh(
        SHED,
        &format!(
            "mkdir -p /tmp/web && cd /tmp/web && echo hello >small && \
             setsid python3 -m http.server --bind 127.0.0.1 {WEB} >/tmp/web.log 2>&1 </dev/null & true"
        ),
    );
    wait_for("the guest's web server", BOOT, || {
        let look = format!("curl -sf http://127.0.0.1:{WEB}/small");
        (cli.exec(SHED, &["sh", "-c", &look]).out() == "hello").then_some(())
    });
    for (library, script) in [("Paramiko", "paramiko_client.py"), ("AsyncSSH", "asyncssh_client.py")] {
        promises.keep(&format!("{library} runs commands, moves files and reaches ports"), || {
            let mut command = python.script(script);
            command.args([&port, known_hosts.as_str(), SHED, &WEB.to_string()]);
            run(&mut command, b"", LONG).ok();
        });
    }
    promises.keep("Ansible pings a shed", || {
        let done = ansible(&python, &stage, &ssh, "ansible", &["all", "-m", "ping"]);
        assert!(done.ok().out().contains("\"ping\": \"pong\""));
    });
    promises.keep("Ansible carries out a playbook: setup, command, copy, and become", || {
        let file = stage.dir().join("to-copy");
        let content = "something to copy\n".repeat(20_000);
        fs::write(&file, &content).expect("a file");
        let checksum = hex::encode(Sha256::digest(content));
        let variables = format!("shed={SHED} file={file} checksum={checksum}");
        let playbook = concat!(env!("CARGO_MANIFEST_DIR"), "/ssh/playbook.yaml");
        ansible(&python, &stage, &ssh, "ansible-playbook", &["-e", &variables, playbook]).ok();
        assert_eq!(cli.exec(SHED, &["sha256sum", "/workspace/copied"]).ok().out()[..64], checksum);
    });
    promises.keep("the server has survived it all, and nobody had to panic", || {
        assert!(server.answers());
        let log = fs::read_to_string(stage.server_log()).expect("the server's log");
        assert!(!log.contains("panicked"), "the server panicked; see its log");
    });
    cli.delete(SHED);
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

fn ansible(
    python: &PythonEnv,
    stage: &Stage,
    ssh: &OpenSsh,
    program: &str,
    words: &[&str],
) -> vm_tests::Finished {
    // Its shared connections leave sockets for a minute; they are as short as this directory allows.
    let sockets = tempfile::tempdir().expect("a temporary directory");
    let inventory = stage.dir().join("inventory");
    fs::write(&inventory, format!("shed-{SHED} ansible_python_interpreter=/usr/bin/python3\n"))
        .expect("an inventory");
    // Empty: whatever the machine has for all its users is not read.
    let settings = stage.dir().join("ansible.cfg");
    fs::write(&settings, "").expect("settings");
    let mut command: Command = python.command(program);
    command
        .env("ANSIBLE_HOME", stage.home().join("ansible"))
        .env("ANSIBLE_CONFIG", settings)
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_SSH_CONTROL_PATH_DIR", sockets.path())
        .env("ANSIBLE_SSH_ARGS", format!("-F {} -o ControlMaster=auto -o ControlPersist=5s", ssh.config()))
        .args(["-i", inventory.as_str()])
        .args(words);
    run(&mut command, b"", LONG)
}
