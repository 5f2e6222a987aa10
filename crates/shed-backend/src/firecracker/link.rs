//! Streams to a guest's ports, over the socket that a VMM has for its vsock device.
//!
//! Each stream is a connection of its own. Firecracker's connections carry no half-close: it takes the end of the host's
//! direction for that of both, and two seconds after the guest has closed it drops what the host has not taken (its
//! src/vmm/src/devices/virtio/vsock/csm/connection.rs). So a connection has a [mux](shed_link::mux) in it, with that one stream, whose
//! ends end apart.
//!
//! A guest whose agent does not listen yet closes a connection without an answer; the agent says when it listens, and that
//! the guest reboots, by a connection the other way ([`AgentWords`]).
//!
//! Called for each machine of this backend, and by tests with another VMM whose vsock device has such a socket.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use shed_link::{MuxStream, OpenError};
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::reach;
use crate::agent_words::AgentWords;

/// Longest answer to `CONNECT` in bytes: `OK `, a number of 32 bits, and the newline.
const ANSWER_MAX: usize = 16;

/// The way to one guest.
#[derive(Debug)]
pub struct GuestLink {
    vsock: Utf8PathBuf,
    words: AgentWords,
}

impl GuestLink {
    /// Listens for the agent's word from now on. `vsock` leads to the guest's ports; it need not be there yet.
    ///
    /// # Errors
    /// When the socket for the word cannot be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn listen(vsock: &Utf8Path) -> io::Result<Self> {
        Ok(Self { words: AgentWords::listen(&ready_socket(vsock))?, vsock: vsock.to_owned() })
    }

    /// Listens for the agent's words where somebody has made the socket for them.
    pub(super) fn hear(listener: UnixListener, vsock: &Utf8Path) -> Self {
        Self { vsock: vsock.to_owned(), words: AgentWords::hear(listener) }
    }

    /// Returns whether the guest has said that it reboots, since this listens.
    #[must_use]
    pub fn has_said_reboot(&self) -> bool {
        self.words.reboot_is_due()
    }

    /// Opens a stream to a service of the agent; waits for the agent for as long as the caller lets it.
    ///
    /// # Errors
    /// When the agent refuses or does not answer, or what the VMM says makes no sense; never [`OpenError::Gone`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the stream.
    pub async fn open(&self, port: GuestPort) -> Result<MuxStream, OpenError> {
        self.words.open(port, || connect(&self.vsock, port)).await
    }

    /// Opens a connection to a port without a mux in it, for what a guest's kernel reads; waits as [`Self::open`] does.
    ///
    /// # Errors
    /// When what the VMM says makes no sense.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the connection.
    pub async fn connect(&self, port: GuestPort) -> Result<UnixStream, OpenError> {
        let once =
            || async { connect(&self.vsock, port).await.map_err(|source| OpenError::Io { port, source }) };
        self.words.until_there(port, once).await
    }
}

/// Returns where the guest's agent says that it is there: a guest's connection to port N of the host is led to the socket
/// `vsock`_N (Firecracker's documentation, "Using the Firecracker Virtio-vsock Device").
pub(super) fn ready_socket(vsock: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{vsock}_{}", GuestPort::Health.number()))
}

/// Opens a stream to a port of the guest, or returns nothing when nobody listens there (Firecracker's documentation,
/// "Host-Initiated Connections").
pub(super) async fn connect(vsock: &Utf8Path, port: GuestPort) -> io::Result<Option<UnixStream>> {
    let mut stream = reach::connect(vsock).await?;
    stream.write_all(format!("CONNECT {}\n", port.number()).as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the newline is the agent's.
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && answer.is_empty() => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if answer.len() > ANSWER_MAX {
            break;
        }
    }
    let number = answer.strip_prefix(b"OK ").and_then(|number| std::str::from_utf8(number).ok());
    if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
        return Ok(Some(stream));
    }
    let shown = String::from_utf8_lossy(&answer).escape_default().to_string();
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("the VMM answered {shown:?} to CONNECT")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shed_link::{Synced, mux};
    use shed_types::error_chain;
    use tokio::time::timeout;

    use super::{super::sockets::SocketPaths, *};

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    struct Vmm {
        paths: SocketPaths,
        _dir: tempfile::TempDir,
    }

    impl Vmm {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = SocketPaths::new(Utf8Path::from_path(dir.path()).unwrap(), &"api".parse().unwrap());
            Self { paths, _dir: dir }
        }

        /// Answers each connection with the next of these, and then closes it.
        fn answers(&self, answers: Vec<&'static [u8]>) {
            let listener = UnixListener::bind(&self.paths.vsock).unwrap();
            tokio::spawn(async move {
                for answer in answers {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut asked = [0; 13];
                    stream.read_exact(&mut asked).await.unwrap();
                    assert_eq!(&asked, b"CONNECT 1024\n");
                    stream.write_all(answer).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
        }
    }

    #[tokio::test]
    async fn an_open_waits_for_the_agents_word() {
        let vmm = Vmm::new();
        let link = GuestLink::listen(&vmm.paths.vsock).unwrap();
        let opening = tokio::spawn(async move { link.connect(GuestPort::Exec).await });
        // No socket, then nobody behind it, then somebody.
        UnixStream::connect(&vmm.paths.ready).await.unwrap();
        vmm.answers(vec![b"", b"OK 1073741824\nhello"]);
        UnixStream::connect(&vmm.paths.ready).await.unwrap();
        let mut stream = timeout(LONG, opening).await.unwrap().unwrap().unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello", "nothing behind the answer is lost");
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_an_error() {
        for answer in [&b"NO\n"[..], b"OK\n", b"OK x\n", b"OK -1\n", b"OK 1\0\n", &[b'O'; 4096]] {
            let vmm = Vmm::new();
            vmm.answers(vec![answer]);
            let link = GuestLink::listen(&vmm.paths.vsock).unwrap();
            let error = timeout(LONG, link.open(GuestPort::Exec)).await.unwrap().unwrap_err();
            assert!(error_chain(&error).contains("CONNECT"), "{answer:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_stream_has_two_ends_that_end_apart() {
        let vmm = Vmm::new();
        let listener = UnixListener::bind(&vmm.paths.vsock).unwrap();
        let agent = tokio::spawn(async move {
            // One that ends before it answers, and one that does.
            let mut gone = listener.accept().await.unwrap().0;
            gone.read_exact(&mut [0; 13]).await.unwrap();
            gone.write_all(b"OK 1\n").await.unwrap();
            drop(gone);
            let mut connection = listener.accept().await.unwrap().0;
            connection.read_exact(&mut [0; 13]).await.unwrap();
            connection.write_all(b"OK 1\n").await.unwrap();
            let (mut acceptor, driver) = mux::guest(Synced::fresh(connection));
            let driver = tokio::spawn(driver);
            let mut stream = acceptor.accept().await.unwrap().accept().await.unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.unwrap();
            stream.write_all(format!("heard {heard}").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
            driver.await.unwrap()
        });
        let link = GuestLink::listen(&vmm.paths.vsock).unwrap();
        let mut stream = timeout(LONG, link.open(GuestPort::Exec)).await.unwrap().unwrap();
        stream.write_all(b"all").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, "heard all");
        drop(stream);
        // The connection goes with the stream.
        let _reason = timeout(LONG, agent).await.unwrap().unwrap();
    }
}
