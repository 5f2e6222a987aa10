//! Python environments with programs of others that tests use: SSH's other clients, and what stands in for AWS.

use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};

use crate::Stage;

/// Names the directory of the environment with Ansible, Paramiko, AsyncSSH and ssh-audit; `./x` makes it and sets this.
const SSH: &str = "SHED_SSH_VENV";

/// Names the directory of the environment with moto, as well.
const EXTENSIONS: &str = "SHED_EXT_VENV";

/// Names the directory with AWS's clients as a guest gets them, as well.
const GUEST: &str = "SHED_EXT_GUEST";

/// Programs of the tests of SSH, and the list of packages they need.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ssh");

/// A Python environment.
#[derive(Debug, Clone)]
pub struct PythonEnv {
    bin: Utf8PathBuf,
    home: Utf8PathBuf,
}

impl PythonEnv {
    /// Finds the one with SSH's other clients.
    ///
    /// # Panics
    /// When it is not there: a test that cannot run is a failed test. The message says how to get it.
    #[must_use]
    pub fn find(stage: &Stage) -> Self {
        Self::at(&named(SSH, "./x test --ssh"), stage)
    }

    /// Finds the one with moto.
    ///
    /// # Panics
    /// When it is not there. The message says how to get it.
    #[must_use]
    pub fn of_extensions(stage: &Stage) -> Self {
        Self::at(&named(EXTENSIONS, "./x test --extensions"), stage)
    }

    fn at(venv: &Utf8Path, stage: &Stage) -> Self {
        let bin = venv.join("bin");
        assert!(bin.is_dir(), "there is no Python environment: no {bin}");
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

/// Finds the packages of AWS's clients that go into a guest.
///
/// # Panics
/// When they are not there. The message says how to get them.
pub(crate) fn guest_packages() -> Utf8PathBuf {
    named(GUEST, "./x test --extensions")
}

fn named(variable: &str, command: &str) -> Utf8PathBuf {
    let value = std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set; run `{command}`, which installs what it names"));
    let path = Utf8PathBuf::from(value);
    assert!(path.is_absolute() && path.is_dir(), "{variable} names no directory: there is no {path}");
    path
}
