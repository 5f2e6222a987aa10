//! `shed image`: the images that a server makes sheds from.

mod build;
mod delete;
mod list;
mod prune;
mod push;
mod save;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::{cli::Context, command_error::CommandError};

/// Build, list, save, push, delete and clean up the images that sheds are made from
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    Build(build::BuildArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Save(save::SaveArgs),
    Push(push::PushArgs),
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    Prune(prune::PruneArgs),
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ImageArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        ImageCommand::Build(args) => build::run(context, args),
        ImageCommand::Save(args) => save::run(context, args),
        ImageCommand::Push(args) => push::run(context, args),
        ImageCommand::List(args) => list::run(context, args),
        ImageCommand::Delete(args) => delete::run(context, args),
        ImageCommand::Prune(args) => prune::run(context, args),
    }
}
