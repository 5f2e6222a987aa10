//! Builds images from recipes: the layers of each, and the ext4 that sheds are made from.
//!
//! Whoever asks for an image gets the layers of all that it stands on, and the ext4 of that image alone. guest/README.md
//! says what a recipe is.

use anyhow::{Context as _, Result};
use shed_image::{
    BlobStore, DiskOptions, ImageLimits, ImageStore, Unwatched, convert, file_name, recipe_source,
};
use shed_types::ImageName;

use crate::{
    Common, Extensions,
    inputs::{Inputs, Stamp},
    layers::Builder,
    oci::Image,
    outdir::OutDir,
    recipe,
    ui::{self, Step},
};

/// Raised when the same layers give another file system.
const FORMAT: u32 = 2;

/// Builds these images, or those of all recipes when there is no name.
pub(crate) fn build(
    out: &OutDir,
    common: &Common,
    extensions: &Extensions,
    names: Option<&[ImageName]>,
) -> Result<()> {
    let recipes = common.guest_dir.join("recipes");
    let all;
    let names = match names {
        Some(names) => names,
        None => {
            all = recipe::names(&recipes)?;
            &all
        }
    };
    // A name that is wrong is said before an hour is spent on the others.
    let chains = names.iter().map(|name| recipe::chain(&recipes, name)).collect::<Result<Vec<_>>>()?;

    let blobs = BlobStore::of(&ImageStore::new(out.path()));
    let _held = blobs.hold().context("cannot lock the store of blobs")?;
    let builder = Builder { out, common, extensions, blobs: &blobs };
    let mut done = Vec::new();
    for (name, chain) in names.iter().zip(&chains) {
        let image = builder.image(chain, &mut done)?;
        write_ext4(out, common, &blobs, name, &image)?;
    }
    Ok(())
}

fn write_ext4(
    out: &OutDir,
    common: &Common,
    blobs: &BlobStore,
    name: &ImageName,
    image: &Image,
) -> Result<()> {
    let manifest = image.write(blobs)?;
    let stamp = Stamp::of(out, &format!("image-{name}"));
    let mut inputs = Inputs::new("image", FORMAT);
    inputs.text("manifest", manifest.as_str());
    let digest = inputs.digest();
    if !common.refresh && stamp.is_current(&digest) {
        ui::up_to_date(&format!("image {name}"));
        return Ok(());
    }
    let step = Step::begin(format!("make {}", file_name::rootfs(name)));
    let store = ImageStore::new(out.path());
    let lock = store.lock(name).with_context(|| format!("cannot lock image {name}"))?;
    stamp.withdraw()?;
    let new = store.temporary(name);
    // A builder that was killed may have had the same number as this one.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {new}"));
        }
        Ok(()) | Err(_) => {}
    }
    let options = DiskOptions { label: Some(format!("shed-{name}")), uuid: None };
    let converted = convert(blobs, &manifest, &new, &options, &ImageLimits::default(), &Unwatched);
    let _trailer = converted.with_context(|| format!("cannot make the file system of {name}"))?;
    store
        .install(&lock, name, &new, &recipe_source(name))
        .with_context(|| format!("cannot put {} in place", store.rootfs(name)))?;
    drop(lock);
    stamp.write(digest, &[file_name::rootfs(name).into(), file_name::source(name).into()])?;
    let length = std::fs::metadata(store.rootfs(name)).with_context(|| format!("cannot read {name}"))?.len();
    step.done(&format!("{} MB", length / 1_000_000));
    Ok(())
}
