//! `shed tunnels config`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shed_types::ShedName;

use super::Ports;
use crate::{
    cli::Context,
    command_error::CommandError,
    tunnels::mapping::Mapping,
    ui::{Format, Look, Table},
};

const AFTER_HELP: &str = "\
Examples:
  shed tunnels config web
  shed tunnels config web -p default -p db -t 8080:80
  shed tunnels config web --json | jq -r '.ports[] | \"\\(.local) \\(.remote)\"'";

/// Show which ports a start would lead where
///
/// Reads ~/.shed/tunnels.yaml and the flags, and starts nothing.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ConfigArgs {
    /// The shed
    #[arg(value_name = "SHED")]
    shed: ShedName,

    #[command(flatten)]
    ports: Ports,
}

/// The same in JSON.
#[derive(Serialize)]
struct Resolution<'a> {
    shed_name: &'a str,
    profile: &'a str,
    ports: &'a [Mapping],
}

/// Runs the command.
pub(super) fn run(context: &Context, args: &ConfigArgs) -> Result<ExitCode, CommandError> {
    let (_, resolved) = args.ports.resolve(&context.store()?, &args.shed)?;
    match context.ui.format() {
        Format::Json => context.ui.print_json(&Resolution {
            shed_name: args.shed.as_str(),
            profile: &resolved.label,
            ports: &resolved.ports,
        })?,
        Format::Text => context.ui.print_table(&table(&args.shed, &resolved.ports))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(shed: &ShedName, ports: &[Mapping]) -> Table {
    let mut table = Table::new(&["LOCAL", "REMOTE"]);
    for mapping in ports {
        let local = format!("127.0.0.1:{}", mapping.local);
        table.row(vec![(local, Look::Plain), (format!("{shed}:{}", mapping.remote), Look::Plain)]);
    }
    table
}
