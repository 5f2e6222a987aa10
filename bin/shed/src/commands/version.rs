//! `shed version`, and the question that `shed server list` asks, too.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use futures::future::join_all;
use serde::Serialize;
use shed_api::ServerInfo;
use shed_client::Timeouts;

use super::block_on;
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    servers::Server,
    ui::{Format, Look, Table},
};

/// Version of this client.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a server may take to say how it is; the slowest one holds up the list.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

const AFTER_HELP: &str = "\
Examples:
  shed version
  shed version -v          with the versions of all servers";

/// Show the version of the client, and of the servers with -v
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct VersionArgs {}

/// What a server said about itself, or why it said nothing.
pub(crate) type Probe = Result<ServerInfo, String>;

/// Result of `version --json`.
#[derive(Serialize)]
struct Versions {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Vec<ServerVersion>>,
}

#[derive(Serialize)]
struct ServerVersion {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, _args: &VersionArgs) -> Result<ExitCode, CommandError> {
    let servers = if context.verbosity > 0 { Some(server_versions(context)?) } else { None };
    match context.ui.format() {
        Format::Json => context.ui.print_json(&Versions { version: VERSION, servers })?,
        Format::Text => {
            context.ui.print(&format!("shed {VERSION}\n"))?;
            if let Some(servers) = servers {
                let mut table = Table::new(&["SERVER", "VERSION"]);
                for server in servers {
                    let version =
                        server.version.map_or(("offline".to_owned(), Look::Bad), |text| (text, Look::Plain));
                    table.row(vec![(server.name, Look::Plain), version]);
                }
                context.ui.print_table(&table)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn server_versions(context: &Context) -> Result<Vec<ServerVersion>, CommandError> {
    let servers = context.servers()?.all();
    let probes = block_on(async { Ok(probe(&servers).await) })?;
    let described = servers.into_iter().zip(probes).map(|(server, answer)| {
        let (version, error) = match answer {
            Ok(info) => (Some(info.version), None),
            Err(error) => (None, Some(error)),
        };
        ServerVersion { name: server.name.to_string(), version, error }
    });
    Ok(described.collect())
}

/// Asks all servers at once how they are, in the order given.
pub(crate) async fn probe(servers: &[Server]) -> Vec<Probe> {
    let timeouts = Timeouts { connect: PROBE_LIMIT, reply: PROBE_LIMIT, ..Timeouts::default() };
    join_all(servers.iter().map(async |server| {
        server.client(timeouts).info().await.map_err(|error| {
            let error = CommandError::from_error(Kind::Unreachable, &error);
            let causes = error.causes().into_iter().map(|cause| format!(": {cause}")).collect::<String>();
            format!("{}{causes}", error.message())
        })
    }))
    .await
}
