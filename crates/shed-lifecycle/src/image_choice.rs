//! Finds the file that a new shed is made from (spec I.2), and all that could be asked for.
//!
//! Called at the beginning of a create, and for the list of images, so that what is shown as cached is what a create
//! takes. A name means one thing: what the config says it is, else the file of that name in the images directory.
//! Nothing is pulled here, and nothing changed; what has to be pulled is told to the caller.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::OFlags;
use shed_image::{ImageOrigin, ImageRecord, ImageStore, ListImagesError, reference_in_source};
use shed_types::{ImageName, ImageReference};

use crate::{AskedImage, CreateShedError, ImagePathError, KnownImage, Settings, asked_image::name_of};

/// Names looked for, in this order, when neither the caller nor the config names an image (spec I.2).
const DEFAULT_IMAGES: [&str; 2] = ["default", "base"];

/// Where the superblock of ext2, ext3 and ext4 has its magic number, and what that is (Linux, fs/ext4/ext4.h,
/// `s_magic` and `EXT4_SUPER_MAGIC`; the superblock begins at byte 1024).
const MAGIC_AT: u64 = 1024 + 56;
const MAGIC: [u8; 2] = 0xEF53_u16.to_le_bytes();

/// What a new shed's record says of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Its name.
    Name(ImageName),
    /// It is the cache of the configured base.
    Base,
    /// A file without a name.
    Path(Utf8PathBuf),
}

/// What a new shed is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The ext4 file.
    pub path: Utf8PathBuf,
    /// What the shed's record shall say.
    pub recorded: Recorded,
}

/// An image that has to be made before a shed can be made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToMake {
    /// What from.
    pub reference: ImageReference,
    /// Its name in the images directory.
    pub name: ImageName,
}

/// What becomes of the wish for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It is there.
    There(Chosen),
    /// It is to be made, and chosen again then.
    ToMake(ToMake),
}

/// What a create takes that names no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultImage {
    /// A file.
    There(Utf8PathBuf),
    /// An image that the first such create pulls.
    ToPull(ImageReference),
}

/// Finds the image that was asked for, or the default one.
pub(crate) fn choose(settings: &Settings, asked: Option<&AskedImage>) -> Result<Choice, CreateShedError> {
    match asked {
        Some(AskedImage::Name(image)) => named(settings, image.clone()),
        Some(AskedImage::Path(path)) => at(settings, path),
        Some(AskedImage::Reference(reference)) => pulled(settings, reference),
        None => default(settings),
    }
}

/// Returns the name of the image that a create takes when neither the caller nor the config names one, if there is any.
pub(crate) fn default_name(settings: &Settings) -> Option<ImageName> {
    match (&settings.base_rootfs, default(settings).ok()?) {
        (Some(_), _) => None,
        (None, Choice::ToMake(ToMake { name, .. })) => Some(name),
        (None, Choice::There(chosen)) => match chosen.recorded {
            Recorded::Name(name) => Some(name),
            Recorded::Base | Recorded::Path(_) => None,
        },
    }
}

/// Returns what a create takes that names no image, without making anything.
///
/// # Errors
/// As a create that names none: when there is no such image.
pub fn default_image(settings: &Settings) -> Result<DefaultImage, CreateShedError> {
    Ok(match default(settings)? {
        Choice::There(chosen) => DefaultImage::There(chosen.path),
        Choice::ToMake(to_make) => DefaultImage::ToPull(to_make.reference),
    })
}

fn named(settings: &Settings, image: ImageName) -> Result<Choice, CreateShedError> {
    let store = ImageStore::new(settings.images_dir.clone());
    if let Some(origin) = settings.images.get(&image) {
        let recorded = Recorded::Name(image.clone());
        return configured(settings, &store, &format!("images.{image}"), origin, &image, recorded);
    }
    let path = store.rootfs(&image);
    // The cache of the configured base is nobody's to ask for by name.
    if image.is_hidden() || !path.is_file() {
        let available = available(settings)?;
        return Err(CreateShedError::UnknownImage { image, available });
    }
    Ok(Choice::There(Chosen { path, recorded: Recorded::Name(image) }))
}

