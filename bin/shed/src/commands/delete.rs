//! `shed delete`.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Args;
use futures::future::try_join_all;
use shed_client::Timeouts;
use shed_types::ShedName;

use super::{block_on, each};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
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
        let refused = match context.ui.format() {
            Format::Json => Some("with --json nobody can be asked"),
            Format::Text if !io::stdin().is_terminal() => {
                Some("stdin is not a terminal, so nobody can be asked")
            }
            Format::Text => None,
        };
        if let Some(reason) = refused {
            return Err(CommandError::new(Kind::Usage, format!("nothing is deleted: {reason}"))
                .hinted("delete without a question: shed delete --force NAME"));
        }
    }
    let servers = context.servers()?;
    if !args.force && !confirm(context, &servers, &args.names)? {
        context.ui.note("Nothing is deleted.");
        return Ok(ExitCode::from(1));
    }
    let progress = Progress::new(&context.ui);
    block_on(each(
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
    ))
}

/// Asks about all sheds at once, having seen that each is there. One that is not leaves all of them alone.
fn confirm(context: &Context, servers: &Servers, names: &[ShedName]) -> Result<bool, CommandError> {
    let found = block_on(try_join_all(names.iter().map(async |name| {
        servers
            .on_server_of(&context.ui, name, Strayed::Refuse, async |server| {
                server.client(Timeouts::default()).get(name).await
            })
            .await
    })))?;
    let described: Vec<String> = found
        .iter()
        .map(|(server, shed)| format!("{} ({} on {})", shed.name, shed.status.as_str(), server.name))
        .collect();
    let question = format!("Delete {} with all files?", described.join(", "));
    context
        .ui
        .confirm(&question)
        .map_err(|error| CommandError::new(Kind::Failed, "could not read the answer").caused_by(error))
}
