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
use vm_tests::{BOOT, Config, Finished, Promises, Running, SHORT, is_alive, kill_process, run, wait_for};

use super::{World, config};

/// The shed of the page.
const SHED: &str = "api";

const PAGE: &str = include_str!("../../../docs/write-an-extension.md");

/// What `gh` prints here, and what must be nowhere but in the answer.
const TOKEN: &str = "ghs_planted0token0of0this0test";

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

    /// Waits until the token comes, since a program that has just started listens a moment later.
    #[track_caller]
    fn wait_for_token(&self) {
        wait_for("the token", SHORT * 2, || (self.ask().out() == TOKEN).then_some(()));
    }

    /// Waits until somebody listens, or nobody does.
    #[track_caller]
    fn wait_for_listener(&self, is_there: bool) {
        wait_for(&format!("a listener: {is_there}"), SHORT, || {
            let list = self.world.server.http().get("/api/plugins/listeners").is(200).json();
            (list["listeners"] != json!([]) == is_there).then_some(())
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
