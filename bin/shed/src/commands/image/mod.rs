//! `shed image`: the images that a server makes sheds from.

mod delete;
mod list;
mod prune;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::{cli::Context, command_error::CommandError};

/// List, delete and clean up the images that sheds are made from
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    Prune(prune::PruneArgs),
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ImageArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        ImageCommand::List(args) => list::run(context, args),
        ImageCommand::Delete(args) => delete::run(context, args),
        ImageCommand::Prune(args) => prune::run(context, args),
    }
}
