//! What a client asks on a connection, answered: russh calls it for each message.
//!
//! russh waits for each call, and all channels of the connection wait with it. So nothing here waits for a shed or a
//! guest; that is for the tasks of the channels. The one wait there is slows down a client that sends faster than
//! anybody takes ([`windows`](super::windows)).

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures::FutureExt;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty, Sig,
    keys::Certificate,
    server::{Auth, ChannelOpenHandle, Handler, Msg, Session as Connection, VerifiedPublicKey},
};
use shed_ssh::EXEC_SUBSYSTEM;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Shared,
    channels::{Channels, Entry, FEW, OutOfTurn, Pile, TooMany},
    frames,
    lobby::Seat,
    output::Output,
    program::{BadCommand, Program, SFTP},
    session::{Session, Terminal},
    signals, tunnel,
    windows::LOW,
};
use crate::metrics::{Open, SshStage};

/// How long all that pile up together hold up a connection for each round of their packets. Typing in another channel
/// waits as long at most; between the rounds everything else is handled.
const HOLD: Duration = Duration::from_millis(10);

/// The same for a packet of a connection that holds too much altogether. Everything in it waits then.
const HOLD_WHEN_FULL: Duration = Duration::from_secs(1);

/// Why a connection ends before its client wants it to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Protocol(#[from] russh::Error),
    #[error("the client sent more than its window allows")]
    Overrun,
}

/// What a connection and the task that watches over it have in common.
#[derive(Debug, Clone, Default)]
pub(super) struct Milestones {
    /// Cancelled when the client has logged in.
    pub(super) logged_in: CancellationToken,
    /// Cancelled when the client has been told to leave.
    pub(super) dismissed: CancellationToken,
    /// The tasks of the channels.
    pub(super) tasks: TaskTracker,
}

/// The server's side of one connection.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    user: String,
    stage: Stage,
    channels: Channels,
    milestones: Milestones,
    /// Set when a tunnel of this connection has come into the shed.
    has_arrived: Arc<AtomicBool>,
    gone: CancellationToken,
    _gone_when_dropped: DropGuard,
}

/// Where the connection is.
#[derive(Debug)]
enum Stage {
    Login { seat: Seat, _counted: Open },
    Open { _place: OwnedSemaphorePermit, _counted: Open },
    Dismissed,
}

impl Client {
    /// Makes the handler of a new connection.
    pub(super) fn new(shared: Arc<Shared>, seat: Seat, milestones: Milestones) -> Self {
        let gone = CancellationToken::new();
        let counted = shared.metrics.ssh_connection(SshStage::Login);
        Self {
            shared,
            user: String::new(),
            stage: Stage::Login { seat, _counted: counted },
            channels: Channels::default(),
            milestones,
            has_arrived: Arc::default(),
            _gone_when_dropped: gone.clone().drop_guard(),
            gone,
        }
    }

    fn accept(&mut self, user: &str) -> Auth {
        user.clone_into(&mut self.user);
        Auth::Accept
    }

    /// Starts the task of a channel. It closes the channel when it ends, also by a panic.
    fn spawn<F>(&self, entry: Entry, output: Output, work: impl FnOnce(Arc<Shared>, Output) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (closer, shared) = (output.closer(), Arc::clone(&self.shared));
        let work = work(Arc::clone(&shared), output);
        let mine = self.milestones.tasks.token();
        drop(shared.tasks.spawn(async move {
            let _mine = mine;
            if std::panic::AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // What it says has gone to stderr through the panic hook.
                tracing::error!("a panic ended an SSH channel");
            }
            entry.closes();
            drop(entry);
            closer.close().await;
        }));
    }

    /// Runs a program in a session and answers the request.
    fn run(
        &self,
        id: ChannelId,
        program: Result<Program, BadCommand>,
        connection: &mut Connection,
    ) -> Result<(), russh::Error> {
        let Ok((inlet, entry, output, terminal)) = self.channels.start(id) else {
            return connection.channel_failure(id);
        };
        connection.channel_success(id)?;
        let user = self.user.clone();
        self.spawn(entry, output, |shared, output| async move {
            Session { user, program, terminal, inlet, output }.run(&shared).await;
        });
        Ok(())
    }

    fn begin_session(&self, channel: Channel<Msg>, connection: &Connection) -> Result<(), TooMany> {
        let id = channel.id();
        // The reading half is dropped, so that russh cannot wait for it.
        let (_, half) = channel.split();
        self.channels.open_session(id, self.gone.clone(), Output::new(half, connection.handle()))
    }

    /// Takes in data, and slows the client down when nobody takes it out again.
    async fn take_in(&self, id: ChannelId, data: &[u8]) -> Result<(), ConnectionError> {
        match self.channels.receive(id, data) {
            Ok(None) => Ok(()),
            Ok(Some(Pile { intake, piles, is_full })) => {
                let (hold, low) = if is_full {
                    (HOLD_WHEN_FULL, FEW)
                } else {
                    (HOLD / u32::try_from(piles.max(1)).unwrap_or(u32::MAX), LOW)
                };
                // Both outcomes are right: there is room, or others have waited long enough.
                let _over = timeout(hold, intake.falls_below(low)).await;
                Ok(())
            }
            Err(_overrun) => Err(ConnectionError::Overrun),
        }
    }
}

