//! One running machine: its process, the way to its guest, and its sockets.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_types::{GuestPort, LaunchId, ShedName};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    api,
    counts::{self, Totals},
    link::GuestLink,
    network::Network,
    place::Place,
    shares::Shares,
    sockets::SocketPaths,
};
use crate::{
    ConnectGuestError, EndVmError, GuestStream, Vm, VmIdentity,
    appear::appears,
    launch::is_crash,
    process::{Signal, WatchedProcess},
    shares::SAME_END,
    vm_process::{HasProcess, VmProcess},
};

/// A machine run by Firecracker. Dropping it lets go of its sockets and leaves it running.
#[derive(Debug)]
pub(super) struct FirecrackerVm {
    process: VmProcess,
    link: Arc<GuestLink>,
    /// What keeps its shared directories served.
    shares: Arc<Shares>,
    place: Place,
    /// Reads what it counts.
    _counter: Option<AbortOnDropHandle<()>>,
}

impl FirecrackerVm {
    /// Takes a machine's process in hand.
    pub(super) fn attach(
        shed: ShedName,
        launch_id: LaunchId,
        process: WatchedProcess,
        link: Arc<GuestLink>,
        shares: Shares,
        place: Place,
        network: Arc<Network>,
    ) -> Self {
        let shares = Arc::new(shares);
        let behind = clear_away(shed.clone(), Arc::clone(&shares), place.clone(), network);
        let process = VmProcess::watch(shed, launch_id, process, behind);
        Self { process, link, shares, place, _counter: None }
    }

    /// Lets the machine say how its process ended.
    pub(super) fn reporting(self, exit: watch::Receiver<Option<ExitStatus>>) -> Self {
        Self { process: self.process.reporting(exit), ..self }
    }

    /// Adds what the machine counts, which it writes to this file, to the totals while it runs.
    pub(super) fn counting(self, file: Utf8PathBuf, totals: Arc<Totals>) -> Self {
        let counter = tokio::spawn(counts::keep(file, totals, self.process.end_token().clone()));
        Self { _counter: Some(AbortOnDropHandle::new(counter)), ..self }
    }

    /// Returns when Firecracker has made the machine, whose vsock device has its socket then.
    pub(super) async fn made(self: Arc<Self>) -> io::Result<()> {
        appears(&self.sockets().vsock).await
    }

    /// Returns the names of its sockets.
    pub(super) const fn sockets(&self) -> &SocketPaths {
        self.place.sockets()
    }
}

impl HasProcess for FirecrackerVm {
    fn process(&self) -> &VmProcess {
        &self.process
    }
}

/// Clears away what an ended machine had.
async fn clear_away(shed: ShedName, shares: Arc<Shares>, place: Place, network: Arc<Network>) {
    shares.end().await;
    let path = place.sockets().api.clone();
    // A machine may have put very much into its jail.
    let removed = spawn_blocking(move || place.remove()).await.map_err(io::Error::other).flatten();
    if let Err(error) = removed {
        tracing::warn!(%shed, %error, %path, "a socket or a jail of an ended machine is left over");
    }
    if let Err(error) = network.remove_taps(&shed).await {
        tracing::warn!(%shed, %error, "the TAP of an ended machine is left over");
    }
}

#[async_trait::async_trait]
impl Vm for FirecrackerVm {
    fn identity(&self) -> VmIdentity {
        self.process.identity()
    }

    async fn ended(&self) {
        self.process.ended().await;
    }

    fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    async fn has_crashed(&self) -> bool {
        self.process.exit_status().await.is_some_and(is_crash)
    }

    async fn was_reset(&self) -> bool {
        // A guest's reset is a wish that Firecracker fulfils by ending.
        self.process.exit_status().await.is_some_and(|status| status.success())
    }

    async fn was_reboot(&self) -> bool {
        // A machine that was killed after the word did not get to its reboot. How one ended that another server has
        // started is not known, and there the word has to do.
        self.link.has_said_reboot() && self.process.ended_well().await
    }

    async fn share_lost(&self) {
        self.shares.lost().await;
        // They end with their machine, and may be noticed first.
        if timeout(SAME_END, self.process.dead()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    }

    async fn connect_guest(&self, port: GuestPort) -> Result<GuestStream, ConnectGuestError> {
        self.process.stream(port, self.link.open(port)).await
    }

    async fn press_power_button(&self) -> Result<(), EndVmError> {
        self.process.ask(api::press_ctrl_alt_del(&self.sockets().api)).await
    }

    async fn kill(&self, grace: Duration) -> Result<(), EndVmError> {
        // Firecracker writes at once what the guest has synced, and has nothing else pending.
        self.process.end(grace, async { self.process.signal(Signal::TERM) }).await
    }
}
