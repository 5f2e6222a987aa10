//! Disks as sparse ext4 files: an image from a tar, the empty upper disk of a shed, and copies that stay sparse.
//!
//! The guest builder makes images, the server makes uppers and copies. No loop device, mount or privilege is needed:
//! `mke2fs` writes into a plain file.

mod clone;
mod mke2fs;
mod tar_size;

pub use clone::{CloneError, CloneMethod, clone_sparse};
pub use mke2fs::{BuildDiskError, DiskOptions, Mke2fs, UPPER_LABEL, format_upper, rootfs_from_tar};
