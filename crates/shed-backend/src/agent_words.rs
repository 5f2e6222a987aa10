//! What a guest's agent says to its host over a vsock device ([`AgentWord`]), and how a caller waits for an agent by that.
//!
//! Called by the guest links of the backends whose machines have such a device (Firecracker, vz); each says where its VMM
//! leads the agent's connections, and how a port of the guest is reached. The agent says when it listens, so nobody asks again
//! and again, and that the guest reboots. Whoever is in the guest may come as often as they like: few are listened to at
//! once, each for a short time and a few bytes.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::Utf8Path;
use shed_link::{MuxStream, OpenError, Synced, mux};
use shed_protocol::AgentWord;
use shed_types::GuestPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

/// Longest wait for a word of the agent before the port is tried all the same: the word may have been said while no
/// server listened.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Longest wait for the guest's kernel to answer one try. It answers nothing while it is busy for long.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a word may take; the agent writes it at once.
const WORD: Duration = Duration::from_secs(5);

/// How many connections are listened to at once. An agent has one, for as long as its few bytes take.
const TALKERS: usize = 4;

/// Tells the agent that its word was heard. Some VMMs let the end of this direction not through to the guest as long as the
/// guest's own is open, so the end alone would not tell it.
const HEARD: &[u8] = b"\n";

/// What one guest's agent has said.
#[derive(Debug)]
pub(crate) struct AgentWords {
    ready: Arc<Notify>,
    /// Whether the guest has said that it reboots, and no agent has come up since.
    reboots: Arc<AtomicBool>,
    /// How often an agent has said that it listens.
    came: watch::Receiver<u64>,
    _listener: AbortOnDropHandle<()>,
}

/// What words change, as those who take them see it.
#[derive(Debug, Clone)]
struct Said {
    reboots: Arc<AtomicBool>,
    came: watch::Sender<u64>,
}

