//! The client's connection: log in as a shed, prove the server's host key, open an exec stream.
//!
//! The command line calls it for `console`, `attach` and `exec`. It trusts no host key that is not handed to it, knows
//! no files, and asks nobody. One connection carries one command.

mod error;
mod exec;
mod handler;
mod host_key;
mod intake;
mod stream;

use std::{borrow::Cow, sync::Arc, time::Duration};

use russh::{
    Disconnect, Limits, SshId,
    client::{AuthResult, Config},
};
use shed_protocol::ExecRequest;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout_at},
};

pub use error::{ConnectError, ExecError};
pub use exec::{ExecReader, ExecWriter};
pub use host_key::{HostKey, ParseHostKeyError};

use crate::algorithms;
use handler::{Failure, Handler, Verdict};
use intake::{Marks, intake};
use stream::Paced;

/// What the client sends as its version (RFC 4253 4.2).
const IDENTIFICATION: &str = concat!("SSH-2.0-shed_", env!("CARGO_PKG_VERSION"));

/// Bytes that the server may send ahead of what has been read; that of OpenSSH (its `channels.h`), enough for 40 MB/s
/// at a round trip of 50 ms.
const WINDOW: u32 = 2 << 20;

/// Longest packet of data, in bytes; that of OpenSSH.
const PACKET: u32 = 32 << 10;

/// How much output may wait for a terminal or pipe that takes none. A frame of 1 MiB that is not whole yet is not part of it.
const MARKS: Marks = Marks { high: 1 << 20, low: 256 << 10 };

/// How long the server may be silent before it is asked for a sign of life; see [`stream::MISSED`].
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The server exchanges keys by the hour; the client only by amount, since it must be able to send while it takes
/// nothing in.
const REKEY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a TCP connection stands.
    pub connect: Duration,
    /// From then until the server has accepted the login.
    pub login: Duration,
}

impl Default for Timeouts {
    /// The first is that of the HTTP client (spec K.3); the second leaves a loaded host time for its key exchange.
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), login: Duration::from_secs(30) }
    }
}

/// Whom to connect to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Host name or IP address, IPv6 without brackets.
    pub host: &'a str,
    /// Port of the SSH server.
    pub port: u16,
    /// The shed.
    pub user: &'a str,
    /// The host keys that are trusted for it; any one will do.
    pub pinned: &'a [HostKey],
}

/// A connection that is logged in. Dropping it hangs up.
pub struct Connection {
    handle: russh::client::Handle<Handler>,
    intake: intake::Receiver,
    accepted: oneshot::Receiver<bool>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Connects and logs in without credentials.
///
/// # Errors
/// When the server cannot be reached, is none, has another host key, takes too long or refuses.
pub async fn connect(target: Target<'_>, timeouts: Timeouts) -> Result<Connection, ConnectError> {
    let place = || error::place(target.host, target.port);
    let started = Instant::now();
    let socket =
        match timeout_at(started + timeouts.connect, TcpStream::connect((target.host, target.port))).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(source)) => return Err(ConnectError::Unreachable { place: place(), source }),
            Err(_) => return Err(ConnectError::NoConnection { place: place(), waited: timeouts.connect }),
        };
    // Keys and frames are small and each is waited for.
    socket.set_nodelay(true).map_err(|source| ConnectError::Unreachable { place: place(), source })?;

    let (sender, intake) = intake(MARKS);
    let verdict = Arc::new(Verdict::default());
    let (answer, accepted) = oneshot::channel();
    let handler = Handler::new(target.pinned.to_vec(), sender.clone(), answer, Arc::clone(&verdict));
    let config = Arc::new(config());
    let login = async {
        let stream = Paced::new(socket, sender, KEEPALIVE);
        let mut handle = russh::client::connect_stream(config, stream, handler).await?;
        let answer = handle.authenticate_none(target.user).await?;
        Ok::<_, Failure>((handle, answer))
    };
    let deadline = Instant::now() + timeouts.login;
    match timeout_at(deadline, login).await {
        Ok(Ok((handle, AuthResult::Success))) => Ok(Connection { handle, intake, accepted }),
        Ok(Ok((handle, AuthResult::Failure { .. }))) if handle.is_closed() => {
            Err(ConnectError::hung_up(place(), verdict.farewell()))
        }
        Ok(Ok((handle, AuthResult::Failure { .. }))) => {
            // The server may be gone already.
            let _gone = handle.disconnect(Disconnect::ByApplication, "no other way to log in", "").await;
            Err(ConnectError::Refused { place: place(), user: target.user.to_owned() })
        }
        Ok(Err(failure)) => Err(ConnectError::of(failure, place(), verdict.farewell())),
        Err(_) => Err(ConnectError::Silent { place: place(), waited: timeouts.login }),
    }
}

impl Connection {
    /// Asks for a command and waits until the server has accepted that. It may still be refused later, by a frame.
    ///
    /// # Errors
    /// When the server refuses, knows nothing of this, or the connection ends.
    pub async fn exec(self, request: &ExecRequest) -> Result<(ExecReader, ExecWriter), ExecError> {
        exec::open(self.handle, self.intake, self.accepted, request).await
    }
}

fn config() -> Config {
    Config {
        client_id: SshId::Standard(Cow::Borrowed(IDENTIFICATION)),
        limits: Limits { rekey_time_limit: REKEY_AFTER, ..Limits::default() },
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        preferred: algorithms::preferred(),
        keepalive_interval: Some(KEEPALIVE),
        // The stream counts, since it knows when nothing is read on purpose.
        keepalive_max: 0,
        ..Config::default()
    }
}
