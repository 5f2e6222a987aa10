//! `shed man`.

use std::{fs, process::ExitCode};

use camino::Utf8PathBuf;
use clap::Args;
use clap_mangen::Man;

use crate::{
    cli::{self, Context},
    command_error::{CommandError, Kind},
};

const AFTER_HELP: &str = "\
Examples:
  shed man | man -l -
  shed man --dir ~/.local/share/man/man1";

/// Write manual pages
///
/// Writes the page of `shed` to stdout, or the pages of all commands into a directory.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this directory
    #[arg(long)]
    dir: Option<Utf8PathBuf>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ManArgs) -> Result<ExitCode, CommandError> {
    let mut root = cli::definition().disable_help_subcommand(true);
    root.build();
    match &args.dir {
        None => context.ui.print_bytes(&page(root)?)?,
        Some(dir) => {
            let failed = |error| {
                CommandError::new(Kind::Failed, format!("could not write into {dir}")).caused_by(error)
            };
            fs::create_dir_all(dir).map_err(failed)?;
            for (name, command) in pages(&root, "shed") {
                fs::write(dir.join(format!("{name}.1")), page(command)?).map_err(failed)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the command and all below it, each with the name of its page: `shed-server-add`.
fn pages(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
    let mut all = vec![(name.to_owned(), command.clone())];
    for sub in command.get_subcommands() {
        all.extend(pages(sub, &format!("{name}-{}", sub.get_name())));
    }
    all
}

fn page(command: clap::Command) -> Result<Vec<u8>, CommandError> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text).map_err(|error| {
        CommandError::new(Kind::Failed, "could not lay out a manual page").caused_by(error)
    })?;
    Ok(text)
}
