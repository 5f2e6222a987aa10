//! The Python environment with SSH's other clients: Ansible, Paramiko, AsyncSSH and ssh-audit.

use std::process::Command;

use camino::Utf8PathBuf;

use crate::Stage;

/// Names the environment's directory; `./x` makes it and sets this.
const VENV: &str = "SHED_SSH_VENV";

/// Programs of these tests, and the list of packages they need.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ssh");

/// A Python environment.
#[derive(Debug, Clone)]
pub struct PythonEnv {
    bin: Utf8PathBuf,
    home: Utf8PathBuf,
}

impl PythonEnv {
    /// Finds it.
    ///
    /// # Panics
    /// When it is not there: a test that cannot run is a failed test. The message says how to get it.
    #[must_use]
    pub fn find(stage: &Stage) -> Self {
        let venv = std::env::var(VENV).unwrap_or_else(|_| {
            panic!("{VENV} is not set; run `./x test --ssh`, which installs what it names")
        });
        let bin = Utf8PathBuf::from(venv).join("bin");
        assert!(bin.is_absolute() && bin.is_dir(), "{VENV} names no Python environment: there is no {bin}");
        Self { bin, home: stage.home() }
    }

    /// Returns the command for one of the environment's programs.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.bin.join(program));
        command
            .env_clear()
            .env("PATH", format!("{}:{path}", self.bin))
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Returns the command for one of our own programs, in `vm-tests/ssh`.
    #[must_use]
    pub fn script(&self, file: &str) -> Command {
        let mut command = self.command("python");
        command.arg(format!("{SCRIPTS}/{file}"));
        command
    }
}
