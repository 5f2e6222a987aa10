//! What can be wrong with an image.

use camino::Utf8PathBuf;
use shed_types::Digest;

use crate::{BlobError, document::DocumentError, ext4::XattrError, tar::TarError};

/// Says why an image was not converted. There is nothing at the target then.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("conversion was cancelled")]
    Cancelled,
    #[error("cannot keep the blobs of the image from being removed")]
    Hold(#[source] std::io::Error),
    #[error("cannot read what the image consists of")]
    Document(#[from] DocumentError),
    #[error("{0} is the index of several images; choose one of its manifests")]
    Index(Digest),
    #[error("the image is for {os}/{architecture}, and sheds on this host need {needed}")]
    Platform { os: String, architecture: String, needed: String },
    #[error("the image has {layers} layers, and its config has {diff_ids}: one of them is of another image")]
    DiffIds { layers: usize, diff_ids: usize },
    #[error("diff_id {number} of the image's config is no digest that can be checked")]
    DiffId {
        number: usize,
        #[source]
        source: shed_types::ParseDigestError,
    },
    #[error("the image has {found} layers; more than {limit} are not taken")]
    Layers { found: usize, limit: usize },
    #[error("layer {number} is of type {media_type}, which cannot be read: {why}")]
    MediaType { number: usize, media_type: String, why: &'static str },
    #[error("cannot read layer {number} ({digest})")]
    Blob {
        number: usize,
        digest: Digest,
        #[source]
        source: BlobError,
    },
    #[error("layer {number} ({digest}) has {found} bytes, and the manifest says {expected}")]
    Size { number: usize, digest: Digest, found: u64, expected: u64 },
    #[error("layer {number} ({digest}) is damaged")]
    Archive {
        number: usize,
        digest: Digest,
        #[source]
        source: TarError,
    },
    #[error("layer {number} ({digest}) unpacks to {found}, and the image's config says {expected}")]
    OtherContent { number: usize, digest: Digest, found: Digest, expected: Digest },
    #[error("layer {number} ({digest}) has changed while it was read; import or pull the image again")]
    Changed { number: usize, digest: Digest },
    #[error("layer {number} ({digest}): {entry:?} is refused")]
    Entry {
        number: usize,
        digest: Digest,
        entry: String,
        #[source]
        source: EntryProblem,
    },
    #[error("the image unpacks to more than {0} bytes; see the limits of images in the server's config")]
    Bytes(u64),
    #[error("the image has more than {0} entries; see the limits of images in the server's config")]
    Entries(u64),
    #[error("the image's file system would be too large: {0}")]
    TooLarge(String),
    #[error("{uuid:?} is no UUID for a file system")]
    Uuid {
        uuid: String,
        #[source]
        source: uuid::Error,
    },
    #[error("{path} needs up to {needed} bytes, and its disk has {free} free; `shed image prune` may help")]
    NoSpace { path: Utf8PathBuf, needed: u64, free: u64 },
    #[error("cannot write {path}")]
    Write {
        path: Utf8PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl ConvertError {
    /// Tells whether the reason can be a blob that is no longer what its digest says; all others are not worth hashing an
    /// image for.
    #[must_use]
    pub const fn may_be_damage(&self) -> bool {
        match self {
            Self::Document(_)
            | Self::Blob { .. }
            | Self::Size { .. }
            | Self::Archive { .. }
            | Self::Entry { .. }
            | Self::OtherContent { .. }
            | Self::Changed { .. } => true,
            Self::Cancelled
            | Self::Hold(_)
            | Self::Index(_)
            | Self::Platform { .. }
            | Self::DiffIds { .. }
            | Self::DiffId { .. }
            | Self::Layers { .. }
            | Self::MediaType { .. }
            | Self::Bytes(_)
            | Self::Entries(_)
            | Self::TooLarge(_)
            | Self::Uuid { .. }
            | Self::NoSpace { .. }
            | Self::Write { .. } => false,
        }
    }
}

/// What is wrong with an entry of a layer.
#[derive(Debug, thiserror::Error)]
pub enum EntryProblem {
    #[error("it has no name")]
    NoName,
    #[error("its name has `..` in it")]
    DotDot,
    #[error("its name has a zero byte in it")]
    ZeroByte,
    #[error("a part of its name has more than 255 bytes")]
    LongName,
    #[error("its name, or that of its hard link's target, has more than 4095 bytes")]
    LongPath,
    #[error("its directory is reached by a symbolic link that leaves the image")]
    ParentOutside,
    #[error(
        "its directory is reached by more than 255 symbolic links, or more than 10,000 names in them: they go in a circle"
    )]
    ParentLoop,
    #[error("what ought to be its directory is something else")]
    ParentNoDirectory,
    #[error("the layer has it twice")]
    Twice,
    #[error("only a directory can be the root of an image")]
    Root,
    #[error("its whiteout hides nothing that could be named")]
    Whiteout,
    #[error("it is a hard link, and its target is absolute, empty or has `..` in it")]
    LinkTarget,
    #[error("it is a hard link to something that does not exist")]
    LinkToNothing,
    #[error("it is a hard link to a directory")]
    LinkToDirectory,
    #[error("its target has more than 65,000 hard links")]
    Links,
    #[error("it is a symbolic link without a target, or with one that is too long or has a zero byte in it")]
    SymlinkTarget,
    #[error("its device has a number that Linux does not have")]
    Device,
    #[error("its owner or group is a number that Linux does not have")]
    Owner,
    #[error("it is larger than any file of ext4")]
    TooLarge,
    #[error("{0}")]
    Xattrs(String),
    #[error("with it the image has more than 64 MiB of extended attributes that differ")]
    ManyXattrs,
}

impl From<XattrError> for EntryProblem {
    fn from(error: XattrError) -> Self {
        Self::Xattrs(error.to_string())
    }
}
