//! Runs machines: the [`Backend`] trait, what a machine is made of, and the backends that make one.
//!
//! `shed-lifecycle` is the only caller: it prepares a shed's directory, hands a [`VmSpec`] over and gets a [`Vm`]
//! back. A backend starts, finds, watches and ends VMM processes and opens streams into their guests; it knows no
//! shed states, no HTTP and no images. Differences between backends are data ([`Capabilities`]); nothing outside
//! the server's room `backends` asks which backend it is talking to.

mod agent_words;
mod appear;
pub mod conformance;
mod error;
pub mod fake;
#[cfg(target_os = "linux")]
pub mod firecracker;
mod launch;
mod programs;
pub mod qemu;
mod shares;
mod socket_names;
mod spec;
mod stream;
mod system;
mod unix_http;
mod vm_process;
pub mod vz;

pub use shed_process as process;

pub use error::{AttachVmError, CheckHostError, ConnectGuestError, EndVmError, LeaseError, StartVmError};
pub use spec::{Accelerator, Capabilities, Disk, DiskAccess, HostReport, Share, VmIdentity, VmSpec};
pub use stream::{GuestIo, GuestStream};

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shed_types::{BackendKind, GuestPort, NetworkLease, ShedName};
use tokio::sync::watch;

/// Starts and finds machines.
#[async_trait::async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Returns which backend this is, for records and replies.
    fn kind(&self) -> BackendKind;

    /// Returns what this backend can do.
    fn capabilities(&self) -> Capabilities;

    /// Returns what a new machine can have on the host's network that none of `taken` has. Nothing is made yet. A backend
    /// whose machines need nothing there returns nothing.
    ///
    /// # Errors
    /// When there is none left, or the host cannot be looked at.
    async fn lease(&self, _taken: &[NetworkLease]) -> Result<Option<NetworkLease>, LeaseError> {
        Ok(None)
    }

    /// Removes what leases have in common on this host; called when no shed has one any more. The next lease makes it anew.
    ///
    /// # Errors
    /// When something is there and cannot be removed.
    async fn release_network(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Whether a lease is still one of this host's network, whose settings may have changed since it was given.
    fn lease_fits(&self, _lease: &NetworkLease) -> bool {
        true
    }

    /// Returns the network settings that the guest with this lease gets in its identity, or nothing when the image finds
    /// its own.
    fn guest_network(&self, _lease: Option<&NetworkLease>) -> Option<shed_protocol::NetworkIdentity> {
        None
    }

    /// Checks that this host can run machines at all (programs found, versions, acceleration) and says what it found.
    ///
    /// # Errors
    /// When a machine could not start here, with the remedy.
    async fn check_host(&self) -> Result<HostReport, CheckHostError>;

    /// Checks that host directories can be shared with guests here.
    ///
    /// # Errors
    /// When they cannot, with the remedy.
    async fn check_shares(&self) -> Result<(), CheckHostError> {
        Err(CheckHostError::SharesUnsupported)
    }

    /// Returns how guests reach host directories, for their identity.
    fn mount_kind(&self) -> shed_protocol::MountKind {
        shed_protocol::MountKind::Virtiofs
    }

    /// Returns a sentence for a user whose guest never answered: how it was run, and what else to try. Nothing when the
    /// host was not looked at yet, or there is no choice.
    fn boot_failure_advice(&self) -> Option<String> {
        None
    }

    /// Returns what the VMMs of this backend have counted of all machines since this server started; nothing where they do
    /// not count. It may be two minutes old.
    fn counts(&self) -> Option<VmmCounts> {
        None
    }

    /// Starts a machine and returns as soon as its VMM process runs; the guest boots meanwhile.
    ///
    /// The process is detached: it outlives the server. Its command line holds `spec.launch_id`, so [`Backend::find`]
    /// recognises it even when the server dies before it learns the pid.
    ///
    /// # Errors
    /// On an error no process, socket or lock of this launch is left.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing running that [`Backend::find`] and then [`Vm::kill`] would not end.
    async fn start(&self, spec: &VmSpec) -> Result<Arc<dyn Vm>, StartVmError>;

    /// Adopts the machine of an earlier launch, if its VMM process still runs.
    ///
    /// Identity is proved by launch id on the command line and, where `known` says them, pid and start time.
    ///
    /// # Errors
    /// When a process matches but cannot be adopted.
    async fn find(
        &self,
        spec: &VmSpec,
        known: Option<&VmIdentity>,
    ) -> Result<Option<Arc<dyn Vm>>, AttachVmError>;

    /// Removes what a launch of this shed may have left outside its directory (sockets). Idempotent.
    ///
    /// # Errors
    /// When something is there and cannot be removed. Only call it when no VMM of the shed runs.
    async fn remove_leftovers(&self, shed: &ShedName) -> std::io::Result<()>;

    /// Removes what is left on this host of sheds that are not among `sheds`, and mends what those need that may run: called
    /// once, when a server has taken its sheds over.
    ///
    /// # Errors
    /// When something is there and cannot be removed or mended.
    async fn remove_strays(&self, _sheds: &BTreeSet<ShedName>) -> std::io::Result<()> {
        Ok(())
    }
}

