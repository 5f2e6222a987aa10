//! The extension of one's own that the documents show: both programs and every command, as they stand there.
//!
//! The page is read here, so that a command which does not work fails this test. Only the server's port is another one, and
//! `gh`, which would ask GitHub, is a script that prints a token of ours.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use rustix::process::Signal;
use serde_json::json;
use vm_tests::{BOOT, Finished, Promises, Running, SHORT, run, wait_for};

use super::World;

/// The shed of the page.
const SHED: &str = "api";

const PAGE: &str = include_str!("../../../docs/write-an-extension.md");

/// What `gh` prints here, and what must be nowhere but in the answer.
const TOKEN: &str = "planted-token-of-this-test";

/// Longer than the guest's side waits for anybody: curl's 35 s and some time to start programs.
const PATIENCE: Duration = Duration::from_secs(50);

/// A developer at the page's two terminals.
struct Reader {
    world: World,
    /// Where `gh` is.
    programs: Utf8PathBuf,
}

impl Reader {
    fn new() -> Option<Self> {
        let world = World::new(&[], &[SHED])?;
        let programs = world.stage.dir().join("programs");
        fs::create_dir(&programs).expect("a directory of the stage");
        let reader = Self { world, programs };
        reader.gh(&format!("[ \"$*\" = 'auth token' ] && echo '{TOKEN}'"));
        Some(reader)
    }

    /// Makes `gh` this script.
    fn gh(&self, script: &str) {
        let (file, new) = (self.programs.join("gh"), self.programs.join("gh.new"));
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::rename(new, file).expect("a file");
    }

    /// A command of the page that has `part` in it, for this server.
    #[track_caller]
    fn command(&self, part: &str) -> Command {
        let line = shown(part).replace("localhost:8080", &format!("localhost:{}", self.world.server.port()));
        self.shell(&line)
    }

    /// A line in a shell of the host, in the directory of the sources, where `shed` can be run.
    fn shell(&self, line: &str) -> Command {
        let shed = self.world.cli.command(&[]);
        let mut shell = Command::new("sh");
        // A program alone takes the shell's place, so that a signal reaches it.
        shell.args(["-c", &format!("exec {line}")]).env_clear();
        for (name, value) in shed.get_envs() {
            shell.env(name, value.expect("it sets variables and removes none"));
        }
        let own = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{own}", self.programs, self.world.stage.parts().bin_dir);
        shell.env("PATH", path).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        shell
    }

    /// Starts the host's side with the page's command.
    #[track_caller]
    fn host_side(&self) -> Running {
        Running::spawn(&mut self.command("my-tokens/host.py --shed"))
    }

    /// Asks for the token with the page's command.
    #[track_caller]
    fn ask(&self) -> Finished {
        run(&mut self.command("-- my-token github"), b"", PATIENCE)
    }

    /// Waits until the token comes: the guest may not have been reached by a server that has just started.
    #[track_caller]
    fn wait_for_token(&self) {
        wait_for("the token", SHORT * 2, || (self.ask().out() == TOKEN).then_some(()));
    }

    /// Waits until somebody listens, or nobody does.
    #[track_caller]
    fn wait_for_listener(&self, is_there: bool) {
        wait_for(&format!("a listener: {is_there}"), SHORT, || {
            let list = self.world.server.http().get("/api/plugins/listeners").is(200).json();
            ((list["listeners"] == json!([])) != is_there).then_some(())
        });
    }
}

/// The one line of the page's fenced blocks with `part` in it.
#[track_caller]
fn shown(part: &str) -> String {
    let fenced = PAGE.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let lines: Vec<&str> = fenced.flat_map(str::lines).filter(|line| line.contains(part)).collect();
    assert_eq!(lines.len(), 1, "the page shows {part:?} once: {lines:?}");
    lines[0].to_owned()
}

/// Waits until a program has said something on stderr.
#[track_caller]
fn wait_for_stderr(program: &Running, text: &str) {
    wait_for(&format!("{text:?} from the host's side"), SHORT, || {
        let said = program.stderr_so_far();
        assert!(!said.contains("Traceback"), "{said}");
        said.contains(text).then_some(())
    });
}

