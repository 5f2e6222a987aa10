//! `shed ssh-config`.

use std::{collections::BTreeMap, process::ExitCode};

use clap::{ArgGroup, Args};
use serde::Serialize;
use shed_api::Shed;
use shed_client::{Client, Timeouts};
use shed_types::ShedName;

use super::{
    block_on,
    fleet::{self, Missing, Offline},
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    config::{ConfigStore, Place},
    servers::{Server, Servers, Strayed},
    ssh_config::{
        block::Entries,
        entry::{self, Entry, Target, UnwritablePathError},
        file::{Changes, Intent, SshFile, SshFileError},
        merge::{Reach, Wanted, merge},
    },
    ui::{Done, Format, Ui},
};

/// File whose lock keeps two of these commands from writing at once, beside the config file.
const LOCK: &str = "ssh-config";

const AFTER_HELP: &str = "\
With it in ~/.ssh/config, ssh and all that uses it find the shed `web` as the host shed-web:

  ssh shed-web
  scp notes.txt shed-web:/workspace/
  code --remote ssh-remote+shed-web /workspace

Examples:
  shed ssh-config web                        see the entry
  shed ssh-config --install web              add it to ~/.ssh/config, or bring it up to date
  shed ssh-config --install --all            all sheds of all servers; those that are gone go
  shed ssh-config --install --all --dry-run  see what that would change
  shed ssh-config --uninstall                take all of it out again";

/// Make sheds known to ssh, and so to scp, rsync, git and editors
///
/// Prints an entry for ~/.ssh/config for the shed, or for each shed of the default server. --install keeps them in a block
/// at the top of that file, and leaves the rest of it alone.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("change").args(["install", "uninstall"]))]
pub(crate) struct SshConfigArgs {
    /// The shed; without it, all sheds of the default server or of the one in --server
    #[arg(value_name = "NAME")]
    name: Option<ShedName>,

    /// All sheds of all servers; those that do not answer are reported
    #[arg(short, long, conflicts_with_all = ["name", "server"])]
    all: bool,

    /// Write the entries into ~/.ssh/config
    #[arg(long)]
    install: bool,

    /// Take the shed's entry out of ~/.ssh/config, or all of them without a name
    #[arg(long)]
    uninstall: bool,

    /// Show what --install or --uninstall would change, and change nothing
    #[arg(long, requires = "change")]
    dry_run: bool,
}

/// A shed and its server.
struct Found {
    shed: ShedName,
    server: Server,
}

/// What was found, and what that says of sheds that were not.
struct Fleet {
    found: Vec<Found>,
    missing: Vec<Offline>,
    /// Which entries are for sheds that are gone, if they are not among those found.
    reach: Reach,
}

/// Result without --install, in JSON.
#[derive(Serialize)]
struct Hosts<'a> {
    hosts: Vec<HostOut<'a>>,
    #[serde(skip_serializing_if = "<[Offline]>::is_empty")]
    offline: &'a [Offline],
}

#[derive(Serialize)]
struct HostOut<'a> {
    host: String,
    shed_name: &'a str,
    server_name: String,
    host_name: &'a str,
    port: u16,
    user: &'a str,
    known_hosts: &'a str,
}

/// Result of --install and --uninstall (spec F.1).
#[derive(Serialize)]
struct Details<'a> {
    path: &'a str,
    added: Vec<&'a String>,
    updated: Vec<&'a String>,
    removed: Vec<&'a String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &SshConfigArgs) -> Result<ExitCode, CommandError> {
    let store = context.store()?.absolute()?;
    if args.uninstall {
        let alias = args.name.as_ref().map(entry::alias);
        let changes = change(args, &store, |entries| match &alias {
            Some(alias) => drop(entries.remove(alias)),
            None => entries.clear(),
        })?;
        return tell(context, args, "ssh-config uninstall", &changes);
    }
    let servers = context.servers()?;
    let fleet = block_on(find(context, &servers, args))?;
    let known_hosts = store.known_hosts();
    let entries = fleet
        .found
        .iter()
        .map(|found| {
            Entry::new(Target {
                shed: &found.shed,
                server: &found.server.name,
                host: &found.server.entry.host,
                port: found.server.entry.ssh_port,
                known_hosts: known_hosts.path(),
            })
        })
        .collect::<Result<Vec<Entry>, UnwritablePathError>>()
        .map_err(|error| CommandError::from_error(Kind::Failed, &error))?;
    warn_of_unknown_keys(&context.ui, &store, &fleet.found);
    if !args.install {
        return print(context, &fleet, &entries, known_hosts.path().as_str());
    }
    let wanted = fleet.found.into_iter().zip(entries);
    let wanted = wanted.map(|(Found { shed, server }, entry)| Wanted { shed, server: server.name, entry });
    let mut warnings = Vec::new();
    let changes = change(args, &store, |there| {
        warnings = merge(there, wanted.collect(), &fleet.reach, servers.config());
    })?;
    for warning in warnings {
        context.ui.warning(&warning);
    }
    tell(context, args, "ssh-config install", &changes)
}

