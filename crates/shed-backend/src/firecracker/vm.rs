//! One running machine: its process, the way to its guest, and its sockets.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_types::{GuestPort, ShedName};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    api,
    appear::appears,
    counts::{self, Totals},
    link::GuestLink,
    network::Network,
    place::Place,
    shares::Shares,
    sockets::SocketPaths,
};
use crate::{
    ConnectGuestError, EndVmError, GuestStream, Vm, VmIdentity,
    launch::is_crash,
    process::{Signal, WatchedProcess},
    shares::SAME_END,
};

/// Longest wait for a process to be gone after SIGKILL. It is long only when the kernel is still writing for it.
const DEATH: Duration = Duration::from_secs(30);

/// A machine run by Firecracker. Dropping it lets go of its sockets and leaves it running.
#[derive(Debug)]
pub(super) struct FirecrackerVm {
    shed: ShedName,
    identity: VmIdentity,
    process: Arc<WatchedProcess>,
    link: Arc<GuestLink>,
    /// What keeps its shared directories served.
    shares: Arc<Shares>,
    place: Place,
    /// Cancelled when the process is dead and its place is removed.
    ended: CancellationToken,
    /// How the process ended; only for one that this server has started.
    exit: Option<watch::Receiver<Option<ExitStatus>>>,
    /// Reads what it counts.
    _counter: Option<AbortOnDropHandle<()>>,
    _watcher: AbortOnDropHandle<()>,
}

impl FirecrackerVm {
    /// Takes a machine's process in hand.
    pub(super) fn attach(
        shed: ShedName,
        identity: VmIdentity,
        process: WatchedProcess,
        link: Arc<GuestLink>,
        shares: Shares,
        place: Place,
        network: Arc<Network>,
    ) -> Self {
        let (process, shares, ended) = (Arc::new(process), Arc::new(shares), CancellationToken::new());
        let watcher = watch_end(
            shed.clone(),
            Arc::clone(&process),
            Arc::clone(&shares),
            place.clone(),
            network,
            ended.clone(),
        );
        let watcher = AbortOnDropHandle::new(tokio::spawn(watcher));
        Self {
            shed,
            identity,
            process,
            link,
            shares,
            place,
            ended,
            exit: None,
            _counter: None,
            _watcher: watcher,
        }
    }

    /// Lets the machine say how its process ended.
    pub(super) fn reporting(self, exit: watch::Receiver<Option<ExitStatus>>) -> Self {
        Self { exit: Some(exit), ..self }
    }

    /// Adds what the machine counts, which it writes to this file, to the totals while it runs.
    pub(super) fn counting(self, file: Utf8PathBuf, totals: Arc<Totals>) -> Self {
        let counter = tokio::spawn(counts::keep(file, totals, self.ended.clone()));
        Self { _counter: Some(AbortOnDropHandle::new(counter)), ..self }
    }

    /// Returns when Firecracker has made the machine.
    ///
    /// # Errors
    /// When it does not within this time.
    pub(super) async fn made(&self, patience: Duration) -> io::Result<()> {
        timeout(patience, appears(&self.sockets().vsock)).await?
    }

    /// Returns the names of its sockets.
    pub(super) const fn sockets(&self) -> &SocketPaths {
        self.place.sockets()
    }

    /// How the process ended, when it has; nothing for one that another server has started.
    async fn exit_status(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone()?;
        exit.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Sends SIGKILL and does not wait.
    pub(super) fn kill_now(&self) -> io::Result<()> {
        self.process.signal(Signal::KILL)
    }

    /// Waits at most `patience` for the end; says whether it came.
    async fn ended_within(&self, patience: Duration) -> bool {
        timeout(patience, self.ended.cancelled()).await.is_ok()
    }

    fn signal(&self, signal: Signal) -> Result<(), EndVmError> {
        let pid = self.identity.pid;
        let failed = |source| EndVmError::Signal { shed: self.shed.clone(), pid, source };
        self.process.signal(signal).map_err(failed)
    }
}

/// Learns of the process's death and cleans up behind it; its sockets and its jail go before anyone hears of it, because then another
/// launch of the same shed may make its own.
async fn watch_end(
    shed: ShedName,
    process: Arc<WatchedProcess>,
    shares: Arc<Shares>,
    place: Place,
    network: Arc<Network>,
    ended: CancellationToken,
) {
    if let Err(error) = process.dead().await {
        tracing::error!(%shed, %error, "the machine's process can no longer be watched");
        return;
    }
    tracing::debug!(%shed, pid = process.id().pid, "the machine's process has ended");
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
    ended.cancel();
}

#[async_trait::async_trait]
impl Vm for FirecrackerVm {
    fn identity(&self) -> VmIdentity {
        self.identity
    }

    async fn ended(&self) {
        self.ended.cancelled().await;
    }

    fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    async fn has_crashed(&self) -> bool {
        self.exit_status().await.is_some_and(is_crash)
    }

    async fn was_reset(&self) -> bool {
        // A guest's reset is a wish that Firecracker fulfils by ending.
        self.exit_status().await.is_some_and(|status| status.success())
    }

    async fn was_reboot(&self) -> bool {
        // A machine that was killed after the word did not get to its reboot. How one ended that another server has
        // started is not known, and there the word has to do.
        self.link.has_said_reboot() && self.exit_status().await.is_none_or(|status| status.success())
    }

    async fn share_lost(&self) {
        self.shares.lost().await;
        // They end with their machine, and may be noticed first.
        if timeout(SAME_END, self.process.dead()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    }

    async fn connect_guest(&self, port: GuestPort) -> Result<GuestStream, ConnectGuestError> {
        let shed = || self.shed.clone();
        let opened = tokio::select! {
            biased;
            () = self.ended.cancelled() => return Err(ConnectGuestError::Ended { shed: shed() }),
            opened = self.link.open(port) => opened,
        };
        opened.map(GuestStream::new).map_err(|error| ConnectGuestError::of_open(shed(), port, error))
    }

    async fn press_power_button(&self) -> Result<(), EndVmError> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Ok(()),
            asked = api::press_ctrl_alt_del(&self.sockets().api) => {
                asked.map_err(|source| EndVmError::Ask { shed: self.shed.clone(), source })
            }
        }
    }

    async fn kill(&self, grace: Duration) -> Result<(), EndVmError> {
        let began = Instant::now();
        if !grace.is_zero() && !self.has_ended() {
            // Firecracker writes at once what the guest has synced, and has nothing else pending.
            self.signal(Signal::TERM)?;
            if self.ended_within(grace.saturating_sub(began.elapsed())).await {
                return Ok(());
            }
        }
        if !self.has_ended() {
            self.signal(Signal::KILL)?;
        }
        let pid = self.identity.pid;
        match self.ended_within(DEATH).await {
            true => Ok(()),
            false => Err(EndVmError::StillRunning { shed: self.shed.clone(), pid, waited: DEATH }),
        }
    }
}
