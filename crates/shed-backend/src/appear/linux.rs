//! Changes of a directory on Linux: inotify.

use std::{io, os::fd::OwnedFd};

use camino::Utf8Path;
use rustix::fs::inotify;
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes for one reading of events: many short ones, or a few with the longest name (man 7 inotify).
const EVENTS: usize = 4096;

/// Hears of what is made in one directory.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Begins to listen.
    pub(super) fn new(directory: &Utf8Path) -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, directory.as_std_path(), inotify::WatchFlags::CREATE)?;
        // SAFETY: an OwnedFd always answers with the same descriptor and keeps it open for as long as it lives, which is inside
        // the AsyncFd, where nobody takes or replaces it.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
        Ok(Self(events))
    }

    /// Returns when something was made since the last call.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0_u8; EVENTS];
        while rustix::io::read(ready.get_inner(), &mut buffer).is_ok_and(|length| length > 0) {}
        ready.clear_ready();
        Ok(())
    }
}