/// Finds the sheds.
async fn find(context: &Context, servers: &Servers, args: &SshConfigArgs) -> Result<Fleet, CommandError> {
    let ui = &context.ui;
    if let Some(name) = &args.name {
        let get = async |server: &Server| server.client(Timeouts::default()).get(name).await;
        let (server, _) = servers.on_server_of(ui, name, Strayed::Search, get).await?;
        let found = vec![Found { shed: name.clone(), server }];
        return Ok(Fleet { found, missing: Vec::new(), reach: Reach::Shed });
    }
    if args.all {
        let answers = fleet::ask(servers, Client::list).await.at_least_one()?;
        answers.warn(ui, "sheds");
        let silent = answers.missing.iter().map(|Missing { server, .. }| server.name.clone()).collect();
        let missing = answers.offline();
        let found = one_each(ui, servers, answers.found);
        return Ok(Fleet { found, missing, reach: Reach::AllBut(silent) });
    }
    let server = servers.selected()?;
    let sheds = server.client(Timeouts::default()).list().await;
    let sheds = sheds.map_err(|error| CommandError::from_client(error, &server, None))?;
    let name = server.name.clone();
    let reach = if servers.is_chosen() { Reach::Chosen(name) } else { Reach::Default(name) };
    Ok(Fleet { found: one_each(ui, servers, vec![(server, sheds)]), missing: Vec::new(), reach })
}

/// Gives each name to one shed. Where several servers have one of that name, it is the one that commands without
/// `--server` mean: that on the server where it was last seen, or else on the default server.
fn one_each(ui: &Ui, servers: &Servers, answers: Vec<(Server, Vec<Shed>)>) -> Vec<Found> {
    let mut by_name: BTreeMap<ShedName, Vec<Server>> = BTreeMap::new();
    for (server, sheds) in answers {
        for shed in sheds {
            // A name that breaks the rules is no name of a shed, whatever the server says.
            if let Ok(name) = shed.name.parse() {
                by_name.entry(name).or_default().push(server.clone());
            }
        }
    }
    let config = servers.config();
    let choose = |(shed, mut having): (ShedName, Vec<Server>)| {
        let owner = config.sheds.get(shed.as_str()).map(|seen| &seen.server);
        let place = |name| having.iter().position(|server| Some(&server.name) == name);
        let place = place(owner).or_else(|| place(config.default_server.as_ref())).unwrap_or(0);
        let server = having.swap_remove(place);
        if !having.is_empty() {
            let mut others: Vec<String> = having.iter().map(|server| server.name.to_string()).collect();
            others.sort();
            ui.warning(&format!(
                "{} is the shed {shed} on {}, and not the one on {}",
                entry::alias(&shed),
                server.name,
                others.join(", ")
            ));
        }
        Found { shed, server }
    };
    by_name.into_iter().map(choose).collect()
}

/// Says which servers ssh will refuse, because nobody has told it their keys.
fn warn_of_unknown_keys(ui: &Ui, store: &ConfigStore, found: &[Found]) {
    let servers: BTreeMap<_, _> =
        found.iter().map(|found| (&found.server.name, &found.server.entry)).collect();
    for (name, entry) in servers {
        let place = Place::of(entry);
        match store.known_hosts().knows(&place) {
            Ok(true) => {}
            Ok(false) => ui.warning(&format!(
                "the SSH host key of server {name}, {place}, is not known, and ssh will refuse to connect; add the server \
                 (anew): shed server add {}",
                entry.host
            )),
            Err(error) => ui.warning(&shed_types::error_chain(&error)),
        }
    }
}

