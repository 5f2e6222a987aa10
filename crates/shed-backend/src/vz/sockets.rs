//! Names of a machine's sockets: one for each port of the guest, one for the words of its agent, one for vfkit itself. All are
//! made after the shed, so that a later server finds them.
//!
//! vfkit makes the first and the last kind, and goes on without a port whose socket's name is taken; so what an earlier machine
//! has left goes before the next begins.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::{GuestPort, ShedName};

use crate::socket_names::{remove, room_for, stem};

/// The longest ending of a socket's name.
const LONGEST: &str = "-words.sock";

/// Where the sockets of one shed's machine are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocketPaths {
    /// What all names begin with.
    begin: Utf8PathBuf,
}

impl SocketPaths {
    /// Returns where the sockets of `shed` belong.
    pub(super) fn new(dir: &Utf8Path, shed: &ShedName) -> Self {
        Self { begin: dir.join(stem(shed)) }
    }

    /// Leads to a port of the guest.
    pub(super) fn port(&self, port: GuestPort) -> Utf8PathBuf {
        Utf8PathBuf::from(format!("{}-{}.sock", self.begin, port.number()))
    }

    /// Where the guest's agent is heard.
    pub(super) fn words(&self) -> Utf8PathBuf {
        Utf8PathBuf::from(format!("{}-words.sock", self.begin))
    }

    /// vfkit's REST interface.
    pub(super) fn rest(&self) -> Utf8PathBuf {
        Utf8PathBuf::from(format!("{}-rest.sock", self.begin))
    }

    /// Removes all that are there.
    ///
    /// # Errors
    /// When one is there and stays; the others are gone then.
    pub(super) fn remove(&self) -> io::Result<()> {
        let ports = GuestPort::ALL.into_iter().map(|port| self.port(port));
        ports.chain([self.words(), self.rest()]).map(|path| remove(&path)).fold(Ok(()), Result::and)
    }
}

/// Returns the longest directory that leaves room for the sockets of every shed, in bytes.
pub(super) const fn longest_dir() -> usize {
    room_for(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::*;
    use crate::system::SOCKET_PATH_MAX;

    #[test]
    fn names_are_the_sheds_and_the_ports_and_the_longest_fits() {
        let paths = SocketPaths::new(Utf8Path::new("/s"), &"api".parse().unwrap());
        assert_eq!(paths.port(GuestPort::Exec), "/s/api-1024.sock");
        assert_eq!(paths.port(GuestPort::Health), "/s/api-1025.sock");
        let dir = Utf8PathBuf::from(format!("/{}", "d".repeat(longest_dir() - 1)));
        let paths = SocketPaths::new(&dir, &"a".repeat(63).parse().unwrap());
        assert_eq!(paths.words().as_str().len(), SOCKET_PATH_MAX);
        let others = GuestPort::ALL.into_iter().map(|port| paths.port(port)).chain([paths.rest()]);
        assert!(others.into_iter().all(|path| path.as_str().len() <= SOCKET_PATH_MAX));
    }

    #[test]
    fn all_sockets_of_one_shed_go_and_those_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let paths = SocketPaths::new(dir, &"api".parse().unwrap());
        let other = SocketPaths::new(dir, &"api-1024".parse().unwrap());
        for path in [paths.port(GuestPort::NineP), paths.rest(), paths.words(), other.port(GuestPort::Exec)] {
            drop(UnixListener::bind(path).unwrap());
        }
        paths.remove().unwrap();
        paths.remove().unwrap();
        let left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["api-1024-1024.sock"]);
    }

    #[test]
    fn one_that_stays_is_an_error_and_the_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let paths = SocketPaths::new(Utf8Path::from_path(dir.path()).unwrap(), &"api".parse().unwrap());
        fs::create_dir(paths.port(GuestPort::Exec)).unwrap();
        drop(UnixListener::bind(paths.rest()).unwrap());
        assert!(paths.remove().is_err());
        assert!(!paths.rest().exists());
    }
}
