//! Guests that do not come up: the error shows why, in the guest's own words, and nothing is left.

use std::{
    fs,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use camino::Utf8Path;
use serde_json::json;
use sha2::{Digest, Sha256};
use vm_tests::{Config, Expect, Promises, SHORT, Stage, damage_file_system};

/// `start_timeout` of the guest that never answers: enough for its system to say something on the console.
const START_TIMEOUT: Duration = Duration::from_secs(25);

/// A kernel command line with which everything starts but the agent.
fn without_agent() -> Config {
    let words = ["systemd.mask=shed-agent.service", "systemd.show_status=true", "systemd.log_target=console"];
    Config {
        start_timeout: Some("25s"),
        extra_cmdline: words.map(str::to_owned).to_vec(),
        ..Config::default()
    }
}

/// A guest whose agent never answers fails at start_timeout with the end of its console, for create and for start.
#[test]
fn a_guest_that_never_becomes_ready_fails_at_the_timeout() {
    let Some(mut stage) = Stage::new() else { return };
    let mut promises = Promises::new();
    let server = stage.serve();
    let cli = stage.cli();
    cli.create("sound", &["--memory", "768"]);
    cli.sh("sound", "echo precious > /workspace/file; sync");
    cli.run(&["stop", "sound"]).ok();
    drop(server);

    stage.configure(without_agent());
    let server = stage.serve();
    let http = server.http();
    let check = |message: &str, took: Duration| {
        assert!(message.contains("not ready within 25 s"), "{message}");
        let console: Vec<&str> =
            message.lines().skip_while(|line| !line.contains("console.log")).skip(1).collect();
        assert!(console.len() >= 3, "the end of the console is shown: {message}");
        assert!(message.contains("systemd") || message.contains("Reached target"), "{message}");
        assert!(!message.contains('\u{1b}'), "escape sequences of the guest: {message:?}");
        assert!(took >= START_TIMEOUT && took < START_TIMEOUT + SHORT, "it took {took:?}");
    };
    promises.keep("create fails at start_timeout with the end of the console and leaves nothing", || {
        let begun = Instant::now();
        let (code, message) = http.create(&json!({ "name": "dumb", "memory_mb": 768 })).is(500).error();
        assert_eq!(code, "BACKEND_ERROR");
        check(&message, begun.elapsed());
        stage.assert_only(&[Expect::Stopped("sound")]);
    });
    promises.keep("start fails the same way, and the shed is stopped with its disk", || {
        let begun = Instant::now();
        let (_, message) = http.post("/api/sheds/sound/start", None).is(500).error();
        check(&message, begun.elapsed());
        let shed = http.shed("sound");
        assert_eq!(shed["status"], "stopped", "{shed}");
        assert!(shed["error"].as_str().is_some_and(|error| error.contains("not ready")), "{shed}");
        stage.assert_only(&[Expect::Stopped("sound")]);
    });
    drop(server);

    stage.configure(Config::default());
    let server = stage.serve();
    promises.keep("with the cause gone it starts and has its files", || {
        cli.run(&["start", "sound"]).ok();
        assert_eq!(cli.sh("sound", "cat /workspace/file"), "precious");
        assert!(server.http().shed("sound").get("error").is_none());
    });
    cli.delete("sound");
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

/// Damaged file systems stop the boot with a numbered message that reaches the caller; nobody formats anything.
#[test]
fn damaged_disks_are_reported_and_never_formatted() {
    let Some(stage) = Stage::new() else { return };
    let mut promises = Promises::new();
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());

    let numbered = |message: &str| {
        let code = message.split("shed-init: error E").nth(1).map(|rest| &rest[..2]);
        assert!(
            code.is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_digit())),
            "no number: {message}"
        );
    };
    promises.keep(
        "an image that is no file system fails the create with a number, fast, and leaves nothing",
        || {
            fs::write(stage.images_dir().join("rubbish-rootfs.ext4"), vec![0x5a; 8 << 20]).unwrap();
            let begun = Instant::now();
            let (_, message) =
                http.create(&json!({ "name": "bad", "image": "rubbish", "memory_mb": 512 })).is(500).error();
            numbered(&message);
            assert!(message.contains("image"), "{message}");
            assert!(begun.elapsed() < SHORT, "no waiting for start_timeout: {:?}", begun.elapsed());
            stage.assert_only(&[]);
        },
    );
    cli.create("hurt", &["--memory", "768"]);
    cli.run(&["stop", "hurt"]).ok();
    let disk = stage.shed_file("hurt", "rootfs.ext4");
    let intact = beginning(&disk);
    damage_file_system(&disk).unwrap();
    let damaged = digest(&disk);
    promises.keep("a damaged disk fails the start with a number, and is not touched", || {
        let (code, message) = http.post("/api/sheds/hurt/start", None).is(500).error();
        assert_eq!(code, "BACKEND_ERROR");
        numbered(&message);
        assert_eq!(digest(&disk), damaged, "somebody wrote to the damaged disk");
        stage.assert_only(&[Expect::Stopped("hurt")]);
        assert_eq!(http.status("hurt"), "stopped");
    });
    promises.keep("the CLI shows it, too, and exits with 1", || {
        let failed = cli.run(&["start", "hurt"]).exits(1);
        numbered(&failed.err());
    });
    promises.keep("a repaired disk starts again", || {
        fs::File::options().write(true).open(&disk).unwrap().write_all_at(&intact, 0).unwrap();
        cli.run(&["start", "hurt"]).ok();
        cli.run(&["stop", "hurt"]).ok();
    });
    promises.keep("a shed whose disk is gone reads `error`, says why, and can be deleted", || {
        fs::remove_file(&disk).unwrap();
        let refused = http.post("/api/sheds/hurt/start", None);
        assert!(refused.status >= 400, "{}", refused.text());
        let shed = http.shed("hurt");
        assert_eq!(shed["status"], "error", "{shed}");
        assert!(shed["error"].as_str().is_some_and(|error| error.contains("rootfs.ext4")), "{shed}");
        cli.delete("hurt");
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

/// Reads the first megabytes of a disk: the superblock and most of what the file system says about itself.
fn beginning(disk: &Utf8Path) -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    fs::File::open(disk).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn digest(disk: &Utf8Path) -> Vec<u8> {
    Sha256::digest(beginning(disk)).to_vec()
}
