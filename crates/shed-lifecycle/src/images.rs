//! The images of a server: which there are, and how those go that nobody needs (spec A.6, I.6).
//!
//! The HTTP handlers call it, and so does the prune of the whole system. A create chooses its image and enters the
//! table of sheds while it holds [`Sheds::image_gate`] for reading; what removes images holds it for writing. So
//! whoever removes sees every shed that is going to link an image, and a create never chooses one that is being
//! removed. An image that a create has made and not chosen yet is held by its pull ([`crate::pulls`]). Nothing is pulled
//! or converted here.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use camino::Utf8PathBuf;
use shed_image::{
    FileId, ImageOrigin, ImageRecord, ImageStore, ListImagesError, RemoveImageError, reference_in_source,
};
use shed_state::{Entry, ReadInstanceError, ScanError};
use shed_types::{ImageName, ImageReference, ShedName, error_chain};

use crate::{
    BlobPrune, Settings, ShedStatus, Sheds,
    context::blocking,
    image_blobs, image_choice,
    image_policy::{Needs, unneeded},
};

/// An image that sheds can be made from, or that the config names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownImage {
    /// What a create names.
    pub name: ImageName,
    /// Its file; only when it is cached.
    pub path: Option<Utf8PathBuf>,
    /// What it is made from, when that is in a registry.
    pub reference: Option<String>,
    /// Length of its file; only when it is cached.
    pub size_bytes: Option<u64>,
    /// Whether the config names it; otherwise it was found in the images directory.
    pub configured: bool,
    /// Whether a create can take it without making it first.
    pub cached: bool,
    /// Whether it is just being made for a create.
    pub pulling: bool,
}

/// An image that a prune has removed or, in a dry run, would remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedImage {
    /// Its name; `_base` for the cache of a base that is configured no more.
    pub name: ImageName,
    /// Its file.
    pub path: Utf8PathBuf,
    /// What it was made from, when that is in a registry.
    pub reference: Option<String>,
    /// Length of what goes: of the link, where it is one.
    pub logical_bytes: u64,
    /// What it takes on the disk. A shed that was made from it keeps those blocks until it is deleted, too.
    pub physical_bytes: u64,
}

/// An image that nobody needs and that is there still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptImage {
    /// Its name.
    pub name: ImageName,
    /// Its file.
    pub path: Utf8PathBuf,
    /// Why: its lock is held, or it could not be removed.
    pub reason: String,
}

/// What a prune has done; each list is sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImagePrune {
    /// What went.
    pub deleted: Vec<PrunedImage>,
    /// What should have gone and did not.
    pub kept: Vec<KeptImage>,
    /// What failed; not in here is that somebody else is at an image, which is no failure.
    pub failures: Vec<String>,
    /// What became of the blobs that no image needs any more.
    pub blobs: BlobPrune,
}

/// Why the images cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ListKnownImagesError(#[from] ListImagesError);

