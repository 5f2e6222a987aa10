//! `shed system df`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shed_api::SystemUsage;
use shed_client::{Client, Timeouts};

use super::usage;
use crate::{
    cli::Context,
    command_error::CommandError,
    commands::{
        block_on,
        fleet::{self, Scope},
    },
    servers::Servers,
    ui::{Format, clean},
};

const AFTER_HELP: &str = "\
SIZE is the length of the files, ON-DISK what they take: files can have holes. The kernel and the
initramfs that sheds boot count as images. Files that share blocks are each counted in full.

Examples:
  shed system df
  shed system df -v          with every image, shed and file
  shed system df --all       on every server
  shed system df --json | jq .totals.all.physical_bytes";

/// Show what images, sheds and leftovers take on a server's disk
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DfArgs {
    /// Ask all servers; those that do not answer are reported
    #[arg(short, long, conflicts_with = "server")]
    all: bool,
}

/// Result of `system df --all --json` (spec A.7).
#[derive(Serialize)]
struct EveryUsage<'a> {
    servers: Vec<UsageOnServer<'a>>,
}

#[derive(Serialize)]
struct UsageOnServer<'a> {
    server_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a SystemUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &DfArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    if args.all { of_all(context, &servers) } else { of_one(context, &servers) }
}

fn of_one(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let server = servers.selected()?;
    let usage = block_on(async {
        let usage = server.client(Timeouts::default()).system_usage().await;
        usage.map_err(|error| CommandError::from_client(error, &server, None))
    })?;
    match context.ui.format() {
        Format::Json => context.ui.print_json(&usage)?,
        Format::Text => show(context, &[(server.name.as_ref(), &usage)], Scope::One)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A server that is missing is part of the answer, even when all are (spec A.7).
fn of_all(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let answers = block_on(async { Ok(fleet::ask(servers, Client::system_usage).await) })?;
    match context.ui.format() {
        Format::Json => {
            let known = answers.found.iter().map(|(server, usage)| UsageOnServer {
                server_name: server.name.to_string(),
                usage: Some(usage),
                error: None,
            });
            let missing = answers.missing.iter().map(|missing| UsageOnServer {
                server_name: missing.server.name.to_string(),
                usage: None,
                error: Some(missing.reason()),
            });
            let mut servers: Vec<UsageOnServer<'_>> = known.chain(missing).collect();
            servers.sort_by(|a, b| a.server_name.cmp(&b.server_name));
            context.ui.print_json(&EveryUsage { servers })?;
        }
        Format::Text => {
            let found: Vec<_> =
                answers.found.iter().map(|(server, usage)| (server.name.as_ref(), usage)).collect();
            if !found.is_empty() {
                show(context, &found, Scope::All)?;
            }
            answers.warn(&context.ui, "figures");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a note says more than the one that every report has, about blocks that files share.
fn is_news(note: &str) -> bool {
    !note.starts_with("physical bytes")
}

fn show(context: &Context, found: &[(&str, &SystemUsage)], scope: Scope) -> Result<(), CommandError> {
    let ui = &context.ui;
    if context.verbosity > 0 {
        ui.print_table(&usage::items(found, scope))?;
        ui.print("\n")?;
    }
    ui.print_table(&usage::summary(found, scope))?;
    for (server, note) in usage::notes(found).filter(|(_, note)| context.verbosity == 0 && is_news(note)) {
        ui.warning(&format!("{server}: {note}"));
    }
    if context.verbosity > 0 {
        ui.print("\n")?;
        for (server, note) in usage::notes(found) {
            let place = if scope == Scope::All { format!("{server}: ") } else { String::new() };
            ui.print(&format!("Note: {place}{}\n", clean(note).replace('\n', " ")))?;
        }
    }
    Ok(())
}
