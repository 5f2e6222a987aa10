//! Linux, which has Firecracker.

use std::sync::Arc;

use shed_backend::{
    Backend,
    firecracker::{FirecrackerBackend, FirecrackerConfig, Jailer, Seccomp},
};
use shed_types::{BackendKind, TcpPort};

use super::{ChooseBackendError, detect::Best, network};
use crate::config::{Config, FirecrackerSection, JailerChoice};

fn firecracker_config(section: &FirecrackerSection, ports: &[TcpPort]) -> FirecrackerConfig {
    FirecrackerConfig {
        binary: section.binary.clone(),
        seccomp: if section.seccomp { Seccomp::Own } else { Seccomp::Off },
        first_cid: section.vsock_base_cid,
        dns: section.dns.clone(),
        jailer: match section.jailer {
            JailerChoice::Auto => Jailer::Auto,
            JailerChoice::Always => Jailer::Always,
            JailerChoice::Never => Jailer::Never,
        },
        jailer_binary: section.jailer_path.clone(),
        jail_dir: Some(section.jail_dir.clone()),
        jail_uid_base: section.jail_uid_base,
        ..FirecrackerConfig::new(section.common.socket_dir.clone(), network(section, ports))
    }
}

pub(super) fn make_firecracker(
    section: &FirecrackerSection,
    ports: &[TcpPort],
) -> Result<Arc<dyn Backend>, ChooseBackendError> {
    Ok(Arc::new(FirecrackerBackend::new(firecracker_config(section, ports))))
}

/// Returns the backend that is better than QEMU on this system, and why it cannot run machines here, if it cannot.
pub(super) fn best_here(config: &Config) -> Best {
    let usable = FirecrackerBackend::runs_here(&firecracker_config(&config.firecracker, &[]));
    Best { kind: BackendKind::Firecracker, name: "Firecracker", usable }
}

/// Returns the host's network of the Firecracker sheds of this server, as its configuration says.
#[must_use]
pub fn host_network(config: &Config) -> shed_net::Host {
    let ports: Vec<TcpPort> =
        [config.http_port, config.ssh_port].into_iter().filter_map(TcpPort::new).collect();
    shed_net::Host::new(network(&config.firecracker, &ports))
}
