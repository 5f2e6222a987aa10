//! `shed image build`: an image from a Dockerfile, a registry or an archive, made on this machine.

use std::process::ExitCode;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use serde::Serialize;
use shed_image::{ImageLimits, build_source};
use shed_types::{Digest, ImageName};

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::block_on,
    confirm,
    images::{
        blobs::{self, Recipe},
        dockerfile,
        make::make,
        place::{self, Place, Use},
        source::Source,
        summary::{self, BASE_LABEL},
        tool::Tool,
        watch,
    },
    progress::Progress,
    sizes, times,
    ui::{Done, Format},
    values::parse_env,
};

const AFTER_HELP: &str = "\
Works on this machine, where the server's images are: the selected server must run here, or --output-dir \
name a directory. An image of that name is replaced; sheds that were made from it keep theirs.

From a Dockerfile it is built by buildah, podman or docker, whichever is found first. `FROM shed/NAME` in it is the image \
NAME of the images directory, when that was built here or pulled. With --from no such tool is needed, nor root.

An image is as large as what is in it; the space of a shed is its own disk's.

Examples:
  shed image build -n web
  shed image build -n web -f docker/Dockerfile --target dev --build-arg NODE=22 .
  shed image build -n tools --from ghcr.io/owner/tools:v3
  shed image build -n tools --from ./tools.tar
  shed image build -n tools --from ./layout:v3";

/// Build an image that sheds are made from
///
/// Builds it from a Dockerfile, or takes it from a registry, an OCI archive or layout, or what `docker save` writes, and
/// writes it as the file system that sheds start from.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BuildArgs {
    /// Name of the image
    #[arg(short, long, value_parser = parse_name)]
    name: ImageName,

    /// Build from this Dockerfile [default: Dockerfile.shed in the context, or Dockerfile]
    #[arg(short, long, value_name = "DOCKERFILE")]
    file: Option<Utf8PathBuf>,

    /// Take the image from a registry, or from an archive or OCI layout on this machine, with :NAME when it has several
    #[arg(long, value_name = "REF|ARCHIVE", conflicts_with_all = ["file", "target", "build_arg", "context"])]
    from: Option<Source>,

    /// Speak HTTP without TLS with the registry of --from, as with those of this machine
    #[arg(long, requires = "from")]
    plain_http: bool,

    /// Build up to this stage of the Dockerfile
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Give an argument of the Dockerfile a value; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_env)]
    build_arg: Vec<String>,

    /// Put the image into this directory instead of the server's images
    #[arg(long, value_name = "DIR")]
    output_dir: Option<Utf8PathBuf>,

    /// Refuse an image whose layers have more content than this, in bytes or with k, m or g
    #[arg(long, value_name = "SIZE", default_value = "64g", value_parser = sizes::parse)]
    max_size: u64,

    /// Make the image without a question, even when it does not extend Shed's base image
    #[arg(long)]
    force: bool,

    /// Directory whose files the Dockerfile can copy
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: Utf8PathBuf,
}

impl BuildArgs {
    fn limits(&self) -> ImageLimits {
        ImageLimits { max_bytes: self.max_size, ..ImageLimits::default() }
    }
}

/// What a build has made.
#[derive(Debug, Serialize)]
struct Built<'a> {
    name: &'a ImageName,
    path: &'a Utf8Path,
    digest: &'a Digest,
    size_bytes: u64,
}