/// Why an image was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteImageError {
    #[error("there is no cached image `{image}`")]
    NotFound { image: ImageName },
    #[error("image `{image}` is in use by the server's config, as `{key}`; take it out of there first")]
    InUse {
        image: ImageName,
        /// The key that names it or its file, like `images.tools`.
        key: String,
    },
    #[error(
        "image `{image}` is what sheds are made from that name none; give another one as base_rootfs in server.yaml first"
    )]
    Default { image: ImageName },
    #[error("image `{image}` is being replaced or removed; try again when that has ended")]
    Busy { image: ImageName },
    #[error(
        "image `{image}` is just being made from {reference} for a create; try again when that has ended"
    )]
    Pulling { image: ImageName, reference: Box<ImageReference> },
    #[error("shed `{shed}` is just being made from image `{image}`; try again when that has ended")]
    Creating { image: ImageName, shed: ShedName },
    #[error("cannot find out which image {path} of the server's config is, so none is removed")]
    ConfigPath {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not delete image `{image}`")]
    Remove {
        image: ImageName,
        #[source]
        source: RemoveImageError,
    },
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneImagesError {
    #[error(transparent)]
    ListImages(#[from] ListImagesError),
    #[error("cannot find out which images are in use, so none is removed")]
    ListSheds(#[from] ScanError),
    #[error(
        "cannot find out which image shed `{shed}` in {path} uses, so none is removed; repair its record, or move the directory away"
    )]
    UnreadableShed {
        shed: ShedName,
        path: Utf8PathBuf,
        #[source]
        source: ReadInstanceError,
    },
    #[error("cannot find out which image {path} of the server's config is, so none is removed")]
    ConfigPath {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Sheds {
    /// Returns the images of the config, those in the images directory and those on their way there, sorted by name.
    /// Shed's own are not shown.
    ///
    /// # Errors
    /// When the images directory cannot be read.
    pub async fn images(&self) -> Result<Vec<KnownImage>, ListKnownImagesError> {
        let sheds = self.clone();
        blocking(move || {
            let mut known = image_choice::known(sheds.settings())?;
            for (name, reference) in sheds.pulls().going() {
                match known.iter_mut().find(|image| image.name == name) {
                    Some(image) => image.pulling = true,
                    None if name.is_hidden() => {}
                    None => known.push(on_its_way(name, &reference)),
                }
            }
            known.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(known)
        })
        .await
    }

    /// Deletes a cached image. Sheds that were made from it keep it: each has a link of its own.
    ///
    /// # Errors
    /// When there is none, the config names it or its file, or somebody is at it.
    ///
    /// # Cancel safety
    /// A deletion that has begun goes on when the future is dropped.
    pub async fn delete_image(&self, name: &ImageName) -> Result<(), DeleteImageError> {
        let gate = Arc::clone(self.image_gate()).write_owned().await;
        let (sheds, name) = (self.clone(), name.clone());
        blocking(move || {
            let result = delete(&sheds, &name);
            drop(gate);
            result
        })
        .await
    }

    /// Removes cached images that neither config nor a shed uses; `assume_gone` are sheds to be treated as deleted
    /// already.
    ///
    /// What a create without an image takes is used by the config, too, even if that does not spell it out.
    ///
    /// # Errors
    /// When it cannot be told which images are in use; nothing is removed then.
    ///
    /// # Cancel safety
    /// A prune that has begun goes on when the future is dropped.
    pub async fn prune_images(
        &self,
        assume_gone: &BTreeSet<ShedName>,
        dry_run: bool,
    ) -> Result<ImagePrune, PruneImagesError> {
        let gate = Arc::clone(self.image_gate()).write_owned().await;
        let (sheds, assume_gone) = (self.clone(), assume_gone.clone());
        blocking(move || {
            let result = prune(&sheds, &assume_gone, dry_run);
            drop(gate);
            result
        })
        .await
    }
}

/// Returns an image that the config does not name and that is not there yet.
fn on_its_way(name: ImageName, reference: &ImageReference) -> KnownImage {
    KnownImage {
        name,
        path: None,
        reference: Some(reference.to_string()),
        size_bytes: None,
        configured: false,
        cached: false,
        pulling: true,
    }
}

fn delete(sheds: &Sheds, name: &ImageName) -> Result<(), DeleteImageError> {
    let settings = sheds.settings();
    let store = ImageStore::new(settings.images_dir.clone());
    let image = || name.clone();
    if let Some(key) = configured_as(settings, &store, name)? {
        return Err(DeleteImageError::InUse { image: image(), key });
    }
    if name.is_hidden() {
        return Err(DeleteImageError::NotFound { image: image() });
    }
    if let Some(reference) = sheds.pulls().reference_of(name) {
        return Err(DeleteImageError::Pulling { image: image(), reference: reference.into() });
    }
    // Without it every create that names no image would fail.
    if settings.base_rootfs.is_none() && image_choice::default_name(settings).as_ref() == Some(name) {
        return Err(DeleteImageError::Default { image: image() });
    }
    let is_linking = |shed: &ShedName| sheds.files(shed).image.symlink_metadata().is_err();
    let mut making = sheds.list().into_iter().filter(|shed| {
        shed.status == ShedStatus::Starting && shed.image.as_ref() == Some(name) && is_linking(&shed.name)
    });
    if let Some(shed) = making.next() {
        return Err(DeleteImageError::Creating { image: image(), shed: shed.name });
    }
    match store.remove(name) {
        Ok(size) => {
            tracing::info!(image = %name, bytes = size.physical_bytes, "deleted an image");
            Ok(())
        }
        Err(RemoveImageError::NotFound { .. }) => Err(DeleteImageError::NotFound { image: image() }),
        Err(RemoveImageError::Busy { .. }) => Err(DeleteImageError::Busy { image: image() }),
        Err(source @ (RemoveImageError::Lock { .. } | RemoveImageError::Remove { .. })) => {
            Err(DeleteImageError::Remove { image: image(), source })
        }
    }
}

/// Returns the key of the config that names an image or its file.
fn configured_as(
    settings: &Settings,
    store: &ImageStore,
    name: &ImageName,
) -> Result<Option<String>, DeleteImageError> {
    if settings.images.contains_key(name) {
        return Ok(Some(format!("images.{name}")));
    }
    if matches!(settings.base_rootfs, Some(ImageOrigin::Reference(_)))
        && *name == ImageName::configured_base()
    {
        return Ok(Some("base_rootfs".to_owned()));
    }
    let Ok(file) = FileId::of(&store.rootfs(name)) else { return Ok(None) };
    let files =
        config_files(settings).map_err(|(path, source)| DeleteImageError::ConfigPath { path, source })?;
    Ok(files.get(&file).cloned())
}

/// Returns the files that the config names, each with a key that does. A file that is not there is no image's.
fn config_files(settings: &Settings) -> Result<BTreeMap<FileId, String>, (Utf8PathBuf, io::Error)> {
    let files = config_entries(settings).filter_map(|(key, path)| Some((found(path).transpose()?, key)));
    files.map(|(file, key)| Ok((file?, key))).collect()
}

/// Returns the files that the config names, each with a path that leads to it.
fn config_paths(settings: &Settings) -> Result<BTreeMap<FileId, Utf8PathBuf>, (Utf8PathBuf, io::Error)> {
    let files = config_entries(settings).filter_map(|(_, path)| Some((found(path).transpose()?, path)));
    files.map(|(file, path)| Ok((file?, path.clone()))).collect()
}

/// Returns the paths in the config, each with its key.
fn config_entries(settings: &Settings) -> impl Iterator<Item = (String, &Utf8PathBuf)> {
    let entries = settings.images.iter().map(|(name, origin)| (format!("images.{name}"), origin));
    let base = settings.base_rootfs.iter().map(|origin| ("base_rootfs".to_owned(), origin));
    entries.chain(base).filter_map(|(key, origin)| match origin {
        ImageOrigin::Path(path) => Some((key, path)),
        ImageOrigin::Reference(_) => None,
    })
}

/// Finds out which file a path of the config leads to, if any.
fn found(path: &Utf8PathBuf) -> Result<Option<FileId>, (Utf8PathBuf, io::Error)> {
    match FileId::of(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err((path.clone(), error)),
    }
}

fn prune(
    sheds: &Sheds,
    assume_gone: &BTreeSet<ShedName>,
    dry_run: bool,
) -> Result<ImagePrune, PruneImagesError> {
    let settings = sheds.settings();
    let store = ImageStore::new(settings.images_dir.clone());
    let needs = needs(sheds, assume_gone)?;
    let mut records: BTreeMap<ImageName, ImageRecord> =
        store.list()?.into_iter().map(|record| (record.name.clone(), record)).collect();
    let cached: Vec<_> = records.values().map(|record| (record.name.clone(), record.file)).collect();
    let mut report = ImagePrune::default();
    for name in unneeded(&cached, &needs) {
        let Some(record) = records.remove(&name) else { continue };
        if let Some(reference) = sheds.pulls().reference_of(&name) {
            let reason = format!("it is just being made from {reference} for a create");
            report.kept.push(KeptImage { name, path: record.path, reason });
            continue;
        }
        let outcome = if dry_run { store.check_removal(&name) } else { store.remove(&name) };
        match outcome {
            Ok(size) => {
                if !dry_run {
                    tracing::info!(image = %name, bytes = size.physical_bytes, "pruned an image");
                }
                let reference = record.source.as_deref().and_then(reference_in_source);
                report.deleted.push(PrunedImage {
                    name,
                    path: record.path,
                    reference: reference.map(|reference| reference.to_string()),
                    logical_bytes: size.logical_bytes,
                    physical_bytes: size.physical_bytes,
                });
            }
            // Somebody else was faster.
            Err(RemoveImageError::NotFound { .. }) => {}
            Err(RemoveImageError::Busy { .. }) => {
                let reason = "lock held (it is being replaced or removed)".to_owned();
                report.kept.push(KeptImage { name, path: record.path, reason });
            }
            Err(error @ (RemoveImageError::Lock { .. } | RemoveImageError::Remove { .. })) => {
                let reason = error_chain(&error);
                tracing::warn!(image = %name, %reason, "an image could not be pruned");
                report.failures.push(format!("image `{name}`: {reason}"));
                report.kept.push(KeptImage { name, path: record.path, reason });
            }
        }
    }
    let going = report.deleted.iter().map(|image| image.name.clone()).collect();
    let files = config_paths(settings).map_err(config_path_error)?;
    report.blobs = image_blobs::prune(&store, &going, &files, dry_run);
    Ok(report)
}

fn config_path_error((path, source): (Utf8PathBuf, io::Error)) -> PruneImagesError {
    PruneImagesError::ConfigPath { path, source }
}

/// Finds out what the config and the sheds need.
fn needs(sheds: &Sheds, assume_gone: &BTreeSet<ShedName>) -> Result<Needs<FileId>, PruneImagesError> {
    let settings = sheds.settings();
    let mut names = shed_images(sheds, assume_gone)?;
    names.extend(settings.images.keys().cloned());
    match &settings.base_rootfs {
        Some(ImageOrigin::Reference(_)) => names.extend([ImageName::configured_base()]),
        Some(ImageOrigin::Path(_)) => {}
        None => names.extend(image_choice::default_name(settings)),
    }
    let files = config_paths(settings).map_err(config_path_error)?;
    Ok(Needs { names, files: files.into_keys().collect() })
}

/// Returns the images of all sheds, those of other backends and of creates in progress among them.
fn shed_images(
    sheds: &Sheds,
    assume_gone: &BTreeSet<ShedName>,
) -> Result<BTreeSet<ImageName>, PruneImagesError> {
    // A record that names neither is of a shed that was made from the configured base. A file that has no name is none
    // of the images directory.
    let image = |image: Option<ImageName>, path: Option<Utf8PathBuf>| match (image, path) {
        (Some(image), _) => Some(image),
        (None, None) => Some(ImageName::configured_base()),
        (None, Some(_)) => None,
    };
    // Those that this server runs are known better than their files: one that is being created has none yet, one that
    // is being deleted has some of them.
    let views = sheds.list();
    let known: BTreeSet<ShedName> = views.iter().map(|view| view.name.clone()).collect();
    let mut images: BTreeSet<ImageName> = views
        .into_iter()
        .filter(|view| !assume_gone.contains(&view.name))
        .filter_map(|view| image(view.image, view.image_path))
        .collect();
    for entry in sheds.instances().scan()? {
        match entry {
            Entry::Shed(record) => {
                if !known.contains(&record.name) && !assume_gone.contains(&record.name) {
                    images.extend(image(record.image, record.image_path));
                }
            }
            Entry::Husk(_) => {}
            Entry::Unreadable(shed, source) => {
                if !known.contains(&shed) {
                    let path = sheds.files(&shed).directory;
                    return Err(PruneImagesError::UnreadableShed { shed, path, source });
                }
            }
        }
    }
    Ok(images)
}
