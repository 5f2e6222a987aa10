//! The virtio-serial port to the host.
//!
//! The kernel's driver (drivers/char/virtio_console.c) lets a port be opened once, reports a hang-up for as long as no
//! host is connected, and then answers reads with 0. tokio takes a hang-up for final and would never look again. So
//! the port sits in an epoll of its own, edge-triggered, and tokio watches that one: it becomes readable whenever
//! anything at all happens on the port (data, room, host comes, host goes), and the port itself is asked what it was.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    fs::{Mode, OFlags, inotify},
    io::Errno,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    time::timeout,
};

use crate::watched_fd::watch;

/// The port's name, given by the VMM's command line.
const NAME: &str = "org.shed.agent.0";

/// Where the driver lists its ports. udev's links in /dev/virtio-ports may not be there yet.
const SYS_PORTS: &str = "/sys/class/virtio-ports";

/// How long an event of /dev is waited for before the ports are looked through again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The port. One task uses it at a time: reading and writing share one waker.
#[derive(Debug)]
pub(crate) struct VirtioPort {
    port: OwnedFd,
    changes: AsyncFd<OwnedFd>,
}

impl VirtioPort {
    /// Opens the port; waits until the driver has made it.
    pub(crate) async fn open() -> io::Result<Self> {
        let path = find_or_wait().await?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Self::new(rustix::fs::open(path, flags, Mode::empty())?)
    }

    fn new(port: OwnedFd) -> io::Result<Self> {
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&changes, &port, epoll::EventData::new_u64(0), events)?;
        Ok(Self { port, changes: watch(changes, Interest::READABLE)? })
    }

    /// Resolves when a host is connected; at once if one is.
    pub(crate) async fn wait_for_host(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            self.poll_until(cx, |port| {
                let mut fds = [PollFd::from_borrowed_fd(port, PollFlags::empty())];
                poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                if fds[0].revents().contains(PollFlags::HUP) { Err(Errno::AGAIN) } else { Ok(()) }
            })
        })
        .await
    }

    /// Tries `attempt` until it does not ask to wait, once now and once after each change of the port.
    fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        loop {
            match attempt(self.port.as_fd()) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                result => return Poll::Ready(result.map_err(io::Error::from)),
            }
            let mut changed = ready!(self.changes.poll_read_ready(cx))?;
            // Taking the event makes the next one an edge again. It may have been taken already.
            let mut event =
                [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            let _taken =
                epoll::wait(changed.get_inner(), &mut event[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            changed.clear_ready();
        }
    }
}

impl AsyncRead for VirtioPort {
    /// Reads 0 bytes when no host is connected.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = ready!(self.poll_until(cx, |port| rustix::io::read(port, buf.initialize_unfilled())))?;
        buf.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for VirtioPort {
    /// Waits while no host is connected.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_until(cx, |port| rustix::io::write(port, data))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The port stays open for the next host.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn find_or_wait() -> io::Result<PathBuf> {
    // The watch comes before the first look, so that no port slips between them.
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&events, "/dev", inotify::WatchFlags::CREATE)?;
    let events = watch(events, Interest::READABLE)?;
    loop {
        if let Some(path) = find(Path::new(SYS_PORTS)) {
            return Ok(path);
        }
        // The bound is for a device that appears in /dev before its name does in /sys.
        if let Ok(changed) = timeout(LOOK_AGAIN, events.readable()).await {
            let mut changed = changed?;
            let mut records = [0; 4096];
            while rustix::io::read(changed.get_inner(), &mut records).is_ok_and(|length| length > 0) {}
            changed.clear_ready();
        }
    }
}

fn find(sys_ports: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(sys_ports).ok()?;
    let ours = entries.flatten().find(|entry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == NAME)
    })?;
    Some(Path::new("/dev").join(ours.file_name()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let sys = tempfile::tempdir().unwrap();
        for (port, name) in [("vport1p1", "org.shed.agent.01\n"), ("vport1p2", "org.shed.agent.0\n")] {
            fs::create_dir(sys.path().join(port)).unwrap();
            fs::write(sys.path().join(port).join("name"), name).unwrap();
        }
        fs::create_dir(sys.path().join("vport0p0")).unwrap();
        assert_eq!(find(sys.path()), Some(PathBuf::from("/dev/vport1p2")));
    }

    /// A socket pair behaves like the port in what matters here, except that its hang-up is final.
    #[tokio::test]
    async fn data_room_and_hang_up_are_all_noticed() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut port = VirtioPort::new(ours.into()).unwrap();
        let mut host = tokio::net::UnixStream::from_std(theirs).unwrap();
        port.wait_for_host().await.unwrap();
        let sent = vec![7; 4 << 20];
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            port.write_all(&copy).await.unwrap();
            let mut answer = [0; 5];
            port.read_exact(&mut answer).await.unwrap();
            assert_eq!(port.read(&mut [0; 1]).await.unwrap(), 0);
            answer
        });
        let mut received = vec![0; sent.len()];
        host.read_exact(&mut received).await.unwrap();
        assert!(received == sent);
        host.write_all(b"hello").await.unwrap();
        drop(host);
        assert_eq!(timeout(Duration::from_secs(10), writer).await.unwrap().unwrap(), *b"hello");
    }
}
