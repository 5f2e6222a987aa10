//! `shed tunnels start`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shed_api::ShedStatus;
use shed_client::Timeouts;
use shed_types::ShedName;

use super::{
    Ports,
    serve::{self, Place},
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::{block_on, work},
    config::ConfigStore,
    confirm,
    servers::{Server, Servers, Strayed},
    tunnels::{
        carry::Terminal,
        doors::{self, Blocked, Door},
        file::Resolved,
        handover::{self, HandOverError, Task},
        journal::Journal,
        mapping::Mapping,
        state::{Entry, TunnelState},
    },
    ui::{Done, Format},
};

const AFTER_HELP: &str = "\
The local ports listen on 127.0.0.1 only. A shed that is stopped is started. When a local port is taken, nothing is started.

Examples:
  shed tunnels start web                       the ports of the profile `default`, until Ctrl-C
  shed tunnels start web -t 3000 -t 8080:80    ports without a profile
  shed tunnels start web -p db -d              in the background
  shed tunnels start web -t 4000 -d --replace  instead of those that run";

/// Start tunnels to a shed
///
/// Leads local ports into the shed, until Ctrl-C or, with --detach, until they are stopped. They end with the shed. A
/// server that cannot be reached for a while costs the connections of that while.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct StartArgs {
    /// The shed
    #[arg(value_name = "SHED")]
    shed: ShedName,

    #[command(flatten)]
    ports: Ports,

    /// Go on in the background, without this terminal
    #[arg(short, long)]
    detach: bool,

    /// Take the place of tunnels to this shed that run already, without asking
    #[arg(long)]
    replace: bool,
}

/// What a signal may interrupt before the tunnels are there.
const WHAT: &str = "the start of the tunnels";

/// What was started.
#[derive(Serialize)]
struct Details<'a> {
    profile: &'a str,
    pid: u32,
    ports: &'a [Mapping],
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a str>,
}

/// All that is needed to forward ports, but for what the tunnels that are replaced have.
struct Prepared {
    server: Server,
    doors: Vec<Door>,
    /// Ports that can only be opened when those tunnels have ended.
    later: Vec<Mapping>,
}

/// Runs the command.
pub(super) fn run(context: &Context, args: &StartArgs) -> Result<ExitCode, CommandError> {
    let store = context.store()?.absolute()?;
    let (file, resolved) = args.ports.resolve(&store, &args.shed)?;
    let servers = context.servers()?;
    let state = TunnelState::beside(&store);
    let old = state.running_to(&args.shed)?;
    block_on(async {
        if let Some(old) = &old
            && !args.replace
            && !may_replace(context, old).await?
        {
            return Ok(confirm::declined(&context.ui));
        }
        let prepare = prepare(context, &servers, &args.shed, &resolved, old.as_ref());
        if args.detach {
            let leave = async {
                let Prepared { server, doors, later } = prepare.await?;
                let task = Task {
                    server: server.name.clone(),
                    profile: resolved.label.clone(),
                    ports: resolved.ports.clone(),
                    later,
                    replaced: old.clone(),
                    log: state.log_of(&args.shed),
                };
                let pid = hand_over(&args.shed, &task, &doors, &store).await?;
                tell(context, args, &server, &resolved, pid, Some(&task))
            };
            work::unless_interrupted(WHAT, leave).await?;
            return Ok(ExitCode::SUCCESS);
        }
        // Before the wait that a signal gives up, so that none is lost between that and the tunnels.
        let ends = serve::watch(Terminal::Ours)?;
        let ready = async {
            let Prepared { server, doors, later } = prepare.await?;
            let doors = take_over(&state, old.as_ref(), doors, &later).await?;
            Ok((server, doors))
        };
        let (server, doors) = work::unless_interrupted(WHAT, ready).await?;
        let (label, ports) = (resolved.label.clone(), resolved.ports.clone());
        let place = Place::take(&store, &server, &args.shed, label, ports, ends)?;
        tell(context, args, &server, &resolved, std::process::id(), None)?;
        place.carry(doors, &server, file.ssh, Journal::Terminal(&context.ui)).await
    })
}

/// Gives the ports to a process that outlives this one, and returns its id when it has begun.
async fn hand_over(
    shed: &ShedName,
    task: &Task,
    doors: &[Door],
    store: &ConfigStore,
) -> Result<u32, CommandError> {
    let failed = |error: HandOverError| {
        let made = CommandError::from_error(Kind::Failed, &error);
        match error {
            HandOverError::Died | HandOverError::Silent(_) => {
                made.hinted(format!("its log may say why: {}", task.log))
            }
            HandOverError::Log { .. }
            | HandOverError::Start(_)
            | HandOverError::Send(_)
            | HandOverError::Failed(_) => made,
        }
    };
    let starting = handover::start(shed, task, doors, store.path()).map_err(failed)?;
    // In a thread, because Ctrl-C must be heard meanwhile.
    let answer = tokio::task::spawn_blocking(move || starting.wait()).await;
    answer.unwrap_or(Err(HandOverError::Died)).map_err(failed)
}

/// Returns whether tunnels that run may be ended, when nobody has said so beforehand.
async fn may_replace(context: &Context, old: &Entry) -> Result<bool, CommandError> {
    if confirm::somebody(&context.ui, "", "").is_err() {
        return Err(serve::already_running(old));
    }
    confirm::ask(&context.ui, &format!("{}. Replace them?", upper_first(&serve::describe(old)))).await
}

