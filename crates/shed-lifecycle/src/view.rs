//! A shed as it looks from outside, and what is asked for when one is made.

use std::{collections::BTreeMap, net::Ipv4Addr};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use shed_protocol::ExtensionReport;
use shed_types::{BackendKind, CpuCount, DiskGb, ImageName, MemoryMb, Namespace, Repo, ShedName};

use crate::{AskedImage, PhaseTiming};

/// How a shed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedStatus {
    /// It is being created or started.
    Starting,
    /// Its machine runs and its agent has answered.
    Running,
    /// It is being stopped or deleted.
    Stopping,
    /// It has no machine.
    Stopped,
    /// It cannot be started until somebody repairs what `ShedView::error` names.
    Broken,
}

/// A snapshot of a shed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShedView {
    /// Unique on this server.
    pub name: ShedName,
    /// How it is.
    pub status: ShedStatus,
    /// When it was created.
    pub created_at: Timestamp,
    /// What runs it.
    pub backend: BackendKind,
    /// What the caller gave as repository, without secrets.
    pub repo: Option<String>,
    /// Host directory at /workspace.
    pub local_dir: Option<Utf8PathBuf>,
    /// The image it was made from; absent when that is the configured base or has no name.
    pub image: Option<ImageName>,
    /// The file it was made from, when that has no name.
    pub image_path: Option<Utf8PathBuf>,
    /// Virtual CPUs.
    pub cpus: CpuCount,
    /// Memory in MiB.
    pub memory_mb: MemoryMb,
    /// Size of its own disk in GiB.
    pub disk_gb: DiskGb,
    /// Its own disk.
    pub rootfs_path: Utf8PathBuf,
    /// The VMM process, while there is one.
    pub pid: Option<u32>,
    /// The guest's address, where the host can reach one.
    pub ip_address: Option<Ipv4Addr>,
    /// Last health report; only while running.
    pub last_healthy: Option<Timestamp>,
    /// When the agent started; only while running.
    pub agent_started_at: Option<Timestamp>,
    /// How the extensions are that the server enables, as the guest last said; only while running.
    pub extensions: BTreeMap<Namespace, ExtensionReport>,
    /// Why it is broken, or why its last start failed or its machine ended.
    pub error: Option<String>,
    /// What went wrong since its machine started without failing the start; only while running.
    pub warnings: Vec<String>,
}

/// What a new shed shall be. Fields left out take the server's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewShed {
    /// Its name.
    pub name: ShedName,
    /// Its image; absent means the default image.
    pub image: Option<AskedImage>,
    /// Virtual CPUs.
    pub cpus: Option<CpuCount>,
    /// Memory in MiB.
    pub memory_mb: Option<MemoryMb>,
    /// Repository to clone. A password in it is used for the clone and never kept.
    pub repo: Option<Repo>,
    /// Host directory for /workspace; absolute, and a directory when it was looked at.
    pub local_dir: Option<Utf8PathBuf>,
    /// Whether install and startup hooks are left out.
    pub no_provision: bool,
}

/// The result of a create or start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The running shed.
    pub shed: ShedView,
    /// How long each phase took.
    pub timeline: Vec<PhaseTiming>,
    /// What went wrong without failing the whole: credentials, clone, hooks.
    pub warnings: Vec<String>,
}

/// The result of a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The shed, at rest.
    pub shed: ShedView,
    /// What went wrong on the way: the shutdown hook, a guest that had to be ended by force.
    pub warnings: Vec<String>,
}
