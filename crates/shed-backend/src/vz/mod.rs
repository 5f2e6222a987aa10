//! The `vz` backend: Apple's Virtualization framework, one detached vfkit process a machine.
//!
//! A machine is vfkit's command line and nothing else: no file describes it. Each port of the guest is a Unix socket, vfkit
//! itself is asked over another. The process is recognised by its command line. All of it works on any system with a vfkit, so
//! that Linux can test it with a stand-in; what only macOS has is beneath (`appear`, shed-process).
//!
//! What vfkit leaves to others, this leaves, too: it confines nothing (the framework runs the guest in a process of its own,
//! in a sandbox), and it can share directories only for writing as well.

mod command_line;
mod config;
mod link;
mod paths;
mod probe;
mod rest;
mod sockets;
mod vm;

use std::{fs, io, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::{BackendKind, ShedName};
use tokio::sync::OnceCell;

pub use self::{
    config::VzConfig,
    paths::{boot_file_problem, file_problem, socket_dir_problem},
};
use self::{link::GuestLink, sockets::SocketPaths, vm::VzVm};
use crate::{
    Accelerator, AttachVmError, Backend, Capabilities, CheckHostError, HostReport, StartVmError, Vm,
    VmIdentity, VmSpec,
    launch::{self, Launched, Program},
    socket_names::make_dir,
    vm_process::{self, Unfinished},
};

/// Longest wait for a started vfkit's machine. vfkit itself gives up when it does not run within five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs machines with vfkit.
#[derive(Debug)]
pub struct VzBackend {
    config: VzConfig,
    /// What this host offers, found out once.
    host: OnceCell<Host>,
}

/// What was found out about this host.
#[derive(Debug)]
struct Host {
    binary: Utf8PathBuf,
    version: probe::VfkitVersion,
}

impl VzBackend {
    /// Makes the backend; looks at nothing yet.
    #[must_use]
    pub fn new(config: VzConfig) -> Self {
        Self { config, host: OnceCell::new() }
    }

    async fn host(&self) -> Result<&Host, CheckHostError> {
        self.host.get_or_try_init(|| self.look_at_host()).await
    }

    async fn look_at_host(&self) -> Result<Host, CheckHostError> {
        let path = &self.config.socket_dir;
        if let Some(reason) = socket_dir_problem(path) {
            return Err(CheckHostError::SocketPath { path: path.clone(), reason });
        }
        let binary = probe::find(&self.config)?;
        let version = probe::version(&binary).await?;
        tracing::debug!(program = %binary, %version, "vfkit runs the machines");
        Ok(Host { binary, version })
    }

    fn sockets(&self, shed: &ShedName) -> SocketPaths {
        SocketPaths::new(&self.config.socket_dir, shed)
    }

    /// Checks what a machine is made of, and makes room for it. Nothing runs yet.
    fn prepare(&self, spec: &VmSpec) -> Result<(), StartVmError> {
        let failed = |path: &Utf8Path| {
            let (shed, path) = (spec.shed.clone(), path.to_owned());
            move |source| StartVmError::Prepare { shed, path, source }
        };
        // vfkit's own words for a missing file are harder to read.
        let disks = spec.disks.iter().map(|disk| &disk.path);
        for path in [&spec.kernel, &spec.initrd].into_iter().chain(disks) {
            fs::metadata(path).map_err(failed(path))?;
        }
        for share in &spec.shares {
            let there = fs::metadata(&share.source).and_then(|meta| match meta.is_dir() {
                true => Ok(()),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            there.map_err(|source| StartVmError::Share {
                shed: spec.shed.clone(),
                path: share.source.clone(),
                source,
            })?;
        }
        // For its owner only, which vfkit would not see to.
        launch::open_log(&spec.console_log).map_err(failed(&spec.console_log))?;
        let dir = &self.config.socket_dir;
        make_dir(dir).map_err(failed(dir))?;
        let sockets = self.sockets(&spec.shed);
        sockets.remove().map_err(failed(&sockets.rest()))
    }
}

#[async_trait::async_trait]
impl Backend for VzBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Vz
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { console_log: true, guest_address: false, shared_directories: true }
    }

    async fn check_host(&self) -> Result<HostReport, CheckHostError> {
        let host = self.host().await?;
        Ok(HostReport {
            vmm: format!("vfkit {} ({})", host.version, host.binary),
            accelerator: Accelerator::Hvf,
            reason: "Apple's Virtualization framework has no other".to_owned(),
            confined_by: None,
        })
    }

    async fn check_shares(&self) -> Result<(), CheckHostError> {
        self.host().await.map(drop)
    }

    async fn start(&self, spec: &VmSpec) -> Result<Arc<dyn Vm>, StartVmError> {
        let host = self.host().await?;
        let sockets = self.sockets(&spec.shed);
        // What cannot be expressed is refused before anything is made.
        let args = command_line::arguments(spec, &sockets)?;
        self.prepare(spec)?;
        // Before the machine, whose agent says its word once.
        let link = GuestLink::listen(sockets.clone()).map_err(|source| StartVmError::Prepare {
            shed: spec.shed.clone(),
            path: sockets.words(),
            source,
        })?;
        let program = Program { args: &args, ..Program::new(&host.binary, &spec.vmm_log) };
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
        let (shed, path) = (spec.shed.clone(), sockets.rest());
        let vm = VzVm::attach(shed, spec.launch_id, process, link, sockets).reporting(exit);
        Ok(Unfinished::new(vm).finish(spec, &output, &path, PATIENCE, VzVm::made).await?)
    }

    async fn find(
        &self,
        spec: &VmSpec,
        known: Option<&VmIdentity>,
    ) -> Result<Option<Arc<dyn Vm>>, AttachVmError> {
        let (shed, launch_id, sockets) = (&spec.shed, spec.launch_id, self.sockets(&spec.shed));
        let is_ours = {
            let sockets = sockets.clone();
            move |words: &[Vec<u8>]| command_line::is_launch(words, &sockets, launch_id)
        };
        let adopted = vm_process::adopt(shed, known.copied(), is_ours).await?;
        let Some(process) = adopted else { return Ok(None) };
        let pid = process.id().pid;
        let link = GuestLink::listen(sockets.clone());
        let link = link.map_err(|source| AttachVmError::Watch { shed: shed.clone(), pid, source })?;
        Ok(Some(Arc::new(VzVm::attach(shed.clone(), launch_id, process, link, sockets))))
    }

    async fn remove_leftovers(&self, shed: &ShedName) -> io::Result<()> {
        self.sockets(shed).remove()
    }
}

#[cfg(test)]
mod tests;