fn upper_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Opens the ports that can be had beside the tunnels that are replaced, and sees to it that the shed runs.
async fn prepare(
    context: &Context,
    servers: &Servers,
    name: &ShedName,
    resolved: &Resolved,
    old: Option<&Entry>,
) -> Result<Prepared, CommandError> {
    let ui = &context.ui;
    let get = async |server: &Server| server.client(Timeouts::default()).get(name).await;
    let (server, shed) = servers.on_server_of(ui, name, Strayed::Search, get).await?;
    let (doors, blocked) = doors::open(&resolved.ports);
    let is_old = |blocked: &Blocked| {
        blocked.is_in_use()
            && old.is_some_and(|old| old.ports.iter().any(|port| port.local == blocked.mapping.local))
    };
    let (freed, blocked): (Vec<Blocked>, Vec<Blocked>) = blocked.into_iter().partition(is_old);
    refuse(blocked)?;
    if shed.status != ShedStatus::Running {
        work::start(context, servers, name, &server).await?;
    }
    Ok(Prepared { server, doors, later: freed.into_iter().map(|blocked| blocked.mapping).collect() })
}

/// Ends the tunnels that are replaced, and opens the ports that they had. This comes last, when all that can fail without
/// it has not: tunnels that are ended for nothing are worse than none that are new.
pub(super) async fn take_over(
    state: &TunnelState,
    old: Option<&Entry>,
    mut doors: Vec<Door>,
    later: &[Mapping],
) -> Result<Vec<Door>, CommandError> {
    if let Some(old) = old {
        state.end(old).await?;
    }
    let (more, blocked) = doors::open(later);
    refuse(blocked)?;
    doors.extend(more);
    Ok(doors)
}

/// Fails when a port cannot be had.
fn refuse(blocked: Vec<Blocked>) -> Result<(), CommandError> {
    let in_use: Vec<String> = blocked
        .iter()
        .filter(|blocked| blocked.is_in_use())
        .map(|blocked| blocked.mapping.local.to_string())
        .collect();
    if let Some(port) = in_use.first() {
        let what = if in_use.len() == 1 { "port" } else { "ports" };
        let verb = if in_use.len() == 1 { "is" } else { "are" };
        let message =
            format!("{what} {} of 127.0.0.1 {verb} in use, and nothing is started", in_use.join(", "));
        return Err(CommandError::new(Kind::Failed, message).hinted(format!(
            "see by what: lsof -nP -iTCP:{port} -sTCP:LISTEN; or take another one, as in -t 1{port}:REMOTE"
        )));
    }
    match blocked.into_iter().next() {
        None => Ok(()),
        Some(Blocked { mapping, error }) => {
            let message =
                format!("could not listen on port {} of 127.0.0.1, and nothing is started", mapping.local);
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            let made = CommandError::new(Kind::Failed, message).caused_by(error);
            Err(if denied {
                let (local, remote) = (mapping.local, mapping.remote);
                made.hinted(format!(
                    "ports below 1024 may be for root alone; take another one: -t {}:{remote}",
                    u32::from(local.get()) + 8000
                ))
            } else {
                made
            })
        }
    }
}

/// Says what runs.
fn tell(
    context: &Context,
    args: &StartArgs,
    server: &Server,
    resolved: &Resolved,
    pid: u32,
    task: Option<&Task>,
) -> Result<(), CommandError> {
    let (ui, shed) = (&context.ui, &args.shed);
    match ui.format() {
        Format::Json => ui.print_done(&Done::new(
            "tunnels start",
            shed.as_str(),
            server.name.to_string(),
            Some(Details {
                profile: &resolved.label,
                pid,
                ports: &resolved.ports,
                log: task.map(|task| task.log.as_str()),
            }),
        )),
        Format::Text => {
            ui.print(&format!("Started tunnels to shed {shed} on {} ({})\n", server.name, resolved.label))?;
            for Mapping { local, remote } in &resolved.ports {
                ui.print(&format!("  127.0.0.1:{local} leads to port {remote}\n"))?;
            }
            match task {
                Some(task) => ui
                    .note(&format!("They are in the background (process {pid}); their log is {}.", task.log)),
                None => ui.note("They end with Ctrl-C."),
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ports_that_are_taken_are_named() {
        let blocked = |text: &str, kind: std::io::ErrorKind| Blocked {
            mapping: text.parse().unwrap(),
            error: kind.into(),
        };
        let error = refuse(vec![
            blocked("3000", std::io::ErrorKind::AddrInUse),
            blocked("80", std::io::ErrorKind::PermissionDenied),
            blocked("4000:1", std::io::ErrorKind::AddrInUse),
        ])
        .unwrap_err();
        assert_eq!(error.message(), "ports 3000, 4000 of 127.0.0.1 are in use, and nothing is started");
        let error = refuse(vec![blocked("80:8080", std::io::ErrorKind::PermissionDenied)]).unwrap_err();
        assert_eq!(error.hints(), ["ports below 1024 may be for root alone; take another one: -t 8080:8080"]);
        assert!(refuse(Vec::new()).is_ok());
    }

    #[test]
    fn a_question_begins_with_a_capital() {
        assert_eq!(upper_first("there are"), "There are");
        assert_eq!(upper_first(""), "");
    }
}
