//! The `qemu` backend: one detached QEMU process a machine, reached through two Unix sockets.
//!
//! One socket is QEMU's monitor (QMP), the other the virtio-serial port of the agent, which [`shed_link`] splits into
//! streams. Both are named after the shed alone, so a later server finds them; the process is recognised by its
//! command line. The network is QEMU's user-mode one and needs no privileges.

mod accelerator;
mod command_line;
mod config;
mod link;
mod monitor;
mod probe;
mod qmp;
mod shares;
mod sockets;
mod vm;

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_protocol::NetworkIdentity;
use shed_types::{BackendKind, NetworkLease, ShedName};
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};

pub use self::accelerator::real_kvm;
use self::{
    accelerator::Chosen,
    command_line::{MemoryKind, Surroundings},
    link::Age,
    shares::Shares,
    sockets::SocketPaths,
    vm::QemuVm,
};
pub use self::{
    accelerator::{AcceleratorChoice, ParseAcceleratorError},
    config::{GuestArch, QemuConfig},
    shares::ShareCache,
};
use crate::{
    AttachVmError, Backend, Capabilities, CheckHostError, HostReport, StartVmError, Vm, VmIdentity, VmSpec,
    launch::{self, Launched, Program},
    programs::{find_program, is_program},
    shares::{Daemons, Marker},
    socket_names::make_dir,
    vm_process,
};

/// Longest wait for a started QEMU's monitor. It takes 0.2 s, unless many machines start at once on few CPUs.
const MONITOR_PATIENCE: Duration = Duration::from_secs(30);

/// Runs machines with QEMU.
#[derive(Debug)]
pub struct QemuBackend {
    config: QemuConfig,
    shares: Shares,
    /// What this host offers, found out once.
    host: OnceCell<Host>,
}

/// What was found out about this host.
#[derive(Debug)]
struct Host {
    binary: Utf8PathBuf,
    program: probe::Program,
    chosen: Chosen,
}

impl QemuBackend {
    /// Makes the backend; looks at nothing yet.
    #[must_use]
    pub fn new(config: QemuConfig) -> Self {
        let shares = Shares::new(config.virtiofsd.clone(), config.share_cache);
        Self { config, shares, host: OnceCell::new() }
    }

    async fn host(&self) -> Result<&Host, CheckHostError> {
        self.host.get_or_try_init(|| self.look_at_host()).await
    }

    async fn look_at_host(&self) -> Result<Host, CheckHostError> {
        let dir = &self.config.socket_dir;
        let (length, longest) = (dir.as_str().len(), sockets::longest_dir());
        if !dir.is_absolute() || length > longest {
            let key = "qemu.socket_dir";
            return Err(CheckHostError::SocketDir { path: dir.clone(), length, longest, key });
        }
        let arch = self.config.arch;
        let facts =
            spawn_blocking(accelerator::probe).await.map_err(|error| CheckHostError::Accelerator {
                wanted: "auto",
                reason: format!("looking at this host failed: {error}"),
            })?;
        let chosen = accelerator::choose(self.config.accel, arch, &facts)?;
        let missing = |program: String| CheckHostError::ProgramMissing { program, remedy: arch.remedy() };
        let binary = match &self.config.binary {
            Some(binary) if binary.is_absolute() && is_program(binary) => binary.clone(),
            Some(binary) => return Err(missing(binary.to_string())),
            None => {
                let path = std::env::var("PATH").unwrap_or_default();
                find_program(arch.program(), &path, is_program)
                    .ok_or_else(|| missing(arch.program().to_owned()))?
            }
        };
        let program = probe::probe(&binary)
            .await
            .map_err(|source| CheckHostError::Version { program: binary.to_string(), source })?;
        if program.version < probe::OLDEST {
            return Err(CheckHostError::TooOld {
                program: binary.to_string(),
                found: program.version.to_string(),
                oldest: probe::OLDEST.to_string(),
            });
        }
        tracing::debug!(
            program = %binary, version = %program.version, sandbox = ?program.sandbox,
            accelerator = ?chosen.accelerator, reason = %chosen.reason, "QEMU runs the machines"
        );
        Ok(Host { binary, program, chosen })
    }

    fn sockets(&self, shed: &ShedName) -> SocketPaths {
        SocketPaths::new(&self.config.socket_dir, shed)
    }

