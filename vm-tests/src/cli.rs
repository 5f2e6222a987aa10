//! The client, run as its users run it, in a home of its own.

use std::{process::Command, time::Duration};

use camino::Utf8PathBuf;
use jiff::Timestamp;

use crate::{BOOT, Finished, Parts, Pty, Running, SHORT, run};

/// Runs `shed`.
#[derive(Debug, Clone)]
pub struct Cli {
    program: Utf8PathBuf,
    home: Utf8PathBuf,
}

impl Cli {
    pub(crate) fn new(parts: &Parts, home: Utf8PathBuf) -> Self {
        Self { program: parts.shed(), home }
    }

    /// Returns the command for these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("TMPDIR", self.home.with_file_name("tmp"))
            .env("TERM", "xterm-256color");
    }

    /// Runs it; it has the time of a boot.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments), b"", BOOT)
    }

    /// Starts it and leaves it running.
    #[track_caller]
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running::spawn(&mut self.command(arguments))
    }

    /// Runs `shed exec NAME -- WORDS…` without input.
    #[track_caller]
    pub fn exec(&self, shed: &str, words: &[&str]) -> Finished {
        self.exec_with(shed, words, b"")
    }

    /// Runs `shed exec NAME -- WORDS…` with input.
    #[track_caller]
    pub fn exec_with(&self, shed: &str, words: &[&str], input: &[u8]) -> Finished {
        run(&mut self.exec_command(shed, words), input, SHORT * 4)
    }

    /// Runs a shell script in a shed and returns what it prints.
    ///
    /// # Panics
    /// When it does not succeed.
    #[track_caller]
    pub fn sh(&self, shed: &str, script: &str) -> String {
        self.exec(shed, &["sh", "-c", script]).ok().out()
    }

    /// Returns the command `shed exec NAME -- WORDS…`.
    #[must_use]
    pub fn exec_command(&self, shed: &str, words: &[&str]) -> Command {
        let arguments: Vec<&str> = ["exec", shed, "--"].into_iter().chain(words.iter().copied()).collect();
        self.command(&arguments)
    }

    /// Runs it on a terminal of these many rows and columns.
    #[track_caller]
    #[must_use]
    pub fn on_terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> Pty {
        let words: Vec<&str> = [self.program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        Pty::spawn(&words, rows, columns, |command| self.surround(command))
    }

    /// Creates a shed with these further arguments.
    #[track_caller]
    pub fn create(&self, shed: &str, more: &[&str]) {
        let arguments: Vec<&str> = ["create", shed].into_iter().chain(more.iter().copied()).collect();
        self.run(&arguments).ok();
    }

    /// Deletes a shed.
    #[track_caller]
    pub fn delete(&self, shed: &str) {
        self.run(&["delete", "--force", shed]).ok();
    }

    /// Waits until commands run in a shed, for at most `deadline`.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn wait_for_exec(&self, shed: &str, deadline: Duration) {
        crate::wait_for(&format!("commands to run in {shed}"), deadline, || {
            (self.exec(shed, &["true"]).code == 0).then_some(())
        });
    }

    /// Sets a shed's clock back, as it is after its host slept for an hour, and waits until it is right again.
    ///
    /// # Panics
    /// When it stays behind.
    #[track_caller]
    pub fn assert_clock_comes_right(&self, shed: &str) {
        let behind =
            || Timestamp::now().as_second() - self.sh(shed, "date +%s").parse::<i64>().expect("a time");
        self.sh(shed, "sudo date -s @$(( $(date +%s) - 3600 )) >/dev/null");
        assert!(behind() > 3500, "it is not set back");
        // A guest tells its time twice a minute.
        crate::wait_for("the clock to be right", SHORT * 3, || (behind().abs() <= 10).then_some(()));
    }

    /// Makes the server at this port of this machine the default one.
    #[track_caller]
    pub(crate) fn use_server(&self, port: u16) {
        self.run(&["server", "remove", "stage"]);
        self.run(&["server", "add", "127.0.0.1", "--port", &port.to_string(), "--name", "stage"]).ok();
    }
}