/// What an image is made from, with all that can be wrong about it checked.
enum Origin<'a> {
    Source(&'a Source),
    Recipe(Recipe<'a>, Tool),
}

/// Reads the name of an image that users can ask for.
fn parse_name(text: &str) -> Result<ImageName, String> {
    let name: ImageName = text.parse().map_err(|error: shed_types::ParseNameError| error.to_string())?;
    if name.is_hidden() {
        return Err("names that begin with an underscore are Shed's own".to_owned());
    }
    Ok(name)
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &BuildArgs) -> Result<ExitCode, CommandError> {
    let origin = origin(args)?;
    block_on(async {
        let place = place::find(context, args.output_dir.as_deref(), "--output-dir", Use::Make).await?;
        // From before the first blob comes until the image says which it needs.
        let _held = blobs::hold(&place.blobs).await?;
        let digest = get(context, args, &place, &origin).await?;
        if !agreed(context, args, &place, &digest).await? {
            return Ok(confirm::declined(&context.ui));
        }
        let progress = Progress::new(&context.ui);
        let task = progress.task(&args.name, "making the image");
        let work = |watch| make(&place, &args.name, &digest, source_text(&origin), args.limits(), watch);
        let size_bytes = watch::follow(&task, &what(args), work).await?;
        drop(task);
        report(context, args, &place, &digest, size_bytes).await
    })
}

fn what(args: &BuildArgs) -> String {
    format!("the build of image {}", args.name)
}

fn origin(args: &BuildArgs) -> Result<Origin<'_>, CommandError> {
    if let Some(source) = &args.from {
        return Ok(Origin::Source(source));
    }
    let no_dockerfile = |error: dockerfile::NoDockerfile| {
        let made = CommandError::from_error(Kind::Usage, &error);
        match error {
            dockerfile::NoDockerfile::Neither(_) => {
                made.hinted("name one with -f DOCKERFILE, or what to make the image from: --from REF|ARCHIVE")
            }
            dockerfile::NoDockerfile::Context(_) | dockerfile::NoDockerfile::Missing(_) => made,
        }
    };
    let dockerfile = dockerfile::find(&args.context, args.file.as_deref()).map_err(no_dockerfile)?;
    // The tool runs in another directory.
    let whole = |path: &Utf8Path| {
        path.canonicalize_utf8().map_err(|error| {
            CommandError::new(Kind::Failed, format!("could not find out where {path} is")).caused_by(error)
        })
    };
    let recipe = Recipe {
        name: &args.name,
        dockerfile: whole(&dockerfile)?,
        context: whole(&args.context)?,
        target: args.target.as_deref(),
        build_args: &args.build_arg,
    };
    let Some(tool) = Tool::find() else {
        return Err(CommandError::new(
            Kind::Failed,
            "there is no buildah, podman or docker on PATH, one of which builds from a Dockerfile",
        )
        .hinted("install one: sudo apt-get install buildah")
        .hinted(format!(
            "an image that is built already needs none: shed image build -n {} --from REF|ARCHIVE",
            args.name
        )));
    };
    Ok(Origin::Recipe(recipe, tool))
}

fn source_text(origin: &Origin<'_>) -> String {
    match origin {
        Origin::Source(Source::Reference(reference)) => reference.to_string(),
        Origin::Source(Source::Archive { path, .. }) => {
            build_source(&path.canonicalize_utf8().unwrap_or_else(|_| path.clone()))
        }
        Origin::Recipe(recipe, _) => build_source(&recipe.context),
    }
}

async fn get(
    context: &Context,
    args: &BuildArgs,
    place: &Place,
    origin: &Origin<'_>,
) -> Result<Digest, CommandError> {
    let progress = Progress::new(&context.ui);
    let task = progress.task(&args.name, "getting the image");
    match origin {
        Origin::Source(source) => {
            watch::follow(&task, &what(args), |watch| {
                blobs::fetch(place, source, args.plain_http, args.limits(), watch)
            })
            .await
        }
        Origin::Recipe(recipe, tool) => {
            watch::follow(&task, &what(args), |watch| {
                blobs::build(place, recipe, *tool, args.limits(), &task, watch)
            })
            .await
        }
    }
}

/// Returns whether the image is to be made. An image that is no system makes a shed that lacks much of what one expects,
/// so that is asked about (spec I.4).
async fn agreed(
    context: &Context,
    args: &BuildArgs,
    place: &Place,
    digest: &Digest,
) -> Result<bool, CommandError> {
    let is_system = summary::is_system(&place.blobs, digest).map_err(|error| {
        CommandError::new(Kind::Failed, format!("could not look at image {}", args.name)).caused_by(error)
    })?;
    if is_system || args.force {
        return Ok(true);
    }
    let warning = format!(
        "image {} does not extend Shed's base image (it has no label {BASE_LABEL}) and starts no init: sheds made from \
         it may lack systemd, ssh, git, tmux and sudo",
        args.name
    );
    confirm::somebody(
        &context.ui,
        &warning,
        "make it all the same, without a question: shed image build --force ...",
    )?;
    context.ui.warning(&warning);
    confirm::ask(&context.ui, &format!("Make image {} all the same?", args.name)).await
}

async fn report(
    context: &Context,
    args: &BuildArgs,
    place: &Place,
    digest: &Digest,
    size_bytes: u64,
) -> Result<ExitCode, CommandError> {
    if let Some(warning) = place.mapped_elsewhere(&args.name).await {
        context.ui.warning(&warning);
    }
    let path = place.images.rootfs(&args.name);
    match context.ui.format() {
        Format::Json => {
            let built = Built { name: &args.name, path: &path, digest, size_bytes };
            context.ui.print_done(&Done::of_this_machine("image build", built))?;
        }
        Format::Text => {
            let (size, time) = (sizes::human(size_bytes), times::elapsed(context.started.elapsed()));
            context.ui.print(&format!("Built image {} ({size}) in {time}: {path}\n", args.name))?;
            if context.ui.stderr_is_terminal() && place.server.is_some() {
                context.ui.hint(&format!("make a shed from it: shed create SHED --image {}", args.name));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
