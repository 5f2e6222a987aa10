//! The `firecracker` backend: one detached Firecracker process a machine, reached through the socket of its vsock device.
//!
//! A machine is described in a file beside its logs, so that one start of one process makes it, and what Firecracker was
//! told can be read afterwards. The console is Firecracker's standard output. The process is recognised by its command line.

mod api;
mod appear;
mod config;
mod disks;
mod link;
mod machine;
mod network;
mod probe;
mod shares;
mod sockets;
mod vm;

use std::{collections::BTreeSet, fs, io, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use shed_protocol::{MountKind, NetworkIdentity};
use shed_types::{BackendKind, LaunchId, NetworkLease, ShedName};
use tokio::{sync::OnceCell, task::spawn_blocking};

pub use self::{
    config::{FirecrackerConfig, Seccomp},
    link::GuestLink,
    shares::{ShareRecord, ShareState},
};
use self::{
    disks::Disks,
    machine::Surroundings,
    network::Network,
    shares::{ShareServer, Shares},
    sockets::SocketPaths,
    vm::FirecrackerVm,
};
use crate::{
    Accelerator, AttachVmError, Backend, Capabilities, CheckHostError, HostReport, LeaseError, StartVmError,
    Vm, VmIdentity, VmSpec,
    launch::{self, Launched, Program},
    process::{self, ProcessId, WatchedProcess},
    qemu::real_kvm,
    shares::{Daemons, Marker},
    socket_names::make_dir,
};

/// Runs machines with Firecracker.
#[derive(Debug)]
pub struct FirecrackerBackend {
    config: FirecrackerConfig,
    network: Arc<Network>,
    share_server: ShareServer,
    /// What this host offers, found out once.
    host: OnceCell<Host>,
}

/// What was found out about this host.
#[derive(Debug)]
struct Host {
    binary: Utf8PathBuf,
    version: probe::Version,
}

impl FirecrackerBackend {
    /// Makes the backend; looks at nothing yet.
    #[must_use]
    pub fn new(config: FirecrackerConfig) -> Self {
        let network = Arc::new(Network::new(config.network.clone(), config.dns.clone()));
        let share_server = ShareServer::new(config.share_server.clone());
        Self { config, network, share_server, host: OnceCell::new() }
    }

    async fn host(&self) -> Result<&Host, CheckHostError> {
        self.host.get_or_try_init(|| self.look_at_host()).await
    }

    async fn look_at_host(&self) -> Result<Host, CheckHostError> {
        let dir = &self.config.socket_dir;
        let (length, longest) = (dir.as_str().len(), sockets::longest_dir());
        if !dir.is_absolute() || length > longest {
            return Err(CheckHostError::SocketDir { path: dir.clone(), length, longest });
        }
        real_kvm().map_err(|reason| CheckHostError::Accelerator { wanted: "kvm", reason })?;
        let binary = probe::find(&self.config)?;
        let version = probe::version(&binary).await?;
        tracing::debug!(program = %binary, %version, "Firecracker runs the machines");
        Ok(Host { binary, version })
    }

    fn sockets(&self, shed: &ShedName) -> SocketPaths {
        SocketPaths::new(&self.config.socket_dir, shed)
    }

    fn marker(&self, shed: &ShedName) -> Marker {
        Marker::of_shed(&self.config.socket_dir, shed)
    }

    /// Checks what a machine is made of, and writes its configuration.
    fn prepare(&self, spec: &VmSpec) -> Result<(Utf8PathBuf, Disks), StartVmError> {
        let prepare = |path: &Utf8Path| {
            let (shed, path) = (spec.shed.clone(), path.to_owned());
            move |source| StartVmError::Prepare { shed, path, source }
        };
        // Firecracker's own words for a missing file are harder to read.
        for path in [&spec.kernel, &spec.initrd] {
            fs::metadata(path).map_err(prepare(path))?;
        }
        let disks = Disks::take(&spec.disks).map_err(|(path, source)| prepare(&path)(source))?;
        make_dir(&self.config.socket_dir).map_err(prepare(&self.config.socket_dir))?;
        let sockets = self.sockets(&spec.shed);
        sockets.remove().map_err(prepare(&sockets.api))?;
        let metrics = machine::metrics_path(spec);
        // Each machine begins a new one, and Firecracker only writes where a file is.
        fs::write(&metrics, "").map_err(prepare(&metrics))?;
        let cid = self.config.first_cid + spec.network.as_ref().map_or(0, |lease| u32::from(lease.index));
        let around = Surroundings { sockets: &sockets, cid, metrics: &metrics, serials: &disks.serials };
        let path = machine::config_path(spec);
        // Written anew for each start and read by nobody after it, so it needs no care for crashes.
        fs::write(&path, machine::config_file(spec, around)).map_err(prepare(&path))?;
        Ok((path, disks))
    }

    /// Listens for a machine's agent.
    fn listen(&self, shed: &ShedName) -> Result<Arc<GuestLink>, (Utf8PathBuf, io::Error)> {
        let sockets = self.sockets(shed);
        GuestLink::listen(&sockets.vsock).map(Arc::new).map_err(|error| (sockets.ready, error))
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
        })
    }

    async fn check_shares(&self) -> Result<(), CheckHostError> {
        self.share_server.check()
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
        let (config_file, disks) = self.prepare(spec)?;
        let offers = self.share_server.prepare(spec, &self.config.socket_dir)?;
        let tap = TapGuard::make(&self.network, spec).await?;
        let sockets = self.sockets(&spec.shed);
        // Before the machine, whose agent says its word once.
        let link = self.listen(&spec.shed).map_err(|(path, source)| StartVmError::Prepare {
            shed: spec.shed.clone(),
            path,
            source,
        })?;
        let args = machine::arguments(spec, &sockets, &config_file, self.config.seccomp);
        let program = Program {
            args: &args,
            inherited: disks.locks,
            stdout: Some(&spec.console_log),
            ..Program::new(&host.binary, &spec.vmm_log)
        };
        let launched = launch::launch(program).map_err(|source| StartVmError::Spawn {
            shed: spec.shed.clone(),
            program: host.binary.to_string(),
            source,
        });
        let Launched { process, exit, output } = launched.inspect_err(|_| {
            if let Err(error) = sockets.remove() {
                tracing::warn!(shed = %spec.shed, %error, "a socket of a failed start is left over");
            }
        })?;
        let id = process.id();
        let identity = VmIdentity { pid: id.pid, start_time: id.start_time, launch_id: spec.launch_id };
        let network = Arc::clone(&self.network);
        let shares = Shares::keep(offers, &link, self.marker(&spec.shed).of_launch(spec.launch_id));
        let shed = spec.shed.clone();
        let vm = FirecrackerVm::attach(shed, identity, process, link, shares, sockets, network);
        let vm = vm.reporting(exit);
        // It goes with the machine from here on.
        tap.keep();
        let vm = Unfinished(Some(Arc::new(vm)));
        vm.wait_for_api(spec, &output).await?;
        Ok(vm.finish())
    }

    async fn find(
        &self,
        spec: &VmSpec,
        known: Option<&VmIdentity>,
    ) -> Result<Option<Arc<dyn Vm>>, AttachVmError> {
        let (sockets, launch_id, known) = (self.sockets(&spec.shed), spec.launch_id, known.copied());
        let (paths, shed) = (sockets.clone(), spec.shed.clone());
        let found = spawn_blocking(move || find_process(&paths, launch_id, known))
            .await
            .map_err(io::Error::other)
            .and_then(|found| found)
            .map_err(AttachVmError::Processes)?;
        let Some(id) = found else { return Ok(None) };
        let watch = |source| AttachVmError::Watch { shed: shed.clone(), pid: id.pid, source };
        let watched = WatchedProcess::open(id).map_err(watch)?;
        let Some(process) = watched.filter(|process| !process.is_dead()) else { return Ok(None) };
        let link = self.listen(&shed).map_err(|(_, source)| watch(source))?;
        let identity = VmIdentity { pid: id.pid, start_time: id.start_time, launch_id };
        let network = Arc::clone(&self.network);
        let offers = self.share_server.of_launch(spec, &self.config.socket_dir);
        let shares = Shares::keep(offers, &link, self.marker(&shed).of_launch(launch_id));
        let vm = FirecrackerVm::attach(shed, identity, process, link, shares, sockets, network);
        Ok(Some(Arc::new(vm)))
    }

    async fn remove_leftovers(&self, shed: &ShedName) -> io::Result<()> {
        Daemons::find(self.marker(shed)).await?.kill().await;
        self.sockets(shed).remove()?;
        self.network.remove_taps(shed).await
    }

    async fn remove_strays(&self, sheds: &BTreeSet<ShedName>) -> io::Result<()> {
        self.network.remove_strays(sheds).await
    }
}

