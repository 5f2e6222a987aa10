//! `shed system prune`.

use std::process::ExitCode;

use clap::Args;
use futures::future::join_all;
use serde::Serialize;
use shed_api::{PruneReport, PruneScope};
use shed_client::{ClientError, PruneQuery, Timeouts};

use super::{
    report::{self, Pruned, Tense},
    values::{Age, parse_log_tail, parse_scope},
};
use crate::{
    cli::Context,
    command_error::CommandError,
    commands::{
        block_on,
        fleet::{Answers, Missing, Scope},
        work,
    },
    confirm,
    progress::Progress,
    servers::Server,
    ui::{Done, Format, Ui},
};

const AFTER_HELP: &str = "\
The scopes:
  images     cached images that neither server.yaml nor a shed uses
  instances  sheds that have been stopped for longer than --until, with their files
  orphans    what conversions of images that never ended have left behind
  logs       console logs, cut to their last --log-tail-bytes

Without --scope it is images, instances and orphans. Running sheds are never touched.

Examples:
  shed system prune --dry-run -v                  see what would go, what stays, and why
  shed system prune --scope images,orphans
  shed system prune --scope instances --until 30d
  shed system prune --scope logs --log-tail-bytes 512k --force
  shed system prune --all                         on every server";

/// Clean up a server's disk
///
/// Shows what would go and what that frees, asks, and then does it. Stopped sheds are deleted with their files, which
/// cannot be brought back. Does nothing without --force where nobody can be asked.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PruneArgs {
    /// What to clean up: images, instances, logs, orphans; several with commas, or the flag repeated
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', value_parser = parse_scope)]
    scopes: Vec<PruneScope>,

    /// Delete only sheds that have been stopped for this long: 90m, 72h, 30d [default: 72h]
    #[arg(long, value_name = "AGE", allow_hyphen_values = true)]
    until: Option<Age>,

    /// How much of each console log to keep: 65536, 512k, 5m [default: 5m]
    #[arg(long, value_name = "SIZE", value_parser = parse_log_tail, allow_negative_numbers = true)]
    log_tail_bytes: Option<u64>,

    /// Show what would be done, and change nothing, even with --force
    #[arg(long)]
    dry_run: bool,

    /// Do it without asking
    #[arg(short, long)]
    force: bool,

    /// Clean up all servers; those that do not answer are reported
    // No short form: `-af`, which other tools have taught people to type after a prune, must not reach every server.
    #[arg(long, conflicts_with = "server")]
    all: bool,
}

/// Result of `system prune --all --dry-run --json`, in the shape of that of `system df --all`.
#[derive(Serialize)]
struct EveryReport<'a> {
    servers: Vec<ReportOnServer<'a>>,
}

#[derive(Serialize)]
struct ReportOnServer<'a> {
    server_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a PruneReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &PruneArgs) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    if !args.force && !args.dry_run {
        confirm::somebody(
            ui,
            "nothing is pruned",
            "see what would go: shed system prune --dry-run; do it without a question: shed system prune --force",
        )?;
    }
    let servers = context.servers()?;
    let (targets, scope) =
        if args.all { (servers.all(), Scope::All) } else { (vec![servers.selected()?], Scope::One) };
    block_on(async {
        let mut silent = Vec::new();
        let mut targets = targets;
        if args.dry_run || !args.force {
            let plans = ask(context, args, targets, Tense::Would).await.at_least_one()?;
            if ui.format() == Format::Json {
                print_plans(ui, &plans, scope)?;
                return Ok(ExitCode::SUCCESS);
            }
            show(context, &plans.found, scope, Tense::Would)?;
            for missing in &plans.missing {
                ui.warning(&format!("nothing is pruned on {}: {}", missing.server.name, missing.reason()));
            }
            let sum = report::sum(&plans.found);
            if sum.items == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            let question = format!("Prune {} and free up to {}?", sum.what(), sum.size());
            if args.dry_run {
                ui.note(&format!("A prune takes {} and frees up to {}.", sum.what(), sum.size()));
                return Ok(ExitCode::SUCCESS);
            }
            if !confirm::ask(ui, &question).await? {
                return Ok(confirm::declined(ui));
            }
            silent = plans.missing;
            targets = plans
                .found
                .into_iter()
                .filter(|(_, plan)| !plan.items.is_empty())
                .map(|(server, _)| server)
                .collect();
        }
        let mut done = work::unless_interrupted("the prune", async {
            Ok(ask(context, args, targets, Tense::Did).await)
        })
        .await?;
        done.missing.append(&mut silent);
        tell(context, done, scope)
    })
}

