//! `shed ssh-config`.
use crate::{cli::Context, command_error::CommandError};
use clap::Args;
use std::process::ExitCode;
/// x
#[derive(Debug, Args)]
pub(crate) struct SshConfigArgs {}
pub(crate) fn run(_: &Context, _: &SshConfigArgs) -> Result<ExitCode, CommandError> {
    Ok(ExitCode::SUCCESS)
}
