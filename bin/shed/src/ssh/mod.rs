//! Asks a server for a command in a shed, over SSH.
//!
//! `exec`, `console` and `attach` call [`open`]. [`trust`] finds the host key that the server must have, [`explain`]
//! turns what goes wrong into messages. Nothing is asked over HTTP when all goes well, but for the first command on a
//! server of this machine that nobody has added.

mod explain;
mod trust;

use shed_api::ErrorCode;
use shed_client::Timeouts as HttpTimeouts;
use shed_protocol::ExecRequest;
use shed_ssh::{
    Refusal,
    client::{ConnectError, ExecError, ExecReader, ExecWriter, HostKey, Target, Timeouts, connect},
};
use shed_types::{ShedName, TcpPort};

use crate::{
    cli::Context,
    command_error::CommandError,
    config::{Place, ServerEntry},
    servers::{CallError, Origin, Server, Servers, Strayed},
};

/// Both directions of the stream of a command.
pub(crate) type Stream = (ExecReader, ExecWriter);

/// Why a server runs no command.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// It says so.
    Refused(Refusal),
    /// It could not be asked.
    Failed(CommandError),
}

impl From<CommandError> for OpenError {
    fn from(error: CommandError) -> Self {
        Self::Failed(error)
    }
}

impl CallError for OpenError {
    fn is_missing_shed(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code == Some(ErrorCode::ShedNotFound),
            Self::Failed(_) => false,
        }
    }

    fn explain(self, server: &Server, shed: &ShedName) -> CommandError {
        match self {
            Self::Refused(refusal) => refused(refusal, server, shed),
            Self::Failed(error) => error,
        }
    }
}

/// Makes the error of a refusal.
pub(crate) fn refused(refusal: Refusal, server: &Server, shed: &ShedName) -> CommandError {
    CommandError::refused(refusal.code, refusal.message, server, Some(shed))
}

/// Asks for a command in a shed, on the server that has it.
///
/// # Errors
/// When no server has the shed, or the one that has it cannot be reached, is not to be trusted, or refuses.
pub(crate) async fn open(
    context: &Context,
    servers: &Servers,
    shed: &ShedName,
    request: &ExecRequest,
) -> Result<(Server, Stream), CommandError> {
    let ask = async |server: &Server| open_on(servers, server, shed, request).await;
    servers.on_server_of(&context.ui, shed, Strayed::Search, ask).await
}

async fn open_on(
    servers: &Servers,
    server: &Server,
    shed: &ShedName,
    request: &ExecRequest,
) -> Result<Stream, OpenError> {
    let known_hosts = servers.store().known_hosts();
    let entry = &server.entry;
    let pinned = known_hosts.keys(&Place::of(entry)).map_err(CommandError::from)?;
    match (log_in(entry, shed, &pinned).await, server.origin) {
        (Ok(connection), _) => ask(connection, server, request).await,
        (Err(error), Origin::Configured) => Err(explain::connect(error, server, &known_hosts).await.into()),
        // Nobody has told us its key and its port.
        (Err(error), Origin::Assumed) => {
            let Some((entry, pinned)) = trust::meet(servers, server, &error).await? else {
                return Err(explain::connect(error, server, &known_hosts).await.into());
            };
            let met = Server { entry, ..server.clone() };
            match log_in(&met.entry, shed, &pinned).await {
                Ok(connection) => ask(connection, &met, request).await,
                Err(error) => Err(explain::connect(error, &met, &known_hosts).await.into()),
            }
        }
    }
}

async fn log_in(
    entry: &ServerEntry,
    shed: &ShedName,
    pinned: &[HostKey],
) -> Result<shed_ssh::client::Connection, ConnectError> {
    let target =
        Target { host: entry.host.as_str(), port: TcpPort::get(entry.ssh_port), user: shed.as_str(), pinned };
    connect(target, Timeouts::default()).await
}

async fn ask(
    connection: shed_ssh::client::Connection,
    server: &Server,
    request: &ExecRequest,
) -> Result<Stream, OpenError> {
    match connection.exec(request).await {
        Ok(stream) => Ok(stream),
        Err(ExecError::Refused(refusal)) => Err(OpenError::Refused(refusal)),
        Err(error @ (ExecError::NoSession { .. } | ExecError::NoSubsystem | ExecError::Gone { .. })) => {
            Err(explain::exec(&error, server).into())
        }
    }
}

/// Returns the limits of questions over HTTP that only explain a failure.
fn brief() -> HttpTimeouts {
    let defaults = HttpTimeouts::default();
    HttpTimeouts { reply: defaults.connect, ..defaults }
}