fn print(
    context: &Context,
    fleet: &Fleet,
    entries: &[Entry],
    known_hosts: &str,
) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    match ui.format() {
        Format::Json => {
            let host = |found: &'_ Found| (entry::alias(&found.shed), found.server.name.to_string());
            let hosts = fleet.found.iter().map(|found| {
                let (host, server_name) = host(found);
                HostOut {
                    host,
                    shed_name: found.shed.as_str(),
                    server_name,
                    host_name: found.server.entry.host.as_str(),
                    port: found.server.entry.ssh_port.get(),
                    user: found.shed.as_str(),
                    known_hosts,
                }
            });
            ui.print_json(&Hosts { hosts: hosts.collect(), offline: &fleet.missing })?;
        }
        Format::Text if entries.is_empty() => ui.note("There are no sheds."),
        Format::Text => {
            let texts: Vec<&str> = entries.iter().map(|entry| entry.text.as_str()).collect();
            ui.print(&texts.join("\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Changes the user's file, or looks what that would change.
fn change(
    args: &SshConfigArgs,
    store: &ConfigStore,
    change: impl FnOnce(&mut Entries),
) -> Result<Changes, CommandError> {
    let file = SshFile::locate()?;
    if args.dry_run {
        return Ok(file.update(Intent::Look, change)?);
    }
    let _lock = store.lock_beside(LOCK).map_err(SshFileError::from)?;
    Ok(file.update(Intent::Write, change)?)
}

fn tell(
    context: &Context,
    args: &SshConfigArgs,
    action: &'static str,
    changes: &Changes,
) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    let file = SshFile::locate()?;
    let Changes { added, updated, removed, is_written } = changes;
    match ui.format() {
        Format::Json => {
            let names = |entries: &'_ Entries| entries.keys().cloned().collect::<Vec<String>>();
            let (added, updated, removed) = (names(added), names(updated), names(removed));
            let details = Details {
                path: file.path().as_str(),
                added: added.iter().collect(),
                updated: updated.iter().collect(),
                removed: removed.iter().collect(),
                dry_run: args.dry_run,
            };
            ui.print_done(&Done::of_this_machine(action, details))?;
        }
        Format::Text if !is_written => ui.note(&format!("There is nothing to change in {}.", file.path())),
        Format::Text => {
            if args.dry_run {
                ui.print(&preview(changes))?;
            }
            let verb = if args.dry_run { "Would change" } else { "Changed" };
            ui.print(&format!("{verb} {}: {}\n", file.path(), describe(changes)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the changes in a line.
fn describe(changes: &Changes) -> String {
    let Changes { added, updated, removed, is_written: _ } = changes;
    let parts: Vec<String> = [("added", added), ("updated", updated), ("removed", removed)]
        .into_iter()
        .filter(|(_, entries)| !entries.is_empty())
        .map(|(verb, entries)| {
            let names: Vec<&str> = entries.keys().map(String::as_str).collect();
            format!("{verb} {}", names.join(", "))
        })
        .collect();
    if parts.is_empty() { "the form of the block".to_owned() } else { parts.join("; ") }
}

/// Returns the entries that change, as in a diff.
fn preview(changes: &Changes) -> String {
    let Changes { added, updated, removed, is_written: _ } = changes;
    let marked = [("- ", removed), ("+ ", added), ("+ ", updated)];
    let lines = marked.into_iter().flat_map(|(mark, entries)| {
        entries.values().flat_map(move |entry| entry.text.lines().map(move |line| format!("{mark}{line}\n")))
    });
    lines.collect()
}

impl From<SshFileError> for CommandError {
    fn from(error: SshFileError) -> Self {
        match error {
            SshFileError::Lock(error) => error.into(),
            SshFileError::Block { .. } => Self::from_error(Kind::Failed, &error).hinted(
                "correct the lines that begin with `# ---` by hand, or remove them with what is between them",
            ),
            other @ (SshFileError::NoHome
            | SshFileError::Read { .. }
            | SshFileError::DanglingLink { .. }
            | SshFileError::CreateDirectory { .. }
            | SshFileError::Write(_)) => Self::from_error(Kind::Failed, &other),
        }
    }
}
