//! The `firecracker` backend: one detached Firecracker process a machine, reached through the socket of its vsock device.
//!
//! A machine is described in a file beside its logs, so that one start of one process makes it, and what Firecracker was
//! told can be read afterwards. The console is Firecracker's standard output. The process is recognised by its command line.
//! Where the server is root it runs in a jail of its own; otherwise Firecracker's own filters are what confines it.

mod api;
mod config;
mod counts;
mod disks;
mod jail;
mod link;
mod machine;
mod network;
mod place;
mod prepare;
mod probe;
mod reach;
mod shares;
mod sockets;
mod vm;

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_net::TapOwner;
use shed_protocol::{MountKind, NetworkIdentity};
use shed_types::{BackendKind, NetworkLease, ShedName};
use tokio::{sync::OnceCell, task::spawn_blocking};

pub use self::{
    config::{FirecrackerConfig, Jailer, Seccomp},
    link::GuestLink,
    shares::{ShareRecord, ShareState},
};
use self::{
    counts::Totals,
    jail::{Confinement, Jails},
    network::Network,
    place::Place,
    prepare::Prepared,
    shares::{ShareServer, Shares},
    sockets::SocketPaths,
    vm::FirecrackerVm,
};
use crate::{
    Accelerator, AttachVmError, Backend, Capabilities, CheckHostError, HostReport, LeaseError, StartVmError,
    Vm, VmIdentity, VmSpec, VmmCounts,
    launch::{self, Launched, Program},
    programs::Version,
    qemu::real_kvm,
    shares::{Daemons, Marker},
    vm_process::{self, Unfinished},
};

/// Runs machines with Firecracker.
#[derive(Debug)]
pub struct FirecrackerBackend {
    config: FirecrackerConfig,
    network: Arc<Network>,
    jails: Option<Jails>,
    share_server: ShareServer,
    /// What its machines have counted.
    totals: Arc<Totals>,
    /// What this host offers, found out once.
    host: OnceCell<Host>,
}

/// What was found out about this host.
#[derive(Debug)]
struct Host {
    binary: Utf8PathBuf,
    version: Version,
    confinement: Confinement,
}

impl FirecrackerBackend {
    /// Makes the backend; looks at nothing yet.
    #[must_use]
    pub fn new(config: FirecrackerConfig) -> Self {
        let network = Arc::new(Network::new(config.network.clone(), config.dns.clone()));
        let jails = Jails::of(&config);
        let share_server = ShareServer::new(config.share_server.clone());
        Self { config, network, share_server, jails, totals: Arc::default(), host: OnceCell::new() }
    }

    async fn host(&self) -> Result<&Host, CheckHostError> {
        self.host.get_or_try_init(|| self.look_at_host()).await
    }

    async fn look_at_host(&self) -> Result<Host, CheckHostError> {
        let dir = &self.config.socket_dir;
        let (length, longest) = (dir.as_str().len(), sockets::longest_dir());
        if !dir.is_absolute() || length > longest {
            let key = "firecracker.socket_dir";
            return Err(CheckHostError::SocketDir { path: dir.clone(), length, longest, key });
        }
        real_kvm().map_err(|reason| CheckHostError::Accelerator { wanted: "kvm", reason })?;
        let binary = probe::find(&self.config)?;
        let version = probe::version(&binary).await?;
        let confinement = jail::confinement(&self.config, &binary)?;
        tracing::debug!(program = %binary, %version, %confinement, "Firecracker runs the machines");
        Ok(Host { binary, version, confinement })
    }

    fn sockets(&self, shed: &ShedName) -> SocketPaths {
        SocketPaths::new(&self.config.socket_dir, shed)
    }

    /// Removes the jails of a shed that has no machine, which may have put very much into one.
    async fn remove_jails(&self, shed: &ShedName) -> io::Result<()> {
        let (Some(jails), shed) = (self.jails.clone(), shed.clone()) else { return Ok(()) };
        spawn_blocking(move || jails.remove(&shed)).await.map_err(io::Error::other).flatten()
    }

    fn marker(&self, shed: &ShedName) -> Marker {
        Marker::of_shed(&self.config.socket_dir, shed)
    }
}

