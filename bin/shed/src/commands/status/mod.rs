//! `shed status`: how a shed and what runs in it are, once or live.

mod text;
mod watch;

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use shed_client::Timeouts;
use shed_types::ShedName;

use super::block_on;
use crate::{
    cli::Context,
    command_error::CommandError,
    servers::{Server, Strayed},
    ui::Format,
};

const AFTER_HELP: &str = "\
CPU, memory, disk and load are measured by the guest itself. Its agent is asked anew; when it does not answer within two \
seconds, its last word is shown, and how old that is.

With --watch, what is shown is renewed every other second and whenever something happens, until Ctrl-C; without a \
terminal, each change is a line.

Examples:
  shed status web
  shed status web --watch
  shed status web --json | jq .metrics.memory_used
  shed status web --watch --json | jq -c 'select(.type == \"event\").data'";

/// Show how a shed is
///
/// Shows what a shed uses of its machine, how its clone and its hooks went, and what happened in it of late: units that
/// failed, processes that were killed for want of memory.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StatusArgs {
    /// The shed
    name: ShedName,

    /// Go on showing it as it changes
    #[arg(short, long)]
    watch: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &StatusArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let name = &args.name;
    if args.watch {
        return block_on(async {
            let open = async |server: &Server| server.client(Timeouts::default()).events(name).await;
            let (server, events) = servers.on_server_of(&context.ui, name, Strayed::Search, open).await?;
            watch::run(context, &server, name, events).await
        });
    }
    let (server, report) = block_on(async {
        let ask = async |server: &Server| server.client(Timeouts::default()).status(name).await;
        servers.on_server_of(&context.ui, name, Strayed::Search, ask).await
    })?;
    servers.remember(&context.ui, name, &server, Some(report.status));
    match context.ui.format() {
        Format::Json => context.ui.print_json(&report)?,
        Format::Text => context.ui.print(&text::whole(&report, &server, Timestamp::now()))?,
    }
    Ok(ExitCode::SUCCESS)
}
