//! Images, kernel and initramfs as files: how they are made, named, copied and found.
//!
//! Used by two programs. `shed-guest` builds kernel, initramfs and images with it; the server finds images and makes
//! the disks of new sheds with it. Everything here is synchronous: callers in async code use a blocking thread.
//! Nothing here boots a machine, knows a backend, or fetches anything from a network.

mod archive;
mod blobs;
mod config;
mod convert;
mod disk;
mod document;
mod ext4;
mod initramfs;
mod kernel;
mod modules;
mod origin;
mod progress;
mod remove;
mod store;
mod tar;
mod trailer;

pub use archive::{ImportError, IndexEntry, Platform, SaveError, import, save};
pub use blobs::{
    BeginBlob, BlobError, BlobId, BlobStore, BlobSweep, BlobUse, BlobWriter, DigestHasher, SweepReport,
};
pub use config::ImageConfig;
pub use convert::{ConvertError, DiskOptions, EntryProblem, ImageLimits, convert};
pub use disk::{BuildDiskError, CloneError, CloneMethod, Mke2fs, UPPER_LABEL, clone_sparse, format_upper};
pub use document::{DocumentError, reachable};
pub use initramfs::{Initramfs, InitramfsError};
pub use kernel::{ExtractKernelError, KernelImage, identify_kernel, vmlinux_from_bzimage};
pub use modules::{ModuleTree, ParseModulesError, ResolveModulesError};
pub use origin::{ImageOrigin, build_source, recipe_source, reference_in_source};
pub use progress::{ImageProgress, ImageStep, ImageWatch, Unwatched};
pub use remove::{OwnSize, RemoveImageError};
pub use store::{
    FileId, ImageLock, ImageRecord, ImageStore, ListImagesError, Orphan, OrphanFate, RemoveOrphanError,
    SidecarKind, TemplateError, file_name,
};
pub use tar::TarError;
pub use trailer::{RunConfig, Trailer};
