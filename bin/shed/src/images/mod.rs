//! Images made, saved and pushed on this machine: `shed image build`, `save` and `push`.
//!
//! They work on the images directory of a server that runs here, or on any other directory, without the server's help:
//! the directory's locks keep both apart. [`place`] finds it, [`blobs`] gets an image's blobs from a registry, an archive
//! or a [`dockerfile`] that a [`tool`] builds, and [`make`] turns them into an image that boots.

pub(crate) mod blobs;
pub(crate) mod dockerfile;
pub(crate) mod make;
pub(crate) mod place;
pub(crate) mod scratch;
pub(crate) mod source;
pub(crate) mod summary;
pub(crate) mod tool;
pub(crate) mod watch;
