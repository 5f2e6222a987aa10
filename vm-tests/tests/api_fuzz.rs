//! The API against its own document: a fuzzer reads the one and tries the other.

use std::{fs, process::Command};

use camino::Utf8Path;
use vm_tests::{Stage, skipped, wait_for};

/// Names the program `schemathesis`; `./x` installs it and sets this.
const SCHEMATHESIS: &str = "SHED_SCHEMATHESIS";

/// Set to leave this test out.
const API_FUZZ: &str = "SHED_API_FUZZ";

/// The fuzzer's settings, and what it has to be told of the server under test.
const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/api");

/// Whatever the document allows is accepted, whatever it forbids is refused, every reply is one that it describes; and
/// after thousands of requests, creates among them, the server lives and nothing of the fuzzer's is left on the disk.
#[test]
fn the_api_does_what_its_document_says() {
    if std::env::var(API_FUZZ).is_ok_and(|value| value == "skip") {
        return skipped(&format!("{API_FUZZ}=skip"));
    }
    let Some(stage) = Stage::new() else { return };
    let program = std::env::var(SCHEMATHESIS)
        .unwrap_or_else(|_| panic!("{SCHEMATHESIS} is not set; run `./x test --api`, which installs it"));
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    cli.create("running", &[]);
    cli.create("stopped", &[]);
    cli.run(&["stop", "stopped"]).ok();

    let log = stage.dir().join("schemathesis.log");
    let output = fs::File::create(&log).expect("a log");
    let address = format!("http://127.0.0.1:{}", server.port());
    let status = Command::new(program)
        .args(["--config-file", &format!("{SETTINGS}/schemathesis.toml"), "run", "--no-color"])
        .arg(format!("{address}/api/openapi.json"))
        // What it writes beside itself (a database of examples) goes away with the stage.
        .current_dir(stage.dir())
        .env("HOME", stage.home())
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", SETTINGS)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SHED_SERVER", &address)
        .stdout(output.try_clone().expect("a descriptor"))
        .stderr(output)
        .status()
        .expect("schemathesis can be run");
    say(&summary(&log));
    assert!(status.success(), "schemathesis found something: {status}\n{}", read(&log));
    assert!(server.answers());

    for shed in http.names() {
        cli.delete(&shed);
    }
    wait_for("the last machine to be gone", vm_tests::SHORT, || {
        vm_tests::vmm_processes(stage.dir()).is_empty().then_some(())
    });
    let panics = read(&stage.server_log()).lines().filter(|line| line.contains("panicked")).count();
    assert_eq!(panics, 0, "the server panicked; see its log");
    drop(server);
    stage.finish();
}

fn read(path: &Utf8Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The end of the fuzzer's report: phases, counts and the verdict.
fn summary(log: &Utf8Path) -> String {
    let text = read(log);
    text.split_once(" SUMMARY ").map_or(text.clone(), |(_, summary)| summary.to_owned())
}

#[expect(clippy::print_stderr, reason = "the counts show how much was tried")]
fn say(text: &str) {
    eprintln!("{text}");
}
