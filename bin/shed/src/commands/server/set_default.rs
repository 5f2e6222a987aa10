//! `shed server set-default`.

use std::process::ExitCode;

use clap::Args;

use crate::{
    cli::Context,
    command_error::CommandError,
    config::ServerName,
    servers::unknown_server,
    ui::{Done, Format},
};

/// Choose the server that is used when no other is named
#[derive(Debug, Args)]
pub(crate) struct SetDefaultArgs {
    /// The server to use from now on
    name: ServerName,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &SetDefaultArgs) -> Result<ExitCode, CommandError> {
    context.store()?.update::<_, CommandError>(|config| {
        if !config.servers.contains_key(&args.name) {
            return Err(unknown_server(config, &args.name));
        }
        config.default_server = Some(args.name.clone());
        Ok(())
    })?;
    match context.ui.format() {
        Format::Json => {
            let name = args.name.to_string();
            context.ui.print_done(&Done::<()>::new("server set-default", &name, name.clone(), None))?;
        }
        Format::Text => context.ui.print(&format!("The default server is now {}\n", args.name))?,
    }
    Ok(ExitCode::SUCCESS)
}