    fn marker(&self, shed: &ShedName) -> Marker {
        Marker::of_shed(&self.config.socket_dir, shed)
    }

    /// Finds the processes that serve the directories of a machine, if it has any.
    async fn daemons(&self, spec: &VmSpec) -> Result<Daemons, StartVmError> {
        let marker = self.marker(&spec.shed).of_launch(spec.launch_id);
        Daemons::find(marker).await.map_err(|source| StartVmError::Prepare {
            shed: spec.shed.clone(),
            path: "/proc".into(),
            source,
        })
    }

    /// Checks what a machine is made of, and makes what its processes need.
    fn prepare(&self, spec: &VmSpec) -> Result<(), StartVmError> {
        let prepare = |path: &Utf8Path| {
            let (shed, path) = (spec.shed.clone(), path.to_owned());
            move |source| StartVmError::Prepare { shed, path, source }
        };
        // QEMU's own words for a missing file are harder to read.
        for path in [&spec.kernel, &spec.initrd].into_iter().chain(spec.disks.iter().map(|disk| &disk.path)) {
            std::fs::metadata(path).map_err(prepare(path))?;
        }
        launch::open_log(&spec.console_log).map_err(prepare(&spec.console_log))?;
        make_dir(&self.config.socket_dir).map_err(prepare(&self.config.socket_dir))?;
        Ok(())
    }

    /// Starts the process of a machine that is prepared. On an error nothing of it is left.
    fn launch(&self, spec: &VmSpec, host: &Host, shares: Vec<UnixStream>) -> Result<Launched, StartVmError> {
        let paths = self.sockets(&spec.shed);
        let prepare = |path: &Utf8Path| {
            let (shed, path) = (spec.shed.clone(), path.to_owned());
            move |source| StartVmError::Prepare { shed, path, source }
        };
        let listeners = paths.bind().map_err(|(path, source)| prepare(&path)(source))?;
        let around = Surroundings {
            arch: self.config.arch,
            accelerator: host.chosen.accelerator,
            sandbox: host.program.sandbox,
            qmp_fd: listeners.qmp.as_raw_fd(),
            link_fd: listeners.link.as_raw_fd(),
            share_fds: shares.iter().map(AsRawFd::as_raw_fd).collect(),
            memory: MemoryKind::host(),
        };
        let launched = command_line::arguments(spec, &around).and_then(|args| {
            let mut inherited = vec![OwnedFd::from(listeners.qmp), OwnedFd::from(listeners.link)];
            inherited.extend(shares.into_iter().map(OwnedFd::from));
            let (binary, log) = (&*host.binary, &*spec.vmm_log);
            let program = Program { args: &args, inherited, ..Program::new(binary, log) };
            launch::launch(program).map_err(|source| StartVmError::Spawn {
                shed: spec.shed.clone(),
                program: host.binary.to_string(),
                source,
            })
        });
        launched.inspect_err(|_| {
            if let Err(error) = paths.remove() {
                tracing::warn!(shed = %spec.shed, %error, "a socket of a failed start is left over");
            }
        })
    }
}