/// A machine's TAP, until there is a machine that has it.
struct TapGuard {
    network: Arc<Network>,
    shed: Option<ShedName>,
}

impl TapGuard {
    async fn make(network: &Arc<Network>, spec: &VmSpec) -> Result<Self, StartVmError> {
        let Some(lease) = &spec.network else { return Ok(Self { network: Arc::clone(network), shed: None }) };
        // Before it is made: what is half made goes as well.
        let guard = Self { network: Arc::clone(network), shed: Some(spec.shed.clone()) };
        let made = network.make_tap(&spec.shed, lease).await;
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

/// Finds the process of a launch: the one on record if it still is that, else by its command line alone, for a server may
/// have died before it recorded a pid.
fn find_process(
    sockets: &SocketPaths,
    launch_id: LaunchId,
    known: Option<VmIdentity>,
) -> io::Result<Option<ProcessId>> {
    let is_ours = |words: &[Vec<u8>]| machine::is_launch(words, sockets, launch_id);
    if let Some(known) = known {
        let id = ProcessId { pid: known.pid, start_time: known.start_time };
        let is_alive = ProcessId::of(id.pid)? == Some(id);
        if is_alive && process::command_line(id.pid)?.is_some_and(|words| is_ours(&words)) {
            return Ok(Some(id));
        }
    }
    process::find(is_ours)
}

/// Longest wait for a started Firecracker's machine, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine that is not handed out yet. When the start fails or is given up, it is killed.
struct Unfinished(Option<Arc<FirecrackerVm>>);

impl Unfinished {
    /// Returns when Firecracker has made the machine, whose vsock device has its socket then.
    async fn wait_for_api(&self, spec: &VmSpec, output: &launch::Output) -> Result<(), StartVmError> {
        let Some(vm) = &self.0 else { return Ok(()) };
        tokio::select! {
            biased;
            () = vm.ended() => Err(StartVmError::EndedAtOnce { shed: spec.shed.clone(), output: output.tail() }),
            waited = vm.made(PATIENCE) => waited.map_err(|source| StartVmError::NoMonitor {
                shed: spec.shed.clone(),
                path: vm.sockets().vsock.clone(),
                waited: PATIENCE,
                source,
            }),
        }
    }

    fn finish(mut self) -> Arc<dyn Vm> {
        self.0.take().expect("a machine is handed out once")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(vm) = self.0.take() else { return };
        if vm.has_ended() {
            return;
        }
        if let Err(error) = vm.kill_now() {
            tracing::error!(%error, "a machine whose start was given up could not be ended");
        }
    }
}
