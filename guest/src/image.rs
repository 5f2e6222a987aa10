//! Builds images from recipes: the layers of each, and the ext4 that sheds are made from.
//!
//! Whoever asks for an image gets the layers of all that it stands on, and the ext4 of that image alone. guest/README.md
//! says what a recipe is.

use anyhow::{Context as _, Result};
use shed_image::{BlobStore, DiskOptions, ImageStore, file_name, recipe_source};
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
        write_ext4(out, common, &builder, &blobs, name, &image)?;
    }
    Ok(())
}

fn write_ext4(
    out: &OutDir,
    common: &Common,
    builder: &Builder<'_>,
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
    let options = DiskOptions { label: Some(format!("shed-{name}")), uuid: None };
    let work = out.work_dir()?;
    let tar = work.path().join("whole.tar");
    builder.root_of(image, work.path())?.write(std::io::BufWriter::new(std::fs::File::create(&tar)?))?;
    shed_image::rootfs_from_tar(&shed_image::Mke2fs::find()?, &tar, &new, &options)?;
    image.trailer(&manifest).append(&mut std::fs::File::options().read(true).write(true).open(&new)?)?;
    store
        .install(&lock, name, &new, &recipe_source(name))
        .with_context(|| format!("cannot put {} in place", store.rootfs(name)))?;
    drop(lock);
    stamp.write(digest, &[file_name::rootfs(name).into(), file_name::source(name).into()])?;
    let length = std::fs::metadata(store.rootfs(name)).with_context(|| format!("cannot read {name}"))?.len();
    step.done(&format!("{} MB", length / 1_000_000));
    Ok(())
}
