//! Where server.yaml is looked for, and what of the process's surroundings the defaults depend on.

use std::env;

use camino::{Utf8Path, Utf8PathBuf};

/// What the defaults depend on; gathered once, so that everything after it is a function of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Where the server was started.
    pub current_dir: Utf8PathBuf,
    /// The user's home.
    pub home: Option<Utf8PathBuf>,
    /// `XDG_DATA_HOME`, when it is set to an absolute path as its specification asks.
    pub data_home: Option<Utf8PathBuf>,
    /// Who runs the server.
    pub user: User,
}

/// Who runs the server; it decides whose directories are the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The system's directories.
    Root,
    /// The user's own directories.
    Ordinary,
}

/// Why the configuration cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub enum LocateConfigError {
    #[error("there is no configuration at {path}, which was asked for by --config or SHED_CONFIG")]
    NotThere { path: Utf8PathBuf },
    #[error("the current directory cannot be named")]
    CurrentDir(#[source] std::io::Error),
}

impl Surroundings {
    /// Gathers them from the process.
    ///
    /// # Errors
    /// When the current directory is gone or not UTF-8.
    pub fn of_process() -> Result<Self, LocateConfigError> {
        let current_dir = env::current_dir().map_err(LocateConfigError::CurrentDir)?;
        let current_dir = Utf8PathBuf::try_from(current_dir)
            .map_err(|error| LocateConfigError::CurrentDir(error.into_io_error()))?;
        let user = if rustix::process::geteuid().is_root() { User::Root } else { User::Ordinary };
        Ok(Self { current_dir, home: absolute("HOME"), data_home: absolute("XDG_DATA_HOME"), user })
    }
}

fn absolute(variable: &str) -> Option<Utf8PathBuf> {
    env::var(variable).ok().map(Utf8PathBuf::from).filter(|path| path.is_absolute())
}

/// Returns the file to read: the one asked for, else the first there is of `./server.yaml`,
/// `~/.config/shed/server.yaml` and `/etc/shed/server.yaml` (spec K.1), else none.
///
/// # Errors
/// When the one asked for does not exist.
pub fn locate(
    asked: Option<&Utf8Path>,
    surroundings: &Surroundings,
) -> Result<Option<Utf8PathBuf>, LocateConfigError> {
    if let Some(path) = asked {
        let path = surroundings.current_dir.join(path);
        return if path.exists() { Ok(Some(path)) } else { Err(LocateConfigError::NotThere { path }) };
    }
    let places = [
        Some(surroundings.current_dir.join("server.yaml")),
        surroundings.home.as_ref().map(|home| home.join(".config/shed/server.yaml")),
        Some("/etc/shed/server.yaml".into()),
    ];
    Ok(places.into_iter().flatten().find(|path| path.exists()))
}
