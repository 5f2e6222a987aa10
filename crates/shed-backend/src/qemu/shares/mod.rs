//! Host directories of a machine: one virtiofsd process each, started before QEMU, found again and ended after it.
//!
//! `start` is called before QEMU is, and gives the connections that QEMU is started with; a machine keeps the
//! [`Daemons`] that serve it. They are detached like QEMU and end with it; who is left over is recognised by a mark in the
//! process table, which names the shed, this server's sockets and the launch.

#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod filter;
mod options;
mod program;

use std::{io, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};

pub use self::options::ShareCache;
pub(super) use self::{options::Marker, program::is_there};
use crate::{
    CheckHostError,
    process::{self, Signal, WatchedProcess},
};

/// How long processes have to end by themselves when their machine has.
const GRACE: Duration = Duration::from_secs(5);

/// Longest wait for a process to be gone after SIGKILL.
const DEATH: Duration = Duration::from_secs(30);

/// What serves directories on this host; the program is looked for when it is first needed.
#[derive(Debug)]
pub(super) struct Shares {
    configured: Option<Utf8PathBuf>,
    cache: ShareCache,
    program: OnceCell<Utf8PathBuf>,
}

impl Shares {
    pub(super) fn new(configured: Option<Utf8PathBuf>, cache: ShareCache) -> Self {
        Self { configured, cache, program: OnceCell::new() }
    }

    /// Whether there is a program that might do.
    pub(super) fn are_possible(&self) -> bool {
        is_there(self.configured.as_deref())
    }

    /// Finds the program. A failure is not remembered: somebody may install it.
    pub(super) async fn program(&self) -> Result<&Utf8Path, CheckHostError> {
        let found = self.program.get_or_try_init(|| program::find(self.configured.as_deref())).await?;
        Ok(found)
    }
}

/// The processes that serve the directories of one machine.
#[derive(Debug)]
pub(super) struct Daemons {
    processes: Vec<WatchedProcess>,
    /// Whether one that there should be had ended before they were looked for.
    incomplete: bool,
}

impl Daemons {
    /// Finds the processes with a mark.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub(super) async fn find(marker: Marker) -> io::Result<Self> {
        let found = spawn_blocking(move || process::find_all(|words| marker.fits(words)));
        let ids = found.await.map_err(io::Error::other)??;
        let watched = ids.into_iter().map(WatchedProcess::open);
        let processes = watched.filter_map(Result::transpose).collect::<io::Result<_>>()?;
        Ok(Self { processes, incomplete: false })
    }

    /// Notes how many there should be.
    pub(super) fn expecting(self, shares: usize) -> Self {
        Self { incomplete: self.processes.len() < shares, ..self }
    }

    /// Resolves when one of them has ended; never when there should be none.
    pub(super) async fn one_ended(&self) {
        if self.incomplete {
            return;
        }
        if self.processes.is_empty() {
            return std::future::pending().await;
        }
        let deaths = self.processes.iter().map(|process| Box::pin(process.dead()));
        let _first = futures::future::select_all(deaths).await;
    }

    /// Waits until all have ended, and ends those that do not by themselves.
    pub(super) async fn end(&self) {
        let all_dead = || futures::future::join_all(self.processes.iter().map(WatchedProcess::dead));
        if timeout(GRACE, all_dead()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends all at once and returns when they have ended.
    ///
    /// What cannot be ended is only logged: it holds nothing that another machine needs.
    pub(super) async fn kill(&self) {
        for process in &self.processes {
            if let Err(error) = process.signal(Signal::KILL) {
                tracing::warn!(pid = process.id().pid, %error, "a process that serves a directory cannot be ended");
            }
        }
        let all_dead = futures::future::join_all(self.processes.iter().map(WatchedProcess::dead));
        if timeout(DEATH, all_dead).await.is_err() {
            tracing::warn!("a process that served a directory still runs {DEATH:?} after SIGKILL");
        }
    }
}

#[cfg(target_os = "linux")]
mod start;
#[cfg(target_os = "linux")]
pub(super) use start::start;
#[cfg(not(target_os = "linux"))]
mod start {
    use std::os::unix::net::UnixStream;

    use super::{Shares, Utf8Path};
    use crate::{CheckHostError, StartVmError, VmSpec};

    /// There are none here.
    pub(in super::super) async fn start(
        _: &Shares,
        spec: &VmSpec,
        _: &Utf8Path,
    ) -> Result<Vec<UnixStream>, StartVmError> {
        if spec.shares.is_empty() { Ok(Vec::new()) } else { Err(CheckHostError::SharesUnsupported.into()) }
    }
}
#[cfg(not(target_os = "linux"))]
pub(super) use start::start;
