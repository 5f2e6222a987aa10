//! The SSH server: a shed is a user name (spec F).
//!
//! `serve` gives it a listener and tells it when to end. [`lobby`] and [`wire`] are for connections before they have
//! logged in, [`handler`] answers what clients ask, [`channels`] is what it shares with the tasks of the channels:
//! [`session`], [`frames`] and [`tunnel`], which all begin in [`arrive`]. [`intake`] and [`windows`] bound what a client
//! may have in the air. This and `shed-ssh` are the only rooms that name russh.
//!
//! It decides nothing about sheds, and looks into no bytes that a shed and a client exchange.

mod arrive;
mod channels;
mod controls;
mod frames;
mod handler;
mod intake;
mod lobby;
mod output;
mod program;
mod session;
mod side;
mod signals;
pub mod term;
mod tunnel;
mod windows;
mod wire;

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc, time::Duration};

use russh::{
    Limits, MethodKind, MethodSet, Preferred, SshId,
    keys::{Algorithm, EcdsaCurve, HashAlg},
    server::{Config, run_stream},
};
use shed_lifecycle::Sheds;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{capacity::Capacity, host_key::HostKey, metrics::Metrics};
use handler::{Client, Milestones};
use lobby::{Lobby, Seat};
use term::Terms;
use windows::WINDOW;
use wire::Wire;

/// How long a client may take from connecting to having logged in. Nobody has to type anything.
const LOGIN_GRACE: Duration = Duration::from_secs(30);

/// Connections that have not logged in, at most.
const STRANGERS: usize = 256;

/// How long a client that was told to leave may take to do so.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Silence after which the client's SSH is asked for a sign of life. It keeps alive what stands between, too.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// When this end asks for new keys. Late, since clients ask long before (OpenSSH after 1 GiB), and since russh 0.65 ends a
/// connection on which more than 4 MiB arrive between its request and the answer, which several uploads at once do.
/// Far enough from where the ciphers end: 2^32 packets of 32 bytes and more (RFC 4344 3.1) are four times as much.
const LIMITS: Limits = Limits {
    rekey_write_limit: 32 << 30,
    rekey_read_limit: 32 << 30,
    rekey_time_limit: Duration::from_secs(24 * 60 * 60),
};

/// Messages from channels that wait for the connection.
const OUTGOING: usize = 64;

/// What all connections have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The sheds.
    pub(crate) sheds: Sheds,
    /// What the server counts.
    pub(crate) metrics: Metrics,
    /// The tasks of channels.
    pub(crate) tasks: TaskTracker,
    /// One permit for each stream into a guest.
    pub(crate) streams: Arc<Semaphore>,
    /// Cancelled when streams shall end.
    pub(crate) hang_up: CancellationToken,
    /// What terminals are called in guests.
    pub(crate) terms: Terms,
    /// One permit for each connection that has logged in.
    pub(crate) places: Arc<Semaphore>,
}

/// A connection that has come, and nobody has looked at yet.
#[derive(Debug)]
pub(crate) struct Newcomer {
    seat: Seat,
    /// Ends the connection.
    cut: CancellationToken,
}

/// The SSH server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ssh {
    shared: Arc<Shared>,
    config: Arc<Config>,
    lobby: Arc<Lobby>,
}

impl Ssh {
    /// Makes a server with this key.
    pub(crate) fn new(shared: Shared, host_key: &HostKey, capacity: Capacity) -> Self {
        let config = Config {
            server_id: SshId::Standard(concat!("SSH-2.0-Shed_", env!("CARGO_PKG_VERSION")).into()),
            methods: MethodSet::from([MethodKind::None, MethodKind::PublicKey].as_slice()),
            // There is no secret that the time could tell something about.
            auth_rejection_time: Duration::ZERO,
            keys: vec![host_key.private().clone()],
            preferred: preferred(),
            window_size: WINDOW,
            // Nobody reads russh's own queues.
            channel_buffer_size: 1,
            event_buffer_size: OUTGOING,
            inactivity_timeout: None,
            keepalive_interval: Some(KEEPALIVE),
            // A client that was suspended answers when it goes on; that a machine is gone TCP notices.
            keepalive_max: 0,
            limits: LIMITS,
            ..Config::default()
        };
        let lobby = Lobby::new(STRANGERS.min(capacity.ssh / 2));
        Self { shared: Arc::new(shared), config: Arc::new(config), lobby }
    }

    /// Takes a place for a new connection.
    pub(crate) fn welcome(&self) -> Newcomer {
        let cut = CancellationToken::new();
        Newcomer { seat: self.lobby.enter(cut.clone()), cut }
    }

    /// Tells whether the next connection will cost somebody the place.
    pub(crate) fn is_crowded(&self) -> bool {
        self.lobby.is_full()
    }

    /// Serves a connection until it ends. After `closing` it ends when nothing runs in it any more.
    pub(crate) async fn serve(
        &self,
        Newcomer { seat, cut }: Newcomer,
        stream: TcpStream,
        peer: SocketAddr,
        closing: &CancellationToken,
    ) {
        // Also when this future is dropped: the session has a task of its own.
        let _cut_when_dropped = cut.clone().drop_guard();
        let wire = Wire::new(stream, cut.clone(), seat.received());
        let milestones = Milestones::default();
        let client = Client::new(Arc::clone(&self.shared), seat, milestones.clone());
        let stranger = async {
            tokio::select! {
                () = milestones.logged_in.cancelled() => {}
                () = sleep(LOGIN_GRACE) => {
                    tracing::debug!(%peer, "an SSH client did not log in in time");
                    cut.cancel();
                }
                () = closing.cancelled() => cut.cancel(),
            }
            std::future::pending::<Infallible>().await
        };
        let whole = async {
            let mut session = run_stream(Arc::clone(&self.config), wire, client).await?;
            let handle = session.handle();
            let leaving = async {
                tokio::select! {
                    () = milestones.dismissed.cancelled() => {}
                    () = closing.cancelled() => {
                        milestones.tasks.close();
                        let too_long = async {
                            self.shared.hang_up.cancelled().await;
                            sleep(LAST_WORDS).await;
                        };
                        tokio::select! {
                            () = milestones.tasks.wait() => {}
                            () = too_long => {}
                        }
                        let words = "shed-server is shutting down; sheds keep running, connect again in a moment";
                        let told = handle.disconnect(russh::Disconnect::ByApplication, words.into(), "en".into());
                        // One that does not read cannot be told.
                        let _untold = timeout(LAST_WORDS, told).await;
                    }
                }
            };
            tokio::select! {
                result = &mut session => return result,
                () = leaving => {}
            }
            match timeout(LAST_WORDS, &mut session).await {
                Ok(result) => result,
                Err(_) => {
                    cut.cancel();
                    session.await
                }
            }
        };
        let result: Result<(), _> = tokio::select! {
            result = whole => result,
            never = stranger => match never {},
        };
        if let Err(error) = result {
            tracing::debug!(%peer, error = %shed_types::error_chain(&error), "SSH connection ended");
        }
    }
}

impl fmt::Debug for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssh").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// What this end offers. To the host key's algorithm come those of the users' keys, which russh tells clients from the
/// same list (`server-sig-algs`, RFC 8308 3.1); it offers host keys only of a type that it has.
fn preferred() -> Preferred {
    let mut preferred = shed_ssh::algorithms::preferred();
    preferred.key.to_mut().extend([
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::SkEd25519,
        Algorithm::SkEcdsaSha2NistP256,
    ]);
    preferred
}
