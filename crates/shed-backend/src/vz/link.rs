//! Streams to a guest's ports, over the Unix socket that vfkit has for each.
//!
//! Each stream is a connection of its own, and vfkit carries its bytes as they are. It takes a connection before it knows whether
//! the guest listens, and closes it when the guest does not; and it tells the guest of no end of the host's direction alone.
//! So a connection has a [mux](shed_link::mux) in it, with that one stream, whose ends end apart and whose first answer
//! proves that somebody is there.
//!
//! When the guest's agent listens, and when it reboots, it says so by a connection the other way ([`AgentWords`]), which vfkit
//! leads to a socket that this server has.

use std::io;

use shed_link::{MuxStream, OpenError};
use shed_types::GuestPort;
use tokio::{net::UnixStream, sync::watch};

use super::sockets::SocketPaths;
use crate::agent_words::AgentWords;

/// The way to one guest.
#[derive(Debug)]
pub(super) struct GuestLink {
    sockets: SocketPaths,
    words: AgentWords,
}

impl GuestLink {
    /// Listens for the agent's words from now on. The guest's ports need not be there yet.
    ///
    /// # Errors
    /// When the socket for the words cannot be made.
    pub(super) fn listen(sockets: SocketPaths) -> io::Result<Self> {
        Ok(Self { words: AgentWords::listen(&sockets.words())?, sockets })
    }

    /// Returns whether the guest has said that it reboots and has not come back since.
    pub(super) fn reboot_is_due(&self) -> bool {
        self.words.reboot_is_due()
    }

    /// Returns how often an agent has come up; it changes with each time.
    pub(super) fn agent_came(&self) -> watch::Receiver<u64> {
        self.words.came()
    }

    /// Opens a stream to a service of the agent; waits for the agent for as long as the caller lets it.
    ///
    /// # Errors
    /// When the agent refuses or does not answer; never [`OpenError::Gone`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the stream.
    pub(super) async fn open(&self, port: GuestPort) -> Result<MuxStream, OpenError> {
        let socket = self.sockets.port(port);
        self.words.open(port, || async { UnixStream::connect(&socket).await.map(Some) }).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use camino::Utf8Path;
    use shed_link::{Synced, mux};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        time::timeout,
    };

    use super::*;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_stream_waits_for_the_agent_and_has_two_ends_that_end_apart() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = SocketPaths::new(Utf8Path::from_path(dir.path()).unwrap(), &"api".parse().unwrap());
        let link = GuestLink::listen(sockets.clone()).unwrap();
        let opening = tokio::spawn(async move { (link.open(GuestPort::Exec).await, link) });
        // No socket yet, then nobody behind it, then somebody.
        drop(UnixStream::connect(sockets.words()).await.unwrap());
        let listener = UnixListener::bind(sockets.port(GuestPort::Exec)).unwrap();
        drop(UnixStream::connect(sockets.words()).await.unwrap());
        drop(listener.accept().await.unwrap());
        drop(UnixStream::connect(sockets.words()).await.unwrap());
        let (mut acceptor, driver) = mux::guest(Synced::fresh(listener.accept().await.unwrap().0));
        let driver = tokio::spawn(driver);
        let mut theirs = acceptor.accept().await.unwrap().accept().await.unwrap();
        let (opened, _link) = timeout(LONG, opening).await.unwrap().unwrap();
        let mut ours = opened.unwrap();
        ours.write_all(b"all").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut heard = String::new();
        timeout(LONG, theirs.read_to_string(&mut heard)).await.unwrap().unwrap();
        theirs.write_all(format!("heard {heard}").as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(LONG, ours.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, "heard all");
        drop((ours, theirs));
        // The connection goes with the stream.
        let _reason = timeout(LONG, driver).await.unwrap().unwrap();
    }
}
