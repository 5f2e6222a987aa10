//! Streams to a guest's ports, over the socket that a VMM has for its vsock device.
//!
//! Each stream is a connection of its own. Firecracker's connections carry no half-close: it takes the end of the host's
//! direction for that of both, and two seconds after the guest has closed it drops what the host has not taken (its
//! src/vmm/src/devices/virtio/vsock/csm/connection.rs). So a connection has a [`mux`] in it, with that one stream, whose
//! ends end apart.
//!
//! A guest whose agent does not listen yet closes a connection without an answer; the agent says when it listens by a
//! connection the other way, so nobody asks again and again. By such a connection it also says that the guest reboots
//! ([`AgentWord`]). Whoever is in the guest may come there as often as they like: few are listened to at once, each for a
//! short time and a few bytes.
//!
//! Called for each machine of this backend, and by tests with another VMM whose vsock device has such a socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_link::{MuxStream, OpenError, Synced, mux};
use shed_protocol::AgentWord;
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::reach;

/// Longest answer to `CONNECT` in bytes: `OK `, a number of 32 bits, and the newline.
const ANSWER_MAX: usize = 16;

/// Longest wait for a word of the agent before the port is tried all the same: the word may have been said while no
/// server listened.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Longest wait for the answer to `CONNECT`, which the guest's kernel gives. It answers nothing while it is busy for long.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a word may take; the agent writes it at once.
const WORD: Duration = Duration::from_secs(5);

/// How many connections are listened to at once. An agent has one, for as long as its few bytes take.
const TALKERS: usize = 4;

