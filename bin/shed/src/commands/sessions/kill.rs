//! `shed sessions kill`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shed_client::Timeouts;
use shed_types::{SessionName, ShedName};

use crate::{
    cli::Context,
    command_error::CommandError,
    commands::block_on,
    servers::Strayed,
    ui::{Done, Format},
};

const AFTER_HELP: &str = "\
To list the sessions of a shed called kill: shed sessions -- kill

Examples:
  shed sessions kill web default";

/// End a tmux session with all that runs in it
///
/// Every process in the session gets SIGHUP. The shed and its files stay.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct KillArgs {
    /// The shed it is in
    #[arg(value_name = "SHED")]
    shed: ShedName,

    /// The session to end
    #[arg(value_name = "SESSION")]
    session: SessionName,
}

/// Where the session was.
#[derive(Serialize)]
struct Details<'a> {
    shed_name: &'a str,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &KillArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let KillArgs { shed, session } = args;
    // A shed of that name elsewhere may be another one, and its session has not been asked for.
    let (server, ()) = block_on(servers.on_server_of(&context.ui, shed, Strayed::Refuse, async |server| {
        server.client(Timeouts::default()).kill_session(shed, session).await
    }))?;
    match context.ui.format() {
        Format::Json => context.ui.print_done(&Done::new(
            "sessions kill",
            session.as_str(),
            server.name.to_string(),
            Some(Details { shed_name: shed.as_str() }),
        ))?,
        Format::Text => {
            context.ui.print(&format!("Ended session {session} of shed {shed} on {}\n", server.name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
