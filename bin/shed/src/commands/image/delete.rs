//! `shed image delete`.

use std::process::ExitCode;

use clap::Args;
use shed_client::Timeouts;
use shed_types::ImageName;

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::{block_on, each, work},
    confirm,
    progress::Progress,
    servers::Server,
    sizes,
    ui::{Done, Format},
};

/// The server's own cache of its configured base image, which no list has (spec I.2).
const BASE: &str = "_base";

const AFTER_HELP: &str = "\
Sheds that were made from an image do not need it any more. An image that server.yaml names is not
deleted.

Examples:
  shed image delete tools
  shed image delete tools old --force";

/// Delete cached images
///
/// Deletes the file of each image on the default server, or on the one in --server. Asks first on a terminal, and does
/// nothing without --force where nobody can be asked.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DeleteArgs {
    /// The images to delete
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ImageName>,

    /// Delete without asking
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &DeleteArgs) -> Result<ExitCode, CommandError> {
    if !args.force {
        confirm::somebody(
            &context.ui,
            "nothing is deleted",
            "delete without a question: shed image delete --force NAME",
        )?;
    }
    let server = context.servers()?.selected()?;
    block_on(async {
        if !args.force && !confirm::ask(&context.ui, &question(&server, &args.names).await?).await? {
            return Ok(confirm::declined(&context.ui));
        }
        work::unless_interrupted("the delete", delete(context, &server, &args.names)).await
    })
}

async fn delete(context: &Context, server: &Server, names: &[ImageName]) -> Result<ExitCode, CommandError> {
    let progress = Progress::new(&context.ui);
    each(
        context,
        names,
        async |name| {
            let _task = progress.task(name, "deleting");
            let deleted = server.client(Timeouts::default()).delete_image(name).await;
            deleted.map_err(|error| CommandError::from_client(error, server, None))
        },
        |name, ()| match context.ui.format() {
            Format::Json => context.ui.print_done(&Done::<()>::new(
                "image delete",
                name.as_str(),
                server.name.to_string(),
                None,
            )),
            Format::Text => context.ui.print(&format!("Deleted image {name} on {}\n", server.name)),
        },
    )
    .await
}

/// Returns the question about all images at once, having seen that each is there. One that is not leaves all of them
/// alone.
async fn question(server: &Server, names: &[ImageName]) -> Result<String, CommandError> {
    let images = server.client(Timeouts::default()).images().await;
    let images = images.map_err(|error| CommandError::from_client(error, server, None))?;
    let described: Result<Vec<String>, CommandError> = names
        .iter()
        .map(|name| match images.iter().find(|image| image.name == name.as_str()) {
            Some(image) => {
                let size = image.size_bytes.map_or_else(|| "not cached".to_owned(), sizes::human);
                Ok(format!("{name} ({size})"))
            }
            None if name.as_str() == BASE => Ok(name.to_string()),
            None => Err(CommandError::new(
                Kind::NotFound,
                format!("there is no image {name} on server {}", server.name),
            )
            .hinted("see which images there are: shed image list")),
        })
        .collect();
    let images = if names.len() == 1 { "image" } else { "images" };
    Ok(format!("Delete {images} {} on {}?", described?.join(", "), server.name))
}
