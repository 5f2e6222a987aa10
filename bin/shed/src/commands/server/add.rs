//! `shed server add`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use shed_api::{ErrorCode, ServerInfo, SshHostKey};
use shed_client::{ClientError, ServerAddress, Timeouts};
use shed_types::{TcpPort, error_chain};

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::block_on,
    config::{ClientConfig, Host, HostKey, Place, ServerEntry, ServerName, default_ssh_port},
    servers::{Origin, Server},
    ui::{Done, Format, Ui, clean},
};

const AFTER_HELP: &str = "\
The server is asked for its name, ports and SSH host key, so it must answer. The first server
becomes the default. A key that differs from the one in ~/.shed/known_hosts is refused.

Examples:
  shed server add mini.lan
  shed server add 10.0.0.2:9000 --name build
  shed server add '[fd00::2]' --port 9000";

/// Add a server
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct AddArgs {
    /// Where the server is: HOST, HOST:PORT, an IP address, or http://HOST:PORT
    #[arg(value_name = "HOST")]
    address: ServerAddress,

    /// What to call it here [default: its own name]
    #[arg(short, long)]
    name: Option<ServerName>,

    /// Port of its HTTP API [default: 8080]
    #[arg(short, long)]
    port: Option<TcpPort>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &AddArgs) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    let http_port = port(args)?;
    let host = Host::of(&args.address);
    let mut entry =
        ServerEntry { host, http_port, ssh_port: default_ssh_port(), added_at: Some(Timestamp::now()) };
    // What is known already is refused before anybody is asked, and again under the lock.
    let config = store.load()?;
    refuse_known(&config, args.name.as_ref(), &entry)?;

    let asked = Server { name: ServerName::local(), entry: entry.clone(), origin: Origin::Configured };
    let (info, host_key) = block_on(async {
        let client = asked.client(Timeouts::default());
        let info = client.info().await.map_err(|error| {
            CommandError::new(Kind::Unreachable, format!("no shed-server answers at {}", asked.entry.url()))
                .caused_by(error)
                .hinted("is it running there, and does it listen on that address (http_port, listen in server.yaml)?")
        })?;
        Ok((info, client.ssh_host_key().await))
    })?;
    let host_key = host_key_of(&context.ui, host_key);
    // The port that has just been answered on is kept, rather than the one reported: a tunnel may lie between.
    entry.ssh_port = TcpPort::new(info.ssh_port).unwrap_or(entry.ssh_port);
    let name = name(args, &entry, &info)?;
    let is_default = store.update::<_, CommandError>(|config| {
        refuse_known(config, Some(&name), &entry)?;
        if let Some(key) = &host_key {
            store.known_hosts().add(&Place::of(&entry), key)?;
        }
        config.add_server(name.clone(), entry.clone());
        Ok(config.default_server.as_ref() == Some(&name))
    })?;
    match context.ui.format() {
        Format::Json => {
            let details = Details { entry: &entry, host_key: host_key.map(|key| key.to_string()) };
            context.ui.print_done(&Done::new(
                "server add",
                name.as_ref(),
                name.to_string(),
                Some(details),
            ))?;
        }
        Format::Text => {
            let default = if is_default { ", the default" } else { "" };
            let url = entry.url();
            context.ui.print(&format!(
                "Added server {name} at {url} (version {}{default})\n",
                clean(&info.version)
            ))?;
            if host_key.is_some() {
                context.ui.note(&format!("Its SSH host key is kept in {}.", store.known_hosts().path()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is kept of the server.
#[derive(Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    entry: &'a ServerEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_key: Option<String>,
}

/// Returns the host key of the server. One that has none, or cannot say it, is of use all the same.
fn host_key_of(ui: &Ui, answer: Result<SshHostKey, ClientError>) -> Option<HostKey> {
    let why = match answer {
        Ok(key) => match key.host_key.parse::<HostKey>() {
            Ok(key) => return Some(key),
            Err(error) => error_chain(&error),
        },
        // A server of a version without SSH.
        Err(error) if error.code() == Some(ErrorCode::NotFound) => return None,
        Err(error) => error_chain(&error),
    };
    ui.warning(&format!("the server's SSH host key is not kept, so SSH will not trust it: {why}"));
    None
}

/// Returns the port of `--port`, or of the address.
fn port(args: &AddArgs) -> Result<TcpPort, CommandError> {
    let in_address = TcpPort::new(args.address.port());
    match (args.port, in_address) {
        (Some(port), Some(other)) if port != other && other.get() != shed_api::DEFAULT_HTTP_PORT => Err(
            CommandError::new(Kind::Usage, format!("the address says port {other}, and --port says {port}"))
                .hinted("give the port once"),
        ),
        (Some(port), _) | (None, Some(port)) => Ok(port),
        (None, None) => Err(CommandError::new(Kind::Usage, "0 is not a port")),
    }
}

fn refuse_known(
    config: &ClientConfig,
    name: Option<&ServerName>,
    entry: &ServerEntry,
) -> Result<(), CommandError> {
    if let Some(other) = config.server_at(&entry.host, entry.http_port) {
        return Err(CommandError::new(Kind::Failed, format!("{} is already added, as {other}", entry.url()))
            .hinted(format!("to give it another name, remove it first: shed server remove {other}")));
    }
    match name.and_then(|name| config.servers.get_key_value(name)) {
        None => Ok(()),
        Some((name, known)) => Err(CommandError::new(
            Kind::Failed,
            format!("there is a server {name} already, at {}", known.url()),
        )
        .hinted("give this one another name with --name NAME")),
    }
}

/// Returns what to call the server: as the user says, as it calls itself, or after its host.
fn name(args: &AddArgs, entry: &ServerEntry, info: &ServerInfo) -> Result<ServerName, CommandError> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let of_host = entry.host.first_label().unwrap_or_else(|| entry.host.as_str());
    info.name.parse().or_else(|_| of_host.parse()).map_err(|_| {
        CommandError::new(Kind::Usage, "the server's own name cannot be used here")
            .hinted("name it with --name NAME")
    })
}
