//! The one place where a descriptor is given to tokio to watch.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Has tokio watch a descriptor. It must be non-blocking.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always answers with the same descriptor and keeps it open for as long as it lives, which is
    // inside the AsyncFd, where nobody can take or replace it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