/// The way to one guest.
#[derive(Debug)]
pub struct GuestLink {
    vsock: Utf8PathBuf,
    ready: Arc<Notify>,
    /// Whether the guest has said that it reboots.
    reboots: Arc<AtomicBool>,
    _listener: AbortOnDropHandle<()>,
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
        let word = ready_socket(vsock);
        crate::socket_names::remove(&word)?;
        let listener = UnixListener::bind(&word)?;
        fs::set_permissions(&word, fs::Permissions::from_mode(0o600))?;
        Ok(Self::hear(listener, vsock))
    }

    /// Listens for the agent's words where somebody has made the socket for them.
    pub(super) fn hear(listener: UnixListener, vsock: &Utf8Path) -> Self {
        let (ready, reboots) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (heard, said) = (Arc::clone(&ready), Arc::clone(&reboots));
        let listening = tokio::spawn(async move {
            let mut talkers = JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // Whatever its word is, there is somebody. A guest that comes often wakes those who wait, who
                        // then find out whether it is the agent.
                        heard.notify_waiters();
                        while talkers.try_join_next().is_some() {}
                        if talkers.len() < TALKERS {
                            talkers.spawn(take_word(stream, Arc::clone(&said)));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the word of an agent was not heard");
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                }
            }
        });
        Self { vsock: vsock.to_owned(), ready, reboots, _listener: AbortOnDropHandle::new(listening) }
    }

    /// Returns whether the guest has said that it reboots, since this listens.
    #[must_use]
    pub fn has_said_reboot(&self) -> bool {
        self.reboots.load(Ordering::Acquire)
    }

    /// Opens a stream to a service of the agent; waits for the agent for as long as the caller lets it.
    ///
    /// # Errors
    /// When the agent refuses or does not answer, or what the VMM says makes no sense; never [`OpenError::Gone`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the stream.
    pub async fn open(&self, port: GuestPort) -> Result<MuxStream, OpenError> {
        self.until_there(port, || async {
            let connection =
                connect(&self.vsock, port).await.map_err(|source| OpenError::Io { port, source })?;
            let Some(connection) = connection else { return Ok(None) };
            let (mux, driver) = mux::host(Synced::fresh(connection));
            // It ends with the stream.
            tokio::spawn(driver);
            match mux.open(port).await {
                Ok(stream) => Ok(Some(stream)),
                // The agent has ended meanwhile, and is started again.
                Err(OpenError::Gone) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Opens a connection to a port without a mux in it, for what a guest's kernel reads; waits as [`Self::open`] does.
    ///
    /// # Errors
    /// When what the VMM says makes no sense.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the connection.
    pub async fn connect(&self, port: GuestPort) -> Result<UnixStream, OpenError> {
        self.until_there(port, || async {
            connect(&self.vsock, port).await.map_err(|source| OpenError::Io { port, source })
        })
        .await
    }

    /// Tries until the agent is there: again when it says so, and now and then.
    async fn until_there<T, F: Future<Output = Result<Option<T>, OpenError>>>(
        &self,
        port: GuestPort,
        once: impl Fn() -> F,
    ) -> Result<T, OpenError> {
        loop {
            // Before the try, so that no word is missed.
            let ready = self.ready.notified();
            tokio::pin!(ready);
            let _already = ready.as_mut().enable();
            let again = Instant::now() + LOOK_AGAIN;
            match timeout(ANSWER, once()).await {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Err(OpenError::Io { source, .. })) if is_absence(&source) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => tracing::trace!(%port, "the agent is not there yet"),
            }
            let _word_or_not = timeout_at(again, ready).await;
        }
    }
}

/// Takes one word from the guest, and notes what it says before the connection is closed: the agent waits for that.
async fn take_word(mut stream: UnixStream, reboots: Arc<AtomicBool>) {
    match timeout(WORD, read_word(&mut stream)).await {
        Ok(Ok(Some(AgentWord::Reboot))) => reboots.store(true, Ordering::Release),
        Ok(Ok(Some(AgentWord::Ready))) => {}
        Ok(Ok(None)) => tracing::debug!("the guest said something that is no word of an agent"),
        Ok(Err(error)) => tracing::debug!(%error, "a word of an agent was cut off"),
        Err(_) => tracing::debug!("a guest connected and said nothing"),
    }
}

async fn read_word(stream: &mut UnixStream) -> io::Result<Option<AgentWord>> {
    let (mut said, mut length) = ([0; AgentWord::ROOM], 0);
    loop {
        let more = stream.read(&mut said[length..]).await?;
        length += more;
        // A full buffer reads nothing more, either.
        if more == 0 || AgentWord::is_whole(&said[..length]) {
            return Ok(AgentWord::parse(&said[..length]));
        }
    }
}

/// Returns where the guest's agent says that it is there: a guest's connection to port N of the host is led to the socket
/// `vsock`_N (Firecracker's documentation, "Using the Firecracker Virtio-vsock Device").
pub(super) fn ready_socket(vsock: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{vsock}_{}", GuestPort::Health.number()))
}

/// Whether a VMM's socket is not there yet, or no longer.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::NotFound | Kind::ConnectionRefused | Kind::ConnectionReset | Kind::BrokenPipe
    )
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
    use shed_types::error_chain;

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

    /// Says something as a guest does, and returns when the host has closed the connection.
    async fn say(vmm: &Vmm, said: &[u8]) {
        let mut stream = UnixStream::connect(&vmm.paths.ready).await.unwrap();
        // A host that has heard enough closes it in the middle.
        let _cut_off = stream.write_all(said).await;
        let _closed = timeout(LONG, stream.read(&mut [0])).await.expect("the host closes it");
    }

    #[tokio::test]
    async fn only_the_word_for_it_is_a_reboot() {
        let vmm = Vmm::new();
        let link = GuestLink::listen(&vmm.paths.vsock).unwrap();
        drop(UnixStream::connect(&vmm.paths.ready).await.unwrap());
        let long = vec![b'r'; 1 << 20];
        for said in [&b"rebooting\n"[..], b"\n", b"\0reboot\n", b"reboot\nreboot\n", &long] {
            say(&vmm, said).await;
            assert!(!link.has_said_reboot(), "{:?}", said.first());
        }
        say(&vmm, AgentWord::Reboot.bytes()).await;
        assert!(link.has_said_reboot(), "it is noted before the connection is closed");
    }

    #[tokio::test]
    async fn a_word_may_come_in_pieces() {
        let vmm = Vmm::new();
        let link = GuestLink::listen(&vmm.paths.vsock).unwrap();
        let mut stream = UnixStream::connect(&vmm.paths.ready).await.unwrap();
        for byte in AgentWord::Reboot.bytes() {
            assert!(!link.has_said_reboot());
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(timeout(LONG, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
        assert!(link.has_said_reboot());
    }

    #[tokio::test(start_paused = true)]
    async fn guests_that_say_nothing_are_few_and_not_listened_to_for_long() {
        let vmm = Vmm::new();
        let link = GuestLink::listen(&vmm.paths.vsock).unwrap();
        let mut silent = Vec::new();
        for _ in 0..TALKERS {
            silent.push(UnixStream::connect(&vmm.paths.ready).await.unwrap());
        }
        // Nobody is kept waiting by them: one more is let go at once, with the time standing still.
        let begun = Instant::now();
        for _ in 0..100 {
            let mut more = UnixStream::connect(&vmm.paths.ready).await.unwrap();
            while more.read(&mut [0]).await.is_ok_and(|length| length > 0) {}
        }
        assert!(begun.elapsed() < WORD, "{:?}", begun.elapsed());
        for mut stream in silent {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
        assert!(begun.elapsed() >= WORD && begun.elapsed() < WORD * 2, "{:?}", begun.elapsed());
        say(&vmm, AgentWord::Reboot.bytes()).await;
        assert!(link.has_said_reboot());
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
