//! The two sockets of a machine: their names, their making and their removal.
//!
//! The server binds them before it starts QEMU and hands them over as listening descriptors. So they can be
//! connected to from the first moment, nothing ever waits for a file to appear, and a later server finds them under
//! names that follow from the shed's alone.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ShedName;

use crate::socket_names::{remove, room_for, stem};

/// Where the sockets of one shed's machine are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketPaths {
    /// QEMU's monitor.
    pub qmp: Utf8PathBuf,
    /// The host's end of the guest link.
    pub link: Utf8PathBuf,
}

/// Both sockets, listening.
#[derive(Debug)]
pub(super) struct Listeners {
    pub qmp: UnixListener,
    pub link: UnixListener,
}

impl SocketPaths {
    /// Returns where the sockets of `shed` belong.
    pub(super) fn new(dir: &Utf8Path, shed: &ShedName) -> Self {
        let stem = stem(shed);
        Self { qmp: dir.join(format!("{stem}.qmp")), link: dir.join(format!("{stem}.link")) }
    }

    /// Binds both; what an earlier machine of this shed has left is removed first.
    ///
    /// # Errors
    /// When a socket cannot be made; says which. Then none is left.
    pub(super) fn bind(&self) -> Result<Listeners, (Utf8PathBuf, io::Error)> {
        let both = self.remove().map_err(|error| (self.qmp.clone(), error)).and_then(|()| {
            let qmp = bind(&self.qmp).map_err(|error| (self.qmp.clone(), error))?;
            let link = bind(&self.link).map_err(|error| (self.link.clone(), error))?;
            Ok(Listeners { qmp, link })
        });
        both.inspect_err(|_| {
            if let Err(error) = self.remove() {
                tracing::warn!(%error, path = %self.qmp, "a socket is left over");
            }
        })
    }

    /// Removes both, if they are there.
    ///
    /// # Errors
    /// When one is there and stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.qmp).and(remove(&self.link))
    }
}

/// Returns the longest directory that leaves room for the sockets of every shed, in bytes.
pub(super) const fn longest_dir() -> usize {
    room_for(".link")
}

fn bind(path: &Utf8Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{socket_names::make_dir, system::SOCKET_PATH_MAX};

    fn name(text: &str) -> ShedName {
        text.parse().unwrap()
    }

    #[test]
    fn sockets_of_long_names_differ_and_fit() {
        let dir = Utf8PathBuf::from(format!("/{}", "d".repeat(longest_dir() - 1)));
        let one = SocketPaths::new(&dir, &name(&"a".repeat(63)));
        let other = SocketPaths::new(&dir, &name(&"a".repeat(62)));
        assert_ne!(one, other);
        assert_eq!(one.link.as_str().len(), SOCKET_PATH_MAX);
        assert_eq!(SocketPaths::new(Utf8Path::new("/s"), &name("api")).qmp, "/s/api.qmp");
    }

    #[test]
    fn binding_replaces_what_an_earlier_machine_left_and_removal_is_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap().join("deep/sockets");
        make_dir(&dir).unwrap();
        make_dir(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let paths = SocketPaths::new(&dir, &name("api"));
        drop(paths.bind().unwrap());
        let listeners = paths.bind().unwrap();
        UnixStream::connect(&paths.qmp).unwrap();
        UnixStream::connect(&paths.link).unwrap();
        drop(listeners);
        paths.remove().unwrap();
        paths.remove().unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_cannot_be_made_is_named_and_its_twin_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        fs::create_dir(dir.join("api.link")).unwrap();
        let (path, _) = SocketPaths::new(dir, &name("api")).bind().unwrap_err();
        assert!(path.as_str().starts_with(dir.as_str()));
        assert!(!dir.join("api.qmp").exists());
    }
}
