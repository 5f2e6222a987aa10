//! `shed image push`: an image to a registry.

use std::{process::ExitCode, sync::Arc};

use camino::Utf8PathBuf;
use clap::Args;
use serde::Serialize;
use shed_types::{Digest, ImageName, ImageReference};

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::block_on,
    images::{
        blobs,
        place::{self, Place, Use},
        watch::{self, Watch},
    },
    progress::Progress,
    times,
    ui::{Done, Format},
};

const AFTER_HELP: &str = "\
Logs in with what docker or podman keep in docker's config.json and its credential helpers: docker login REGISTRY. A \
registry on a loopback address may speak HTTP.

Examples:
  shed image push web ghcr.io/owner/web:v3";

/// Push an image to a registry
///
/// Works on this machine, where the server's images are, and only for images that were built by `shed image build` or
/// pulled from a registry. Other servers can pull it then.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PushArgs {
    /// The image
    name: ImageName,

    /// Where to push it, and what it is called there
    #[arg(value_name = "REF")]
    reference: ImageReference,

    /// Speak HTTP without TLS with the registry, as with those of this machine
    #[arg(long)]
    plain_http: bool,

    /// Take the image from this directory instead of the server's images
    #[arg(long, value_name = "DIR")]
    images_dir: Option<Utf8PathBuf>,
}

/// What was pushed.
#[derive(Debug, Serialize)]
struct Pushed<'a> {
    name: &'a ImageName,
    reference: &'a str,
    digest: &'a Digest,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &PushArgs) -> Result<ExitCode, CommandError> {
    let (name, reference) = (&args.name, &args.reference);
    block_on(async {
        let place = place::find(context, args.images_dir.as_deref(), "--images-dir", Use::Read).await?;
        let _held = blobs::hold(&place.blobs).await?;
        let digest = blobs::manifest(&place, name)?;
        let progress = Progress::new(&context.ui);
        let task = progress.task(name, "pushing").sending();
        let what = format!("the push of image {name}");
        watch::follow(&task, &what, |watch| push(&place, args, &digest, watch)).await?;
        drop(task);
        match context.ui.format() {
            Format::Json => {
                let pushed = Pushed { name, reference: reference.as_str(), digest: &digest };
                context.ui.print_done(&Done::of_this_machine("image push", pushed))?;
            }
            Format::Text => {
                let time = times::elapsed(context.started.elapsed());
                context.ui.print(&format!("Pushed image {name} to {reference} in {time}: {digest}\n"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn push(
    place: &Place,
    args: &PushArgs,
    digest: &Digest,
    watch: Arc<Watch>,
) -> Result<(), CommandError> {
    let registry = blobs::registry(&args.reference, args.plain_http);
    let push = registry.push(digest, &place.blobs, &args.reference, Arc::clone(&watch) as _);
    tokio::select! {
        () = watch.cancelled() => Err(CommandError::new(Kind::Failed, "the push was cancelled")),
        pushed = push => pushed.map_err(|error| {
            let message = format!("could not push image {} to {}", args.name, args.reference);
            CommandError::new(Kind::Failed, message).caused_by(error)
        }),
    }
}
