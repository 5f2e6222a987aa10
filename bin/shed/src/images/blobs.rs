//! Gets the blobs of an image into the store: from a registry, from an archive, or from a Dockerfile.

use std::{fs, io, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{BlobStore, BlobUse, ImageLimits, Platform, Trailer, import, save};
use shed_registry::{Registry, RegistrySettings};
use shed_types::{Digest, ImageName, ImageReference};

use super::{
    dockerfile,
    place::Place,
    scratch::Scratch,
    source::Source,
    tool::{Build, Isolation, Running, Shown, Tool, ToolFailed, read_id},
    watch::{Watch, blocking},
};
use crate::{
    command_error::{CommandError, Kind},
    progress::Task,
};

/// Where a tool puts what it has built, in the scratch directory.
const RESULT: &str = "result";

/// Keeps blobs from being removed while they are used.
///
/// # Errors
/// When the store cannot be locked.
pub(crate) async fn hold(blobs: &BlobStore) -> Result<BlobUse, CommandError> {
    let store = blobs.clone();
    blocking(move || store.hold()).await.map_err(|error| {
        CommandError::new(Kind::Failed, format!("could not lock {}", blobs.dir())).caused_by(error)
    })
}

/// Returns the way to the registry of a reference.
pub(crate) fn registry(reference: &ImageReference, plain_http: bool) -> Registry {
    let insecure = plain_http.then(|| reference.registry().to_owned()).into_iter().collect();
    Registry::new(RegistrySettings { insecure, ..RegistrySettings::default() })
}

/// Brings what `--from` names into the store and returns its manifest.
///
/// # Errors
/// When there is no such image, or it cannot be read.
pub(crate) async fn fetch(
    place: &Place,
    source: &Source,
    plain_http: bool,
    limits: ImageLimits,
    watch: Arc<Watch>,
) -> Result<Digest, CommandError> {
    match source {
        Source::Reference(reference) => {
            let registry = registry(reference, plain_http);
            let platform = Platform::of_host();
            let pull = registry.pull(reference, &platform, &place.blobs, Arc::clone(&watch) as _);
            tokio::select! {
                // To drop it is to end it.
                () = watch.cancelled() => Err(CommandError::new(Kind::Failed, "the pull was cancelled")),
                pulled = pull => pulled.map_err(|error| {
                    CommandError::new(Kind::Failed, format!("could not pull {reference}")).caused_by(error)
                }),
            }
        }
        Source::Archive { path, image } => take_in(&place.blobs, path, image.as_deref(), limits, watch).await,
    }
}

async fn take_in(
    blobs: &BlobStore,
    path: &Utf8Path,
    image: Option<&str>,
    limits: ImageLimits,
    watch: Arc<Watch>,
) -> Result<Digest, CommandError> {
    let (blobs, from, image) = (blobs.clone(), path.to_owned(), image.map(str::to_owned));
    let imported =
        blocking(move || import(&from, image.as_deref(), &Platform::of_host(), &blobs, &limits, &*watch))
            .await;
    imported.map_err(|error| {
        CommandError::new(Kind::Failed, format!("could not read an image from {path}")).caused_by(error)
    })
}

/// What is built from a Dockerfile.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    pub(crate) name: &'a ImageName,
    pub(crate) dockerfile: Utf8PathBuf,
    pub(crate) context: Utf8PathBuf,
    pub(crate) target: Option<&'a str>,
    pub(crate) build_args: &'a [String],
}

/// Has an image built, and returns its manifest in the store.
///
/// # Errors
/// When there is no tool that builds, it fails, or writes what cannot be read.
pub(crate) async fn build(
    place: &Place,
    recipe: &Recipe<'_>,
    tool: Tool,
    limits: ImageLimits,
    task: &Task<'_>,
    watch: Arc<Watch>,
) -> Result<Digest, CommandError> {
    let scratch = Scratch::new(&place.images)?;
    let running = Running { tool, directory: scratch.path(), task, watch: &watch };
    let text = fs::read_to_string(&recipe.dockerfile).map_err(|error| {
        CommandError::new(Kind::Failed, format!("could not read {}", recipe.dockerfile)).caused_by(error)
    })?;
    for image in dockerfile::extends(&text, recipe.build_args) {
        task.say(&format!("giving image {image} to {}", tool.name()));
        offer(place, &running, &image).await?;
    }
    task.say(&format!("{} builds", tool.name()));
    let id_file = scratch.path().join("id");
    let tag = tag_for(recipe.name);
    let build = Build {
        dockerfile: &recipe.dockerfile,
        context: &recipe.context,
        target: recipe.target,
        build_args: recipe.build_args,
        tag: tag.as_deref(),
        id_file: &id_file,
    };
    match running.run(&tool.build(&build, Isolation::Own), Shown::All).await {
        Ok(_shown) => {}
        Err(ToolFailed { no_containers: true, .. })
            if tool.knows_chroot() && std::env::var_os("BUILDAH_ISOLATION").is_none() =>
        {
            task.remark(&format!(
                "{} cannot run containers on this machine; once more with --isolation chroot",
                tool.name()
            ));
            running
                .run(&tool.build(&build, Isolation::Chroot), Shown::All)
                .await
                .map_err(|failed| failed.error)?;
        }
        Err(failed) => return Err(failed.error),
    }
    let id = read_id(tool, &id_file)?;
    task.say(&format!("{} hands over the image", tool.name()));
    running.run(&tool.export(&id, RESULT), Shown::Errors).await.map_err(|failed| failed.error)?;
    take_in(&place.blobs, &scratch.path().join(RESULT), None, limits, Arc::clone(&watch)).await
}

