//! `shed tunnels stop`, and the end of the tunnels to a shed that is stopped or deleted.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shed_types::ShedName;

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::{block_on, each},
    servers::Server,
    tunnels::{
        mapping::{self, Mapping},
        state::{Entry, TunnelState},
    },
    ui::{Done, Format},
};

const AFTER_HELP: &str = "\
Examples:
  shed tunnels stop web
  shed tunnels stop --all";

/// Stop tunnels
///
/// Ends the processes that lead ports into these sheds; connections that are open break off. The sheds run on.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct StopArgs {
    /// The sheds whose tunnels to stop
    #[arg(value_name = "SHED", required_unless_present = "all", conflicts_with = "all")]
    sheds: Vec<ShedName>,

    /// Stop all tunnels there are
    #[arg(short, long)]
    all: bool,
}

/// What was stopped.
#[derive(Serialize)]
struct Details<'a> {
    profile: &'a str,
    pid: u32,
    ports: &'a [Mapping],
}

/// Runs the command.
pub(super) fn run(context: &Context, args: &StopArgs) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    let state = TunnelState::beside(&context.store()?);
    let running = state.running()?;
    let sheds = if args.all {
        running.iter().map(|entry| entry.shed_name.clone()).collect()
    } else {
        args.sheds.clone()
    };
    if sheds.is_empty() {
        ui.note("There are no tunnels.");
    }
    let stop = async |shed: &ShedName| {
        let entry = running.iter().find(|entry| entry.shed_name == *shed).ok_or_else(|| none_to(shed))?;
        state.end(entry).await?;
        Ok(entry)
    };
    block_on(each(context, &sheds, stop, |shed, entry: &Entry| match ui.format() {
        Format::Json => {
            let details = Details { profile: &entry.profile, pid: entry.pid, ports: &entry.ports };
            ui.print_done(&Done::new(
                "tunnels stop",
                shed.as_str(),
                entry.server_name.to_string(),
                Some(details),
            ))
        }
        Format::Text => {
            ui.print(&format!("Stopped the tunnels to shed {shed} ({})\n", mapping::list(&entry.ports)))
        }
    }))
}

fn none_to(shed: &ShedName) -> CommandError {
    CommandError::new(Kind::NotFound, format!("there are no tunnels to shed {shed}"))
        .hinted("see which there are: shed tunnels list")
}

/// Stops the tunnels to a shed that has been stopped or deleted. That is done by then, so a failure is only a warning.
pub(in crate::commands) async fn stop_those_to(context: &Context, shed: &ShedName, server: &Server) {
    let stopped = async {
        let state = TunnelState::beside(&context.store()?);
        Ok::<bool, CommandError>(state.end_those_to(shed, &server.name).await?)
    };
    match stopped.await {
        Ok(true) => context.ui.note(&format!("Stopped the tunnels to shed {shed}.")),
        Ok(false) => {}
        Err(error) => {
            let causes: String = error.causes().into_iter().map(|cause| format!(": {cause}")).collect();
            context
                .ui
                .warning(&format!("the tunnels to shed {shed} may run on: {}{causes}", error.message()));
        }
    }
}