/// What VMMs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmmCounts {
    /// Bytes that guests read from their disks.
    pub disk_read_bytes: u64,
    /// Bytes that guests wrote to their disks.
    pub disk_written_bytes: u64,
    /// Bytes that guests got from the network.
    pub network_received_bytes: u64,
    /// Bytes that guests sent to the network.
    pub network_sent_bytes: u64,
    /// What disks, network and guest link could not do.
    pub failures: u64,
}

/// One running machine. All methods may be called at any time, also after the machine has ended.
#[async_trait::async_trait]
pub trait Vm: Send + Sync + std::fmt::Debug {
    /// Returns what identifies the VMM process across restarts of the server.
    fn identity(&self) -> VmIdentity;

    /// Resolves when the VMM process has ended, at once if it has; learned from an event, not by polling.
    async fn ended(&self);

    /// Returns whether the VMM process has ended.
    fn has_ended(&self) -> bool;

    /// Returns whether the VMM process ended by a fault of its own (a failed assertion, a bad access) rather than by
    /// the guest's or anybody's wish. Only asked about a machine that has ended; one that this server has not
    /// started itself is not known to have crashed.
    async fn has_crashed(&self) -> bool {
        false
    }

    /// Returns whether the machine ended because its guest was reset, where a machine does not outlive that. Asked as
    /// [`Self::has_crashed`] is.
    async fn was_reset(&self) -> bool {
        false
    }

    /// Returns whether the machine ended because its guest reboots, where a machine does not outlive that: it is to be
    /// started anew. Only asked about a machine that has ended. It is the guest's word, which this server has heard.
    async fn was_reboot(&self) -> bool {
        false
    }

    /// Resolves when a shared directory is served no longer although the machine runs; never for one that has none.
    /// Whatever in the guest uses the directory hangs then, until the machine is started anew.
    async fn share_lost(&self) {
        std::future::pending::<()>().await;
    }

    /// Returns how often the agent has said that it listens; it changes with each time. A guest that has rebooted in a machine
    /// that outlives this may have left streams that nobody ends. It never changes where the link itself tells of that.
    fn agent_came(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Opens a stream to a service of the agent.
    ///
    /// Waits for the guest link to come up, for as long as the caller lets it: during boot this is how readiness is
    /// awaited. Bound it with a timeout.
    ///
    /// # Errors
    /// When the machine has ended, or the guest refuses the port.
    async fn connect_guest(&self, port: GuestPort) -> Result<GuestStream, ConnectGuestError>;

    /// Asks the machine to power off as by its power button, for a guest whose agent does not answer. A guest that
    /// still boots may miss it.
    ///
    /// # Errors
    /// When the VMM cannot be asked.
    async fn press_power_button(&self) -> Result<(), EndVmError>;

    /// Ends the VMM process (asks, then SIGKILL after `grace`) and returns when it is proved dead and its sockets
    /// are gone. Succeeds at once on a machine that has ended.
    ///
    /// # Errors
    /// When the process cannot be shown dead.
    async fn kill(&self, grace: Duration) -> Result<(), EndVmError>;
}
