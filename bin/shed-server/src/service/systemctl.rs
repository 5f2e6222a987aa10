//! Speaks to systemd by its program `systemctl`.

use std::{io, process::Command};

use super::unit::{Manager, UNIT};

/// One of the managers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Systemctl(pub(super) Manager);

/// Why it did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum SystemctlError {
    #[error("`systemctl` cannot be run; is this a system with systemd?")]
    Run(#[source] io::Error),
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
}

impl Systemctl {
    /// Tells it to do something.
    pub(super) fn tell(self, verbs: &[&str]) -> Result<(), SystemctlError> {
        let (good, said) = self.ask(verbs)?;
        if good { Ok(()) } else { Err(SystemctlError::Failed { command: self.line(verbs), said }) }
    }

    /// Whether it says `word` of the unit, like `active` to `is-active`.
    pub(super) fn says(self, verb: &str, word: &str) -> Result<bool, SystemctlError> {
        let (_good, said) = self.ask(&[verb, UNIT])?;
        Ok(said == word)
    }

    /// Returns a property of the unit, as text.
    pub(super) fn property(self, name: &str) -> Result<String, SystemctlError> {
        let (_good, said) = self.ask(&["show", "--value", "--property", name, UNIT])?;
        Ok(said)
    }

    /// Returns the command as a user types it.
    pub(super) fn line(self, verbs: &[&str]) -> String {
        let program = match self.0 {
            Manager::System => "systemctl",
            Manager::User => "systemctl --user",
        };
        format!("{program} {}", verbs.join(" "))
    }

    fn ask(self, verbs: &[&str]) -> Result<(bool, String), SystemctlError> {
        let mut command = Command::new("systemctl");
        if self.0 == Manager::User {
            command.arg("--user");
        }
        let output = command
            .args(verbs)
            .env("SYSTEMD_COLORS", "0")
            .env("LC_ALL", "C")
            .output()
            .map_err(SystemctlError::Run)?;
        let said = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
        Ok((output.status.success(), String::from_utf8_lossy(said).trim().to_owned()))
    }
}
