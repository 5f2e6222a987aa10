//! Changes of a directory on macOS: a kqueue that reports writes to it, which every new name is.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use camino::Utf8Path;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent, kqueue};
use tokio::io::{Interest, unix::AsyncFd};

/// Hears of what is made in one directory.
#[derive(Debug)]
pub(super) struct Watch {
    queue: AsyncFd<OwnedFd>,
    /// Open for as long as the kqueue names its number.
    _directory: File,
}

impl Watch {
    /// Begins to listen.
    pub(super) fn new(directory: &Utf8Path) -> io::Result<Self> {
        let directory = File::open(directory)?;
        let queue = kqueue()?;
        let written = EventFilter::Vnode { vnode: directory.as_raw_fd(), flags: VnodeEvents::WRITE };
        // CLEAR: an event is told once.
        let change = [Event::new(written, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut())];
        let mut none: [Event; 0] = [];
        // SAFETY: the descriptor that the change names lives in the value that this returns, beside the kqueue.
        unsafe { kevent(queue.as_fd(), &change, &mut none, Some(Duration::ZERO)) }?;
        // SAFETY: an OwnedFd always gives the same descriptor and keeps it open until it is dropped, and here it is dropped
        // with its registration.
        let queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
        Ok(Self { queue, _directory: directory })
    }

    /// Returns when something was made or removed since the last call.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.queue.readable().await?;
        let mut events: Vec<Event> = Vec::with_capacity(1);
        // SAFETY: as above; nothing is registered here.
        let _told = unsafe {
            kevent(
                ready.get_inner().as_fd(),
                &[],
                rustix::buffer::spare_capacity(&mut events),
                Some(Duration::ZERO),
            )
        }?;
        ready.clear_ready();
        Ok(())
    }
}
