//! What the lifecycle needs to know of the configuration. The server fills it in after checking.

use std::{collections::BTreeMap, time::Duration};

use camino::Utf8PathBuf;
use shed_image::{ImageLimits, ImageOrigin};
use shed_registry::RegistrySettings;
use shed_types::{CpuCount, CredentialName, DiskGb, ImageName, KnownHost, MemoryMb};

use crate::{BusSettings, CreateShedError, Credential};

/// Paths, defaults and limits of one backend's sheds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// One directory a shed.
    pub instance_dir: Utf8PathBuf,
    /// Cached images, kernel, initramfs, disk templates.
    pub images_dir: Utf8PathBuf,
    /// Other files and directories that are shared with no guest: sockets, keys.
    pub kept_from_guests: Vec<Utf8PathBuf>,
    /// Kernel in the form the backend boots.
    pub kernel: Utf8PathBuf,
    /// Initramfs with shed-init and shed-agent.
    pub initrd: Utf8PathBuf,
    /// Image used when none is named, cached as `_base` when it is a reference; absent means the image `default`, else
    /// `base`.
    pub base_rootfs: Option<ImageOrigin>,
    /// Images that the config names. None is hidden.
    pub images: BTreeMap<ImageName, ImageOrigin>,
    /// How registries are reached.
    pub registries: RegistrySettings,
    /// What an image may take at most that is made from a registry's.
    pub image_limits: ImageLimits,
    /// What `~` in the path of an image stands for: the home directory of the server's user.
    pub home: Option<Utf8PathBuf>,
    /// CPUs of a shed that names none.
    pub default_cpus: CpuCount,
    /// Memory of a shed that names none.
    pub default_memory_mb: MemoryMb,
    /// Size of a shed's own disk.
    pub default_disk_gb: DiskGb,
    /// From the VMM's start to the agent's answer; after it the start has failed.
    pub start_timeout: Duration,
    /// From the request to power off to SIGKILL.
    pub stop_timeout: Duration,
    /// Words appended to the guest's kernel command line.
    pub extra_cmdline: Vec<String>,
    /// What is copied into each shed, and back, by name.
    pub credentials: BTreeMap<CredentialName, Credential>,
    /// File of `NAME=value` lines that clones and hooks get as environment. It is read at each create, start and stop.
    pub env_file: Option<Utf8PathBuf>,
    /// Lines for known_hosts in sheds besides those of well-known hosts.
    pub extra_known_hosts: Vec<KnownHost>,
    /// Whether guests may speak with listeners, and which extensions they run.
    pub bus: BusSettings,
}

impl Settings {
    /// Checks that there is what every guest boots from.
    pub(crate) fn check_guest_files(&self) -> Result<(), CreateShedError> {
        for (what, path) in [("the kernel", &self.kernel), ("the initramfs", &self.initrd)] {
            if !path.is_file() {
                return Err(CreateShedError::GuestFileMissing { what, path: path.clone() });
            }
        }
        Ok(())
    }
}
