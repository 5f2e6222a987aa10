//! `shed tunnels list`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::Context,
    command_error::CommandError,
    times,
    tunnels::{
        mapping,
        state::{Entry, TunnelState},
    },
    ui::{Format, Look, Table},
};

const AFTER_HELP: &str = "\
Examples:
  shed tunnels list
  shed tunnels list -v                 with server, age and log
  shed tunnels list --json | jq -r '.tunnels[].shed_name'";

/// The state of tunnels that are listed: others have no process, and are not.
const RUNNING: &str = "running";

/// List the tunnels that run
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ListArgs {}

/// Result of `tunnels list --json`.
#[derive(Serialize)]
struct List<'a> {
    tunnels: Vec<Running<'a>>,
}

#[derive(Serialize)]
struct Running<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    state: &'static str,
}

/// Runs the command.
pub(super) fn run(context: &Context, ListArgs {}: &ListArgs) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    let state = TunnelState::beside(&context.store()?);
    let entries = state.running()?;
    match ui.format() {
        Format::Json => {
            let tunnels = entries.iter().map(|entry| Running { entry, state: RUNNING }).collect();
            ui.print_json(&List { tunnels })?;
        }
        Format::Text if entries.is_empty() => {
            ui.note("There are no tunnels.");
            if ui.stderr_is_terminal() {
                ui.hint("start some: shed tunnels start NAME -t 3000");
            }
        }
        Format::Text => {
            let logs = |entry: &Entry| state.log_of(&entry.shed_name).to_string();
            let table = match context.verbosity {
                0 => short_table(&entries),
                1.. => long_table(&entries, Timestamp::now(), logs),
            };
            ui.print_table(&table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn plain(text: impl std::fmt::Display) -> (String, Look) {
    (format!("{text}"), Look::Plain)
}

fn short_table(entries: &[Entry]) -> Table {
    let mut table = Table::new(&["SHED", "PROFILE", "PORTS", "PID", "STATE"]);
    for entry in entries {
        table.row(vec![
            plain(&entry.shed_name),
            plain(&entry.profile),
            plain(mapping::list(&entry.ports)),
            plain(entry.pid),
            (RUNNING.to_owned(), Look::Good),
        ]);
    }
    table
}

fn long_table(entries: &[Entry], now: Timestamp, log: impl Fn(&Entry) -> String) -> Table {
    let mut table = Table::new(&["SHED", "SERVER", "PROFILE", "PORTS", "PID", "STATE", "UPTIME", "LOG"]);
    for entry in entries {
        table.row(vec![
            plain(&entry.shed_name),
            plain(&entry.server_name),
            plain(&entry.profile),
            plain(mapping::list(&entry.ports)),
            plain(entry.pid),
            (RUNNING.to_owned(), Look::Good),
            plain(times::uptime(entry.started_at, now)),
            plain(log(entry)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_say_what_leads_where() {
        let json = r#"[{"shed_name":"web","profile":"default+explicit","pid":77,"process_start_time":5,
            "ports":[{"local":3000,"remote":3000},{"local":8080,"remote":80}],
            "started_at":"2026-01-02T03:00:00Z","server_name":"mini"}]"#;
        let entries: Vec<Entry> = serde_json::from_str(json).unwrap();
        insta::assert_snapshot!(short_table(&entries).plain(), @r"
        SHED  PROFILE           PORTS          PID  STATE
        web   default+explicit  3000, 8080:80  77   running
        ");
        let now = "2026-01-02T05:30:00Z".parse().unwrap();
        insta::assert_snapshot!(long_table(&entries, now, |_| "/x/web.log".to_owned()).plain(), @r"
        SHED  SERVER  PROFILE           PORTS          PID  STATE    UPTIME  LOG
        web   mini    default+explicit  3000, 8080:80  77   running  2h 30m  /x/web.log
        ");
    }
}
