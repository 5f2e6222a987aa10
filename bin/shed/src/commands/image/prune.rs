//! `shed image prune`.

use std::process::ExitCode;

use clap::Args;
use shed_api::{Image, ImagePruneReport};
use shed_client::Timeouts;

use crate::{
    cli::Context,
    command_error::CommandError,
    commands::{block_on, work},
    confirm,
    progress::Progress,
    servers::Server,
    sizes,
    ui::{Done, Format, Look, Table},
};

const AFTER_HELP: &str = "\
An image is kept when server.yaml names it or a shed was made from it. `shed system prune` cleans
up more than images.

Examples:
  shed image prune --dry-run
  shed image prune --force";

/// Delete the cached images that nothing uses
///
/// Shows what would go and what that frees, asks, and then deletes it. Does nothing without --force where nobody can be
/// asked.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PruneArgs {
    /// Show what would go, and delete nothing, even with --force
    #[arg(long)]
    dry_run: bool,

    /// Delete without asking
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &PruneArgs) -> Result<ExitCode, CommandError> {
    let ui = &context.ui;
    if !args.force && !args.dry_run {
        confirm::somebody(
            ui,
            "nothing is pruned",
            "see what would go: shed image prune --dry-run; delete it without a question: shed image prune --force",
        )?;
    }
    let server = context.servers()?.selected()?;
    block_on(async {
        if args.dry_run || !args.force {
            let plan = prune(context, &server, true).await?;
            match ui.format() {
                Format::Json => {
                    ui.print_json(&plan)?;
                    return Ok(ExitCode::SUCCESS);
                }
                Format::Text if plan.deleted.is_empty() => return Ok(nothing(context, &server)),
                Format::Text => ui.print_table(&table(&plan.deleted))?,
            }
            let (what, size) = (count(&plan.deleted), freed(&plan.deleted));
            if args.dry_run {
                ui.note(&format!("A prune deletes {what} on {} and frees up to {size}.", server.name));
                return Ok(ExitCode::SUCCESS);
            }
            if !confirm::ask(ui, &format!("Delete {what} on {} and free up to {size}?", server.name)).await? {
                return Ok(confirm::declined(ui));
            }
        }
        let report = work::unless_interrupted("the prune", prune(context, &server, false)).await?;
        for note in &report.notes {
            ui.warning(note);
        }
        let code = if report.notes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        match ui.format() {
            Format::Json => {
                ui.print_done(&Done::on_server("image prune", server.name.to_string(), Some(report)))?;
            }
            Format::Text if report.deleted.is_empty() && report.notes.is_empty() => {
                return Ok(nothing(context, &server));
            }
            Format::Text => {
                ui.print_table(&table(&report.deleted))?;
                let (what, size) = (count(&report.deleted), freed(&report.deleted));
                ui.print(&format!("Deleted {what} on {} and freed up to {size}\n", server.name))?;
            }
        }
        Ok(code)
    })
}

async fn prune(context: &Context, server: &Server, dry_run: bool) -> Result<ImagePruneReport, CommandError> {
    let progress = Progress::new(&context.ui);
    let _task = progress.task(&server.name, if dry_run { "looking" } else { "pruning" });
    let report = server.client(Timeouts::default()).prune_images(dry_run).await;
    report.map_err(|error| CommandError::from_client(error, server, None))
}

fn nothing(context: &Context, server: &Server) -> ExitCode {
    context.ui.note(&format!("There is nothing to prune on {}: every image is in use.", server.name));
    ExitCode::SUCCESS
}

fn count(images: &[Image]) -> String {
    if images.len() == 1 { "1 image".to_owned() } else { format!("{} images", images.len()) }
}

/// Returns the lengths of all files. What they take on the disk may be less: they can have holes, and sheds may share
/// their blocks.
fn freed(images: &[Image]) -> String {
    sizes::human(images.iter().filter_map(|image| image.size_bytes).fold(0, u64::saturating_add))
}

fn table(images: &[Image]) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "REF"]).right("SIZE");
    for image in images {
        table.row(vec![
            (image.name.clone(), Look::Plain),
            (image.size_bytes.map_or_else(|| "-".to_owned(), sizes::human), Look::Plain),
            (image.docker_ref.clone().unwrap_or_else(|| "-".to_owned()), Look::Plain),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_goes_and_sums_do_not_overflow() {
        let json = r#"{"deleted":[
            {"name":"old","docker_ref":"ghcr.io/o/old:v1","size_bytes":2147483648,"cached":true},
            {"name":"huge","size_bytes":18446744073709551615,"cached":true}
        ]}"#;
        let report: ImagePruneReport = serde_json::from_str(json).unwrap();
        insta::assert_snapshot!(table(&report.deleted).plain(), @r"
        NAME     SIZE  REF
        old    2.0GiB  ghcr.io/o/old:v1
        huge  16.0EiB  -
        ");
        assert_eq!(freed(&report.deleted), "16.0EiB");
        assert_eq!(freed(&report.deleted[..1]), "2.0GiB");
    }
}