#[async_trait::async_trait]
impl Backend for QemuBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Qemu
    }

    fn capabilities(&self) -> Capabilities {
        let shared_directories = self.shares.are_possible();
        Capabilities { console_log: true, guest_address: false, shared_directories }
    }

    async fn check_host(&self) -> Result<HostReport, CheckHostError> {
        let host = self.host().await?;
        Ok(HostReport {
            vmm: format!("QEMU {} ({})", host.program.version, host.binary),
            accelerator: host.chosen.accelerator,
            reason: host.chosen.reason.clone(),
            confined_by: None,
        })
    }

    async fn check_shares(&self) -> Result<(), CheckHostError> {
        self.shares.check().await
    }

    fn guest_network(&self, _lease: Option<&NetworkLease>) -> Option<NetworkIdentity> {
        // What QEMU's user-mode network gives out when it is told nothing else (QEMU's documentation, "Using the user
        // mode network stack"). Saying it spares the guest the wait for its DHCP.
        Some(NetworkIdentity {
            address: "10.0.2.15/24".to_owned(),
            gateway: "10.0.2.2".to_owned(),
            dns: vec!["10.0.2.3".to_owned()],
            mtu: None,
        })
    }

    fn boot_failure_advice(&self) -> Option<String> {
        self.host.get().map(|host| accelerator::advice(&host.chosen))
    }

    async fn start(&self, spec: &VmSpec) -> Result<Arc<dyn Vm>, StartVmError> {
        let host = self.host().await?;
        self.prepare(spec)?;
        let shares = shares::start(&self.shares, spec, &self.config.socket_dir).await?;
        // Looked for before QEMU has them: from then on they may end at any time.
        let daemons = self.daemons(spec).await?;
        let Launched { process, exit, output } = match self.launch(spec, host, shares) {
            Ok(launched) => launched,
            Err(error) => {
                daemons.end().await;
                return Err(error);
            }
        };
        let id = process.id();
        let identity = VmIdentity { pid: id.pid, start_time: id.start_time, launch_id: spec.launch_id };
        let sockets = self.sockets(&spec.shed);
        let vm = QemuVm::attach(
            spec.shed.clone(),
            identity,
            process,
            sockets.clone(),
            spec.vmm_log.clone(),
            daemons,
            Age::Fresh,
        )
        .reporting(exit);
        let vm = Unfinished { vm: Some(Arc::new(vm)), sockets };
        vm.wait_for_monitor(spec, &output).await?;
        Ok(vm.finish())
    }

    async fn find(
        &self,
        spec: &VmSpec,
        known: Option<&VmIdentity>,
    ) -> Result<Option<Arc<dyn Vm>>, AttachVmError> {
        let (shed, launch_id) = (spec.shed.clone(), spec.launch_id);
        let is_ours = move |words: &[Vec<u8>]| command_line::is_launch(words, &shed, launch_id);
        let adopted = vm_process::adopt(&spec.shed, known.copied(), is_ours).await?;
        let Some(process) = adopted else { return Ok(None) };
        let id = process.id();
        let marker = self.marker(&spec.shed).of_launch(launch_id);
        let daemons = Daemons::find(marker).await.map_err(AttachVmError::Processes)?;
        let daemons = daemons.expecting(spec.shares.len());
        let vm = QemuVm::attach(
            spec.shed.clone(),
            VmIdentity { pid: id.pid, start_time: id.start_time, launch_id },
            process,
            self.sockets(&spec.shed),
            spec.vmm_log.clone(),
            daemons,
            Age::Adopted,
        );
        Ok(Some(Arc::new(vm) as Arc<dyn Vm>))
    }

    async fn remove_leftovers(&self, shed: &ShedName) -> io::Result<()> {
        Daemons::find(self.marker(shed)).await?.kill().await;
        self.sockets(shed).remove()
    }
}

/// A machine that is not handed out yet. When the start fails or is given up, it is killed.
struct Unfinished {
    vm: Option<Arc<QemuVm>>,
    sockets: SocketPaths,
}

impl Unfinished {
    async fn wait_for_monitor(&self, spec: &VmSpec, output: &launch::Output) -> Result<(), StartVmError> {
        let Some(vm) = &self.vm else { return Ok(()) };
        let answered = tokio::select! {
            biased;
            () = vm.ended() => {
                return Err(StartVmError::EndedAtOnce { shed: spec.shed.clone(), output: output.tail() });
            }
            answered = timeout(MONITOR_PATIENCE, vm.monitor_ready()) => answered,
        };
        if answered.is_ok() {
            return Ok(());
        }
        if let Err(error) = vm.kill(Duration::ZERO).await {
            tracing::error!(shed = %spec.shed, %error, "a machine that did not answer could not be ended");
        }
        Err(StartVmError::NoMonitor {
            shed: spec.shed.clone(),
            path: self.sockets.qmp.clone(),
            waited: MONITOR_PATIENCE,
            source: io::ErrorKind::TimedOut.into(),
        })
    }

    fn finish(mut self) -> Arc<dyn Vm> {
        self.vm.take().expect("a machine is handed out once")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(vm) = self.vm.take() else { return };
        if vm.has_ended() {
            return;
        }
        if let Err(error) = vm.kill_now().and(self.sockets.remove()) {
            tracing::error!(%error, "a machine whose start was given up could not be removed");
        }
    }
}
