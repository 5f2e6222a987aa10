//! What every driver shares, and the files of one shed, on which one thing happens at a time.

use std::sync::Arc;

use shed_backend::{Backend, Disk, DiskAccess, VmIdentity, VmSpec};
use shed_state::{InstanceDir, InstanceFiles, ShedRecord, VmRecord};
use shed_types::ShedName;
use tokio::sync::Mutex;

use crate::{
    Settings, bus::Bus, credentials::Credentials, error::ClearVmError, leases::Leases, local_dir, pids::Pids,
};

/// Serial by which shed-init finds the image, the guest's lower.
const IMAGE_SERIAL: &str = "shed-image";

/// Serial by which shed-init finds the shed's own disk, the guest's upper.
const UPPER_SERIAL: &str = "shed-upper";

/// What every driver shares.
#[derive(Debug)]
pub(crate) struct Context {
    /// Paths, defaults and limits.
    pub settings: Settings,
    /// What runs machines.
    pub backend: Arc<dyn Backend>,
    /// Where records are.
    pub instances: InstanceDir,
    /// What is copied into guests, and back.
    pub credentials: Arc<Credentials>,
    /// Which VMM processes run.
    pub pids: Pids,
    /// What sheds have on the host's network.
    pub leases: Leases,
    /// What guests say to those who listen.
    pub bus: Arc<Bus>,
}

impl Context {
    /// Returns the paths of a shed's files.
    pub(crate) fn files(&self, shed: &ShedName) -> InstanceFiles {
        self.instances.files(shed)
    }

    /// Returns the machine that a launch of this shed is.
    pub(crate) fn spec(&self, record: &ShedRecord, vm: &VmRecord) -> VmSpec {
        let files = self.files(&record.name);
        VmSpec {
            shed: record.name.clone(),
            launch_id: vm.launch_id,
            cpus: record.cpus,
            memory_mb: record.memory_mb,
            kernel: self.settings.kernel.clone(),
            initrd: self.settings.initrd.clone(),
            extra_cmdline: self.settings.extra_cmdline.clone(),
            disks: vec![
                Disk { path: files.image, serial: IMAGE_SERIAL, access: DiskAccess::ReadOnly },
                Disk { path: files.rootfs, serial: UPPER_SERIAL, access: DiskAccess::ReadWrite },
            ],
            shares: local_dir::shares(record),
            network: record.network.clone(),
            console_log: files.console_log,
            vmm_log: files.vmm_log,
        }
    }

    /// Makes sure that no VMM of this record runs and nothing of one is left outside the shed's directory.
    ///
    /// Called wherever a launch ends without having been seen to end: a failed or cancelled boot, and at start-up
    /// after a crash.
    pub(crate) async fn ensure_no_vm(&self, record: &ShedRecord) -> Result<(), ClearVmError> {
        let shed = || record.name.clone();
        if let Some(vm) = &record.vm {
            let spec = self.spec(record, vm);
            let found = self.backend.find(&spec, identity(vm).as_ref()).await;
            let found = found.map_err(|source| ClearVmError::Find { shed: shed(), source: source.into() })?;
            if let Some(machine) = found {
                let killed = machine.kill(std::time::Duration::ZERO).await;
                killed.map_err(|source| ClearVmError::End { shed: shed(), source: source.into() })?;
            }
        }
        let removed = self.backend.remove_leftovers(&record.name).await;
        removed.map_err(|source| ClearVmError::Leftovers { shed: shed(), source: source.into() })
    }
}

/// Runs work on files on a thread where blocking is allowed. When its waiter is dropped it goes on to its end.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Returns what is known of a recorded process.
pub(crate) fn identity(vm: &VmRecord) -> Option<VmIdentity> {
    Some(VmIdentity { pid: vm.pid?, start_time: vm.start_time?, launch_id: vm.launch_id })
}

/// Runs blocking work on a shed's files, one piece at a time.
///
/// Work whose waiter is dropped runs to its end all the same (a thread cannot be cancelled); the next piece waits
/// for it. So a cancelled clone never races the removal of its directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileLane(Arc<Mutex<()>>);

impl FileLane {
    /// Runs `work` on a thread where blocking is allowed.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = Arc::clone(&self.0).lock_owned().await;
        blocking(move || {
            let result = work();
            drop(turn);
            result
        })
        .await
    }
}
