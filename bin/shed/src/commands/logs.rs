//! `shed logs`: what a shed writes into its journal, or on its console.

use std::process::ExitCode;

use clap::Args;
use shed_api::{LogEvent, LogLine, MAX_LOG_LINES};
use shed_client::{ClientError, LogsQuery, Timeouts};
use shed_types::{ShedName, UnitName};

use super::{block_on, work::EndSignals};
use crate::{
    cli::Context,
    command_error::CommandError,
    servers::{Server, Strayed},
    ui::{Format, clean},
};

/// How many lines of the past come before what is followed, unless the user wants others.
const LINES_BEFORE: u32 = 10;

const AFTER_HELP: &str = "\
The journal is read in the shed, which has to run; it is that of this boot, or with --lines the end of all that it holds. \
Times are in UTC, by the shed's clock. The console is what the machine writes while it boots, kept by the server, and is \
there for stopped sheds as well.

Control characters are left out. Of a message above 8 KiB the beginning is shown.

Examples:
  shed logs web                    this boot
  shed logs web -f                 the last ten lines, and what comes
  shed logs web -u nginx -n 50     the last lines of a unit
  shed logs web --console          why a shed does not start
  shed logs web --json | jq -r 'select(.priority <= 3).message'";

/// Show what a shed writes
///
/// Shows the journal of a shed: what its services and its kernel write.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct LogsArgs {
    /// The shed
    name: ShedName,

    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// Show only so many lines of the past
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_LOG_LINES)))]
    lines: Option<u32>,

    /// Show only the lines of this unit of systemd
    #[arg(short, long, value_name = "UNIT", conflicts_with = "console")]
    unit: Option<UnitName>,

    /// Show the console of the machine instead of the journal
    #[arg(long)]
    console: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &LogsArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let name = &args.name;
    let query = LogsQuery {
        console: args.console,
        unit: args.unit.clone(),
        lines: args.lines.or(args.follow.then_some(LINES_BEFORE)),
        follow: args.follow,
    };
    block_on(async {
        let mut signals = EndSignals::listen()?;
        let open = async |server: &Server| server.client(Timeouts::default()).logs(name, &query).await;
        let open = servers.on_server_of(&context.ui, name, Strayed::Search, open);
        let (server, mut events) = tokio::select! {
            opened = open => opened?,
            signal = signals.next() => return Ok(ExitCode::from(128 + signal)),
        };
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                signal = signals.next() => return Ok(ExitCode::from(128 + signal)),
            };
            let failed = |error| CommandError::from_client(error, &server, Some(name));
            match event.transpose().map_err(failed)? {
                Some(LogEvent::Line(line)) => context.ui.print(&match context.ui.format() {
                    Format::Json => serde_json::to_string(&line).expect("results are plain JSON") + "\n",
                    Format::Text => text(&line),
                })?,
                Some(LogEvent::Error(detail)) => return Err(failed(ClientError::of_event(detail))),
                Some(LogEvent::End) | None => return Ok(ExitCode::SUCCESS),
            }
        }
    })
}

/// Returns a line as the journal's own tools show it; further lines of a message are indented.
fn text(line: &LogLine) -> String {
    let message = clean(&line.message).replace('\n', "\n    ");
    let message = message.trim_end();
    let Some(at) = line.at else { return format!("{message}\n") };
    let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
    let program = line.identifier.as_deref().or(line.unit.as_deref()).unwrap_or("-");
    let program = clean(program).replace(['\n', '\t'], " ");
    match line.pid {
        Some(pid) => format!("{at} {program}[{pid}]: {message}\n"),
        None => format!("{at} {program}: {message}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_show_when_who_and_what_and_nothing_that_steers_the_terminal() {
        let lines: Vec<LogLine> =
            serde_json::from_str(include_str!("../../../../crates/shed-api/fixtures/logs.json")).unwrap();
        let shown: String = lines.iter().map(text).collect();
        insta::assert_snapshot!(shown, @r#"
        2026-01-20T10:30:00Z sshd[412]: Server listening on 0.0.0.0 port 22.
        [    0.000000] Linux version 6.12.1
        "#);
        let hostile = LogLine {
            at: Some(jiff::Timestamp::UNIX_EPOCH),
            identifier: Some("a\u{1b}[2J\nb".into()),
            message: "one\ntwo\u{1b}]0;t\u{7}\n".into(),
            ..LogLine::default()
        };
        insta::assert_snapshot!(text(&hostile), @r#"
        1970-01-01T00:00:00Z a�[2J b: one
            two�]0;t�
        "#);
    }
}
