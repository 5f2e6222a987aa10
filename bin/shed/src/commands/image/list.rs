//! `shed image list`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use shed_api::{Image, ImageList, ImageSource};
use shed_client::{Client, Timeouts};

use crate::{
    cli::Context,
    command_error::CommandError,
    commands::{
        block_on,
        fleet::{self, Offline, Scope},
    },
    servers::Servers,
    sizes,
    ui::{Format, Look, Table},
};

const AFTER_HELP: &str = "\
SOURCE is config for an image that server.yaml names, and discovered for one that lies in the
images directory. One that is not cached has to be put there before a shed can be made from it.

Examples:
  shed image list
  shed image list --all            on every server
  shed create web --image tools    make a shed from one";

/// List the images that sheds can be made from
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ListArgs {
    /// List the images of all servers; those that do not answer are reported
    #[arg(short, long, conflicts_with = "server")]
    all: bool,
}

/// Result of `image list --all --json`: the API's list, with the server of each image and the servers that are missing.
#[derive(Serialize)]
struct EveryImage<'a> {
    images: Vec<ImageOnServer<'a>>,
    offline: Vec<Offline>,
}

#[derive(Serialize)]
struct ImageOnServer<'a> {
    server: String,
    #[serde(flatten)]
    image: &'a Image,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ListArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    if args.all { list_all(context, &servers) } else { list_one(context, &servers) }
}

fn list_one(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let server = servers.selected()?;
    let images = block_on(async {
        let images = server.client(Timeouts::default()).images().await;
        images.map_err(|error| CommandError::from_client(error, &server, None))
    })?;
    match context.ui.format() {
        Format::Json => context.ui.print_json(&ImageList { images })?,
        Format::Text if images.is_empty() => {
            context.ui.note(&format!("There are no images on {}.", server.name));
        }
        Format::Text => {
            let images: Vec<_> = images.iter().map(|image| (server.name.as_ref(), image)).collect();
            context.ui.print_table(&table(&images, Scope::One))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list_all(context: &Context, servers: &Servers) -> Result<ExitCode, CommandError> {
    let answers = block_on(async { fleet::ask(servers, Client::images).await.at_least_one() })?;
    let images: Vec<(&str, &Image)> = answers
        .found
        .iter()
        .flat_map(|(server, images)| images.iter().map(|image| (server.name.as_ref(), image)))
        .collect();
    match context.ui.format() {
        Format::Json => {
            let images =
                images.iter().map(|(server, image)| ImageOnServer { server: (*server).to_owned(), image });
            context.ui.print_json(&EveryImage { images: images.collect(), offline: answers.offline() })?;
        }
        Format::Text => {
            if images.is_empty() {
                context.ui.note("There are no images.");
            } else {
                context.ui.print_table(&table(&images, Scope::All))?;
            }
            answers.warn(&context.ui, "images");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(images: &[(&str, &Image)], scope: Scope) -> Table {
    let mut columns = vec!["NAME", "SOURCE", "SIZE", "CACHED", "REF"];
    if scope == Scope::All {
        columns.insert(1, "SERVER");
    }
    let mut table = Table::new(&columns).right("SIZE");
    for (server, image) in images {
        let plain = |text: &str| (text.to_owned(), Look::Plain);
        let cached = if image.cached { ("yes", Look::Good) } else { ("no", Look::Dim) };
        let size = image.size_bytes.map_or_else(|| "-".to_owned(), sizes::human);
        let mut row = vec![
            plain(&image.name),
            plain(image.source.map_or("-", ImageSource::as_str)),
            plain(&size),
            (cached.0.to_owned(), cached.1),
            plain(image.docker_ref.as_deref().unwrap_or("-")),
        ];
        if scope == Scope::All {
            row.insert(1, plain(server));
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_columns_of_the_specification() {
        let json = r#"[
            {"name":"base","path":"/i/base-rootfs.ext4","docker_ref":"ghcr.io/o/base:1","size_bytes":2147483648,"source":"config","cached":true},
            {"name":"tools\u0007","source":"discovered","size_bytes":18446744073709551615,"cached":true},
            {"name":"later","source":"config","docker_ref":"ghcr.io/o/later:1","cached":false}
        ]"#;
        let images: Vec<Image> = serde_json::from_str(json).unwrap();
        let rows: Vec<_> = images.iter().map(|image| ("mini", image)).collect();
        insta::assert_snapshot!(table(&rows, Scope::One).plain(), @r"
        NAME    SOURCE         SIZE  CACHED  REF
        base    config       2.0GiB  yes     ghcr.io/o/base:1
        tools�  discovered  16.0EiB  yes     -
        later   config            -  no      ghcr.io/o/later:1
        ");
        insta::assert_snapshot!(table(&rows[..1], Scope::All).plain(), @r"
        NAME  SERVER  SOURCE    SIZE  CACHED  REF
        base  mini    config  2.0GiB  yes     ghcr.io/o/base:1
        ");
    }
}
