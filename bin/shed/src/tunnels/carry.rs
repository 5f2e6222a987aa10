//! Carries the connections that come to the local ports, until a signal, or until the shed is no more.
//!
//! Each connection is one connect request to the server (spec A.8). A server that does not answer costs the connections
//! that come meanwhile and nothing else. That a shed was stopped or deleted elsewhere is learned when a connection fails
//! or breaks, and ends the tunnels: what is started later under that name may be another shed.

use std::{
    io,
    net::TcpListener,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use shed_api::{ErrorCode, ShedStatus};
use shed_client::{Client, ClientError, TcpTunnel, Timeouts};
use shed_link::relay::{Broken, FarBreak, Moved, Rules, TcpSide, relay};
use shed_process::open_files;
use shed_types::{ShedName, error_chain};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::{
    doors::Door,
    file::{KeepAlive, Settings},
    journal::Journal,
    keep_alive,
    mapping::Mapping,
};
use crate::config::ServerEntry;

/// How long a local program may take to read the last of what a service said that listens no more.
const LINGER: Duration = Duration::from_secs(10);

/// Pause when the system has no descriptors left, which no event ends.
const BREATH: Duration = Duration::from_millis(200);

/// Descriptors that are not given to connections: the local ports, the log, the lock, those of the runtime.
const OWN: u64 = 128;

/// Most connections, however many files the system allows.
const MOST: u64 = 10240;

/// Why the tunnels ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A signal asked for it.
    Signal(u8),
    /// The shed does not run any more.
    Over(Over),
}

/// Why a shed has no tunnels any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// It is not there.
    Deleted,
    /// It is there and does not run.
    Stopped,
}

/// The signals that end the tunnels.
#[derive(Debug)]
pub(crate) struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    terminal: Terminal,
}

/// Whether the end of the terminal is the end of the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// They belong to it.
    Ours,
    /// They have none.
    Left,
}

impl Ends {
    /// Takes the signals over from their default.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn listen(terminal: Terminal) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            terminal,
        })
    }

    /// Waits for the next one and returns its number.
    async fn next(&mut self) -> u8 {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return 2,
                _ = self.terminate.recv() => return 15,
                _ = self.hang_up.recv() => match self.terminal {
                    Terminal::Ours => return 1,
                    Terminal::Left => {}
                },
            }
        }
    }
}

/// The way to a shed.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    shed: ShedName,
    keep_alive: Option<KeepAlive>,
    /// Held while the server is asked how the shed is: one question is enough for all that broke at once.
    looking: Mutex<()>,
}

impl Link {
    /// Makes the way to a shed of a server.
    pub(crate) fn new(server: &ServerEntry, shed: &ShedName, settings: Settings) -> Self {
        let defaults = Timeouts::default();
        let connect = settings.connect_timeout().unwrap_or(defaults.guest);
        let guest = defaults.guest.max(connect);
        let client = Client::new(server.address(), Timeouts { connect, guest, ..defaults });
        Self { client, shed: shed.clone(), keep_alive: settings.keep_alive(), looking: Mutex::default() }
    }

    /// Asks the server how the shed is, unless somebody does already. No answer is no end.
    async fn look(&self) -> Option<Over> {
        let _looking = self.looking.try_lock().ok()?;
        match self.client.get(&self.shed).await {
            Ok(shed) => match shed.status {
                ShedStatus::Running | ShedStatus::Starting => None,
                ShedStatus::Stopping | ShedStatus::Stopped | ShedStatus::Error => Some(Over::Stopped),
            },
            Err(error) if error.code() == Some(ErrorCode::ShedNotFound) => Some(Over::Deleted),
            Err(_) => None,
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
enum Carried {
    /// As both sides wanted.
    Whole,
    /// It failed or broke, and this is why.
    Not(String),
    /// The shed is no more.
    Over(Over),
}

/// Carries connections until a signal or the end of the shed. Those that are open then are broken off.
pub(crate) async fn carry(
    doors: Vec<Door>,
    link: Link,
    ends: &mut Ends,
    journal: &mut Journal<'_>,
) -> io::Result<End> {
    let mut doors = Doors::new(doors)?;
    let permits = Arc::new(Semaphore::new(capacity(doors.doors.len())));
    let link = Arc::new(link);
    let mut connections: JoinSet<Carried> = JoinSet::new();
    let end = loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (doors.next().await, permit.expect("the semaphore is never closed"))
        };
        tokio::select! {
            biased;
            signal = ends.next() => break End::Signal(signal),
            Some(carried) = connections.join_next() => match carried {
                Ok(Carried::Whole) => {}
                Ok(Carried::Not(why)) => journal.say(&why),
                Ok(Carried::Over(over)) => break End::Over(over),
                Err(error) => journal.say(&format!("a connection was lost to an error of this program: {error}")),
            },
            (accepted, permit) = next => match accepted {
                Ok((stream, mapping)) => {
                    connections.spawn(one(stream, mapping, Arc::clone(&link), permit));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    journal.say(&format!("could not take a connection: {error}"));
                    tokio::time::sleep(BREATH).await;
                }
            },
        }
    };
    connections.shutdown().await;
    Ok(end)
}

/// Returns whether a failed accept says something of the one connection only (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        || error.raw_os_error() == Some(rustix::io::Errno::PROTO.raw_os_error())
}

