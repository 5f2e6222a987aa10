//! The directory of the control socket, the lock in it, and the socket itself.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_state::{DirectoryLock, LockError};
use tokio::net::UnixListener;

/// The socket's name.
const SOCKET: &str = "host-agent.sock";

/// The lock's name. The file stays: another process may hold it.
const LOCK: &str = "host-agent.lock";

/// Why the agent does not have its place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "another shed-host-agent runs already; see `shed-host-agent status`, or end it first ({path} is locked)"
    )]
    Held { path: Utf8PathBuf },
    #[error("{path} is not a directory of this user; remove it, or set XDG_RUNTIME_DIR to one that is")]
    NotOurs { path: Utf8PathBuf },
    #[error("could not use {path} for the control socket")]
    Io {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Returns where the socket is.
#[must_use]
pub fn socket(directory: &Utf8Path) -> Utf8PathBuf {
    directory.join(SOCKET)
}

/// The directory, while this process is its agent.
#[derive(Debug)]
pub struct Place {
    socket: Utf8PathBuf,
    _lock: DirectoryLock,
}

impl Place {
    /// Makes the directory and takes its lock.
    ///
    /// # Errors
    /// When another agent has it, or it is somebody else's.
    pub fn take(directory: &Utf8Path) -> Result<Self, PlaceError> {
        let failed = |source| PlaceError::Io { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let about = fs::symlink_metadata(directory).map_err(failed)?;
        if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
            return Err(PlaceError::NotOurs { path: directory.to_owned() });
        }
        if about.mode() & 0o077 != 0 {
            fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let lock = DirectoryLock::take_named(directory, LOCK).map_err(|error| match error {
            LockError::Held { path } => PlaceError::Held { path },
            LockError::Io { path, source } => PlaceError::Io { path, source },
        })?;
        Ok(Self { socket: socket(directory), _lock: lock })
    }

    /// Listens. A socket that is there is that of an agent which is gone, since the lock is ours.
    ///
    /// # Errors
    /// When it cannot be made; its path may be too long, about a hundred bytes being the system's limit.
    pub fn listen(&self) -> Result<UnixListener, PlaceError> {
        let failed = |source| PlaceError::Io { path: self.socket.clone(), source };
        match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&self.socket).map_err(failed)?;
        // Until here only the directory's mode keeps others out.
        fs::set_permissions(&self.socket, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that stays is replaced by the next agent.
        let _gone = fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Utf8Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn one_agent_has_the_place_and_leaves_nothing_that_is_in_the_way() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(guard.path()).unwrap().join("a/shed");
        let place = Place::take(&dir).unwrap();
        let _listener = place.listen().unwrap();
        assert_eq!((mode(&dir), mode(&socket(&dir))), (0o700, 0o600));
        let error = Place::take(&dir).unwrap_err();
        assert!(error.to_string().contains("another shed-host-agent runs"), "{error}");
        drop(place);
        assert!(!socket(&dir).exists());
        // As after a kill.
        drop(std::os::unix::net::UnixListener::bind(socket(&dir)).unwrap());
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        Place::take(&dir).unwrap().listen().unwrap();
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn a_link_is_not_taken_for_the_directory() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(guard.path()).unwrap();
        fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink(dir.join("real"), dir.join("shed")).unwrap();
        assert!(matches!(Place::take(&dir.join("shed")), Err(PlaceError::NotOurs { .. })));
    }
}
