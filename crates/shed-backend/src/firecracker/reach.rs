//! Unix sockets in directories that somebody else may write to, which a jailed Firecracker can: its sockets are in its jail.
//!
//! A socket is opened first and connected to afterwards, by its descriptor, so that a link that has come into its place leads
//! nowhere. So the path of a socket may also be longer than an address of one (108 bytes, man 7 unix), which jails make it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use camino::Utf8Path;
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::{UnixListener, UnixStream};

/// Connects to a socket, and follows no link at its name.
///
/// # Errors
/// When nothing is there, or nobody listens there; a link is nobody who listens.
pub(super) async fn connect(path: &Utf8Path) -> io::Result<UnixStream> {
    let socket =
        openat(CWD, path.as_std_path(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// Makes a socket of this name in an open directory, and listens there.
///
/// # Errors
/// When something has the name, or the directory takes nothing.
pub(super) fn listen_in(directory: BorrowedFd<'_>, name: &str) -> io::Result<UnixListener> {
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_reached_by_any_length_of_path_and_by_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let deep = Utf8Path::from_path(dir.path()).unwrap().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let opened = std::fs::File::open(&deep).unwrap();
        let listener = listen_in(opened.as_fd(), "socket").unwrap();
        let path = deep.join("socket");
        let (connected, accepted) = tokio::join!(connect(&path), listener.accept());
        drop((connected.unwrap(), accepted.unwrap()));
        symlink("socket", deep.join("link")).unwrap();
        let refused = connect(&deep.join("link")).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{refused}");
        let missing = connect(&deep.join("none")).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound, "{missing}");
        assert!(listen_in(opened.as_fd(), "socket").is_err());
    }
}
