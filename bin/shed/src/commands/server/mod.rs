//! `shed server`: the servers this client knows.

mod add;
mod list;
mod remove;
mod set_default;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::{cli::Context, command_error::CommandError};

/// Add, list and remove the servers that sheds run on
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    command: ServerCommand,
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    Add(add::AddArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    #[command(visible_alias = "rm")]
    Remove(remove::RemoveArgs),
    SetDefault(set_default::SetDefaultArgs),
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ServerArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        ServerCommand::Add(args) => add::run(context, args),
        ServerCommand::List(args) => list::run(context, args),
        ServerCommand::Remove(args) => remove::run(context, args),
        ServerCommand::SetDefault(args) => set_default::run(context, args),
    }
}