/// Raises the limit of open files as far as the system allows, and returns how many connections fit: two each.
fn capacity(doors: usize) -> usize {
    let _as_it_is = open_files::raise_limit();
    let free = open_files::limit().saturating_sub(OWN).saturating_sub(doors as u64) / 2;
    usize::try_from(free.clamp(1, MOST)).unwrap_or(1)
}

/// The local ports.
struct Doors {
    doors: Vec<(tokio::net::TcpListener, Mapping)>,
    /// Which one is asked first, so that a busy one does not keep the others waiting.
    first: usize,
}

impl Doors {
    fn new(doors: Vec<Door>) -> io::Result<Self> {
        let listen = |listener: TcpListener| tokio::net::TcpListener::from_std(listener);
        let doors = doors
            .into_iter()
            .map(|door| Ok((listen(door.listener)?, door.mapping)))
            .collect::<io::Result<_>>()?;
        Ok(Self { doors, first: 0 })
    }

    /// Waits for the next connection.
    ///
    /// # Cancel safety
    /// None is lost.
    async fn next(&mut self) -> io::Result<(TcpStream, Mapping)> {
        std::future::poll_fn(|cx| {
            for step in 0..self.doors.len() {
                let place = (self.first + step) % self.doors.len();
                let (listener, mapping) = &self.doors[place];
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    self.first = place + 1;
                    return Poll::Ready(accepted.map(|(stream, _)| (stream, *mapping)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Carries one connection.
async fn one(near: TcpStream, mapping: Mapping, link: Arc<Link>, _permit: OwnedSemaphorePermit) -> Carried {
    let mut near_end = BreakOff::unless_it_ends_well(&near);
    let near_side = TcpSide::new(&near);
    // Without it small writes wait for the acknowledgement of those before.
    let _as_it_is = near.set_nodelay(true);
    let tunnel = tokio::select! {
        tunnel = link.client.connect(&link.shed, mapping.remote) => tunnel,
        _gone = near_side.gone() => return Carried::Whole,
    };
    let (early, far) = match tunnel {
        Ok(tunnel) => TcpTunnel::into_parts(tunnel),
        Err(error) => {
            drop(near_end);
            return explain(&error, mapping, &link).await;
        }
    };
    keep_alive::watch(&far, link.keep_alive);
    let mut far_end = BreakOff::unless_it_ends_well(&far);
    let far_side = TcpSide::new(&far);
    let rules = Rules { far_break: FarBreak::IsAnError, linger: LINGER };
    let result: Result<Moved, Broken> = tokio::select! {
        end = relay(near_side, b"", Far { early, side: far_side }, rules) => end,
        error = near_side.gone() => Err(Broken::Near(error)),
        error = far_side.gone() => Err(Broken::Far(error)),
    };
    match result {
        Ok(Moved { .. }) => {
            near_end.is_wanted = false;
            far_end.is_wanted = false;
            Carried::Whole
        }
        // Local programs hang up as they like.
        Err(Broken::Near(_)) => Carried::Whole,
        Err(Broken::Far(error)) => {
            drop((near_end, far_end));
            match link.look().await {
                Some(over) => Carried::Over(over),
                None => Carried::Not(format!("port {mapping}: a connection broke: {error}")),
            }
        }
    }
}

/// Says why there is no tunnel for a connection.
async fn explain(error: &ClientError, mapping: Mapping, link: &Link) -> Carried {
    let over = match error.code() {
        Some(ErrorCode::ShedNotFound) => Some(Over::Deleted),
        // It may only be starting.
        Some(ErrorCode::ShedNotRunning | ErrorCode::ConnectFailed) => link.look().await,
        Some(_) | None => None,
    };
    match over {
        Some(over) => Carried::Over(over),
        None => Carried::Not(format!("port {mapping}: a connection failed: {}", error_chain(error))),
    }
}

/// Resets a connection when it is dropped before its end, so that its peer cannot take what it got for all there is.
struct BreakOff<'a> {
    stream: &'a TcpStream,
    is_wanted: bool,
}

impl<'a> BreakOff<'a> {
    fn unless_it_ends_well(stream: &'a TcpStream) -> Self {
        Self { stream, is_wanted: true }
    }
}

impl Drop for BreakOff<'_> {
    fn drop(&mut self) {
        if self.is_wanted {
            TcpSide::new(self.stream).break_off();
        }
    }
}

/// The connection to the server, beginning with the bytes that came with the reply's headers.
struct Far<'a> {
    early: Bytes,
    side: TcpSide<'a>,
}

impl AsyncRead for Far<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.side).poll_read(cx, buf);
        }
        let length = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..length]);
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Far<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.side).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(cx)
    }
}