fn default(settings: &Settings) -> Result<Choice, CreateShedError> {
    let store = ImageStore::new(settings.images_dir.clone());
    let base = ImageName::configured_base();
    match &settings.base_rootfs {
        Some(origin) => {
            let recorded = match origin {
                ImageOrigin::Path(path) => of_file(&store, path),
                ImageOrigin::Reference(_) => Recorded::Base,
            };
            configured(settings, &store, "base_rootfs", origin, &base, recorded)
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

/// Returns what the config says at `key`; a reference is cached as `cached_as`.
fn configured(
    settings: &Settings,
    store: &ImageStore,
    key: &str,
    origin: &ImageOrigin,
    cached_as: &ImageName,
    recorded: Recorded,
) -> Result<Choice, CreateShedError> {
    match origin {
        ImageOrigin::Path(path) if path.is_file() => {
            Ok(Choice::There(Chosen { path: path.clone(), recorded }))
        }
        ImageOrigin::Path(path) => {
            let (key, path) = (key.to_owned(), path.clone());
            Err(CreateShedError::ImageFileMissing { key, path, available: available(settings)? })
        }
        ImageOrigin::Reference(reference) => {
            let path = store.rootfs(cached_as);
            let is_there = path.is_file() && is_of(reference, store.read_source(cached_as).as_deref());
            Ok(if is_there {
                Choice::There(Chosen { path, recorded })
            } else {
                to_make(reference, cached_as.clone())
            })
        }
    }
}

fn to_make(reference: &ImageReference, name: ImageName) -> Choice {
    Choice::ToMake(ToMake { reference: reference.clone(), name })
}

/// Returns a file that the caller names. It need not be known to anybody else, so it is looked at.
fn at(settings: &Settings, path: &Utf8Path) -> Result<Choice, CreateShedError> {
    check_file(settings, path).map_err(|error| CreateShedError::ImagePath(error.into()))?;
    let store = ImageStore::new(settings.images_dir.clone());
    let recorded = of_file(&store, path);
    Ok(Choice::There(Chosen { path: path.to_owned(), recorded }))
}

fn check_file(settings: &Settings, path: &Utf8Path) -> Result<(), ImagePathError> {
    let look = |source| ImagePathError::Look { path: path.to_owned(), source };
    let real = path.canonicalize_utf8().map_err(look)?;
    // The disk of a shed changes under whoever reads it. A directory that is not there holds no shed.
    let instances = settings.instance_dir.canonicalize_utf8();
    if instances.is_ok_and(|instances| real.starts_with(instances)) {
        return Err(ImagePathError::OfShed { path: path.to_owned() });
    }
    // A pipe of that name would be waited on for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(&real).map_err(look)?;
    if !file.metadata().map_err(look)?.is_file() {
        return Err(ImagePathError::NotFile { path: path.to_owned() });
    }
    let mut magic = [0; 2];
    match file.read_exact_at(&mut magic, MAGIC_AT) {
        Ok(()) if magic == MAGIC => Ok(()),
        Ok(()) => Err(ImagePathError::NotExt4 { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(ImagePathError::NotExt4 { path: path.to_owned() })
        }
        Err(error) => Err(look(error)),
    }
}

/// Returns the image of a reference that the caller names: one that is there and was made from it, under whatever name,
/// else one to be made under a name of its own.
fn pulled(settings: &Settings, reference: &ImageReference) -> Result<Choice, CreateShedError> {
    let is_it = |origin: &ImageOrigin| matches!(origin, ImageOrigin::Reference(of) if of == reference);
    if let Some((name, _)) = settings.images.iter().find(|(_, origin)| is_it(origin)) {
        return named(settings, name.clone());
    }
    if settings.base_rootfs.as_ref().is_some_and(is_it) {
        return default(settings);
    }
    let store = ImageStore::new(settings.images_dir.clone());
    let records = store.list().map_err(|source| CreateShedError::ListImages(source.into()))?;
    // A name that the config has given to something else in the meantime may come to be that at any moment.
    let is_free = |name: &ImageName| !name.is_hidden() && !settings.images.contains_key(name);
    let found = records
        .into_iter()
        .find(|record| record.source.as_deref() == Some(reference.as_str()) && is_free(&record.name));
    Ok(match found {
        Some(record) => Choice::There(Chosen { path: record.path, recorded: Recorded::Name(record.name) }),
        None => to_make(reference, name_of(reference)),
    })
}

/// Tells whether a file that is there, with this note of its origin, is the image of a reference.
fn is_of(reference: &ImageReference, source: Option<&str>) -> bool {
    source == Some(reference.as_str())
}

/// Returns what to record of a file: its name, if it is in the images directory.
fn of_file(store: &ImageStore, path: &Utf8Path) -> Recorded {
    let name = || -> Option<ImageName> {
        let name = path.file_name()?.strip_suffix(shed_image::file_name::ROOTFS_END)?.parse().ok()?;
        (store.rootfs(&name) == *path).then_some(name)
    };
    match name() {
        Some(name) if name == ImageName::configured_base() => Recorded::Base,
        Some(name) => Recorded::Name(name),
        None => Recorded::Path(path.to_owned()),
    }
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
        pulling: false,
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
        pulling: false,
    }
}

fn of_reference(name: &ImageName, reference: &ImageReference, record: Option<&ImageRecord>) -> KnownImage {
    // A file that was made from something else is not this image, and a create does not take it.
    let cached = record.filter(|record| is_of(reference, record.source.as_deref()));
    KnownImage {
        name: name.clone(),
        path: cached.map(|record| record.path.clone()),
        reference: Some(reference.to_string()),
        size_bytes: cached.map(|record| record.size_bytes),
        configured: true,
        cached: cached.is_some(),
        pulling: false,
    }
}

/// Returns the names that a create could have been asked for instead.
fn available(settings: &Settings) -> Result<Vec<String>, CreateShedError> {
    let known = known(settings).map_err(|source| CreateShedError::ListImages(source.into()))?;
    let can_be_had = |image: &KnownImage| image.cached || (image.configured && image.reference.is_some());
    Ok(known.into_iter().filter(can_be_had).map(|image| image.name.to_string()).collect())
}
