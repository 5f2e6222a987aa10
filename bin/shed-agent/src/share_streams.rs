//! Streams over which the host serves its directories, by 9P: kept from the moment they are opened to the mount that
//! takes them. `serve` gives them, `mounts` takes them; what they carry is the kernel's business.

use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Notify,
    time::timeout,
};

/// Longest tag in bytes (virtio 1.2, 5.11.4), which holds for these as well.
pub(crate) const TAG_MAX: usize = 36;

/// How long a host may take to say which directory a stream is for.
const GREETING: Duration = Duration::from_secs(10);

/// Most streams that are kept; a tag's newest one counts.
const MAX: usize = 16;

/// Those that no mount has taken yet.
#[derive(Debug, Default)]
pub(crate) struct ShareStreams {
    waiting: Mutex<HashMap<String, OwnedFd>>,
    arrived: Notify,
}

impl ShareStreams {
    /// Keeps a stream that the host has opened, once it has said its tag. `fd` is the stream's.
    pub(crate) async fn keep(
        &self,
        mut stream: impl AsyncRead + Unpin,
        fd: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let tag = timeout(GREETING, read_tag(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let fd = fd.try_clone_to_owned()?;
        let mut waiting = self.lock();
        if waiting.len() >= MAX && !waiting.contains_key(&tag) {
            return Err(io::Error::other("too many host directories wait to be mounted"));
        }
        // An older one is of a host that has gone.
        let _older = waiting.insert(tag, fd);
        drop(waiting);
        self.arrived.notify_waiters();
        Ok(())
    }

    /// Takes a tag's stream; waits `limit` for it.
    pub(crate) async fn take(&self, tag: &str, limit: Duration) -> Option<OwnedFd> {
        let arrival = async {
            loop {
                // Before the look, so that nothing arrives unnoticed.
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                let _already = arrived.as_mut().enable();
                if let Some(fd) = self.lock().remove(tag) {
                    return fd;
                }
                arrived.await;
            }
        };
        timeout(limit, arrival).await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OwnedFd>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads up to the first newline and no further: what follows is for the kernel.
async fn read_tag(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the stream does not begin with a tag");
    let mut tag = String::new();
    loop {
        match stream.read_u8().await? {
            b'\n' if !tag.is_empty() => return Ok(tag),
            byte if is_plain(byte) && tag.len() < TAG_MAX => tag.push(char::from(byte)),
            _ => return Err(bad()),
        }
    }
}

/// Whether a tag may have this byte.
pub(crate) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;

    async fn keep(streams: &ShareStreams, greeting: &[u8]) -> (io::Result<()>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(greeting).await.unwrap();
        theirs.shutdown().await.unwrap();
        let fd = ours.as_fd().try_clone_to_owned().unwrap();
        (streams.keep(ours, fd.as_fd()).await, theirs)
    }

    #[tokio::test]
    async fn a_stream_waits_for_its_mount_and_a_mount_for_its_stream() {
        let streams = ShareStreams::default();
        let (kept, _host) = keep(&streams, b"workspace\nTversion").await;
        kept.unwrap();
        let fd = streams.take("workspace", GREETING).await.unwrap();
        // Nothing of what follows the tag was taken.
        let mut rest = UnixStream::from_std(std::os::unix::net::UnixStream::from(fd)).unwrap();
        let mut text = String::new();
        rest.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "Tversion");
        let (taken, (kept, _host)) = tokio::join!(streams.take("late", GREETING), keep(&streams, b"late\n"));
        kept.unwrap();
        assert!(taken.is_some());
        assert!(streams.take("late", Duration::from_millis(1)).await.is_none(), "it is taken once");
    }

    #[tokio::test]
    async fn what_is_no_tag_is_kept_by_nobody() {
        let streams = ShareStreams::default();
        for greeting in [&b""[..], b"\n", b"a,b\n", b"../x\n", b"no-end", &[b'x'; 37]] {
            assert!(keep(&streams, greeting).await.0.is_err(), "{greeting:?}");
        }
        for number in 0..MAX {
            keep(&streams, format!("t{number}\n").as_bytes()).await.0.unwrap();
        }
        assert!(keep(&streams, b"one-more\n").await.0.is_err());
        keep(&streams, b"t0\n").await.0.unwrap();
    }
}
