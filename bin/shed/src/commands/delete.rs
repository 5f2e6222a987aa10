//! `shed delete`.

use std::process::ExitCode;

use clap::Args;
use futures::future::try_join_all;
use shed_client::Timeouts;
use shed_types::ShedName;

use super::{block_on, each, tunnels, work};
use crate::{
    cli::Context,
    command_error::CommandError,
    confirm,
    progress::Progress,
    servers::{Servers, Strayed},
    ui::{Done, Format},
};

const AFTER_HELP: &str = "\
A running shed is stopped first, at once and not gently.

Examples:
  shed delete web
  shed delete web api --force";

/// Delete sheds with their files
///
/// Deletes each shed and its disk; nothing of them can be brought back. Asks first on a terminal, and does nothing
/// without --force where nobody can be asked.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DeleteArgs {
    /// The sheds to delete
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ShedName>,

    /// Delete without asking
    #[arg(short, long)]
    force: bool,

    /// Keep volumes apart from the shed's disk, where the backend has any; the present ones do not
    #[arg(long)]
    keep_volume: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &DeleteArgs) -> Result<ExitCode, CommandError> {
    if !args.force {
        confirm::somebody(
            &context.ui,
            "nothing is deleted",
            "delete without a question: shed delete --force NAME",
        )?;
    }
    let servers = context.servers()?;
    block_on(async {
        if !args.force && !confirm::ask(&context.ui, &question(context, &servers, &args.names).await?).await?
        {
            return Ok(confirm::declined(&context.ui));
        }
        work::unless_interrupted("the delete", delete(context, &servers, args)).await
    })
}

async fn delete(context: &Context, servers: &Servers, args: &DeleteArgs) -> Result<ExitCode, CommandError> {
    let progress = Progress::new(&context.ui);
    each(
        context,
        &args.names,
        async |name| {
            let task = progress.task(name, "deleting");
            let deleted = servers
                .on_server_of(&context.ui, name, Strayed::Refuse, async |server| {
                    let client = server.client(Timeouts::default());
                    if args.keep_volume {
                        client.delete_keeping_volumes(name).await
                    } else {
                        client.delete(name).await
                    }
                })
                .await?;
            drop(task);
            tunnels::stop_those_to(context, name, &deleted.0).await;
            Ok(deleted)
        },
        |name, (server, ())| {
            servers.forget(&context.ui, name);
            match context.ui.format() {
                Format::Json => context.ui.print_done(&Done::<()>::new(
                    "delete",
                    name.as_str(),
                    server.name.to_string(),
                    None,
                )),
                Format::Text => context.ui.print(&format!("Deleted shed {name} on {}\n", server.name)),
            }
        },
    )
    .await
}

/// Returns the question about all sheds at once, having seen that each is there. One that is not leaves all of them
/// alone.
async fn question(context: &Context, servers: &Servers, names: &[ShedName]) -> Result<String, CommandError> {
    let found = try_join_all(names.iter().map(async |name| {
        servers
            .on_server_of(&context.ui, name, Strayed::Refuse, async |server| {
                server.client(Timeouts::default()).get(name).await
            })
            .await
    }))
    .await?;
    let described: Vec<String> = found
        .iter()
        .map(|(server, shed)| format!("{} ({} on {})", shed.name, shed.status.as_str(), server.name))
        .collect();
    Ok(format!("Delete {} with all files?", described.join(", ")))
}