#[async_trait::async_trait]
impl Backend for FirecrackerBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Firecracker
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { console_log: true, guest_address: true, shared_directories: true }
    }

    async fn check_host(&self) -> Result<HostReport, CheckHostError> {
        let host = self.host().await?;
        Ok(HostReport {
            vmm: format!("Firecracker {} ({})", host.version, host.binary),
            accelerator: Accelerator::Kvm,
            reason: "Firecracker has no other".to_owned(),
            confined_by: Some(host.confinement.to_string()),
        })
    }

    async fn check_shares(&self) -> Result<(), CheckHostError> {
        self.share_server.check()
    }

    fn counts(&self) -> Option<VmmCounts> {
        Some(self.totals.counts())
    }

    fn mount_kind(&self) -> MountKind {
        MountKind::NineP
    }

    async fn lease(&self, taken: &[NetworkLease]) -> Result<Option<NetworkLease>, LeaseError> {
        self.network.lease(taken).await.map(Some)
    }

    async fn release_network(&self) -> io::Result<()> {
        self.network.release().await
    }

    fn lease_fits(&self, lease: &NetworkLease) -> bool {
        self.network.fits(lease)
    }

    fn guest_network(&self, lease: Option<&NetworkLease>) -> Option<NetworkIdentity> {
        lease.map(|lease| self.network.identity(lease))
    }

    async fn start(&self, spec: &VmSpec) -> Result<Arc<dyn Vm>, StartVmError> {
        let host = self.host().await?;
        let offers = self.share_server.prepare(spec, &self.config.socket_dir)?;
        let Prepared { place, jail, owner, binary, args, stdin, inherited } =
            self.prepare(host, spec).await?;
        let tap = TapGuard::make(&self.network, spec, owner).await?;
        // Before the machine, whose agent says its word once.
        let link = place.listen().map(Arc::new).map_err(|source| StartVmError::Prepare {
            shed: spec.shed.clone(),
            path: place.sockets().ready.clone(),
            source,
        })?;
        let program = Program {
            args: &args,
            stdin,
            inherited,
            stdout: Some(&spec.console_log),
            ..Program::new(&binary, &spec.vmm_log)
        };
        let launched = launch::launch(program).map_err(|source| StartVmError::Spawn {
            shed: spec.shed.clone(),
            program: binary.to_string(),
            source,
        });
        let Launched { process, exit, output } = launched.inspect_err(|_| {
            if let Err(error) = place.remove() {
                tracing::warn!(shed = %spec.shed, %error, "a socket of a failed start is left over");
            }
        })?;
        let network = Arc::clone(&self.network);
        let shares = Shares::keep(offers, &link, self.marker(&spec.shed).of_launch(spec.launch_id));
        let (shed, path) = (spec.shed.clone(), place.sockets().vsock.clone());
        let vm = FirecrackerVm::attach(shed, spec.launch_id, process, link, shares, place, network);
        let vm = vm.reporting(exit).counting(machine::metrics_path(spec), Arc::clone(&self.totals));
        // They go with the machine from here on.
        tap.keep();
        jail.keep();
        Ok(Unfinished::new(vm).finish(spec, &output, &path, PATIENCE, FirecrackerVm::made).await?)
    }

    async fn find(
        &self,
        spec: &VmSpec,
        known: Option<&VmIdentity>,
    ) -> Result<Option<Arc<dyn Vm>>, AttachVmError> {
        let (launch_id, known, shed) = (spec.launch_id, known.copied(), spec.shed.clone());
        let (open, jails) = (self.sockets(&shed), self.jails.clone());
        let found = spawn_blocking({
            let shed = shed.clone();
            move || {
                let place = Place::find(jails.as_ref(), &shed, launch_id, open.clone())?;
                let inside = jail::sockets_inside(&shed);
                let found = vm_process::find(known, |words| {
                    [&open, &inside].iter().any(|sockets| machine::is_launch(words, sockets, launch_id))
                })?;
                if found.is_none() {
                    place.sweep();
                }
                Ok::<_, io::Error>((place, found))
            }
        });
        let found = found.await.map_err(io::Error::other).flatten().map_err(AttachVmError::Processes)?;
        let (place, Some(id)) = found else { return Ok(None) };
        let Some(process) = vm_process::open(&shed, id)? else { return Ok(None) };
        let watch = |source| AttachVmError::Watch { shed: shed.clone(), pid: id.pid, source };
        let link = place.listen().map(Arc::new).map_err(watch)?;
        let network = Arc::clone(&self.network);
        let offers = self.share_server.of_launch(spec, &self.config.socket_dir);
        let shares = Shares::keep(offers, &link, self.marker(&shed).of_launch(launch_id));
        let vm = FirecrackerVm::attach(shed, launch_id, process, link, shares, place, network);
        Ok(Some(Arc::new(vm.counting(machine::metrics_path(spec), Arc::clone(&self.totals)))))
    }

    async fn remove_leftovers(&self, shed: &ShedName) -> io::Result<()> {
        Daemons::find(self.marker(shed)).await?.kill().await;
        self.sockets(shed).remove()?;
        self.remove_jails(shed).await?;
        self.network.remove_taps(shed).await
    }

    async fn remove_strays(&self, sheds: &BTreeSet<ShedName>) -> io::Result<()> {
        if let (Some(jails), of) = (self.jails.clone(), sheds.clone()) {
            spawn_blocking(move || jails.remove_strays(&of)).await.map_err(io::Error::other).flatten()?;
        }
        self.network.remove_strays(sheds).await
    }
}

/// A machine's TAP, until there is a machine that has it.
struct TapGuard {
    network: Arc<Network>,
    shed: Option<ShedName>,
}

impl TapGuard {
    async fn make(network: &Arc<Network>, spec: &VmSpec, owner: TapOwner) -> Result<Self, StartVmError> {
        let Some(lease) = &spec.network else { return Ok(Self { network: Arc::clone(network), shed: None }) };
        // Before it is made: what is half made goes as well.
        let guard = Self { network: Arc::clone(network), shed: Some(spec.shed.clone()) };
        let made = network.make_tap(&spec.shed, lease, owner).await;
        made.map_err(|source| StartVmError::Tap {
            shed: spec.shed.clone(),
            tap: lease.tap_device.clone(),
            source,
        })?;
        Ok(guard)
    }

    fn keep(mut self) {
        self.shed = None;
    }
}

impl Drop for TapGuard {
    fn drop(&mut self) {
        let Some(shed) = self.shed.take() else { return };
        let network = Arc::clone(&self.network);
        // Whoever ends before this leaves it to `remove_leftovers`.
        tokio::spawn(async move {
            if let Err(error) = network.remove_taps(&shed).await {
                tracing::warn!(%shed, %error, "the TAP of a failed start is left over");
            }
        });
    }
}

/// Longest wait for a started Firecracker's machine, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
