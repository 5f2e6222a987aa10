//! A terminal with eyes: tmux on this machine keeps the screen of what runs in it, as a person would see it.
//!
//! Every stage has a tmux server of its own, with a socket of its own and without anybody's configuration, that ends
//! with this value. A plain shell runs in its one window; what is tested is typed there.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;

use crate::{SHORT, Stage, run, wait_for};

/// What the plain shell shows when it waits for a line.
const PROMPT: &str = "host$ ";

/// Name of the one session.
const SESSION: &str = "eyes";

/// A window of tmux with a plain shell.
#[derive(Debug)]
pub struct Tmux {
    socket: Utf8PathBuf,
    home: Utf8PathBuf,
    bin_dir: Utf8PathBuf,
}

impl Tmux {
    /// Starts a tmux server with a shell that finds `shed`, in a window of these many columns and rows.
    ///
    /// # Panics
    /// When tmux is missing or no prompt appears.
    #[track_caller]
    #[must_use]
    pub fn start(stage: &Stage, columns: u16, rows: u16) -> Self {
        let tmux = Self {
            // In a short path, as such paths must be.
            socket: stage.socket_dir().join("eyes.tmux"),
            home: stage.home(),
            bin_dir: stage.parts().bin_dir.clone(),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        // The directory makes the server one of the stage's processes, for the guard.
        let dir = stage.dir().as_str();
        tmux.tmux(&[
            "new-session",
            "-d",
            "-s",
            SESSION,
            "-c",
            dir,
            "-x",
            &columns,
            "-y",
            &rows,
            &plain_shell(),
        ]);
        // Without it a program that has ended would take the evidence along.
        tmux.tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        tmux.wait_for(PROMPT, SHORT);
        tmux
    }

    /// Types these letters; none of them has a meaning for tmux.
    #[track_caller]
    pub fn type_in(&self, text: &str) {
        self.tmux(&["send-keys", "-t", SESSION, "-l", "--", text]);
    }

    /// Presses keys by their names: `Enter`, `C-c`, `C-b`.
    #[track_caller]
    pub fn press(&self, keys: &[&str]) {
        let words: Vec<&str> = ["send-keys", "-t", SESSION].into_iter().chain(keys.iter().copied()).collect();
        self.tmux(&words);
    }

    /// Types a line.
    #[track_caller]
    pub fn line(&self, text: &str) {
        self.type_in(text);
        self.press(&["Enter"]);
    }

    /// Gives the window another size.
    #[track_caller]
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-t", SESSION, "-x", &columns, "-y", &rows]);
    }

    /// Returns what the screen shows, without white space at the ends of lines.
    #[track_caller]
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", SESSION])
    }

    /// Returns the last line that shows something.
    #[track_caller]
    #[must_use]
    pub fn last_line(&self) -> String {
        self.screen().trim_end().lines().last().unwrap_or_default().to_owned()
    }

    /// Waits until the screen is as `seen` wants it, and returns it.
    ///
    /// # Panics
    /// When it does not come to that within `deadline`; the message has the screen.
    #[track_caller]
    pub fn wait_until(&self, what: &str, deadline: Duration, seen: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        let (screen, done) = wait_for(what, deadline * 2, || {
            let screen = self.screen();
            let done = seen(&screen);
            (done || begun.elapsed() > deadline).then_some((screen, done))
        });
        assert!(done, "waited {deadline:?} in vain for {what}; the screen:\n{screen}");
        screen
    }

    /// Waits until the screen shows `text`.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    #[track_caller]
    pub fn wait_for(&self, text: &str, deadline: Duration) -> String {
        self.wait_until(&format!("{text:?}"), deadline, |screen| screen.contains(text.trim_end()))
    }

    /// Waits until the plain shell waits for a line, with nothing on it.
    ///
    /// # Panics
    /// When it does not within `deadline`.
    #[track_caller]
    pub fn wait_for_prompt(&self, deadline: Duration) -> String {
        self.wait_until("the shell's prompt", deadline, |screen| {
            screen.trim_end().lines().last() == Some(PROMPT.trim_end())
        })
    }

    /// Has the plain shell, which must wait for a line, run one, and returns what that prints.
    ///
    /// # Panics
    /// When the shell does not answer.
    #[track_caller]
    pub fn answer(&self, line: &str) -> String {
        self.line(&format!("clear; {line}; echo =done="));
        let screen = self.wait_until(&format!("the end of {line}"), SHORT * 2, |screen| {
            screen.lines().any(|line| line == "=done=")
        });
        screen.split("=done=").next().unwrap_or_default().trim().to_owned()
    }

    /// Returns the modes of the terminal, all of them, in the words of stty(1).
    #[track_caller]
    #[must_use]
    pub fn modes(&self) -> String {
        self.answer("stty -a")
    }

    /// Begins anew with an empty screen and a plain shell; what runs there is ended.
    #[track_caller]
    pub fn restart(&self) {
        self.tmux(&["respawn-pane", "-k", "-t", SESSION, &plain_shell()]);
        self.wait_until("an empty screen", SHORT, |screen| screen.trim_end() == PROMPT.trim_end());
    }

    /// Returns the process ids of what the plain shell runs at the moment.
    #[track_caller]
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let shell = self.tmux(&["display-message", "-p", "-t", SESSION, "#{pane_pid}"]);
        let shell = shell.trim();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        let children = children.expect("the shell runs");
        children.split_whitespace().map(|pid| pid.parse().expect("a process id")).collect()
    }

    #[track_caller]
    fn tmux(&self, words: &[&str]) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-u", "-S", self.socket.as_str()]).args(words);
        command
            .env_clear()
            .env("PATH", format!("{}:{path}", self.bin_dir))
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .env("TERM", "xterm-256color");
        String::from_utf8_lossy(&run(&mut command, b"", SHORT).ok().stdout).into_owned()
    }
}

/// A command for a shell whose prompt says nothing of this machine, in words that every POSIX shell knows.
fn plain_shell() -> String {
    format!("PS1='{PROMPT}' ENV= exec sh -i")
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let _status = command.args(["-S", self.socket.as_str(), "kill-server"]).status();
        // It leaves its socket behind.
        let _gone = std::fs::remove_file(&self.socket);
    }
}
