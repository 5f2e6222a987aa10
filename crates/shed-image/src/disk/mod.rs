//! Disks as sparse ext4 files: the empty upper disk of a shed, and copies that stay sparse.
//!
//! The server makes both. No loop device, mount or privilege is needed: `mke2fs` writes into a plain file.

mod clone;
mod mke2fs;

pub use clone::{CloneError, CloneMethod, clone_sparse};
pub use mke2fs::{BuildDiskError, Mke2fs, UPPER_LABEL, format_upper};
