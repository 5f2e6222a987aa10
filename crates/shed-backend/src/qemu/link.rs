//! The guest link of one machine: keeps a mux to the agent up for as long as the machine runs.
//!
//! A virtio-serial port is one pipe, so there is one connection to its socket at a time, shared by all streams.
//! When the pipe breaks, or the [monitor](super::monitor) learns that the guest has gone, it is connected again and
//! the ends agree on a fresh start; the agent's answer is the event that everyone waits for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use camino::Utf8PathBuf;
use shed_link::{MuxHandle, MuxStream, OpenError, host_handshake, mux};
use shed_types::{GuestPort, ShedName};
use tokio::{
    net::UnixStream,
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// First pause before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause before connecting again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Resets that may follow an answer of the agent until it answers again. One reboot is two of them on x86: the
/// firmware notices that it has run before and resets the machine once more. A third means that booting fails.
const RESETS_ALLOWED: u8 = 2;

/// Whether the machine was started just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Its agent cannot have answered yet.
    Fresh,
    /// It was found running; nobody knows how far it has booted.
    Adopted,
}

/// What it means that a guest was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// It boots anew, as its user or its kernel wants.
    Reboot,
    /// It cannot boot: its agent has not answered since the last time.
    BootFails,
}

/// The link to one guest. Dropping it lets go of the socket, so that another server can take it.
#[derive(Debug)]
pub(super) struct GuestLink {
    shared: Arc<Shared>,
    mux: watch::Receiver<Option<MuxHandle>>,
    task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// How many resets are taken for a reboot until the agent has answered again.
    resets_allowed: AtomicU8,
    /// Asks for a fresh connection.
    reconnect: Notify,
}

impl GuestLink {
    /// Begins to connect to the socket at `path`.
    pub(super) fn start(shed: ShedName, path: Utf8PathBuf, age: Age) -> Self {
        let resets_allowed = AtomicU8::new(match age {
            // The first boot needs none.
            Age::Fresh => 0,
            Age::Adopted => RESETS_ALLOWED,
        });
        let shared = Arc::new(Shared { resets_allowed, reconnect: Notify::new() });
        let (sender, mux) = watch::channel(None);
        let keeper = Keeper { shed, path, shared: Arc::clone(&shared), mux: sender };
        Self { shared, mux, task: AbortOnDropHandle::new(tokio::spawn(keeper.run())) }
    }

    /// Opens a stream, waiting for the link to come up for as long as it takes.
    ///
    /// # Errors
    /// When the agent refuses or does not answer; never [`OpenError::Gone`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the stream.
    pub(super) async fn open(&self, port: GuestPort) -> Result<MuxStream, OpenError> {
        let mut mux = self.mux.clone();
        loop {
            let up = mux.wait_for(|mux| mux.as_ref().is_some_and(|mux| !mux.is_closed())).await;
            let Ok(handle) = up.map(|handle| handle.clone()) else {
                // The link was stopped, as it is when the machine ends: the caller learns of that by other means.
                return std::future::pending().await;
            };
            let Some(handle) = handle else { continue };
            match handle.open(port).await {
                Err(OpenError::Gone) => handle.closed().await,
                other => return other,
            }
        }
    }

    /// Tells the link that the agent at the other end is gone, and connects again.
    pub(super) fn reconnect(&self) {
        self.shared.reconnect.notify_one();
    }

    /// Tells the link that the guest was reset, and returns what that means.
    pub(super) fn guest_reset(&self) -> Reset {
        self.reconnect();
        let one_less = |left: u8| left.checked_sub(1);
        match self.shared.resets_allowed.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less) {
            Ok(_) => Reset::Reboot,
            Err(_) => Reset::BootFails,
        }
    }

    /// Lets go of the socket for good.
    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

/// Connects again and again.
struct Keeper {
    shed: ShedName,
    path: Utf8PathBuf,
    shared: Arc<Shared>,
    mux: watch::Sender<Option<MuxHandle>>,
}

