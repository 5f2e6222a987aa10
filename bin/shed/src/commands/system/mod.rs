//! `shed system`: what servers keep on their disks, and its clean-up.

mod df;
mod prune;
mod report;
mod usage;
mod values;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::{cli::Context, command_error::CommandError};

/// Show what takes disk space on a server, and clean it up
#[derive(Debug, Args)]
pub(crate) struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    Df(df::DfArgs),
    Prune(prune::PruneArgs),
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &SystemArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        SystemCommand::Df(args) => df::run(context, args),
        SystemCommand::Prune(args) => prune::run(context, args),
    }
}
