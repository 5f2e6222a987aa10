//! Disk usage and clean-up on the wire (spec A.7).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ShedStatus;

/// What a file or a set of files takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskSize {
    /// Lengths of the files.
    pub logical_bytes: u64,
    /// What they take on the host's disk: blocks of 512 bytes (stat(2), `st_blocks`), times 512.
    pub physical_bytes: u64,
}

impl std::ops::AddAssign for DiskSize {
    fn add_assign(&mut self, other: Self) {
        self.logical_bytes = self.logical_bytes.saturating_add(other.logical_bytes);
        self.physical_bytes = self.physical_bytes.saturating_add(other.physical_bytes);
    }
}

impl std::iter::Sum for DiskSize {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A shed's own disk.
    Rootfs,
    /// What a guest wrote to its console.
    ConsoleLog,
    /// A kernel that guests boot.
    Kernel,
    /// The initramfs of guests.
    Initrd,
    /// Locked by whoever changes an image; never removed.
    Lock,
    /// The unfinished file of a conversion.
    Tmp,
    /// The note of what an image was made from.
    Source,
    /// A shed's record.
    Metadata,
    /// Anything else a shed has: the link to its image, the log of its VMM.
    Other,
    /// The store of blobs: what images were pulled, imported or built as.
    Blobs,
}

impl FileKind {
    /// Returns the kind as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::ConsoleLog => "console_log",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Lock => "lock",
            Self::Tmp => "tmp",
            Self::Source => "source",
            Self::Metadata => "metadata",
            Self::Other => "other",
            Self::Blobs => "blobs",
        }
    }
}

/// A file and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileUsage {
    /// Where it is on the server's host.
    pub path: String,
    /// What it takes.
    pub size: DiskSize,
    /// What it is for.
    pub kind: FileKind,
}

/// A cached image and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageUsage {
    /// Its name.
    pub name: String,
    /// Where it is on the server's host.
    pub path: String,
    /// What it was made from, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_ref: Option<String>,
    /// What it takes.
    pub size: DiskSize,
    /// Whether it is the server's own cache of the configured base image, `_base`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_base: bool,
}

/// A shed and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShedUsage {
    /// Its name.
    pub name: String,
    /// How it is now.
    pub status: ShedStatus,
    /// The image it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its own disk; one that is missing takes nothing.
    pub rootfs: FileUsage,
    /// What its guest wrote to the console, where the backend keeps that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_log: Option<FileUsage>,
    /// Its other files, sorted by path.
    pub other_files: Vec<FileUsage>,
    /// All of them together.
    pub total: DiskSize,
}

/// What everything takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageTotals {
    /// Images, their blobs, kernels and initramfs.
    pub images: DiskSize,
    /// Sheds.
    pub sheds: DiskSize,
    /// Orphans.
    pub orphans: DiskSize,
    /// The sum of the three.
    pub all: DiskSize,
}

/// Body of `GET /api/system/df`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SystemUsage {
    /// The configured name of the server.
    pub server_name: String,
    /// The backend whose files these are: `qemu`, `firecracker`, `vz`, or `none`.
    pub backend: String,
    /// When the files were looked at.
    pub generated_at: Timestamp,
    /// Cached images, sorted by name.
    pub images: Vec<ImageUsage>,
    /// The kernel, when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<FileUsage>,
    /// The initramfs, when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FileUsage>,
    /// Kernels and initramfs in the images directory that this server's machines do not boot, sorted by path; left out when
    /// there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_guest_files: Vec<FileUsage>,
    /// The store of blobs as a whole: what images were pulled, imported or built as; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<FileUsage>,
    /// Sheds, sorted by name.
    pub sheds: Vec<ShedUsage>,
    /// Files in the images directory that belong to no image, sorted by path.
    pub orphans: Vec<FileUsage>,
    /// What everything takes.
    pub totals: UsageTotals,
    /// What a reader should know; at least one.
    pub notes: Vec<String>,
}

/// What a prune looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PruneScope {
    /// Cached images that neither the configuration nor a shed uses.
    Images,
    /// Sheds that have been stopped for long.
    Instances,
    /// Console logs that have grown long.
    Logs,
    /// Files of conversions that never ended.
    Orphans,
}

