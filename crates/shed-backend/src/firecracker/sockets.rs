//! Names of a machine's sockets, all made after the shed, so that a later server finds them.
//!
//! Firecracker makes two of them itself and refuses to start where something has the name, so what an earlier machine has
//! left goes first.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ShedName;

use super::link::ready_socket;
use crate::socket_names::{remove, room_for, stem};

/// The longest ending of a socket's name.
const LONGEST: &str = ".vsock_1025";

/// Where the sockets of one shed's machine are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketPaths {
    /// Firecracker's API.
    pub api: Utf8PathBuf,
    /// Leads to the guest's ports.
    pub vsock: Utf8PathBuf,
    /// Where the guest's agent says that it is there.
    pub ready: Utf8PathBuf,
}

impl SocketPaths {
    /// Returns where the sockets of `shed` belong.
    pub(super) fn new(dir: &Utf8Path, shed: &ShedName) -> Self {
        let stem = stem(shed);
        let vsock = dir.join(format!("{stem}.vsock"));
        let ready = ready_socket(&vsock);
        Self { api: dir.join(format!("{stem}.api")), vsock, ready }
    }

    /// Removes all that are there.
    ///
    /// # Errors
    /// When one is there and stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.api).and(remove(&self.vsock)).and(remove(&self.ready))
    }
}

/// Returns the longest directory that leaves room for the sockets of every shed, in bytes.
pub(super) const fn longest_dir() -> usize {
    room_for(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SOCKET_PATH_MAX;

    #[test]
    fn the_longest_name_fits_the_longest_directory() {
        let dir = Utf8PathBuf::from(format!("/{}", "d".repeat(longest_dir() - 1)));
        let paths = SocketPaths::new(&dir, &"a".repeat(63).parse().unwrap());
        assert_eq!(paths.ready.as_str().len(), SOCKET_PATH_MAX);
        let paths = SocketPaths::new(Utf8Path::new("/s"), &"api".parse().unwrap());
        assert_eq!(paths.ready, "/s/api.vsock_1025");
    }
}
