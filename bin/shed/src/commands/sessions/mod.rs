//! `shed sessions`: the tmux sessions of sheds.

mod kill;

use std::{cell::RefCell, collections::HashSet, process::ExitCode};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use shed_api::{Session, SessionList};
use shed_client::{Client, Timeouts};
use shed_types::ShedName;

use super::{
    block_on, each,
    fleet::{self, Offline, Scope},
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    servers::{Server, Servers, Strayed},
    times,
    ui::{Format, Look, Table, Ui},
};

const AFTER_HELP: &str = "\
What runs in a tmux session goes on when nobody looks at it.

Examples:
  shed sessions                    in all running sheds of the default server
  shed sessions web api
  shed sessions --all              on every server
  shed sessions kill web default
  shed sessions -- kill            of the shed called kill
  shed sessions --json | jq -r '.sessions[] | select(.attached | not).name'";

/// List the tmux sessions in sheds, or end one
///
/// Without a name, lists those in all running sheds of the default server, or of the one in --server.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,

    /// The sheds whose sessions to list, on whichever server they are
    #[arg(value_name = "NAME")]
    names: Vec<ShedName>,

    /// List the sessions on all servers; those that do not answer are reported
    #[arg(short, long, conflicts_with_all = ["server", "names"])]
    all: bool,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    Kill(kill::KillArgs),
}

/// Result of `sessions --all --json`: the API's list, with the server of each session and the servers that are missing.
#[derive(Serialize)]
struct EverySession {
    #[serde(flatten)]
    list: SessionList,
    offline: Vec<Offline>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &SessionsArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        Some(SessionsCommand::Kill(_)) if args.all => {
            Err(CommandError::new(Kind::Usage, "--all lists sessions, and kill ends one")
                .hinted("leave one of them out"))
        }
        Some(SessionsCommand::Kill(args)) => kill::run(context, args),
        None if args.all => list_all(context, &context.servers()?),
        None if args.names.is_empty() => list_one(context, &context.servers()?),
        None => list_named(context, &context.servers()?, &args.names),
    }
}

/// Lists what one server has.
fn list_one(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let server = servers.selected()?;
    let list = block_on(async {
        let list = server.client(Timeouts::default()).all_sessions().await;
        list.map_err(|error| CommandError::from_client(error, &server, None))
    })?;
    show(context, &list, Scope::One, &format!("There are no sessions on {}.", server.name))?;
    Ok(ExitCode::SUCCESS)
}

/// Lists what all servers have.
fn list_all(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let mut answers = block_on(async { fleet::ask(servers, Client::all_sessions).await.at_least_one() })?;
    let mut list = SessionList::default();
    for (server, answer) in std::mem::take(&mut answers.found) {
        let warnings = answer.warnings.iter().map(|text| format!("{}: {text}", server.name));
        list.warnings.extend(warnings);
        list.sessions.extend(on(&server, answer.sessions));
    }
    match context.ui.format() {
        Format::Json => context.ui.print_json(&EverySession { list, offline: answers.offline() })?,
        Format::Text => {
            show(context, &list, Scope::All, "There are no sessions.")?;
            answers.warn(&context.ui, "sessions");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists what these sheds have, each on its server. The exit code is that of the first failure.
fn list_named(context: &Context, servers: &Servers, names: &[ShedName]) -> Result<ExitCode, CommandError> {
    let list = RefCell::new(SessionList::default());
    let ask = async |name: &ShedName| {
        let ask = async |server: &Server| server.client(Timeouts::default()).sessions(name).await;
        servers.on_server_of(&context.ui, name, Strayed::Search, ask).await
    };
    let keep = |_: &ShedName, (server, answer): (Server, SessionList)| {
        let mut list = list.borrow_mut();
        list.warnings.extend(answer.warnings);
        list.sessions.extend(on(&server, answer.sessions));
        Ok(())
    };
    let code = block_on(each(context, names, ask, keep))?;
    let list = list.into_inner();
    let places: HashSet<_> = list.sessions.iter().map(|session| &session.server_name).collect();
    let scope = if places.len() > 1 { Scope::All } else { Scope::One };
    let none = if code == ExitCode::SUCCESS { "There are no sessions." } else { "" };
    show(context, &list, scope, none)?;
    Ok(code)
}

/// Fills in the server of sessions that are merged with those of others (spec A.5).
fn on(server: &Server, sessions: Vec<Session>) -> impl Iterator<Item = Session> {
    let name = server.name.to_string();
    sessions.into_iter().map(move |session| Session { server_name: Some(name.clone()), ..session })
}

fn show(context: &Context, list: &SessionList, scope: Scope, none: &str) -> Result<(), CommandError> {
    let ui = &context.ui;
    match ui.format() {
        Format::Json => return ui.print_json(list),
        Format::Text if list.sessions.is_empty() => say_none(ui, none),
        Format::Text => ui.print_table(&table(&list.sessions, scope, Timestamp::now()))?,
    }
    for warning in &list.warnings {
        ui.warning(warning);
    }
    Ok(())
}

fn say_none(ui: &Ui, text: &str) {
    if !text.is_empty() {
        ui.note(text);
        if ui.stderr_is_terminal() {
            ui.hint("make one: shed exec -t NAME -- tmux new-session -s default");
        }
    }
}

fn table(sessions: &[Session], scope: Scope, now: Timestamp) -> Table {
    let mut columns = vec!["SHED", "SESSION", "STATUS", "CREATED", "WINDOWS"];
    if scope == Scope::All {
        columns.insert(1, "SERVER");
    }
    let mut table = Table::new(&columns).right("WINDOWS");
    for session in sessions {
        let plain = |text: &str| (text.to_owned(), Look::Plain);
        let status = if session.attached { ("attached", Look::Good) } else { ("detached", Look::Dim) };
        let mut row = vec![
            plain(&session.shed_name),
            plain(&session.name),
            (status.0.to_owned(), status.1),
            plain(&times::ago(session.created_at, now)),
            plain(&session.window_count.to_string()),
        ];
        if scope == Scope::All {
            row.insert(1, plain(session.server_name.as_deref().unwrap_or("-")));
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Vec<Session> {
        let json = r#"[
            {"name":"default","shed_name":"web","server_name":"mini","created_at":"2026-01-02T03:00:00Z","attached":true,"window_count":1},
            {"name":"agent\u001b[2J","shed_name":"api","server_name":"big","created_at":"2026-01-01T00:00:00Z","attached":false,"window_count":4294967295}
        ]"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_table_has_the_columns_of_the_specification() {
        let now = "2026-01-02T06:12:10Z".parse().unwrap();
        insta::assert_snapshot!(table(&sessions(), Scope::One, now).plain(), @r"
        SHED  SESSION    STATUS    CREATED         WINDOWS
        web   default    attached  3 hours ago           1
        api   agent�[2J  detached  1 day ago    4294967295
        ");
        insta::assert_snapshot!(table(&sessions(), Scope::All, now).plain(), @r"
        SHED  SERVER  SESSION    STATUS    CREATED         WINDOWS
        web   mini    default    attached  3 hours ago           1
        api   big     agent�[2J  detached  1 day ago    4294967295
        ");
    }
}