/// Takes a size of a terminal from the wire. Nobody has one that does not fit.
fn size(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

impl Handler for Client {
    type Error = ConnectionError;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        // The first thing that a client asks with the keys that were exchanged. There is nothing to tell it.
        if let Stage::Login { seat, .. } = &self.stage {
            seat.has_exchanged_keys();
        }
        Ok(None)
    }

    // Whoever reaches the port may do everything, as over HTTP (spec F), and needs no name of his own.
    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        Ok(self.accept(user))
    }

    async fn auth_publickey(&mut self, user: &str, _key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(self.accept(user))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        _certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        Ok(self.accept(user))
    }

    async fn auth_succeeded(&mut self, connection: &mut Connection) -> Result<(), Self::Error> {
        self.milestones.logged_in.cancel();
        self.stage = match self.shared.places.clone().try_acquire_owned() {
            Ok(place) => {
                let counted = self.shared.metrics.ssh_connection(SshStage::Open);
                Stage::Open { _place: place, _counted: counted }
            }
            Err(_) => {
                let words = "this server carries as many SSH connections as its limit of open files allows; close \
                             some, or raise the limit (LimitNOFILE of its systemd unit, or `ulimit -n`)";
                connection.disconnect(Disconnect::TooManyConnections, words, "en")?;
                self.milestones.dismissed.cancel();
                Stage::Dismissed
            }
        };
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        match self.begin_session(channel, connection) {
            Ok(()) => reply.accept().await,
            Err(TooMany) => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        let port = match tunnel::target(host, port) {
            Ok(port) => port,
            Err(refusal) => {
                reply.reject(refusal).await;
                return Ok(());
            }
        };
        let id = channel.id();
        match self.channels.open_busy(id, self.gone.clone()) {
            Err(TooMany) => reply.reject(ChannelOpenFailure::ResourceShortage).await,
            Ok((inlet, entry)) => {
                // The reading half is dropped, so that russh cannot wait for it.
                let (_, half) = channel.split();
                let output = Output::new(half, connection.handle());
                let (user, has_arrived) = (self.user.clone(), Arc::clone(&self.has_arrived));
                self.spawn(entry, output, |shared, output| async move {
                    tunnel::run(&shared, &user, port, reply, &inlet, &output, &has_arrived).await;
                });
            }
        }
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        self.take_in(id, data).await
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        _code: u32,
        data: &[u8],
        _connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        // Clients have no stderr.
        self.channels.discard(id, data.len()).map_err(|_overrun| ConnectionError::Overrun)
    }

    fn adjust_window(&mut self, id: ChannelId, current: u32) -> u32 {
        self.channels.granted(id, current)
    }

    async fn channel_eof(&mut self, id: ChannelId, _connection: &mut Connection) -> Result<(), Self::Error> {
        self.channels.end_of_input(id);
        Ok(())
    }

    async fn channel_close(
        &mut self,
        id: ChannelId,
        _connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        self.channels.closed(id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _pixel_width: u32,
        _pixel_height: u32,
        _modes: &[(Pty, u32)],
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        let terminal = Terminal { term: term.to_owned(), rows: size(rows), cols: size(cols) };
        match self.channels.set_terminal(id, terminal) {
            Ok(()) => connection.channel_success(id)?,
            Err(OutOfTurn) => connection.channel_failure(id)?,
        }
        Ok(())
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        // The guest has an environment of its own (spec F). A refusal would only make clients warn.
        Ok(connection.channel_success(id)?)
    }

    async fn shell_request(&mut self, id: ChannelId, connection: &mut Connection) -> Result<(), Self::Error> {
        Ok(self.run(id, Ok(Program::Shell), connection)?)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        Ok(self.run(id, Program::command(command), connection)?)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        match name {
            SFTP => self.run(id, Ok(Program::Sftp), connection)?,
            EXEC_SUBSYSTEM => match self.channels.start(id) {
                Err(OutOfTurn) => connection.channel_failure(id)?,
                Ok((inlet, entry, output, _terminal)) => {
                    // Answered when it is known whether there is such a shed.
                    let user = self.user.clone();
                    self.spawn(entry, output, |shared, output| async move {
                        frames::run(&shared, &user, &inlet, &output).await;
                    });
                }
            },
            _ => connection.channel_failure(id)?,
        }
        Ok(())
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        Ok(connection.channel_failure(id)?)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        cols: u32,
        rows: u32,
        _pixel_width: u32,
        _pixel_height: u32,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        self.channels.resize(id, size(rows), size(cols));
        // RFC 4254 6.7 wants no reply, but a client that asks for one waits for it.
        Ok(connection.channel_success(id)?)
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        connection: &mut Connection,
    ) -> Result<(), Self::Error> {
        match signals::number(&signal) {
            Some(number) => {
                self.channels.signal(id, number);
                connection.channel_success(id)?;
            }
            None => connection.channel_failure(id)?,
        }
        Ok(())
    }
}
