//! `shed completions`.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use crate::{
    cli::{self, Context},
    command_error::CommandError,
};

const AFTER_HELP: &str = "\
Examples:
  shed completions bash > ~/.local/share/bash-completion/completions/shed
  shed completions zsh > ~/.zfunc/_shed
  shed completions fish > ~/.config/fish/completions/shed.fish";

/// Write a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CompletionsArgs {
    /// The shell to write it for
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &CompletionsArgs) -> Result<ExitCode, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::definition(), "shed", &mut script);
    context.ui.print_bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
