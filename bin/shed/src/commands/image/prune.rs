//! `shed image prune`.

use std::process::ExitCode;

use clap::Args;
use shed_api::ImagePruneReport;
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
                Format::Text if is_empty(&plan) => return Ok(nothing(context, &server)),
                Format::Text => ui.print_table(&table(&plan))?,
            }
            let (what, size) = (count(&plan), freed(&plan));
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
            Format::Text if is_empty(&report) && report.notes.is_empty() => {
                return Ok(nothing(context, &server));
            }
            Format::Text => {
                ui.print_table(&table(&report))?;
                let (what, size) = (count(&report), freed(&report));
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

fn is_empty(report: &ImagePruneReport) -> bool {
    report.deleted.is_empty() && report.blobs.is_none()
}

/// Says what goes, in words: images, and layers that none is made of.
fn count(report: &ImagePruneReport) -> String {
    let images = match report.deleted.len() {
        1 => "1 image".to_owned(),
        number => format!("{number} images"),
    };
    match (&report.blobs, report.deleted.is_empty()) {
        (None, _) => images,
        (Some(_), true) => "unused layers".to_owned(),
        (Some(_), false) => format!("{images} and unused layers"),
    }
}

/// Returns the lengths of all files. What they take on the disk may be less: they can have holes, and sheds may share
/// their blocks.
fn freed(report: &ImagePruneReport) -> String {
    let images = report.deleted.iter().filter_map(|image| image.size_bytes);
    let blobs = report.blobs.iter().map(|blobs| blobs.bytes);
    sizes::human(images.chain(blobs).fold(0, u64::saturating_add))
}

fn table(report: &ImagePruneReport) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "REF"]).right("SIZE");
    for image in &report.deleted {
        table.row(vec![
            (image.name.clone(), Look::Plain),
            (image.size_bytes.map_or_else(|| "-".to_owned(), sizes::human), Look::Plain),
            (image.docker_ref.clone().unwrap_or_else(|| "-".to_owned()), Look::Plain),
        ]);
    }
    if let Some(blobs) = &report.blobs {
        table.row(vec![
            ("(layers)".to_owned(), Look::Plain),
            (sizes::human(blobs.bytes), Look::Plain),
            ("-".to_owned(), Look::Plain),
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
        ],"blobs":{"files":3,"bytes":1048576}}"#;
        let report: ImagePruneReport = serde_json::from_str(json).unwrap();
        insta::assert_snapshot!(table(&report).plain(), @r"
        NAME         SIZE  REF
        old        2.0GiB  ghcr.io/o/old:v1
        huge      16.0EiB  -
        (layers)   1.0MiB  -
        ");
        assert_eq!(freed(&report), "16.0EiB");
        assert_eq!(count(&report), "2 images and unused layers");
        let layers = ImagePruneReport { deleted: Vec::new(), ..report };
        assert_eq!((count(&layers), freed(&layers)), ("unused layers".to_owned(), "1.0MiB".to_owned()));
        assert!(!is_empty(&layers) && is_empty(&ImagePruneReport { blobs: None, ..layers }));
    }
}