/// What tools call the image: where the next Dockerfile finds it. A name that they would not take has none.
fn tag_for(name: &ImageName) -> Option<String> {
    let tag = format!("localhost/shed/{name}");
    tag.parse::<shed_types::ImageReference>().is_ok().then_some(tag)
}

/// Makes an image of the images directory known to the tool, under the name that the Dockerfile has for it. One that is
/// not there is left to the tool, which may know it.
async fn offer(place: &Place, running: &Running<'_>, image: &ImageName) -> Result<(), CommandError> {
    let tool = running.tool;
    let (Some(tag), Some(manifest)) = (tag_for(image), manifest_of(place, image)?) else { return Ok(()) };
    let failed =
        |error: CommandError| error.behind(format!("could not give image {image} to {}", tool.name()));
    // A name that is nobody else's: tools take that of the directory for the image's.
    let from = format!("shed-{}-{}", std::process::id(), image.as_str().to_ascii_lowercase());
    let path = running.directory.join(&from);
    match tool {
        Tool::Buildah | Tool::Podman => lay_out(&place.blobs, &manifest, &path).map_err(|error| {
            failed(CommandError::new(Kind::Failed, format!("could not write {path}")).caused_by(error))
        })?,
        Tool::Docker => {
            let (blobs, tag) = (place.blobs.clone(), tag.clone());
            let saved = blocking(move || save(&blobs, &manifest, &tag, &path, &shed_image::Unwatched)).await;
            saved.map_err(|error| failed(CommandError::from_error(Kind::Failed, &error)))?;
        }
    }
    let run = async |arguments: Vec<std::ffi::OsString>| {
        running.run(&arguments, Shown::Errors).await.map_err(|refused| failed(refused.error))
    };
    let answer = run(tool.load(&from)).await?;
    let id = tool.loaded(&answer).ok_or_else(|| {
        failed(CommandError::new(Kind::Failed, format!("{} did not say what it has taken in", tool.name())))
    })?;
    let names = match tool {
        Tool::Buildah | Tool::Podman => vec![tag],
        // `shed/NAME` is its short form of another name for docker.
        Tool::Docker => vec![tag, format!("shed/{image}")],
    };
    for name in names {
        run(tool.tag(id, &name)).await?;
    }
    match tool {
        Tool::Buildah | Tool::Podman => {
            run(tool.untag(&format!("localhost/{from}"))).await?;
        }
        Tool::Docker => {}
    }
    Ok(())
}

/// Returns the manifest that an image was made from, when its blobs are there; `None` when there is no such image.
///
/// # Errors
/// When the image is there and its blobs are not.
fn manifest_of(place: &Place, image: &ImageName) -> Result<Option<Digest>, CommandError> {
    if !place.images.rootfs(image).exists() {
        return Ok(None);
    }
    manifest(place, image).map(Some)
}

/// Returns the manifest that an image was made from, when that is in the store.
///
/// # Errors
/// When there is no such image, it was made by other means, or its blobs have been removed.
pub(crate) fn manifest(place: &Place, image: &ImageName) -> Result<Digest, CommandError> {
    let path = place.images.rootfs(image);
    let trailer = Trailer::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            CommandError::new(Kind::NotFound, format!("there is no image {image} in {}", place.images.dir()))
                .hinted("see which images there are: shed image list")
        }
        _ => CommandError::new(Kind::Failed, format!("could not read {path}")).caused_by(error),
    })?;
    let Some(manifest) = trailer.and_then(|trailer| trailer.manifest) else {
        return Err(CommandError::new(
            Kind::Failed,
            format!(
                "image {image} was made by other means than `shed image build` or a pull, so it has no layers"
            ),
        )
        .hinted(format!("make it from a Dockerfile or a reference: shed image build -n {image} ...")));
    };
    if place.blobs.size_of(&manifest).is_none() {
        return Err(CommandError::new(
            Kind::Failed,
            format!("the layers of image {image} are not in {} any more", place.blobs.dir()),
        )
        .hinted(format!("make it once more, which brings them back: shed image build -n {image} ...")));
    }
    Ok(manifest)
}

/// Writes an OCI layout of links to the blobs of an image, which costs no space. Blobs that are not of the image are not
/// looked at by who reads it.
fn lay_out(blobs: &BlobStore, manifest: &Digest, dir: &Utf8Path) -> io::Result<()> {
    let descriptor = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest,
        "size": blobs.size_of(manifest).unwrap_or_default(),
    });
    fs::create_dir(dir)?;
    std::os::unix::fs::symlink(blobs.dir().join("blobs"), dir.join("blobs"))?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(dir.join("index.json"), index.to_string())
}