/// Someone follows the page, and then kills, doubles and restarts what runs on the host.
#[test]
fn the_example_of_the_documents_works_as_it_is_written() {
    let Some(mut reader) = Reader::new() else { return };
    let mut promises = Promises::new();
    let mut first = Some(reader.host_side());

    promises.keep("the page's commands bring a token into the shed", || {
        run(&mut reader.command("my-tokens/my-token"), b"", BOOT).ok();
        wait_for_stderr(first.as_ref().expect("it runs"), "listening");
        let listeners = run(&mut reader.command("curl"), b"", SHORT).ok().json();
        assert_eq!(listeners["listeners"][0]["namespace"], "my-tokens", "{listeners}");
        let said = reader.ask().ok();
        assert_eq!((said.out().as_str(), said.err().as_str()), (TOKEN, ""));
    });
    promises.keep("what the host does not know is refused, in words and with 1", || {
        for (name, code) in [("gitlab", "UNKNOWN_NAME"), ("gi'\"t\\; $(id) lab", "UNKNOWN_NAME")] {
            let said = reader.world.cli.exec(SHED, &["my-token", name]).exits(1);
            assert!(said.out().is_empty() && said.err().contains(code), "{}", said.err());
        }
        for words in [vec!["my-token"], vec!["my-token", ""], vec!["my-token", "github", "more"]] {
            assert!(reader.world.cli.exec(SHED, &words).exits(2).err().starts_with("usage: my-token"));
        }
        for (payload, code) in [
            (json!({ "operation": "steal", "name": "github" }), "UNKNOWN_OPERATION"),
            (json!({ "operation": "token", "name": "github", "command": "id" }), "INVALID_REQUEST"),
            (json!({ "operation": "token", "name": ["github"] }), "UNKNOWN_NAME"),
            (json!([["operation", "token"], ["name", "github"]]), "INVALID_REQUEST"),
            (json!(null), "INVALID_REQUEST"),
        ] {
            let body = json!({ "namespace": "my-tokens", "payload": payload }).to_string();
            let words = ["curl", "-s", "--data-binary", "@-", "http://127.0.0.1:498/v1/publish"];
            let said = reader.world.cli.exec_with(SHED, &words, body.as_bytes()).ok().json();
            assert_eq!(said["payload"]["error"]["code"], code, "{body}: {said}");
        }
    });
    promises.keep("a command that fails, or prints no token, is said and brings nothing", || {
        let secret = "planted-words-of-gh";
        for script in [format!("echo {secret}; exit 4"), format!("echo {secret} {secret}"), "true".to_owned()]
        {
            reader.gh(&script);
            let said = reader.ask().exits(1);
            assert!(said.out().is_empty() && said.err().contains("COMMAND_FAILED"), "{}", said.err());
            assert!(!said.err().contains(secret), "{}", said.err());
        }
        reader.gh(&format!("echo '{TOKEN}'"));
        assert_eq!(reader.ask().ok().out(), TOKEN);
        let said = first.as_ref().expect("it runs").stderr_so_far();
        assert!(said.contains("api: a token github") && said.contains("COMMAND_FAILED"), "{said}");
        assert!(!said.contains(TOKEN) && !said.contains(secret), "{said}");
    });
    promises.keep("a second one is told 409, and takes over when the first is killed", || {
        let second = reader.host_side();
        wait_for_stderr(&second, "409: another program listens already");
        assert_eq!(reader.ask().ok().out(), TOKEN);
        first.take().expect("it runs").signal(Signal::KILL);
        wait_for_stderr(&second, "listening");
        assert_eq!(reader.ask().ok().out(), TOKEN);
        assert_eq!(second.stderr_so_far().matches("409").count(), 1, "it says so once");
        second.signal(Signal::KILL);
        reader.wait_for_listener(false);
    });
    promises.keep("with nobody on the host the guest hears so in time, and later it works again", || {
        let begun = Instant::now();
        let said = reader.ask().exits(3);
        assert!(
            said.out().is_empty() && said.err().contains("nobody answered on the host"),
            "{}",
            said.err()
        );
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        first = Some(reader.host_side());
        reader.wait_for_listener(true);
        assert_eq!(reader.ask().ok().out(), TOKEN);
    });
    promises.keep("it connects again to a server that was killed", || {
        reader.world.server.restart(&reader.world.stage, Signal::KILL);
        wait_for_stderr(first.as_ref().expect("it runs"), "trying again");
        reader.wait_for_listener(true);
        reader.wait_for_token();
    });
    promises.keep("a shed that it was not told of gets nothing", || {
        first = None;
        reader.wait_for_listener(false);
        let line = shown("my-tokens/host.py --shed").replace("--shed api", "--shed other");
        let line = line.replace("localhost:8080", &format!("localhost:{}", reader.world.server.port()));
        let other = Running::spawn(&mut reader.shell(&line));
        wait_for_stderr(&other, "listening");
        let said = reader.ask().exits(1);
        assert!(said.out().is_empty() && said.err().contains("NOT_ALLOWED"), "{}", said.err());
    });
    drop(first);
    reader.world.finish(&[SHED]);
    promises.finish();
}
