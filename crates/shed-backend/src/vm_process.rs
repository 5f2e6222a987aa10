//! The process of a running machine, for backends whose VMM is one process: how it is found again, how it ends, how it ended.
//!
//! Called by the backends' `Vm`s (Firecracker, vz). It asks no VMM anything: what can be asked differs, so the caller says how,
//! and what is to be cleared away behind a machine is the caller's as well.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use shed_link::{MuxStream, OpenError};
use shed_types::{GuestPort, LaunchId, ShedName};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    AttachVmError, ConnectGuestError, EndVmError, GuestStream, StartVmError, VmIdentity, VmSpec, launch,
    process::{self, ProcessId, Signal, WatchedProcess},
};

/// Longest wait for a process to be gone after SIGKILL. It is long only when the kernel is still writing for it.
const DEATH: Duration = Duration::from_secs(30);

/// Finds the process of a launch: the one on record if it still is that, else by its command line alone, for a server may
/// have died before it recorded a pid.
///
/// # Errors
/// When the process table cannot be read.
pub(crate) fn find(
    known: Option<VmIdentity>,
    is_ours: impl Fn(&[Vec<u8>]) -> bool,
) -> io::Result<Option<ProcessId>> {
    if let Some(known) = known {
        let id = ProcessId { pid: known.pid, start_time: known.start_time };
        let is_alive = ProcessId::of(id.pid)? == Some(id);
        if is_alive && process::command_line(id.pid)?.is_some_and(|words| is_ours(&words)) {
            return Ok(Some(id));
        }
    }
    process::find(is_ours)
}

/// Finds the process of a launch, as [`find`] does, and watches it. Nothing when there is none that lives.
///
/// # Errors
/// When the process table cannot be read, or the process cannot be watched.
pub(crate) async fn adopt(
    shed: &ShedName,
    known: Option<VmIdentity>,
    is_ours: impl Fn(&[Vec<u8>]) -> bool + Send + 'static,
) -> Result<Option<WatchedProcess>, AttachVmError> {
    let found = spawn_blocking(move || find(known, is_ours)).await.map_err(io::Error::other).flatten();
    match found.map_err(AttachVmError::Processes)? {
        Some(id) => open(shed, id),
        None => Ok(None),
    }
}

/// Watches a process that was found. Nothing when it has ended meanwhile.
///
/// # Errors
/// When it cannot be watched.
pub(crate) fn open(shed: &ShedName, id: ProcessId) -> Result<Option<WatchedProcess>, AttachVmError> {
    let failed = |source| AttachVmError::Watch { shed: shed.clone(), pid: id.pid, source };
    Ok(WatchedProcess::open(id).map_err(failed)?.filter(|process| !process.is_dead()))
}

/// A machine's process. Dropping it lets the process run on.
#[derive(Debug)]
pub(crate) struct VmProcess {
    shed: ShedName,
    identity: VmIdentity,
    process: Arc<WatchedProcess>,
    /// Cancelled when the process is dead and what is behind it is cleared away.
    ended: CancellationToken,
    /// How the process ended; only for one that this server has started.
    exit: Option<watch::Receiver<Option<ExitStatus>>>,
    _watcher: AbortOnDropHandle<()>,
}

impl VmProcess {
    /// Takes a process in hand. When it is dead, `clear_away` runs before anyone hears of it, because then another launch of
    /// the same shed may make its own sockets.
    pub(crate) fn watch(
        shed: ShedName,
        launch_id: LaunchId,
        process: WatchedProcess,
        clear_away: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let id = process.id();
        let identity = VmIdentity { pid: id.pid, start_time: id.start_time, launch_id };
        let (process, ended) = (Arc::new(process), CancellationToken::new());
        let watcher = tokio::spawn({
            let (shed, process, ended) = (shed.clone(), Arc::clone(&process), ended.clone());
            async move {
                if let Err(error) = process.dead().await {
                    tracing::error!(%shed, %error, "the machine's process can no longer be watched");
                    return;
                }
                tracing::debug!(%shed, pid = id.pid, "the machine's process has ended");
                clear_away.await;
                ended.cancel();
            }
        });
        let watcher = AbortOnDropHandle::new(watcher);
        Self { shed, identity, process, ended, exit: None, _watcher: watcher }
    }

    /// Lets it say how it ended.
    pub(crate) fn reporting(self, exit: watch::Receiver<Option<ExitStatus>>) -> Self {
        Self { exit: Some(exit), ..self }
    }

    pub(crate) const fn shed(&self) -> &ShedName {
        &self.shed
    }

    pub(crate) const fn identity(&self) -> VmIdentity {
        self.identity
    }

