//! Why there is no connection, or no exec stream.

use std::{io, time::Duration};

use shed_protocol::FrameError;

use super::{handler::Failure, host_key::HostKey};
use crate::{EXEC_SUBSYSTEM, Refusal};

/// Why a login did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address, nothing listens there, or no way leads there.
    #[error("could not connect to {place}")]
    Unreachable {
        /// Host and port.
        place: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Nobody answered the request for a TCP connection.
    #[error("{place} did not answer within {waited:?}")]
    NoConnection {
        /// Host and port.
        place: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Something took the connection, and did not log us in in time.
    #[error("{place} took the connection, and then did not answer as an SSH server within {waited:?}")]
    Silent {
        /// Host and port.
        place: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection was closed before we were logged in.
    #[error("{place} closed the connection{}", farewell(.reason.as_ref()))]
    HungUp {
        /// Host and port.
        place: String,
        /// What the server says about it, if anything. Not to be trusted, as no proof of the server may have been given.
        reason: Option<String>,
    },
    /// It is no SSH server, or breaks the protocol.
    #[error("{place} does not speak SSH as Shed does")]
    Protocol {
        /// Host and port.
        place: String,
        /// What does not fit.
        #[source]
        source: russh::Error,
    },
    /// No key is pinned for the server.
    #[error("no SSH host key is known for {place}")]
    HostKeyUnknown {
        /// Host and port.
        place: String,
        /// The key the server has shown.
        seen: HostKey,
    },
    /// The server has another key than the pinned ones.
    #[error("the SSH host key of {place} has changed")]
    HostKeyChanged {
        /// Host and port.
        place: String,
        /// The key the server has shown.
        seen: HostKey,
        /// One that it should have.
        pinned: HostKey,
    },
    /// The server wants credentials.
    #[error("{place} does not let `{user}` in without a password or key")]
    Refused {
        /// Host and port.
        place: String,
        /// The name to log in with.
        user: String,
    },
}

/// Why there is no command on a connection that stands.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The server says why, in the words of its API.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The server opens no channel.
    #[error("the SSH server opens no session: {reason}")]
    NoSession {
        /// The reason by its name in RFC 4254 5.1.
        reason: String,
    },
    /// It is an SSH server, but none of Shed, or one of another version.
    #[error("the SSH server does not know the subsystem {EXEC_SUBSYSTEM}")]
    NoSubsystem,
    /// The connection ended.
    #[error("the connection ended before the command was accepted")]
    Gone {
        /// How it ended, when that was no proper end.
        #[source]
        source: Option<FrameError>,
    },
}

impl ConnectError {
    pub(super) fn of(failure: Failure, place: String, farewell: Option<String>) -> Self {
        match failure {
            Failure::Unknown { seen } => Self::HostKeyUnknown { place, seen },
            Failure::Changed { seen, pinned } => Self::HostKeyChanged { place, seen, pinned },
            Failure::Ssh(error) => match error {
                russh::Error::Disconnect | russh::Error::HUP | russh::Error::SendError => {
                    Self::hung_up(place, farewell)
                }
                russh::Error::IO(source) => match source.kind() {
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe => Self::hung_up(place, farewell),
                    _ => Self::Unreachable { place, source },
                },
                source => Self::Protocol { place, source },
            },
        }
    }

    pub(super) fn hung_up(place: String, reason: Option<String>) -> Self {
        Self::HungUp { place, reason }
    }
}

/// Returns host and port as people write them.
pub(super) fn place(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn farewell(reason: Option<&String>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}
