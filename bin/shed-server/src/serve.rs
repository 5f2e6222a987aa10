//! The life of the server: bind, take the sheds over, answer until a signal comes, drain, leave the machines running.
//!
//! `main` calls [`run`]; tests call [`Server`] with sheds of their own. This file owns sockets, connections and the
//! order of the end. It knows no paths and no backend.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::Router;
use camino::{Utf8Path, Utf8PathBuf};
use shed_api::ServerInfo;
use shed_backend::CheckHostError;
use shed_lifecycle::{OpenShedsError, Sheds};
use shed_types::TcpPort;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backends::{self, ChooseBackendError, Decision},
    capacity::Capacity,
    config::Config,
    connection,
    guest_peer::{self, Origin},
    host_key::{HostKey, HostKeyError},
    http::{self, App},
    metrics::Metrics,
    notify,
    ssh::{self, Ssh, term::Terms},
};

/// Time between two refused guests that are logged: the log belongs to the owner.
const REFUSAL_LOG: Duration = Duration::from_secs(1);

/// How many connections of guests are answered at once, besides those of clients; more are closed without a word, so
/// that no guest can keep the owner out.
const MAX_GUEST_CONNECTIONS: usize = 16;

/// Silence after which a client is asked for a sign of life. Its system answers, not the program.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Time between two such questions that are not answered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How many of them stay without an answer before the client is taken for gone.
const KEEPALIVE_COUNT: u32 = 4;

/// How long requests in progress may go on after the signal to end (spec K.2).
const DRAIN: Duration = Duration::from_secs(30);

/// How long clients then have to read that they were given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long upgraded streams may go on. A shell never ends by itself, so it gets less; a short command comes through.
const DRAIN_STREAMS: Duration = Duration::from_secs(5);

/// Pause after an SSH connection while all places of those that have not logged in are taken. However many come at once,
/// each of them has the time that all places take to say who it is before it gives way.
const CROWD_PAUSE: Duration = Duration::from_millis(1);

/// Pause after a failed accept: the system has run out of descriptors or memory, and needs time to get some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    #[error(
        "cannot listen on {address}; is another shed-server running? (`listen` and `{key}` in server.yaml)"
    )]
    Bind {
        address: SocketAddr,
        /// The port's key in server.yaml.
        key: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error(transparent)]
    Backend(#[from] ChooseBackendError),
    #[error("this host cannot run sheds; `shed-server doctor` says more")]
    Host(#[source] CheckHostError),
    #[error("the sheds cannot be served")]
    Open(#[from] OpenShedsError),
    #[error("could not tell the port to {path}")]
    ReadyFile {
        path: Utf8PathBuf,
        #[source]
        source: shed_state::WriteFileError,
    },
}

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was drained.
    Orderly,
    /// A second signal asked for an end at once.
    AtOnce,
}

/// Runs the server until a signal ends it.
///
/// `ready_file` gets `{"http_port":N,"ssh_port":N,"pid":N}`, written whole, as soon as requests are answered.
///
/// # Errors
/// When it cannot start; nothing is left running then that was not running before.
pub async fn run(config: &Config, ready_file: Option<&Utf8Path>) -> Result<Ended, ServeError> {
    let mut signals = Signals::new()?;
    // The ports are taken first: a second server with the same config ends before it touches a shed.
    let (http, address) = bind(config.listen, config.http_port, "http_port").await?;
    let (ssh, ssh_address) = bind(config.listen, config.ssh_port, "ssh_port").await?;

    for key in &config.idle_keys {
        tracing::warn!(%key, "this version of shed-server does not act on this key of server.yaml");
    }
    let host_key = HostKey::load_or_make(&config.ssh_host_key)?;
    let Decision { kind, reason } = backends::decide(config)?;
    tracing::info!(backend = %kind, %reason, "backend");
    let ports: Vec<TcpPort> =
        [address, ssh_address].iter().filter_map(|at| TcpPort::new(at.port())).collect();
    let backend = backends::make(config, kind, &ports)?;
    let host = backend.check_host().await.map_err(ServeError::Host)?;
    let settings = backends::settings(config, kind, host.accelerator);
    for (what, path) in [("kernel", &settings.kernel), ("initramfs", &settings.initrd)] {
        if !path.is_file() {
            tracing::warn!(%path, "the {what} of guests is not there; creates fail until it is");
        }
    }
    let images_dir = settings.images_dir.to_string();
    let sheds = tokio::select! {
        sheds = Sheds::open(settings, backend) => sheds?,
        () = signals.next() => return Ok(Ended::Orderly),
    };
    let info = ServerInfo {
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ssh_port: ssh_address.port(),
        http_port: address.port(),
        backend: kind.to_string(),
        images_dir: Some(images_dir),
    };
    tracing::info!(%address, %ssh_address, backend = %kind, sheds = sheds.list().len(), "listening");
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            %ssh_address,
            "the API and SSH are reachable from other machines and have no authentication: whoever reaches these ports \
             can run commands in every shed. Let only a private network or a firewall reach them, or set `listen: \
             127.0.0.1`"
        );
    }
    if let Some(path) = ready_file {
        let (http_port, ssh_port) = (address.port(), ssh_address.port());
        let text =
            serde_json::json!({ "http_port": http_port, "ssh_port": ssh_port, "pid": std::process::id() });
        let text = text.to_string();
        shed_state::atomic::write(path, text.as_bytes(), 0o644)
            .map_err(|source| ServeError::ReadyFile { path: path.to_owned(), source })?;
    }
    notify::ready();
    let server = Server::new(sheds, info, &host_key, config.terms.clone());
    server.answer(&http, &ssh, signals.next()).await;
    tracing::info!(
        "ending: requests in progress are awaited, machines keep running; a second signal ends at once"
    );
    drop((http, ssh));
    let ended = tokio::select! {
        () = server.end() => Ended::Orderly,
        () = signals.next() => Ended::AtOnce,
    };
    tracing::info!(?ended, "ended");
    Ok(ended)
}