impl PruneScope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Images, Self::Instances, Self::Logs, Self::Orphans];

    /// What a prune looks at that names no scope.
    pub const DEFAULT: [Self; 3] = [Self::Images, Self::Instances, Self::Orphans];

    /// Returns the scope as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Instances => "instances",
            Self::Logs => "logs",
            Self::Orphans => "orphans",
        }
    }

    /// Returns the scope with this text.
    #[must_use]
    pub fn from_wire(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What a prune finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PruneKind {
    /// A shed.
    Instance,
    /// A cached image.
    Image,
    /// A console log.
    ConsoleLog,
    /// The unfinished file of a conversion.
    Tmp,
    /// The note of what an image was made from.
    Source,
    /// The lock of an image.
    Lock,
    /// Any other file of a shed: the log of its VMM.
    Other,
    /// Blobs that no image needs.
    Blobs,
}

impl PruneKind {
    /// Returns the kind as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Image => "image",
            Self::ConsoleLog => "console_log",
            Self::Tmp => "tmp",
            Self::Source => "source",
            Self::Lock => "lock",
            Self::Other => "other",
            Self::Blobs => "blobs",
        }
    }
}

/// What a prune does, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PruneAction {
    /// It is gone.
    Deleted,
    /// Its end is kept.
    Truncated,
}

impl PruneAction {
    /// Returns the action as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Truncated => "truncated",
        }
    }
}

/// Something that a prune removed or cut or, in a dry run, would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PrunedItem {
    /// What it is.
    pub kind: PruneKind,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its file, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is done with it.
    pub action: PruneAction,
    /// What that frees.
    pub freed: DiskSize,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Something that a prune leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SkippedItem {
    /// What it is.
    pub kind: PruneKind,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its file, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why, for people.
    pub reason: String,
}

/// What a prune frees in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PruneTotals {
    /// The sum over the items.
    pub freed: DiskSize,
    /// How many items there are.
    pub items: u64,
}

/// Body of the reply to `POST /api/system/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PruneReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The configured name of the server.
    pub server_name: String,
    /// What was looked at, in the order images, instances, logs, orphans.
    pub scope: Vec<PruneScope>,
    /// Age from which stopped sheds are deleted, as Go writes durations: `72h0m0s`.
    pub until: String,
    /// What was done or, in a dry run, would be.
    pub items: Vec<PrunedItem>,
    /// What was left alone, and why.
    pub skipped: Vec<SkippedItem>,
    /// What a reader should know; one that begins with `partial failure:` when something could not be done.
    pub notes: Vec<String>,
    /// What that frees in all.
    pub totals: PruneTotals,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_examples_read_and_write_back() {
        crate::golden::check::<SystemUsage>(include_str!("../fixtures/system-df.json"));
        crate::golden::check::<PruneReport>(include_str!("../fixtures/system-prune.json"));
    }

    #[test]
    fn blobs_and_other_kernels_read_and_write_back() {
        crate::golden::check::<SystemUsage>(include_str!("../fixtures/system-df-blobs.json"));
    }

    #[test]
    fn words_on_the_wire_are_those_of_serde() {
        for scope in PruneScope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
            assert_eq!(PruneScope::from_wire(scope.as_str()), Some(scope));
        }
        assert_eq!(PruneScope::from_wire("Images"), None);
        for kind in [FileKind::Rootfs, FileKind::ConsoleLog, FileKind::Other, FileKind::Tmp, FileKind::Blobs]
        {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for kind in [PruneKind::Instance, PruneKind::ConsoleLog, PruneKind::Lock, PruneKind::Blobs] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for action in [PruneAction::Deleted, PruneAction::Truncated] {
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
        }
    }

    #[test]
    fn sums_do_not_overflow() {
        let huge = DiskSize { logical_bytes: u64::MAX, physical_bytes: 1 };
        let sum: DiskSize = [huge, huge].into_iter().sum();
        assert_eq!(sum, DiskSize { logical_bytes: u64::MAX, physical_bytes: 2 });
    }
}
