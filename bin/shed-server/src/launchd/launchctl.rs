//! Speaks to launchd by its program `launchctl`, of which only codes and single words are read: what it prints is for people.
//!
//! `install` and `uninstall` call it. Which program that is comes with it, so that tests have one of their own.

use std::{
    io,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};

use super::{plan::Status, plist::LABEL};

/// Exit code of `launchctl print` for a service that is not loaded.
const NO_SUCH_SERVICE: i32 = 113;

/// What it says of one, in case the code is another.
const NO_SUCH_WORDS: &str = "Could not find service";

/// How often launchd is asked whether an agent is gone: it tells nobody.
const BETWEEN: Duration = Duration::from_millis(200);

/// How long an agent may take to be gone: longer than the list gives the server (`ExitTimeOut`).
const PATIENCE: Duration = Duration::from_secs(75);

/// launchd's manager of one user who is logged in at the Mac.
#[derive(Debug, Clone)]
pub struct Launchctl {
    program: Utf8PathBuf,
    uid: u32,
    patience: Duration,
}

/// Why it did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchctlError {
    #[error("`{program}` cannot be run; is this a Mac?")]
    Run {
        program: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` failed ({status}): {said}")]
    Failed { command: String, status: String, said: String },
    #[error("launchd still has {0} after {1} seconds; `launchctl print` says how it stands", LABEL, PATIENCE.as_secs())]
    Stays,
}

impl Launchctl {
    /// Speaks for the user with this number through this program.
    #[must_use]
    pub fn new(program: impl Into<Utf8PathBuf>, uid: u32) -> Self {
        Self { program: program.into(), uid, patience: PATIENCE }
    }

    /// Waits less long for an agent to be gone.
    #[cfg(test)]
    pub(super) fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Says how the agent stands.
    pub(super) fn status(&self) -> Result<Status, LaunchctlError> {
        let words = ["print", &self.target()];
        let output = self.run(&words)?;
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout);
            let runs = text.lines().any(|line| line.trim_start().starts_with("pid = "));
            return Ok(if runs { Status::Running } else { Status::Loaded });
        }
        let failed = self.failed(&words, &output);
        let absent = output.status.code() == Some(NO_SUCH_SERVICE)
            || matches!(&failed, LaunchctlError::Failed { said, .. } if said.contains(NO_SUCH_WORDS));
        if absent { Ok(Status::Absent) } else { Err(failed) }
    }

    /// Has the agent loaded at each login, also when somebody had disabled it.
    pub(super) fn enable(&self) -> Result<(), LaunchctlError> {
        self.tell(&["enable", &self.target()])
    }

    /// Loads it from its list.
    pub(super) fn load(&self, list: &Utf8Path) -> Result<(), LaunchctlError> {
        self.tell(&["bootstrap", &self.domain(), list.as_str()])
    }

    /// Starts what is loaded.
    pub(super) fn start(&self) -> Result<(), LaunchctlError> {
        self.tell(&["kickstart", &self.target()])
    }

    /// Unloads it, which ends the server, and comes back when it is gone.
    #[expect(clippy::disallowed_methods, reason = "the pause between two questions; launchd tells nobody")]
    pub(super) fn unload(&self) -> Result<(), LaunchctlError> {
        let words = ["bootout", &self.target()];
        let output = self.run(&words)?;
        let begun = Instant::now();
        loop {
            // A failure counts when nothing comes of it: an end that takes long is told as one.
            match self.status()? {
                Status::Absent => return Ok(()),
                Status::Loaded | Status::Running if begun.elapsed() < self.patience => thread::sleep(BETWEEN),
                Status::Loaded | Status::Running if output.status.success() => {
                    return Err(LaunchctlError::Stays);
                }
                Status::Loaded | Status::Running => return Err(self.failed(&words, &output)),
            }
        }
    }

    /// The command that starts it, as a user types it.
    pub(super) fn start_line(&self) -> String {
        format!("launchctl kickstart {}", self.target())
    }

    /// The command that unloads it, as a user types it.
    pub(super) fn unload_line(&self) -> String {
        format!("launchctl bootout {}", self.target())
    }

    /// The command that says how it stands, as a user types it.
    pub(super) fn print_line(&self) -> String {
        format!("launchctl print {}", self.target())
    }

    fn domain(&self) -> String {
        format!("gui/{}", self.uid)
    }

    fn target(&self) -> String {
        format!("gui/{}/{LABEL}", self.uid)
    }

    fn tell(&self, words: &[&str]) -> Result<(), LaunchctlError> {
        let output = self.run(words)?;
        if output.status.success() { Ok(()) } else { Err(self.failed(words, &output)) }
    }

    fn run(&self, words: &[&str]) -> Result<std::process::Output, LaunchctlError> {
        let run = Command::new(&self.program).args(words).env("LC_ALL", "C").output();
        run.map_err(|source| LaunchctlError::Run { program: self.program.clone(), source })
    }

    fn failed(&self, words: &[&str], output: &std::process::Output) -> LaunchctlError {
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        LaunchctlError::Failed {
            command: format!("{} {}", self.program, words.join(" ")),
            status: output.status.to_string(),
            said: String::from_utf8_lossy(said).trim().to_owned(),
        }
    }
}
