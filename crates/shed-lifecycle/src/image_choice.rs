//! Finds the file that a new shed is made from (spec I.2), and all that could be asked for.
//!
//! Called at the beginning of a create, and for the list of images, so that what is shown as cached is what a create
//! takes. A name means one thing: what the config says it is, else the file of that name in the images directory.
//! Nothing is pulled here, and nothing changed.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{ImageOrigin, ImageRecord, ImageStore, ListImagesError, reference_in_source};
use shed_types::{ImageName, ImageReference};

use crate::{CreateShedError, KnownImage, NotCached, Settings};

/// Names looked for, in this order, when neither the caller nor the config names an image (spec I.2).
const DEFAULT_IMAGES: [&str; 2] = ["default", "base"];

/// What a new shed is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The ext4 file.
    pub path: Utf8PathBuf,
    /// What the shed's record shall call it; nothing when it is the configured base and has no name of its own.
    pub name: Option<ImageName>,
}

/// Finds the image that was asked for, or the default one.
pub(crate) fn choose(settings: &Settings, asked: Option<ImageName>) -> Result<Chosen, CreateShedError> {
    match asked {
        Some(image) => named(settings, image),
        None => default(settings),
    }
}

/// Returns the name of the image that a create takes when neither the caller nor the config names one, if there is any.
pub(crate) fn default_name(settings: &Settings) -> Option<ImageName> {
    match settings.base_rootfs {
        Some(_) => None,
        None => default(settings).ok()?.name,
    }
}

/// Returns the file that a create takes which names no image, without making anything.
///
/// # Errors
/// As a create that names none: when there is no such image.
pub fn default_image(settings: &Settings) -> Result<Utf8PathBuf, CreateShedError> {
    default(settings).map(|chosen| chosen.path)
}

fn named(settings: &Settings, image: ImageName) -> Result<Chosen, CreateShedError> {
    let store = ImageStore::new(settings.images_dir.clone());
    let path = match settings.images.get(&image) {
        Some(origin) => configured(settings, &store, &format!("images.{image}"), origin, &image)?,
        None => {
            let path = store.rootfs(&image);
            // The cache of the configured base is nobody's to ask for by name.
            if image.is_hidden() || !path.is_file() {
                let available = available(settings)?;
                return Err(CreateShedError::UnknownImage { image, available });
            }
            path
        }
    };
    Ok(Chosen { path, name: Some(image) })
}

fn default(settings: &Settings) -> Result<Chosen, CreateShedError> {
    let store = ImageStore::new(settings.images_dir.clone());
    let base = ImageName::configured_base();
    match &settings.base_rootfs {
        Some(origin) => {
            let path = configured(settings, &store, "base_rootfs", origin, &base)?;
            let name = match origin {
                ImageOrigin::Path(path) => name_in(&store, path),
                ImageOrigin::Reference(_) => None,
            };
            Ok(Chosen { path, name })
        }
        None => {
            let [preferred, last] =
                DEFAULT_IMAGES.map(|name| name.parse().expect("these names follow the rules"));
            match named(settings, preferred) {
                Err(CreateShedError::UnknownImage { .. }) => {}
                chosen => return chosen,
            }
            match named(settings, last) {
                Err(CreateShedError::UnknownImage { image, available }) => {
                    Err(CreateShedError::NoDefaultImage { path: store.rootfs(&image), available })
                }
                chosen => chosen,
            }
        }
    }
}

/// Returns the file of what the config says at `key`; a reference is cached as `cached_as`.
fn configured(
    settings: &Settings,
    store: &ImageStore,
    key: &str,
    origin: &ImageOrigin,
    cached_as: &ImageName,
) -> Result<Utf8PathBuf, CreateShedError> {
    let key = key.to_owned();
    match origin {
        ImageOrigin::Path(path) if path.is_file() => Ok(path.clone()),
        ImageOrigin::Path(path) => {
            let path = path.clone();
            Err(CreateShedError::ImageFileMissing { key, path, available: available(settings)? })
        }
        ImageOrigin::Reference(reference) => {
            let path = store.rootfs(cached_as);
            let source = store.read_source(cached_as);
            match not_cached(reference, path.is_file(), source) {
                None => Ok(path),
                Some(why) => Err(CreateShedError::ImageNotCached {
                    key,
                    reference: Box::new(reference.clone()),
                    path,
                    why,
                    available: available(settings)?,
                }),
            }
        }
    }
}

/// Says why a cached file is not the image of a reference; nothing when it is.
fn not_cached(reference: &ImageReference, is_there: bool, source: Option<String>) -> Option<NotCached> {
    match (is_there, source) {
        (false, _) => Some(NotCached::Missing),
        (true, None) => Some(NotCached::NoSource),
        (true, Some(source)) if source == reference.as_str() => None,
        (true, Some(source)) => Some(NotCached::OtherSource(source)),
    }
}

/// Returns the name of a file in the images directory.
fn name_in(store: &ImageStore, path: &Utf8Path) -> Option<ImageName> {
    let name = path.file_name()?.strip_suffix(shed_image::file_name::ROOTFS_END)?.parse().ok()?;
    (store.rootfs(&name) == *path).then_some(name)
}

/// Lists all images that users may know of, by name.
pub(crate) fn known(settings: &Settings) -> Result<Vec<KnownImage>, ListImagesError> {
    let store = ImageStore::new(settings.images_dir.clone());
    let records: BTreeMap<ImageName, ImageRecord> =
        store.list()?.into_iter().map(|record| (record.name.clone(), record)).collect();
    let found = records.values().filter(|record| !record.name.is_hidden()).map(discovered);
    let mut known: BTreeMap<ImageName, KnownImage> = found.map(|image| (image.name.clone(), image)).collect();
    // Later ones win: the config decides what a name means.
    known.extend(settings.images.iter().map(|(name, origin)| {
        let image = match origin {
            ImageOrigin::Path(path) => at_path(name, path),
            ImageOrigin::Reference(reference) => of_reference(name, reference, records.get(name)),
        };
        (name.clone(), image)
    }));
    Ok(known.into_values().collect())
}

fn discovered(record: &ImageRecord) -> KnownImage {
    let reference = record.source.as_deref().and_then(reference_in_source);
    KnownImage {
        name: record.name.clone(),
        path: Some(record.path.clone()),
        reference: reference.map(|reference| reference.to_string()),
        size_bytes: Some(record.size_bytes),
        configured: false,
        cached: true,
    }
}

fn at_path(name: &ImageName, path: &Utf8Path) -> KnownImage {
    let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    KnownImage {
        name: name.clone(),
        path: file.is_some().then(|| path.to_owned()),
        reference: None,
        size_bytes: file.as_ref().map(std::fs::Metadata::len),
        configured: true,
        cached: file.is_some(),
    }
}

fn of_reference(name: &ImageName, reference: &ImageReference, record: Option<&ImageRecord>) -> KnownImage {
    // A file that was made from something else is not this image, and a create does not take it.
    let cached = record.filter(|record| not_cached(reference, true, record.source.clone()).is_none());
    KnownImage {
        name: name.clone(),
        path: cached.map(|record| record.path.clone()),
        reference: Some(reference.to_string()),
        size_bytes: cached.map(|record| record.size_bytes),
        configured: true,
        cached: cached.is_some(),
    }
}

/// Returns the names that a create could have been asked for instead.
fn available(settings: &Settings) -> Result<Vec<String>, CreateShedError> {
    let known = known(settings).map_err(|source| CreateShedError::ListImages(source.into()))?;
    Ok(known.into_iter().filter(|image| image.cached).map(|image| image.name.to_string()).collect())
}
