//! `shed list`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use shed_api::{Shed, ShedList, ShedStatus};
use shed_client::{Client, Timeouts};

use super::{
    block_on,
    fleet::{self, Offline, Scope},
};
use crate::{
    cli::Context,
    command_error::CommandError,
    servers::{Server, Servers},
    times,
    ui::{Format, Look, Table, Ui, clean},
};

const AFTER_HELP: &str = "\
Examples:
  shed list
  shed list --all          on every server
  shed list -v             with address, size, source and uptime
  shed list -vv            all that is known of each shed
  shed list --json | jq -r '.sheds[].name'";

/// List sheds
///
/// Lists the sheds of the default server, or of the one in --server.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ListArgs {
    /// List the sheds of all servers; those that do not answer are reported
    #[arg(short, long, conflicts_with = "server")]
    all: bool,
}

/// One shed and where it is.
struct Found<'a> {
    server: &'a Server,
    shed: &'a Shed,
}

/// Result of `list --all --json`: the API's list, with the server of each shed and the servers that are missing.
#[derive(Serialize)]
struct EverySheds<'a> {
    sheds: Vec<ShedOnServer<'a>>,
    offline: Vec<Offline>,
}

#[derive(Serialize)]
struct ShedOnServer<'a> {
    server: String,
    #[serde(flatten)]
    shed: &'a Shed,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ListArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    if args.all { list_all(context, &servers) } else { list_one(context, &servers) }
}

