//! `shed stop`.

use std::process::ExitCode;

use clap::Args;
use shed_client::Timeouts;
use shed_types::ShedName;

use super::{block_on, each, tunnels};
use crate::{
    cli::Context,
    command_error::CommandError,
    progress::Progress,
    servers::Strayed,
    ui::{Done, Format},
};

const AFTER_HELP: &str = "\
Examples:
  shed stop web
  shed stop web api";

/// Stop running sheds
///
/// Runs the project's shutdown hook, then shuts each shed down as one shuts a computer down: its files stay, its processes end, and so do its tunnels. Several
/// are stopped at once.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StopArgs {
    /// The sheds to stop
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ShedName>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &StopArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let progress = Progress::new(&context.ui);
    block_on(each(
        context,
        &args.names,
        async |name| {
            let task = progress.task(name, "stopping");
            let stopped = servers
                .on_server_of(&context.ui, name, Strayed::Search, async |server| {
                    server.client(Timeouts::default()).stop(name).await
                })
                .await?;
            drop(task);
            tunnels::stop_those_to(context, name, &stopped.0).await;
            Ok(stopped)
        },
        |name, (server, shed)| {
            servers.remember(&context.ui, name, &server, Some(shed.status));
            for warning in &shed.warnings {
                context.ui.warning(&format!("{name}: {warning}"));
            }
            match context.ui.format() {
                Format::Json => context.ui.print_done(&Done::new(
                    "stop",
                    name.as_str(),
                    server.name.to_string(),
                    Some(&shed),
                )),
                Format::Text => context.ui.print(&format!("Stopped shed {name} on {}\n", server.name)),
            }
        },
    ))
}