    /// Resolves when the machine has ended.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// How the process ended, when it has; nothing for one that another server has started.
    pub(crate) async fn exit_status(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone()?;
        exit.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Whether it ended, and by the wish of its guest. How one ended that another server has started is not known, and is
    /// taken for that.
    pub(crate) async fn ended_well(&self) -> bool {
        self.exit_status().await.is_none_or(|status| status.success())
    }

    /// Sends SIGKILL and does not wait.
    pub(crate) fn kill_now(&self) -> io::Result<()> {
        self.process.signal(Signal::KILL)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it cannot be sent to a process that lives.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), EndVmError> {
        let pid = self.identity.pid;
        let failed = |source| EndVmError::Signal { shed: self.shed.clone(), pid, source };
        self.process.signal(signal).map_err(failed)
    }

    /// Opens a stream to the guest, as `open` does, for as long as the machine runs.
    ///
    /// # Errors
    /// When it has ended, or the stream cannot be opened.
    pub(crate) async fn stream(
        &self,
        port: GuestPort,
        open: impl Future<Output = Result<MuxStream, OpenError>>,
    ) -> Result<GuestStream, ConnectGuestError> {
        let shed = || self.shed.clone();
        let opened = tokio::select! {
            biased;
            () = self.ended.cancelled() => return Err(ConnectGuestError::Ended { shed: shed() }),
            opened = open => opened,
        };
        opened.map(GuestStream::new).map_err(|error| ConnectGuestError::of_open(shed(), port, error))
    }

    /// Asks the VMM for something, as `ask` does, for as long as the machine runs.
    ///
    /// # Errors
    /// When the VMM cannot be asked although the machine runs.
    pub(crate) async fn ask(&self, ask: impl Future<Output = io::Result<()>>) -> Result<(), EndVmError> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Ok(()),
            asked = ask => asked.map_err(|source| EndVmError::Ask { shed: self.shed.clone(), source }),
        }
    }

    /// Waits at most `patience` for the end; says whether it came.
    async fn ended_within(&self, patience: Duration) -> bool {
        timeout(patience, self.ended.cancelled()).await.is_ok()
    }

    /// Asks the VMM to end, as `ask` does, and kills it when it has not ended after `grace`; without grace at once.
    ///
    /// # Errors
    /// When it cannot be asked at all, or cannot be shown dead.
    pub(crate) async fn end(
        &self,
        grace: Duration,
        ask: impl Future<Output = Result<(), EndVmError>>,
    ) -> Result<(), EndVmError> {
        if !grace.is_zero() && !self.has_ended() {
            let asked = timeout(grace, async {
                ask.await?;
                self.ended.cancelled().await;
                Ok(())
            });
            match asked.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if !self.has_ended() => return Err(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        if !self.has_ended() {
            self.signal(Signal::KILL)?;
        }
        match self.ended_within(DEATH).await {
            true => Ok(()),
            false => {
                let pid = self.identity.pid;
                Err(EndVmError::StillRunning { shed: self.shed.clone(), pid, waited: DEATH })
            }
        }
    }
}

/// A machine with a process.
pub(crate) trait HasProcess: Send + Sync {
    /// Returns the machine's process.
    fn process(&self) -> &VmProcess;
}

/// A machine that is not handed out yet. When its start fails or is given up, it is killed.
pub(crate) struct Unfinished<V: HasProcess>(Option<Arc<V>>);

impl<V: HasProcess> Unfinished<V> {
    pub(crate) fn new(vm: V) -> Self {
        Self(Some(Arc::new(vm)))
    }

    /// Waits until the VMM has made the machine, as `made` tells, and hands the machine out. `path` is where it is heard of.
    ///
    /// # Errors
    /// When the process ends before, or `patience` does. Then the machine is killed.
    pub(crate) async fn finish<F: Future<Output = io::Result<()>>>(
        mut self,
        spec: &VmSpec,
        output: &launch::Output,
        path: &camino::Utf8Path,
        patience: Duration,
        made: impl FnOnce(Arc<V>) -> F,
    ) -> Result<Arc<V>, StartVmError> {
        let vm = self.0.clone().expect("a machine is handed out once");
        let waited = tokio::select! {
            biased;
            () = vm.process().ended() => {
                return Err(StartVmError::EndedAtOnce { shed: spec.shed.clone(), output: output.tail() });
            }
            waited = timeout(patience, made(Arc::clone(&vm))) => waited.map_err(io::Error::from).flatten(),
        };
        if let Err(source) = waited {
            // Its sockets are gone when it has ended.
            if let Err(error) = vm.process().end(Duration::ZERO, async { Ok(()) }).await {
                tracing::error!(shed = %spec.shed, %error, "a machine that did not answer could not be ended");
            }
            let (shed, path) = (spec.shed.clone(), path.to_owned());
            return Err(StartVmError::NoMonitor { shed, path, waited: patience, source });
        }
        self.0 = None;
        Ok(vm)
    }
}

impl<V: HasProcess> Drop for Unfinished<V> {
    fn drop(&mut self) {
        let Some(vm) = self.0.take() else { return };
        if vm.process().has_ended() {
            return;
        }
        if let Err(error) = vm.process().kill_now() {
            tracing::error!(%error, "a machine whose start was given up could not be ended");
        }
    }
}
