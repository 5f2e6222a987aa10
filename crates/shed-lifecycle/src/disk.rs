//! Gives a new shed its two disks: a link to the image and a clone of the empty template.
//!
//! The cost does not depend on the image's size (design §3): a hardlink, and a sparse copy of a few megabytes.

use std::{error::Error, fs, io};

use camino::Utf8Path;
use shed_image::{ImageStore, clone_sparse};
use shed_state::{InstanceFiles, atomic};
use shed_types::DiskGb;

/// Why the disks of a shed were not made: which step failed, and how.
pub(crate) type DiskError = (String, Box<dyn Error + Send + Sync>);

/// Makes both disks. Blocking.
///
/// # Errors
/// With the step; what it had made is removed with the shed's directory by the caller.
pub(crate) fn prepare(
    files: &InstanceFiles,
    image: &Utf8Path,
    store: &ImageStore,
    size: DiskGb,
) -> Result<(), DiskError> {
    link_image(image, &files.image)?;
    let template = store
        .upper_template(size)
        .map_err(|error| (format!("making an empty disk of {size} GB"), error.into()))?;
    let method = clone_sparse(&template, &files.rootfs)
        .map_err(|error| (format!("cloning the empty disk to {}", files.rootfs), error.into()))?;
    tracing::debug!(rootfs = %files.rootfs, ?method, "cloned the empty disk");
    atomic::sync_directory(&files.directory)
        .map_err(|error| (format!("syncing {}", files.directory), error.into()))
}

fn link_image(image: &Utf8Path, link: &Utf8Path) -> Result<(), DiskError> {
    // Of a symbolic link a hard link would be one more symbolic link, and as short-lived as what it leads to.
    let image = &image
        .canonicalize_utf8()
        .map_err(|error| (format!("looking at the image {image}"), error.into()))?;
    match fs::hard_link(image, link) {
        Ok(()) => Ok(()),
        // A hardlink cannot leave its file system; some have none, and the user may not be allowed to link to a
        // file of somebody else's (fs.protected_hardlinks). A copy is right then, only slow.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::CrossesDevices | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            tracing::warn!(
                %image, %link, error = %error,
                "the image cannot be linked and is copied; put images_dir and instance_dir on one file system"
            );
            clone_sparse(image, link)
                .map(drop)
                .map_err(|error| (format!("copying the image {image}"), error.into()))
        }
        Err(error) => Err((format!("linking the image {image}"), error.into())),
    }
}
