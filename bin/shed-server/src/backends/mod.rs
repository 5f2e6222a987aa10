//! Picks what runs machines. The only room of the server that names a concrete backend.

mod detect;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::{sync::Arc, time::Duration};

use shed_backend::{
    Accelerator, Backend,
    qemu::{AcceleratorChoice, GuestArch, QemuBackend, QemuConfig},
    vz::{VzBackend, VzConfig},
};
use shed_lifecycle::{BusSettings, Settings};
use shed_net::{NetSettings, ServerId};
use shed_types::{BackendChoice, BackendKind, TcpPort};

pub use self::detect::Decision;
#[cfg(target_os = "linux")]
pub use self::linux::host_network;
#[cfg(target_os = "linux")]
use self::linux::{best_here, make_firecracker};
#[cfg(target_os = "macos")]
use self::macos::{best_here, make_firecracker};
use crate::{
    config::{Accel, CommonSection, Config, FirecrackerSection, QemuSection, VzSection},
    system,
};

/// Start and stop timeouts where the config names none (spec C.6 for hardware acceleration). A boot under software
/// emulation takes about ten times as long.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const START_TIMEOUT_EMULATED: Duration = Duration::from_secs(5 * 60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT_EMULATED: Duration = Duration::from_secs(60);

/// Firecracker's own start timeout (spec K.1).
const START_TIMEOUT_FIRECRACKER: Duration = Duration::from_secs(30);

/// Why this server cannot have the backend that its config asks for.
#[derive(Debug, thiserror::Error)]
pub enum ChooseBackendError {
    #[error("default_backend is {wanted}, which needs Linux; set it to qemu, vz or detect")]
    NotBuilt { wanted: BackendKind },
}

/// Returns the backend that the config asks for; `detect` takes the best that can run here.
///
/// # Errors
/// When this build does not have it.
pub fn decide(config: &Config) -> Result<Decision, ChooseBackendError> {
    let asked = |kind: BackendKind| Decision { kind, reason: "default_backend in server.yaml".to_owned() };
    match config.default_backend {
        BackendChoice::Detect => Ok(detect::detect(config, best_here(config))),
        BackendChoice::Qemu => Ok(asked(BackendKind::Qemu)),
        BackendChoice::Firecracker if system::has_firecracker() => Ok(asked(BackendKind::Firecracker)),
        BackendChoice::Firecracker => Err(ChooseBackendError::NotBuilt { wanted: BackendKind::Firecracker }),
        // Elsewhere than on macOS there is no vfkit, and the check of the host says so.
        BackendChoice::Vz => Ok(asked(BackendKind::Vz)),
    }
}

/// Makes a backend. Its guests reach none of the server's own `ports` where the host's network is between them.
///
/// # Errors
/// When this build does not have it.
pub fn make(
    config: &Config,
    kind: BackendKind,
    ports: &[TcpPort],
) -> Result<Arc<dyn Backend>, ChooseBackendError> {
    match kind {
        BackendKind::Qemu => Ok(Arc::new(QemuBackend::new(qemu_config(&config.qemu)))),
        BackendKind::Firecracker => make_firecracker(&config.firecracker, ports),
        BackendKind::Vz => Ok(Arc::new(VzBackend::new(vz_config(&config.vz)))),
    }
}

/// Returns the section of a backend, as far as it is like the others'.
#[must_use]
pub const fn section(config: &Config, kind: BackendKind) -> &CommonSection {
    match kind {
        BackendKind::Qemu => &config.qemu.common,
        BackendKind::Firecracker => &config.firecracker.common,
        BackendKind::Vz => &config.vz.common,
    }
}