impl Keeper {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let told = tokio::select! {
                ended = self.connection() => {
                    tracing::debug!(shed = %self.shed, reason = %ended, "the guest link is down");
                    false
                }
                () = self.shared.reconnect.notified() => {
                    tracing::debug!(shed = %self.shed, "the guest link is dropped: the agent is gone");
                    true
                }
            };
            self.mux.send_replace(None);
            // A connection that lasted is no reason to wait, nor is news of a new boot.
            if told || began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            if !told {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// One connection from beginning to end; returns why it ended.
    async fn connection(&self) -> io::Error {
        let began = Instant::now();
        let pipe = match UnixStream::connect(&self.path).await {
            Ok(pipe) => pipe,
            Err(error) => return error,
        };
        // Without a limit: the agent answers when it is there, and repeating is the handshake's business.
        let pipe = match host_handshake(pipe).await {
            Ok(pipe) => pipe,
            Err(error) => return io::Error::other(error),
        };
        let (handle, driver) = mux::host(pipe);
        self.shared.resets_allowed.store(RESETS_ALLOWED, Ordering::Release);
        tracing::debug!(shed = %self.shed, waited = ?began.elapsed(), "the guest link is up");
        self.mux.send_replace(Some(handle));
        io::Error::other(driver.await)
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use shed_link::{Acceptor, guest_handshake};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    struct Setup {
        link: GuestLink,
        listener: UnixListener,
        _dir: tempfile::TempDir,
    }

    fn setup(age: Age) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("api.link");
        let listener = UnixListener::bind(&path).unwrap();
        Setup { link: GuestLink::start("api".parse().unwrap(), path, age), listener, _dir: dir }
    }

    /// Accepts the host's connection and agrees on a fresh start, as an agent does.
    async fn agent(listener: &UnixListener) -> (Acceptor, AbortOnDropHandle<()>) {
        let (pipe, _) = listener.accept().await.unwrap();
        let pipe = guest_handshake(pipe, 1).await.unwrap();
        let (acceptor, driver) = mux::guest(pipe);
        let driver = async {
            driver.await;
        };
        (acceptor, AbortOnDropHandle::new(tokio::spawn(driver)))
    }

    /// Echoes one message on the next stream.
    async fn echo(acceptor: &mut Acceptor) {
        let incoming = acceptor.accept().await.unwrap();
        assert_eq!(incoming.port(), GuestPort::Health);
        let mut stream = incoming.accept().await.unwrap();
        let mut byte = [0; 4];
        stream.read_exact(&mut byte).await.unwrap();
        stream.write_all(&byte).await.unwrap();
        stream.flush().await.unwrap();
    }

    async fn ask(link: &GuestLink) {
        let mut stream = link.open(GuestPort::Health).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }

    #[tokio::test]
    async fn a_stream_is_waited_for_until_the_agent_is_there() {
        let Setup { link, listener, _dir } = setup(Age::Fresh);
        let guest = async {
            let (mut acceptor, driver) = agent(&listener).await;
            echo(&mut acceptor).await;
            (acceptor, driver)
        };
        let ((), _agent) = timeout(SOON, async { tokio::join!(ask(&link), guest) }).await.unwrap();
        // A reboot, the firmware's own reset, and then one too many.
        assert_eq!([(); 3].map(|()| link.guest_reset()), [Reset::Reboot, Reset::Reboot, Reset::BootFails]);
    }

    #[tokio::test]
    async fn a_broken_pipe_is_connected_again() {
        let Setup { link, listener, _dir } = setup(Age::Adopted);
        for _ in 0..3 {
            let guest = async {
                let (mut acceptor, driver) = agent(&listener).await;
                echo(&mut acceptor).await;
                (acceptor, driver)
            };
            let ((), agent) = timeout(SOON, async { tokio::join!(ask(&link), guest) }).await.unwrap();
            // Without a goodbye: its driver is dropped, and the pipe with it.
            drop(agent);
        }
    }

    #[tokio::test]
    async fn news_that_the_agent_is_gone_replaces_a_connection_that_looks_well() {
        let Setup { link, listener, _dir } = setup(Age::Fresh);
        let (old, _driver) = timeout(SOON, agent(&listener)).await.unwrap();
        link.reconnect();
        let (mut new, _new_driver) = timeout(SOON, agent(&listener)).await.unwrap();
        timeout(SOON, async { tokio::join!(ask(&link), echo(&mut new)) }).await.unwrap();
        drop(old);
    }

    #[tokio::test]
    async fn dropping_the_link_lets_go_of_the_socket() {
        let Setup { link, listener, _dir } = setup(Age::Fresh);
        let (mut pipe, _) = listener.accept().await.unwrap();
        drop(link);
        let mut rest = Vec::new();
        timeout(SOON, pipe.read_to_end(&mut rest)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_refused_port_is_an_answer() {
        let Setup { link, listener, _dir } = setup(Age::Fresh);
        let guest = async {
            let (mut acceptor, driver) = agent(&listener).await;
            acceptor.accept().await.unwrap().refuse("not here").await.unwrap();
            (acceptor, driver)
        };
        let (result, _agent) =
            timeout(SOON, async { tokio::join!(link.open(GuestPort::NineP), guest) }).await.unwrap();
        assert!(matches!(result, Err(OpenError::Refused { reason, .. }) if reason == "not here"));
    }
}