fn list_one(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let server = servers.selected()?;
    let sheds = block_on(async {
        let list = server.client(Timeouts::default()).list().await;
        list.map_err(|error| CommandError::from_client(error, &server, None))
    })?;
    match context.ui.format() {
        Format::Json => context.ui.print_json(&ShedList { sheds })?,
        Format::Text if sheds.is_empty() => {
            none(&context.ui, &format!("There are no sheds on {}.", server.name));
        }
        Format::Text => {
            let found: Vec<Found<'_>> = sheds.iter().map(|shed| Found { server: &server, shed }).collect();
            show(context, &found, Scope::One)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list_all(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let answers = block_on(async { fleet::ask(servers, Client::list).await.at_least_one() })?;
    let offline = answers.offline();
    match context.ui.format() {
        Format::Json => {
            let sheds = answers.found.iter().flat_map(|(server, sheds)| {
                sheds.iter().map(|shed| ShedOnServer { server: server.name.to_string(), shed })
            });
            context.ui.print_json(&EverySheds { sheds: sheds.collect(), offline })?;
        }
        Format::Text => {
            let found: Vec<Found<'_>> = answers
                .found
                .iter()
                .flat_map(|(server, sheds)| sheds.iter().map(move |shed| Found { server, shed }))
                .collect();
            if found.is_empty() {
                none(&context.ui, "There are no sheds.");
            } else {
                show(context, &found, Scope::All)?;
            }
            // Below a long list, where it is seen.
            answers.warn(&context.ui, "sheds");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn none(ui: &Ui, text: &str) {
    ui.note(text);
    if ui.stderr_is_terminal() {
        ui.hint("make one: shed create NAME");
    }
}

fn show(context: &Context, found: &[Found<'_>], scope: Scope) -> Result<(), CommandError> {
    let now = Timestamp::now();
    match context.verbosity {
        0 => context.ui.print_table(&short_table(found, scope, now)),
        1 => context.ui.print_table(&long_table(found, scope, now)),
        2.. => context.ui.print(&groups(found, now)),
    }
}

fn short_table(found: &[Found<'_>], scope: Scope, now: Timestamp) -> Table {
    let mut table = table(&["NAME", "BACKEND", "STATUS", "SSH", "CREATED"], scope);
    for one in found {
        let shed = one.shed;
        add_row(
            &mut table,
            scope,
            one,
            [
                (or_dash(shed.backend.as_deref()), Look::Plain),
                status(shed),
                (ssh(one), Look::Plain),
                (times::ago(shed.created_at, now), Look::Plain),
            ],
        );
    }
    table
}

fn long_table(found: &[Found<'_>], scope: Scope, now: Timestamp) -> Table {
    let mut table =
        table(&["NAME", "BACKEND", "STATUS", "SSH", "IP", "RESOURCES", "SOURCE", "UPTIME"], scope);
    for one in found {
        let shed = one.shed;
        add_row(
            &mut table,
            scope,
            one,
            [
                (or_dash(shed.backend.as_deref()), Look::Plain),
                status(shed),
                (ssh(one), Look::Plain),
                (or_dash(shed.ip_address.as_deref()), Look::Plain),
                (resources(shed), Look::Plain),
                (or_dash(source(shed)), Look::Plain),
                (
                    shed.started_at.map_or_else(|| "-".to_owned(), |then| times::uptime(then, now)),
                    Look::Plain,
                ),
            ],
        );
    }
    table
}

fn table(columns: &[&'static str], scope: Scope) -> Table {
    match scope {
        Scope::One => Table::new(columns),
        Scope::All => {
            let mut with_server = columns.to_vec();
            with_server.insert(1, "SERVER");
            Table::new(&with_server)
        }
    }
}

fn add_row<const N: usize>(table: &mut Table, scope: Scope, one: &Found<'_>, cells: [(String, Look); N]) {
    let mut row = vec![(one.shed.name.clone(), Look::Plain)];
    match scope {
        Scope::One => {}
        Scope::All => row.push((one.server.name.to_string(), Look::Plain)),
    }
    row.extend(cells);
    table.row(row);
}

/// Returns all that is known of each shed, a group of lines for each.
fn groups(found: &[Found<'_>], now: Timestamp) -> String {
    let mut out = String::new();
    for one in found {
        let shed = one.shed;
        let time = |at: Timestamp| format!("{at} ({})", times::ago(at, now));
        let lines = [
            ("Server", Some(format!("{} ({})", one.server.name, one.server.entry.url()))),
            ("Status", Some(shed.status.as_str().to_owned())),
            ("Error", shed.error.clone()),
            ("Backend", shed.backend.clone()),
            ("Image", shed.image.clone()),
            ("SSH", Some(ssh(one)).filter(|text| text != "-")),
            ("IP", shed.ip_address.clone()),
            ("CPUs", shed.cpus.map(|cpus| cpus.to_string())),
            ("Memory", shed.memory_mb.map(|mb| format!("{mb}MB"))),
            ("Repository", shed.repo.clone()),
            ("Directory", shed.local_dir.clone()),
            ("Disk", shed.rootfs_path.clone()),
            ("Process", shed.pid.map(|pid| pid.to_string())),
            ("Created", Some(time(shed.created_at))),
            ("Started", shed.started_at.map(time)),
            ("Healthy", shed.last_healthy.map(time)),
            ("Extensions", extensions(shed)),
        ];
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&format!("{}\n", clean(&shed.name)));
        for (key, value) in lines {
            if let Some(value) = value {
                out.push_str(&format!(
                    "  {:<11} {}\n",
                    format!("{key}:"),
                    clean(&value).replace('\n', "\n              ")
                ));
            }
        }
    }
    out
}

fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn status(shed: &Shed) -> (String, Look) {
    let look = match shed.status {
        ShedStatus::Running => Look::Good,
        ShedStatus::Stopped => Look::Dim,
        ShedStatus::Starting | ShedStatus::Stopping => Look::Busy,
        ShedStatus::Error => Look::Bad,
    };
    (shed.status.as_str().to_owned(), look)
}

/// Returns whom to give to an SSH client, `name@host:port`; a dash when the shed is stopped (spec G.1).
fn ssh(one: &Found<'_>) -> String {
    match one.shed.status {
        ShedStatus::Running => {
            format!("{}@{}:{}", one.shed.name, one.server.entry.host, one.server.entry.ssh_port)
        }
        ShedStatus::Stopped | ShedStatus::Starting | ShedStatus::Stopping | ShedStatus::Error => {
            "-".to_owned()
        }
    }
}

fn resources(shed: &Shed) -> String {
    match (shed.cpus, shed.memory_mb) {
        (Some(cpus), Some(mb)) => format!("{cpus}c/{mb}MB"),
        (Some(cpus), None) => format!("{cpus}c"),
        (None, Some(mb)) => format!("{mb}MB"),
        (None, None) => "-".to_owned(),
    }
}

/// Returns how each extension is in the shed and on its host, a line each.
fn extensions(shed: &Shed) -> Option<String> {
    let lines = shed.extensions.iter().map(|(namespace, state)| {
        format!("{namespace}: {} in the shed, host {}", state.guest.as_str(), state.host.as_str())
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Returns what is in /workspace: a repository or a directory of the host.
fn source(shed: &Shed) -> Option<&str> {
    shed.repo.as_deref().or(shed.local_dir.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ServerEntry, ServerName},
        servers::Origin,
    };

    fn server() -> Server {
        Server { name: ServerName::local(), entry: ServerEntry::this_machine(), origin: Origin::Configured }
    }

    fn sheds() -> Vec<Shed> {
        let json = r#"[
            {"name":"web","status":"running","created_at":"2026-01-02T03:00:00Z","backend":"qemu","cpus":2,"memory_mb":4096,
             "repo":"owner/web","image":"base","started_at":"2026-01-02T03:00:05Z","pid":7,
             "extensions":{"ssh-agent":{"guest":"running","host":"connected"},"my\u001b-tokens":{"guest":"failed","host":"unknown"}}},
            {"name":"old-api","status":"error","created_at":"2026-01-01T00:00:00Z","error":"no disk\n\u001b[2Jat all"}
        ]"#;
        serde_json::from_str(json).unwrap()
    }

    fn with_found(check: impl FnOnce(&[Found<'_>], Timestamp)) {
        let server = server();
        let sheds = sheds();
        let found: Vec<_> = sheds.iter().map(|shed| Found { server: &server, shed }).collect();
        check(&found, "2026-01-02T06:12:10Z".parse().unwrap());
    }

    #[test]
    fn the_short_table_has_the_columns_of_the_specification() {
        with_found(|found, now| {
            insta::assert_snapshot!(short_table(found, Scope::One, now).plain(), @r"
            NAME     BACKEND  STATUS   SSH                 CREATED
            web      qemu     running  web@127.0.0.1:2222  3 hours ago
            old-api  -        error    -                   1 day ago
            ");
        });
    }

    #[test]
    fn the_long_table_says_where_each_shed_is_when_there_are_several_servers() {
        with_found(|found, now| {
            insta::assert_snapshot!(long_table(found, Scope::All, now).plain(), @r"
            NAME     SERVER  BACKEND  STATUS   SSH                 IP  RESOURCES  SOURCE     UPTIME
            web      local   qemu     running  web@127.0.0.1:2222  -   2c/4096MB  owner/web  3h 12m
            old-api  local   -        error    -                   -   -          -          -
            ");
        });
    }

    #[test]
    fn the_groups_have_all_that_is_known_and_nothing_that_steers_the_terminal() {
        with_found(|found, now| {
            insta::assert_snapshot!(groups(found, now), @r"
            web
              Server:     local (http://127.0.0.1:8080)
              Status:     running
              Backend:    qemu
              Image:      base
              SSH:        web@127.0.0.1:2222
              CPUs:       2
              Memory:     4096MB
              Repository: owner/web
              Process:    7
              Created:    2026-01-02T03:00:00Z (3 hours ago)
              Started:    2026-01-02T03:00:05Z (3 hours ago)
              Extensions: my�-tokens: failed in the shed, host unknown
                          ssh-agent: running in the shed, host connected

            old-api
              Server:     local (http://127.0.0.1:8080)
              Status:     error
              Error:      no disk
                          �[2Jat all
              Created:    2026-01-01T00:00:00Z (1 day ago)
            ");
        });
    }
}