/// Returns what the lifecycle needs to know, now that it is known what runs the guests' instructions.
#[must_use]
pub fn settings(config: &Config, kind: BackendKind, accelerator: Accelerator) -> Settings {
    let section = section(config, kind).clone();
    let (start, stop) = match (kind, accelerator) {
        (BackendKind::Firecracker, _) => (START_TIMEOUT_FIRECRACKER, STOP_TIMEOUT),
        (BackendKind::Vz, _) | (BackendKind::Qemu, Accelerator::Kvm | Accelerator::Hvf) => {
            (START_TIMEOUT, STOP_TIMEOUT)
        }
        (BackendKind::Qemu, Accelerator::Tcg) => (START_TIMEOUT_EMULATED, STOP_TIMEOUT_EMULATED),
    };
    let mut kept_from_guests = vec![section.socket_dir, config.ssh_host_key.clone()];
    // Whoever writes these decides what the server gives to sheds.
    kept_from_guests.extend(config.file.clone());
    kept_from_guests.extend(config.env_file.clone());
    Settings {
        instance_dir: section.instance_dir,
        images_dir: section.images_dir,
        kept_from_guests,
        kernel: section.kernel_path,
        initrd: section.initrd_path,
        base_rootfs: section.base_rootfs,
        images: section.images,
        registries: config.registries.clone(),
        image_limits: config.image_limits,
        home: config.home.clone(),
        default_cpus: section.default_cpus,
        default_memory_mb: section.default_memory_mb,
        default_disk_gb: section.default_disk_gb,
        start_timeout: section.start_timeout.unwrap_or(start),
        stop_timeout: section.stop_timeout.unwrap_or(stop),
        extra_cmdline: section.extra_cmdline,
        bus: BusSettings {
            on: config.extensions.bus,
            server: config.name.clone(),
            enabled: config.extensions.enabled.clone(),
        },

        credentials: config.credentials.clone(),
        env_file: config.env_file.clone(),
        extra_known_hosts: config.extra_known_hosts.clone(),
    }
}

/// Returns the network of the Firecracker sheds of this server.
#[must_use]
pub fn network(section: &FirecrackerSection, ports: &[TcpPort]) -> NetSettings {
    NetSettings::new(
        section.bridge_name.clone(),
        section.bridge_cidr,
        section.tap_prefix.clone(),
        ServerId::of_directory(section.common.instance_dir.as_str()),
        ports.iter().copied(),
    )
    .expect("the configuration's check has put them together")
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
        socket_dir: section.common.socket_dir.clone(),
        arch: GuestArch::host(),
    }
}

fn vz_config(section: &VzSection) -> VzConfig {
    VzConfig { vfkit_path: section.vfkit_path.clone(), ..VzConfig::new(section.common.socket_dir.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, User, load};

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = camino::Utf8Path::from_path(dir.path()).unwrap().join("server.yaml");
        std::fs::write(&path, text).unwrap();
        let surroundings = Surroundings {
            current_dir: "/".into(),
            home: Some("/Users/ann".into()),
            data_home: None,
            user: User::Ordinary,
        };
        load(Some(&path), &surroundings).unwrap()
    }

    #[test]
    fn vz_is_made_when_it_is_asked_for_with_its_own_directories_and_timeouts() {
        let config = config("default_backend: vz\nvz: {vfkit_path: /opt/vfkit, extra_cmdline: [a=b]}");
        let kind = decide(&config).unwrap().kind;
        assert_eq!(kind, BackendKind::Vz);
        assert_eq!(make(&config, kind, &[]).unwrap().kind(), BackendKind::Vz);
        let vz = vz_config(&config.vz);
        assert_eq!(
            (vz.vfkit_path.as_str(), vz.socket_dir.as_str()),
            ("/opt/vfkit", "/Users/ann/.shed/vz/sockets")
        );
        let settings = settings(&config, kind, Accelerator::Hvf);
        assert_eq!(settings.instance_dir, "/Users/ann/Library/Application Support/shed/vz/instances");
        assert_eq!((settings.start_timeout, settings.stop_timeout), (START_TIMEOUT, STOP_TIMEOUT));
        assert_eq!(settings.extra_cmdline, ["a=b"]);
        assert!(settings.kept_from_guests.contains(&vz.socket_dir));
    }

    #[tokio::test]
    async fn a_host_without_vfkit_is_told_how_to_get_it() {
        let config = config("default_backend: vz\nvz: {vfkit_path: /no/such/vfkit}");
        let error = make(&config, BackendKind::Vz, &[]).unwrap().check_host().await.unwrap_err().to_string();
        assert!(error.contains("/no/such/vfkit") && error.contains("vz.vfkit_path"), "{error}");
    }
}
