//! One running machine: its process, its monitor, its guest link and its sockets.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_types::{GuestPort, ShedName};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    link::{Age, GuestLink},
    monitor::Monitor,
    sockets::SocketPaths,
};
use crate::{
    ConnectGuestError, EndVmError, GuestStream, Vm, VmIdentity,
    launch::is_crash,
    process::{Signal, WatchedProcess},
    shares::{Daemons, SAME_END},
};

/// Longest wait for the answer to a pressed power button, which QEMU gives before the guest has noticed it.
const BUTTON: Duration = Duration::from_secs(5);

/// Longest wait for a process to be gone after SIGKILL. It is long only when the kernel is still writing for it.
const DEATH: Duration = Duration::from_secs(30);

/// A machine run by QEMU. Dropping it lets go of its sockets and leaves it running.
#[derive(Debug)]
pub(super) struct QemuVm {
    shed: ShedName,
    identity: VmIdentity,
    process: Arc<WatchedProcess>,
    monitor: Arc<Monitor>,
    link: Arc<GuestLink>,
    /// Those who serve its shared directories.
    daemons: Arc<Daemons>,
    /// Cancelled when the process is dead and its sockets are removed.
    ended: CancellationToken,
    /// How the process ended; only for one that this server has started.
    exit: Option<watch::Receiver<Option<ExitStatus>>>,
    _watcher: AbortOnDropHandle<()>,
}

impl QemuVm {
    /// Takes a machine's process in hand.
    pub(super) fn attach(
        shed: ShedName,
        identity: VmIdentity,
        process: WatchedProcess,
        sockets: SocketPaths,
        vmm_log: Utf8PathBuf,
        daemons: Daemons,
        age: Age,
    ) -> Self {
        let process = Arc::new(process);
        let link = Arc::new(GuestLink::start(shed.clone(), sockets.link.clone(), age));
        let monitor = Arc::new(Monitor::start(shed.clone(), sockets.qmp.clone(), vmm_log, Arc::clone(&link)));
        let (ended, daemons) = (CancellationToken::new(), Arc::new(daemons));
        let watcher = watch_end(
            shed.clone(),
            Arc::clone(&process),
            Arc::clone(&monitor),
            Arc::clone(&link),
            Arc::clone(&daemons),
            sockets,
            ended.clone(),
        );
        Self {
            shed,
            identity,
            process,
            monitor,
            link,
            daemons,
            ended,
            exit: None,
            _watcher: AbortOnDropHandle::new(tokio::spawn(watcher)),
        }
    }

    /// Lets the machine say how its process ended.
    pub(super) fn reporting(self, exit: watch::Receiver<Option<ExitStatus>>) -> Self {
        Self { exit: Some(exit), ..self }
    }

    /// Resolves when QEMU's monitor answers.
    pub(super) async fn monitor_ready(&self) {
        self.monitor.ready().await;
    }

    /// Sends SIGKILL and does not wait.
    pub(super) fn kill_now(&self) -> io::Result<()> {
        self.process.signal(Signal::KILL)
    }

    /// Waits at most `patience` for the end; says whether it came.
    async fn ended_within(&self, patience: Duration) -> bool {
        timeout(patience, self.ended.cancelled()).await.is_ok()
    }
}

/// Learns of the process's death and cleans up behind it; the sockets go before anyone hears of it, because then
/// another launch of the same shed may make its own.
async fn watch_end(
    shed: ShedName,
    process: Arc<WatchedProcess>,
    monitor: Arc<Monitor>,
    link: Arc<GuestLink>,
    daemons: Arc<Daemons>,
    sockets: SocketPaths,
    ended: CancellationToken,
) {
    if let Err(error) = process.dead().await {
        tracing::error!(%shed, %error, "the machine's process can no longer be watched");
        return;
    }
    tracing::debug!(%shed, pid = process.id().pid, "the machine's process has ended");
    link.stop();
    monitor.stop();
    daemons.end().await;
    if let Err(error) = sockets.remove() {
        tracing::warn!(%shed, %error, path = %sockets.qmp, "a socket of an ended machine is left over");
    }
    ended.cancel();
}

#[async_trait::async_trait]
impl Vm for QemuVm {
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
        let Some(mut exit) = self.exit.clone() else { return false };
        let status = exit.wait_for(Option::is_some).await.map(|status| *status);
        status.is_ok_and(|status| status.is_some_and(is_crash))
    }

    async fn share_lost(&self) {
        self.daemons.one_ended().await;
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
        let ask = |source| EndVmError::Ask { shed: self.shed.clone(), source };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Ok(()),
            asked = self.monitor.execute("system_powerdown", BUTTON) => match asked {
                Ok(_) => Ok(()),
                Err(error) => Err(ask(error.into())),
            },
        }
    }

    async fn kill(&self, grace: Duration) -> Result<(), EndVmError> {
        let began = Instant::now();
        if !grace.is_zero() && !self.has_ended() {
            // QEMU writes what its disks have pending, which SIGKILL leaves to the kernel.
            tokio::select! {
                biased;
                () = self.ended.cancelled() => {}
                asked = self.monitor.execute("quit", grace) => if let Err(error) = asked {
                    tracing::debug!(shed = %self.shed, %error, "QEMU was asked to quit");
                },
            }
            if self.ended_within(grace.saturating_sub(began.elapsed())).await {
                return Ok(());
            }
        }
        let pid = self.identity.pid;
        if !self.has_ended() {
            self.kill_now().map_err(|source| EndVmError::Signal { shed: self.shed.clone(), pid, source })?;
        }
        if self.ended_within(DEATH).await {
            Ok(())
        } else {
            Err(EndVmError::StillRunning { shed: self.shed.clone(), pid, waited: DEATH })
        }
    }
}
