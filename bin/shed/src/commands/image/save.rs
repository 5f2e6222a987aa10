//! `shed image save`: an image as an archive that other tools read.

use std::{
    fs::{self, File},
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use serde::Serialize;
use shed_image::{reference_in_source, save};
use shed_types::{Digest, ImageName};

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    commands::block_on,
    images::{
        blobs,
        place::{self, Place, Use},
        scratch::Scratch,
        watch::{self, Watch, blocking},
    },
    progress::Progress,
    sizes, times,
    ui::{Done, Format},
};

/// Stands for standard output.
const STDOUT: &str = "-";

const AFTER_HELP: &str = "\
The archive is an OCI layout in a tar, with the layers as they were built or pulled: `shed image build --from`, skopeo, \
podman, and docker 25 or newer read it.

Examples:
  shed image save web -o web.tar
  shed image save web -o - | zstd > web.tar.zst";

/// Write an image to an archive
///
/// Works on this machine, where the server's images are, and only for images that were built by `shed image build` or
/// pulled from a registry.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SaveArgs {
    /// The image
    name: ImageName,

    /// File to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Utf8PathBuf,

    /// Take the image from this directory instead of the server's images
    #[arg(long, value_name = "DIR")]
    images_dir: Option<Utf8PathBuf>,
}

/// What was saved.
#[derive(Debug, Serialize)]
struct Saved<'a> {
    name: &'a ImageName,
    path: &'a Utf8Path,
    digest: &'a Digest,
    size_bytes: u64,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &SaveArgs) -> Result<ExitCode, CommandError> {
    let to_stdout = args.output == STDOUT;
    if to_stdout && io::stdout().is_terminal() {
        return Err(CommandError::new(Kind::Usage, "an archive is nothing for a terminal")
            .hinted(format!("write it to a file: shed image save {} -o FILE", args.name)));
    }
    block_on(async {
        let place = place::find(context, args.images_dir.as_deref(), "--images-dir", Use::Read).await?;
        let _held = blobs::hold(&place.blobs).await?;
        let manifest = blobs::manifest(&place, &args.name)?;
        let progress = Progress::new(&context.ui);
        let task = progress.task(&args.name, "saving").sending();
        let what = format!("the saving of image {}", args.name);
        if to_stdout {
            let scratch = Scratch::new(&place.images)?;
            let file = scratch.path().join("archive");
            watch::follow(&task, &what, |watch| write(&place, args, &manifest, &file, watch)).await?;
            drop(task);
            copy_to_stdout(&file)?;
            return Ok(ExitCode::SUCCESS);
        }
        let new = beside(&args.output)?;
        let written = watch::follow(&task, &what, |watch| write(&place, args, &manifest, &new, watch)).await;
        let size_bytes = match written {
            Ok(size) => size,
            Err(error) => {
                // A second interrupt may leave it behind, half written.
                let _gone = fs::remove_file(&new);
                return Err(error);
            }
        };
        fs::rename(&new, &args.output).map_err(|error| not_written(&args.output, error))?;
        drop(task);
        report(context, args, &manifest, size_bytes)
    })
}

/// Returns where the archive is until it is whole.
fn beside(output: &Utf8Path) -> Result<Utf8PathBuf, CommandError> {
    let refused =
        |reason| CommandError::new(Kind::Usage, format!("cannot write an archive to {output}: {reason}"));
    match fs::metadata(output) {
        Ok(metadata) if !metadata.is_file() => return Err(refused("it is no file")),
        Ok(_) | Err(_) => {}
    }
    let name = output.file_name().ok_or_else(|| refused("it has no name"))?;
    let new = output.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    // Of a process that had this one's id and was killed.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(not_written(output, error)),
        Ok(()) | Err(_) => Ok(new),
    }
}

fn not_written(path: &Utf8Path, error: io::Error) -> CommandError {
    CommandError::new(Kind::Failed, format!("could not write {path}")).caused_by(error)
}

async fn write(
    place: &Place,
    args: &SaveArgs,
    manifest: &Digest,
    file: &Utf8Path,
    watch: Arc<Watch>,
) -> Result<u64, CommandError> {
    let source = place.images.read_source(&args.name);
    let reference = source.as_deref().and_then(reference_in_source).map(|reference| reference.to_string());
    let reference = reference.unwrap_or_else(|| format!("localhost/shed/{}:latest", args.name));
    let (blobs, manifest, out) = (place.blobs.clone(), manifest.clone(), file.to_owned());
    let saved = blocking(move || save(&blobs, &manifest, &reference, &out, &*watch)).await;
    saved.map_err(|error| {
        CommandError::new(Kind::Failed, format!("could not save image {}", args.name)).caused_by(error)
    })?;
    fs::metadata(file).map(|metadata| metadata.len()).map_err(|error| not_written(file, error))
}

fn copy_to_stdout(file: &Utf8Path) -> Result<(), CommandError> {
    let copied = File::open(file).and_then(|mut file| io::copy(&mut file, &mut io::stdout().lock()));
    match copied {
        Ok(_bytes) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(CommandError::new(Kind::BrokenPipe, "nobody reads the output"))
        }
        Err(error) => Err(CommandError::new(Kind::Failed, "could not write the archive").caused_by(error)),
    }
}

fn report(
    context: &Context,
    args: &SaveArgs,
    digest: &Digest,
    size_bytes: u64,
) -> Result<ExitCode, CommandError> {
    match context.ui.format() {
        Format::Json => {
            let saved = Saved { name: &args.name, path: &args.output, digest, size_bytes };
            context.ui.print_done(&Done::of_this_machine("image save", saved))?;
        }
        Format::Text => {
            let (size, time) = (sizes::human(size_bytes), times::elapsed(context.started.elapsed()));
            context.ui.print(&format!("Saved image {} ({size}) in {time}: {}\n", args.name, args.output))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