impl AgentWords {
    /// Listens from now on at a socket of this name, for the owner only. What has the name goes.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(socket: &Utf8Path) -> io::Result<Self> {
        crate::socket_names::remove(socket)?;
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        Ok(Self::hear(listener))
    }

    /// Listens where somebody has made the socket.
    pub(crate) fn hear(listener: UnixListener) -> Self {
        let (ready, reboots) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (come, came) = watch::channel(0);
        let (heard, said) = (Arc::clone(&ready), Said { reboots: Arc::clone(&reboots), came: come });
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
                            talkers.spawn(take_word(stream, said.clone()));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the word of an agent was not heard");
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                }
            }
        });
        Self { ready, reboots, came, _listener: AbortOnDropHandle::new(listening) }
    }

    /// Returns whether the guest has said that it reboots, since this listens, and has not come back.
    pub(crate) fn reboot_is_due(&self) -> bool {
        self.reboots.load(Ordering::Acquire)
    }

    /// Returns how often an agent has said that it listens, since this listens; it changes with each time.
    pub(crate) fn came(&self) -> watch::Receiver<u64> {
        self.came.clone()
    }

    /// Opens a stream to a service of the agent, with a mux of its own in the connection; waits for the agent for as long as
    /// the caller lets it. `connect` makes the connection, and returns nothing when nobody is there to connect to.
    ///
    /// # Errors
    /// When the agent refuses or does not answer, or the VMM fails; never [`OpenError::Gone`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the stream.
    pub(crate) async fn open<F: Future<Output = io::Result<Option<UnixStream>>>>(
        &self,
        port: GuestPort,
        connect: impl Fn() -> F,
    ) -> Result<MuxStream, OpenError> {
        self.until_there(port, || async {
            let connection = connect().await.map_err(|source| OpenError::Io { port, source })?;
            let Some(connection) = connection else { return Ok(None) };
            let (mux, driver) = mux::host(Synced::fresh(connection));
            // It ends with the stream.
            tokio::spawn(driver);
            match mux.open(port).await {
                Ok(stream) => Ok(Some(stream)),
                // The agent does not listen yet, or has ended meanwhile and is started again.
                Err(OpenError::Gone) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Tries until the agent is there: again when it says so, and now and then.
    ///
    /// # Errors
    /// When a try ends with an error that does not go by itself.
    pub(crate) async fn until_there<T, F: Future<Output = Result<Option<T>, OpenError>>>(
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
async fn take_word(mut stream: UnixStream, said: Said) {
    match timeout(WORD, read_word(&mut stream)).await {
        Ok(Ok(Some(AgentWord::Reboot))) => said.reboots.store(true, Ordering::Release),
        // It is up again in a machine that has outlived the reboot.
        Ok(Ok(Some(AgentWord::Ready))) => {
            said.reboots.store(false, Ordering::Release);
            said.came.send_modify(|times| *times += 1);
        }
        Ok(Ok(None)) => tracing::debug!("the guest said something that is no word of an agent"),
        Ok(Err(error)) => tracing::debug!(%error, "a word of an agent was cut off"),
        Err(_) => tracing::debug!("a guest connected and said nothing"),
    }
    // One that has gone needs no answer, and a socket has room for so little.
    let _gone = timeout(WORD, stream.write_all(HEARD)).await;
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

/// Whether a VMM's socket is not there yet, or no longer.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::NotFound | Kind::ConnectionRefused | Kind::ConnectionReset | Kind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::*;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    struct Guest {
        words: AgentWords,
        socket: Utf8PathBuf,
        _dir: tempfile::TempDir,
    }

    impl Guest {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let socket = Utf8Path::from_path(dir.path()).unwrap().join("words");
            Self { words: AgentWords::listen(&socket).unwrap(), socket, _dir: dir }
        }

        /// Says something as a guest does, and returns when the host has closed the connection.
        async fn say(&self, said: &[u8]) {
            let mut stream = UnixStream::connect(&self.socket).await.unwrap();
            // A host that has heard enough closes it in the middle.
            let _cut_off = stream.write_all(said).await;
            let _ended = stream.shutdown().await;
            let mut answer = Vec::new();
            let _closed = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the host closes it");
        }
    }

    #[tokio::test]
    async fn only_the_word_for_it_is_a_reboot_and_an_agent_that_is_back_ends_it() {
        let guest = Guest::new();
        let long = vec![b'r'; 1 << 20];
        for said in [&b"rebooting\n"[..], b"\n", b"\0reboot\n", b"reboot\nreboot\n", &long] {
            guest.say(said).await;
            assert!(!guest.words.reboot_is_due(), "{:?}", said.first());
        }
        guest.say(AgentWord::Reboot.bytes()).await;
        assert!(guest.words.reboot_is_due(), "it is noted before the connection is closed");
        guest.say(b"nonsense\n").await;
        assert!(guest.words.reboot_is_due());
        assert_eq!(*guest.words.came().borrow(), 0);
        guest.say(AgentWord::Ready.bytes()).await;
        assert!(!guest.words.reboot_is_due());
        assert_eq!(*guest.words.came().borrow(), 1);
    }

    #[tokio::test]
    async fn a_word_may_come_in_pieces_and_is_answered_while_the_guest_keeps_its_end_open() {
        let guest = Guest::new();
        let mut stream = UnixStream::connect(&guest.socket).await.unwrap();
        for byte in AgentWord::Reboot.bytes() {
            assert!(!guest.words.reboot_is_due());
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, HEARD);
        assert!(guest.words.reboot_is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn guests_that_say_nothing_are_few_and_not_listened_to_for_long() {
        let guest = Guest::new();
        let mut silent = Vec::new();
        for _ in 0..TALKERS {
            silent.push(UnixStream::connect(&guest.socket).await.unwrap());
        }
        // Nobody is kept waiting by them: one more is let go at once, with the time standing still.
        let begun = Instant::now();
        for _ in 0..100 {
            let mut more = UnixStream::connect(&guest.socket).await.unwrap();
            while more.read(&mut [0]).await.is_ok_and(|length| length > 0) {}
        }
        assert!(begun.elapsed() < WORD, "{:?}", begun.elapsed());
        for mut stream in silent {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
        }
        assert!(begun.elapsed() >= WORD && begun.elapsed() < WORD * 2, "{:?}", begun.elapsed());
        guest.say(AgentWord::Reboot.bytes()).await;
        assert!(guest.words.reboot_is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_asked_again_when_it_speaks_and_else_once_a_second() {
        let guest = Guest::new();
        let tries = AtomicBool::new(false);
        let begun = Instant::now();
        let found = guest.words.until_there(GuestPort::Exec, || async {
            if tries.swap(true, Ordering::Relaxed) {
                return Ok(Some("there"));
            }
            Err(OpenError::Io { port: GuestPort::Exec, source: io::ErrorKind::NotFound.into() })
        });
        assert_eq!(found.await.unwrap(), "there");
        assert!(begun.elapsed() >= LOOK_AGAIN && begun.elapsed() < LOOK_AGAIN * 2, "{:?}", begun.elapsed());
        let broken = guest.words.until_there(GuestPort::Exec, || async {
            let source = io::ErrorKind::PermissionDenied.into();
            Err::<Option<()>, _>(OpenError::Io { port: GuestPort::Exec, source })
        });
        assert!(broken.await.is_err(), "what does not go by itself is not waited for");
    }
}
