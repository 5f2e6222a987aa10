//! `shed server list`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::Context,
    command_error::CommandError,
    commands::{
        block_on,
        version::{Probe, probe},
    },
    servers::{Origin, Server},
    times,
    ui::{Format, Look, Table},
};

const AFTER_HELP: &str = "\
All servers are asked at once. `-v` adds the SSH port, when a server was added, and why one is offline.

Examples:
  shed server list
  shed server list --json | jq -r '.servers[] | select(.online).name'";

/// List the servers and whether they answer
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ListArgs {}

/// Result of `server list --json`.
#[derive(Serialize)]
struct ServerList {
    servers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    host: String,
    http_port: u16,
    ssh_port: u16,
    default: bool,
    online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, _args: &ListArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let default = servers.selected().ok().map(|server| server.name);
    let all = servers.all();
    let probes = block_on(async { Ok(probe(&all).await) })?;
    let rows: Vec<Row> = all
        .iter()
        .zip(probes)
        .map(|(server, answer)| row(server, default.as_ref() == Some(&server.name), answer))
        .collect();
    match context.ui.format() {
        Format::Json => context.ui.print_json(&ServerList { servers: rows })?,
        Format::Text => {
            context.ui.print_table(&table(&all, &rows, context.verbosity > 0))?;
            if all.iter().all(|server| server.origin == Origin::Assumed) {
                context.ui.note("No server is added yet, so the one on this machine is used.");
                context.ui.hint("add one: shed server add HOST");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(server: &Server, default: bool, answer: Probe) -> Row {
    let (info, error) = match answer {
        Ok(info) => (Some(info), None),
        Err(error) => (None, Some(error)),
    };
    Row {
        name: server.name.to_string(),
        host: server.entry.host.as_str().to_owned(),
        http_port: server.entry.http_port.get(),
        ssh_port: server.entry.ssh_port.get(),
        default,
        online: info.is_some(),
        version: info.as_ref().map(|info| info.version.clone()),
        backend: info.map(|info| info.backend),
        added_at: server.entry.added_at,
        error,
    }
}

fn table(servers: &[Server], rows: &[Row], verbose: bool) -> Table {
    let mut columns = vec!["NAME", "URL", "STATUS", "VERSION", "BACKEND", "DEFAULT"];
    if verbose {
        columns.extend(["SSH", "ADDED", "ERROR"]);
    }
    let mut table = Table::new(&columns);
    let now = Timestamp::now();
    let dash = || "-".to_owned();
    for (server, row) in servers.iter().zip(rows) {
        let status =
            if row.online { ("online".to_owned(), Look::Good) } else { ("offline".to_owned(), Look::Bad) };
        let plain = |text: String| (text, Look::Plain);
        let mut cells = vec![
            plain(row.name.clone()),
            plain(server.entry.url()),
            status,
            plain(row.version.clone().unwrap_or_else(dash)),
            plain(row.backend.clone().unwrap_or_else(dash)),
            plain(if row.default { "yes".to_owned() } else { dash() }),
        ];
        if verbose {
            cells.push(plain(row.ssh_port.to_string()));
            cells.push(plain(row.added_at.map_or_else(dash, |then| times::ago(then, now))));
            cells.push(plain(row.error.clone().unwrap_or_else(dash)));
        }
        table.row(cells);
    }
    table
}
