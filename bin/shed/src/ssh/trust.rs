//! The host key of a server that nobody has added: the one assumed on this machine. It is taken on first use.
//!
//! `server add` keeps the key of every other server. Between this process and the loopback address of its own machine
//! there is nobody to change what is said, except other users of the machine while the server does not run.

use shed_client::Timeouts;
use shed_ssh::client::{ConnectError, HostKey};
use shed_types::TcpPort;

use crate::{
    command_error::{CommandError, Kind},
    config::{HostKey as Line, Place, ServerEntry},
    servers::{Server, Servers},
};

/// Asks the server on this machine for its port and key, and keeps the key. None when there is nothing to be learned:
/// the key of the server is known and it has another one, or the server has not moved.
///
/// # Errors
/// When it does not answer, or its key cannot be kept.
pub(super) async fn meet(
    servers: &Servers,
    server: &Server,
    error: &ConnectError,
) -> Result<Option<(ServerEntry, Vec<HostKey>)>, CommandError> {
    let client = server.client(Timeouts::default());
    let info = client.info().await.map_err(|error| CommandError::from_client(error, server, None))?;
    let ssh_port = TcpPort::new(info.ssh_port).unwrap_or(server.entry.ssh_port);
    let entry = ServerEntry { ssh_port, ..server.entry.clone() };
    let place = Place::of(&entry);
    let known_hosts = servers.store().known_hosts();
    let moved = ssh_port != server.entry.ssh_port;
    let unknown = matches!(error, ConnectError::HostKeyUnknown { .. });
    if !moved && !unknown {
        return Ok(None);
    }
    let known = known_hosts.keys(&place)?;
    if !known.is_empty() {
        return Ok(Some((entry, known)));
    }
    let answer =
        client.ssh_host_key().await.map_err(|error| CommandError::from_client(error, server, None))?;
    let unfit = |error: &dyn std::error::Error| {
        CommandError::from_error(Kind::Failed, error)
            .caused_by(format!("{server} gave another answer when it was asked for its SSH host key"))
    };
    let line: Line = answer.host_key.parse().map_err(|error| unfit(&error))?;
    let key: HostKey = line.to_string().parse().map_err(|error| unfit(&error))?;
    servers.store().update::<_, CommandError>(|_| Ok(known_hosts.add(&place, &line)?))?;
    Ok(Some((entry, vec![key])))
}