/// Takes a port; 0 is whichever the system gives.
async fn bind(host: IpAddr, port: u16, key: &'static str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let wanted = SocketAddr::new(host, port);
    let failed = |source| ServeError::Bind { address: wanted, key, source };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The signals that end the server.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let stream = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self { terminate: stream(SignalKind::terminate())?, interrupt: stream(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Sheds, and the connections that ask for them.
#[derive(Debug)]
pub struct Server {
    app: App,
    ssh: Ssh,
    connections: TaskTracker,
    ssh_connections: TaskTracker,
    /// One for each HTTP connection that is served at once; more wait in the system's queue. Upgraded ones do not count.
    permits: Arc<Semaphore>,
    guest_permits: Arc<Semaphore>,
    refusals: Arc<Refusals>,
    /// Cancelled when connections shall end after the request they are at.
    closing: CancellationToken,
    /// Cancelled when they shall end whatever they are at.
    cut_off: CancellationToken,
}

impl Server {
    /// Makes a server of these sheds, which SSH clients know by this key, and which tells guests these names of terminals.
    #[must_use]
    pub fn new(sheds: Sheds, info: ServerInfo, host_key: &HostKey, terms: Terms) -> Self {
        let capacity = Capacity::of_process();
        let metrics = Metrics::new(&info.version);
        let counts = metrics.clone();
        sheds.when_pulled(move |end| counts.pull(end));
        let counts = metrics.clone();
        sheds.when_plugin_messages(move |outcome, times| counts.plugin_messages(outcome, times));
        let app = App {
            metrics,
            sheds,
            info: Arc::new(info),
            host_key: Arc::new(host_key.public()),
            tasks: TaskTracker::new(),
            streams: Arc::new(Semaphore::new(capacity.streams)),
            hang_up: CancellationToken::new(),
            closing: CancellationToken::new(),
            give_up: CancellationToken::new(),
        };
        let shared = ssh::Shared {
            sheds: app.sheds.clone(),
            metrics: app.metrics.clone(),
            tasks: app.tasks.clone(),
            streams: Arc::clone(&app.streams),
            hang_up: app.hang_up.clone(),
            terms,
            places: Arc::new(Semaphore::new(capacity.ssh)),
        };
        Self {
            ssh: Ssh::new(shared, host_key, capacity),
            closing: app.closing.clone(),
            app,
            connections: TaskTracker::new(),
            ssh_connections: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(capacity.connections)),
            guest_permits: Arc::new(Semaphore::new(MAX_GUEST_CONNECTIONS)),
            refusals: Arc::default(),
            cut_off: CancellationToken::new(),
        }
    }

    /// Accepts and serves connections until `stop`. Those that are open then are served on.
    pub async fn answer(&self, http: &TcpListener, ssh: &TcpListener, stop: impl Future<Output = ()>) {
        let router = http::router(self.app.clone());
        tokio::select! {
            () = stop => {}
            never = self.accept(http, &router) => match never {},
            never = self.accept_ssh(ssh) => match never {},
        }
    }

    async fn accept_ssh(&self, listener: &TcpListener) -> std::convert::Infallible {
        loop {
            // Without a limit here: who has not logged in gives way to newcomers, and only so many log in.
            match listener.accept().await {
                Ok((stream, peer)) => {
                    self.serve_ssh(stream, peer);
                    if self.ssh.is_crowded() {
                        sleep(CROWD_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an SSH connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve_ssh(&self, stream: TcpStream, peer: SocketAddr) {
        prepare(&stream);
        let (ssh, closing) = (self.ssh.clone(), self.closing.clone());
        let newcomer = ssh.welcome();
        let machines = self.app.sheds.machine_pids();
        let refusals = Arc::clone(&self.refusals);
        drop(self.ssh_connections.spawn(async move {
            match origin(&stream, peer, &machines).await {
                Origin::Client => ssh.serve(newcomer, stream, peer, &closing).await,
                Origin::Guest => {
                    if refusals.may_log() {
                        tracing::warn!(%peer, "refused an SSH connection of a guest");
                    }
                }
            }
        }));
    }

    async fn accept(&self, listener: &TcpListener, router: &Router) -> std::convert::Infallible {
        loop {
            let permit =
                Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, peer)) => self.serve(stream, peer, router.clone(), permit),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, router: Router, permit: OwnedSemaphorePermit) {
        prepare(&stream);
        let (closing, cut_off) = (self.closing.clone(), self.cut_off.clone());
        let machines = self.app.sheds.machine_pids();
        let guest_permits = Arc::clone(&self.guest_permits);
        let refusals = Arc::clone(&self.refusals);
        let metrics = self.app.metrics.clone();
        drop(self.connections.spawn(async move {
            let _open = metrics.connection();
            let (router, _permit) = match origin(&stream, peer, &machines).await {
                Origin::Client => (router, permit),
                Origin::Guest => {
                    drop(permit);
                    let loud = refusals.may_log();
                    if loud {
                        tracing::warn!(%peer, "refused a connection of a guest to the API");
                    }
                    let Ok(permit) = guest_permits.try_acquire_owned() else { return };
                    (http::router_for_guests(metrics.clone(), loud), permit)
                }
            };
            tokio::select! {
                () = connection::serve(stream, peer, router, &metrics, &closing) => {}
                () = cut_off.cancelled() => {}
            }
        }));
    }

    /// Waits for requests and streams in progress, cuts off those that take too long, and lets the sheds go. Their
    /// machines keep running.
    pub async fn end(&self) {
        self.closing.cancel();
        let _first = self.connections.close();
        let _first = self.ssh_connections.close();
        let _first = self.app.tasks.close();
        let requests = async {
            if timeout(DRAIN, self.connections.wait()).await.is_err() {
                tracing::warn!(open = self.connections.len(), "requests still in progress are given up");
                self.app.give_up.cancel();
                if timeout(LAST_WORDS, self.connections.wait()).await.is_err() {
                    self.cut_off.cancel();
                    self.connections.wait().await;
                }
            }
        };
        let streams = async {
            if timeout(DRAIN_STREAMS, self.app.tasks.wait()).await.is_err() {
                tracing::info!(open = self.app.tasks.len(), "streams into guests are cut off");
                self.app.hang_up.cancel();
                self.app.tasks.wait().await;
            }
        };
        tokio::join!(requests, streams);
        // One that was still dialling when the others had ended.
        self.app.hang_up.cancel();
        self.app.tasks.wait().await;
        self.ssh_connections.wait().await;
        self.app.sheds.close().await;
    }
}

/// Sets what is the same for the sockets of all clients.
fn prepare(stream: &TcpStream) {
    // Frames and events are small, and each is waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    if let Err(error) = keep_alive(stream) {
        tracing::debug!(%error, "a vanished client will be noticed late");
    }
}

/// Has the system ask now and then whether the client is still there. One whose machine has vanished says nothing
/// more, and one that has closed its end and reads no more looks like one that still reads: without this their streams
/// would stay for as long as the guest is silent.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    set_socket_keepalive(stream, true)?;
    Ok(())
}

/// When a guest's refusal was last logged.
#[derive(Debug, Default)]
struct Refusals(Mutex<Option<Instant>>);

impl Refusals {
    /// Tells whether this one may be logged, and notes that it was.
    fn may_log(&self) -> bool {
        let mut last = self.0.lock().expect("no code panics while it holds this lock");
        let may = last.is_none_or(|last| last.elapsed() >= REFUSAL_LOG);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

async fn origin(stream: &TcpStream, peer: SocketAddr, machines: &[u32]) -> Origin {
    match stream.local_addr() {
        Ok(local) => guest_peer::origin(peer, local, machines).await,
        // The connection is gone already.
        Err(_) => Origin::Client,
    }
}
