//! What is said when a server's SSH server does not let us in: what it means, and what to do.

use shed_ssh::client::{ConnectError, ExecError};
use shed_types::error_chain;

use super::brief;
use crate::{
    command_error::{CommandError, Kind},
    config::{KnownHosts, Place},
    servers::{Origin, Server},
};

/// Explains why there is no login.
pub(super) async fn connect(error: ConnectError, server: &Server, known_hosts: &KnownHosts) -> CommandError {
    match error {
        ConnectError::Unreachable { .. } | ConnectError::NoConnection { .. } => {
            unreachable(&error, server).await
        }
        ConnectError::HostKeyUnknown { seen, .. } => {
            let path = known_hosts.path();
            CommandError::new(Kind::Failed, format!("no SSH host key is known for {server}"))
                .caused_by(format!(
                    "{path} has no key for {}, which shows {}",
                    Place::of(&server.entry),
                    seen.fingerprint()
                ))
                .hinted(format!("add the server again, which asks it for its key: {}", add_again(server)))
        }
        ConnectError::HostKeyChanged { seen, pinned, .. } => changed(
            &format!("it should be {}, and is {}", pinned.fingerprint(), seen.fingerprint()),
            server,
            known_hosts,
        ),
        ConnectError::Silent { .. } | ConnectError::HungUp { .. } => {
            CommandError::new(Kind::Unreachable, format!("could not log in to {server}"))
                .caused_by(error)
                .hinted("see the server's log, and whether another program has its SSH port")
        }
        ConnectError::Protocol { .. } => {
            CommandError::new(Kind::Failed, format!("could not log in to {server}"))
                .caused_by(error)
                .hinted("see whether that is the SSH port of the server: ssh_port in its server.yaml")
                .hinted("compare the versions of client and server: shed version -v")
        }
        ConnectError::Refused { .. } => {
            CommandError::new(Kind::Failed, format!("could not log in to {server}")).caused_by(error).hinted(
                "shed-server asks for neither; another SSH server may have its port: ssh_port in server.yaml",
            )
        }
    }
}

/// Explains why the server does not take the command.
pub(super) fn exec(error: &ExecError, server: &Server) -> CommandError {
    let made =
        |kind| CommandError::new(kind, format!("{server} runs no commands")).caused_by(error_chain(error));
    match error {
        ExecError::NoSubsystem => made(Kind::Failed)
            .hinted("it may be older than this client, or another SSH server: shed version -v"),
        ExecError::NoSession { .. } | ExecError::Gone { .. } | ExecError::Refused(_) => {
            made(Kind::Unreachable).hinted("the server's log has the whole story")
        }
    }
}

/// Finds out whether it is the server that cannot be reached, or only its SSH port.
async fn unreachable(error: &ConnectError, server: &Server) -> CommandError {
    let place = format!("{}:{}", server.entry.host, server.entry.ssh_port);
    match server.client(brief()).info().await {
        Err(http) => CommandError::from_client(http, server, None),
        Ok(info) if info.ssh_port != server.entry.ssh_port.get() && server.origin == Origin::Configured => {
            CommandError::new(
                Kind::Unreachable,
                format!("{server} answers, but not on its SSH port, {place}"),
            )
            .caused_by(error_chain(error))
            .hinted(format!(
                "its SSH port is {} now; add it again: {}",
                info.ssh_port,
                add_again(server)
            ))
        }
        Ok(_) => CommandError::new(
            Kind::Unreachable,
            format!("{server} answers, but not on its SSH port, {place}"),
        )
        .caused_by(error_chain(error))
        .hinted("see whether a firewall lets that port through, and what ssh_port says in its server.yaml"),
    }
}

fn changed(how: &str, server: &Server, known_hosts: &KnownHosts) -> CommandError {
    let place = Place::of(&server.entry);
    let path = known_hosts.path();
    let made = CommandError::new(Kind::Failed, format!("the SSH host key of {server} has changed"))
        .caused_by(how.to_owned())
        .hinted(
            "somebody may be between you and that server, or the server was set up anew or lost its host key",
        );
    match server.origin {
        Origin::Configured => made.hinted(format!(
            "if you know that it was, forget the old key and add the server again: {}",
            add_again(server)
        )),
        Origin::Assumed => made.hinted(format!(
            "if you know that it was, forget the old key{}, and try again: ssh-keygen -f {path} -R '{place}'",
            known_hosts.line_of(&place).map(|line| format!(", line {line} of {path}")).unwrap_or_default()
        )),
    }
}

/// Returns the commands that ask a server for its key once more.
fn add_again(server: &Server) -> String {
    let (name, entry) = (&server.name, &server.entry);
    let address = if entry.http_port.get() == shed_api::DEFAULT_HTTP_PORT {
        entry.host.to_string()
    } else {
        format!("{}:{}", entry.host, entry.http_port)
    };
    let address = if address.contains('[') { format!("'{address}'") } else { address };
    format!("shed server remove {name} && shed server add {address} --name {name}")
}
