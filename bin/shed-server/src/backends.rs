//! Picks what runs machines. The only file of the server that names a concrete backend.

use std::{sync::Arc, time::Duration};

use shed_backend::{
    Accelerator, Backend,
    qemu::{AcceleratorChoice, GuestArch, QemuBackend, QemuConfig},
};
use shed_lifecycle::Settings;
use shed_types::{BackendChoice, BackendKind};

use crate::config::{Accel, Config, QemuSection};

/// Start and stop timeouts where the config names none (spec C.6 for hardware acceleration). A boot under software
/// emulation takes about ten times as long.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const START_TIMEOUT_EMULATED: Duration = Duration::from_secs(5 * 60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT_EMULATED: Duration = Duration::from_secs(60);

/// Why this server cannot have the backend that its config asks for.
#[derive(Debug, thiserror::Error)]
pub enum ChooseBackendError {
    #[error(
        "default_backend is {wanted}, which this build of shed-server does not have; set it to qemu or detect"
    )]
    NotBuilt { wanted: BackendKind },
}

/// Makes the backend that the config asks for; `detect` takes the best this build has.
///
/// # Errors
/// When the build does not have it.
pub fn choose(config: &Config) -> Result<Arc<dyn Backend>, ChooseBackendError> {
    match config.default_backend {
        BackendChoice::Detect | BackendChoice::Qemu => {
            Ok(Arc::new(QemuBackend::new(qemu_config(&config.qemu))))
        }
        BackendChoice::Firecracker => Err(ChooseBackendError::NotBuilt { wanted: BackendKind::Firecracker }),
        BackendChoice::Vz => Err(ChooseBackendError::NotBuilt { wanted: BackendKind::Vz }),
    }
}

/// Returns what the lifecycle needs to know, now that it is known what runs the guests' instructions.
#[must_use]
pub fn settings(config: &Config, accelerator: Accelerator) -> Settings {
    let qemu = config.qemu.clone();
    let (start, stop) = match accelerator {
        Accelerator::Kvm | Accelerator::Hvf => (START_TIMEOUT, STOP_TIMEOUT),
        Accelerator::Tcg => (START_TIMEOUT_EMULATED, STOP_TIMEOUT_EMULATED),
    };
    let mut kept_from_guests = vec![qemu.socket_dir, config.ssh_host_key.clone()];
    // Whoever writes these decides what the server gives to sheds.
    kept_from_guests.extend(config.file.clone());
    kept_from_guests.extend(config.env_file.clone());
    Settings {
        instance_dir: qemu.instance_dir,
        images_dir: qemu.images_dir,
        kept_from_guests,
        kernel: qemu.kernel_path,
        initrd: qemu.initrd_path,
        base_rootfs: qemu.base_rootfs,
        images: qemu.images,
        registries: config.registries.clone(),
        image_limits: config.image_limits,
        home: config.home.clone(),
        default_cpus: qemu.default_cpus,
        default_memory_mb: qemu.default_memory_mb,
        default_disk_gb: qemu.default_disk_gb,
        start_timeout: qemu.start_timeout.unwrap_or(start),
        stop_timeout: qemu.stop_timeout.unwrap_or(stop),
        extra_cmdline: qemu.extra_cmdline,

        credentials: config.credentials.clone(),
        env_file: config.env_file.clone(),
        extra_known_hosts: config.extra_known_hosts.clone(),
    }
}

fn qemu_config(section: &QemuSection) -> QemuConfig {
    QemuConfig {
        binary: section.binary.clone(),
        accel: match section.accel {
            Accel::Auto => AcceleratorChoice::Auto,
            Accel::Kvm => AcceleratorChoice::Kvm,
            Accel::Hvf => AcceleratorChoice::Hvf,
            Accel::Tcg => AcceleratorChoice::Tcg,
        },
        virtiofsd: section.virtiofsd.clone(),
        share_cache: section.share_cache,
        socket_dir: section.socket_dir.clone(),
        arch: GuestArch::host(),
    }
}
