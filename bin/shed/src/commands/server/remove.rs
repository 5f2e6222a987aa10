//! `shed server remove`.

use std::process::ExitCode;

use clap::Args;

use crate::{
    cli::Context,
    command_error::CommandError,
    config::{Place, ServerName},
    servers::unknown_server,
    ui::{Done, Format},
};

/// Forget a server
///
/// The server itself and its sheds stay as they are; its SSH host key is forgotten. When it was the default, the server
/// that was added first becomes the default.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The server to forget
    name: ServerName,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &RemoveArgs) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    let (was_default, default) = store.update::<_, CommandError>(|config| {
        let before = config.default_server.clone();
        let Some(place) = config.servers.get(&args.name).map(Place::of) else {
            return Err(unknown_server(config, &args.name));
        };
        config.remove_server(&args.name);
        // Another name of the same server needs its key still.
        if !config.servers.values().any(|entry| Place::of(entry) == place) {
            store.known_hosts().remove(&place)?;
        }
        Ok((before.as_ref() == Some(&args.name), config.default_server.clone()))
    })?;
    match context.ui.format() {
        Format::Json => {
            let name = args.name.to_string();
            context.ui.print_done(&Done::<()>::new("server remove", &name, name.clone(), None))?;
        }
        Format::Text => {
            context.ui.print(&format!("Removed server {}\n", args.name))?;
            if let (true, Some(default)) = (was_default, default) {
                context.ui.note(&format!("The default server is now {default}."));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
