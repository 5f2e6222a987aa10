//! Where the agent keeps and finds things, as functions of what the process was started with.

use std::env;

use camino::Utf8PathBuf;

/// What the process was started with; gathered once, so that everything after it is a function of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Where it was started.
    pub current_dir: Utf8PathBuf,
    /// The user's home.
    pub home: Option<Utf8PathBuf>,
    /// `XDG_RUNTIME_DIR`, when it is absolute as its specification asks.
    pub runtime_dir: Option<Utf8PathBuf>,
    /// The socket of the user's SSH agent.
    pub ssh_auth_sock: Option<Utf8PathBuf>,
    /// Where programs are looked for.
    pub path: Vec<Utf8PathBuf>,
    /// Whether there is a session with a desktop, which could show a notification.
    pub has_desktop: bool,
}

/// Why the agent cannot find its way.
#[derive(Debug, thiserror::Error)]
pub enum PlacesError {
    #[error("the current directory cannot be named")]
    CurrentDir(#[source] std::io::Error),
    #[error("there is no place for the control socket; set HOME or XDG_RUNTIME_DIR to an absolute path")]
    NoSocketDir,
}

impl Surroundings {
    /// Gathers them from the process.
    ///
    /// # Errors
    /// When the current directory is gone or not UTF-8.
    pub fn of_process() -> Result<Self, PlacesError> {
        let current_dir = env::current_dir().map_err(PlacesError::CurrentDir)?;
        let current_dir = Utf8PathBuf::try_from(current_dir)
            .map_err(|error| PlacesError::CurrentDir(error.into_io_error()))?;
        let path = env::var("PATH").unwrap_or_default();
        Ok(Self {
            current_dir,
            home: absolute("HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            ssh_auth_sock: absolute("SSH_AUTH_SOCK"),
            path: path.split(':').map(Utf8PathBuf::from).filter(|dir| dir.is_absolute()).collect(),
            has_desktop: ["DBUS_SESSION_BUS_ADDRESS", "WAYLAND_DISPLAY", "DISPLAY"]
                .into_iter()
                .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty())),
        })
    }

    /// Returns the directory of the control socket and the lock: one a user, so that one agent runs.
    ///
    /// # Errors
    /// When neither `XDG_RUNTIME_DIR` nor the home is known.
    pub fn control_dir(&self) -> Result<Utf8PathBuf, PlacesError> {
        let runtime = self.runtime_dir.as_ref().map(|dir| dir.join("shed"));
        runtime
            .or_else(|| self.home.as_ref().map(|home| home.join(".local/state/shed")))
            .ok_or(PlacesError::NoSocketDir)
    }

    /// Finds a program.
    #[must_use]
    pub fn find_program(&self, name: &str) -> Option<Utf8PathBuf> {
        self.path.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
    }
}

fn absolute(variable: &str) -> Option<Utf8PathBuf> {
    env::var(variable).ok().map(Utf8PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
impl Surroundings {
    /// Makes those of a user whose home this is, and who has nothing else.
    pub(crate) fn of_home(home: &camino::Utf8Path) -> Self {
        Self {
            current_dir: home.to_owned(),
            home: Some(home.to_owned()),
            runtime_dir: None,
            ssh_auth_sock: None,
            path: Vec::new(),
            has_desktop: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_runtime_directory_else_in_the_home() {
        let mut surroundings = Surroundings::of_home("/h".into());
        assert_eq!(surroundings.control_dir().unwrap(), "/h/.local/state/shed");
        surroundings.runtime_dir = Some("/run/user/7".into());
        assert_eq!(surroundings.control_dir().unwrap(), "/run/user/7/shed");
        (surroundings.runtime_dir, surroundings.home) = (None, None);
        assert!(matches!(surroundings.control_dir(), Err(PlacesError::NoSocketDir)));
    }
}