/// Sends the prune, or its dry run, to all targets at once, each with the same parameters.
async fn ask(
    context: &Context,
    args: &PruneArgs,
    targets: Vec<Server>,
    tense: Tense,
) -> Answers<PruneReport> {
    let query = PruneQuery {
        scopes: args.scopes.clone(),
        dry_run: tense == Tense::Would,
        until: args.until.map(|age| age.to_string()),
        log_tail_bytes: args.log_tail_bytes,
    };
    let message = match tense {
        Tense::Would => "looking",
        Tense::Did => "pruning",
    };
    let progress = Progress::new(&context.ui);
    let asked: Vec<Result<PruneReport, ClientError>> = join_all(targets.iter().map(async |server| {
        let _task = progress.task(&server.name, message);
        server.client(Timeouts::default()).system_prune(&query).await
    }))
    .await;
    Answers::sort(targets.into_iter().zip(asked))
}

/// Prints what a dry run found: the API's object, or one for each server.
fn print_plans(ui: &Ui, plans: &Answers<PruneReport>, scope: Scope) -> Result<(), CommandError> {
    if let (Scope::One, [(_, report)]) = (scope, plans.found.as_slice()) {
        return ui.print_json(report);
    }
    let known = plans.found.iter().map(|(server, report)| ReportOnServer {
        server_name: server.name.to_string(),
        report: Some(report),
        error: None,
    });
    let missing = plans.missing.iter().map(|missing| ReportOnServer {
        server_name: missing.server.name.to_string(),
        report: None,
        error: Some(missing.reason()),
    });
    let mut servers: Vec<ReportOnServer<'_>> = known.chain(missing).collect();
    servers.sort_by(|a, b| a.server_name.cmp(&b.server_name));
    ui.print_json(&EveryReport { servers })
}

/// Shows what goes or went, and with `-v` what stays.
fn show(context: &Context, reports: &[Pruned], scope: Scope, tense: Tense) -> Result<(), CommandError> {
    let ui = &context.ui;
    if report::sum(reports).items == 0 {
        let names: Vec<&str> = reports.iter().map(|(server, _)| server.name.as_ref()).collect();
        ui.note(&format!("There is nothing to prune on {}.", names.join(", ")));
    } else {
        ui.print_table(&report::items(reports, scope, tense))?;
    }
    match report::count_skipped(reports) {
        0 => {}
        _ if context.verbosity > 0 => {
            ui.print("\n")?;
            ui.print_table(&report::skipped(reports, scope))?;
        }
        1 => ui.note("One more thing is kept; -v says why."),
        count => ui.note(&format!("{count} more things are kept; -v says why.")),
    }
    for (server, report) in reports {
        for note in &report.notes {
            let text = format!("{}: {}", server.name, note.replace('\n', " "));
            if report::is_failure(note) {
                ui.warning(&text);
            } else if context.verbosity > 0 {
                ui.note(&text);
            }
        }
    }
    Ok(())
}

/// Tells how the prune went. It has failed when a server has not answered, or left something undone; the exit code is
/// that of the first failure.
fn tell(context: &Context, done: Answers<PruneReport>, scope: Scope) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    let mut code = ExitCode::SUCCESS;
    if done.found.iter().any(|(_, report)| report::is_partial(report)) {
        code = ExitCode::from(1);
    }
    match ui.format() {
        Format::Json => {
            for (server, report) in &done.found {
                let result = Done::on_server("system prune", server.name.to_string(), Some(report));
                let partial = report::is_partial(report);
                ui.print_done(&if partial { result.partly() } else { result })?;
            }
        }
        Format::Text if done.found.is_empty() => {}
        Format::Text => {
            show(context, &done.found, scope, Tense::Did)?;
            let sum = report::sum(&done.found);
            if sum.items > 0 {
                ui.print(&format!("Pruned {} and freed up to {}\n", sum.what(), sum.size()))?;
            }
        }
    }
    for Missing { server, error } in done.missing {
        let error = CommandError::from_client(error, &server, None);
        if code == ExitCode::SUCCESS {
            code = error.exit_code();
        }
        ui.error(&error);
    }
    Ok(code)
}
