//! The processes that serve host directories to machines: how they are recognised, watched and ended.
//!
//! Backends whose machines have shared directories call this. It starts none of them: how that is done, and what they
//! speak, is each backend's own.

#[cfg(target_os = "linux")]
mod linux;

use std::{io, time::Duration};

use camino::Utf8Path;
use shed_types::{LaunchId, ShedName};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    process::{self, Signal, WatchedProcess},
    socket_names::stem,
};

/// How long processes have to end by themselves when their machine has.
const GRACE: Duration = Duration::from_secs(5);

/// Longest wait for a process to be gone after SIGKILL.
const DEATH: Duration = Duration::from_secs(30);

/// How long after those who serve its directories a machine may be seen to end that has ended before them.
pub(crate) const SAME_END: Duration = Duration::from_secs(3);

/// What the processes of a shed have as their program's name in the process table. It names the shed by its sockets, so
/// that two servers of one host do not take each other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker(String);

impl Marker {
    /// Returns the mark of all launches of a shed.
    pub(crate) fn of_shed(socket_dir: &Utf8Path, shed: &ShedName) -> Self {
        Self(format!("shed-share:{}:", socket_dir.join(stem(shed))))
    }

    /// Returns the mark of one launch.
    pub(crate) fn of_launch(&self, launch: LaunchId) -> Self {
        Self(format!("{}{launch}:", self.0))
    }

    /// Whether `words` is the command line of such a process.
    fn fits(&self, words: &[Vec<u8>]) -> bool {
        words.first().is_some_and(|name| name.starts_with(self.0.as_bytes()))
    }
}

/// The processes that serve the directories of one machine.
#[derive(Debug)]
pub(crate) struct Daemons {
    processes: Vec<WatchedProcess>,
    /// Whether one that there should be had ended before they were looked for.
    incomplete: bool,
}

impl Daemons {
    /// Finds the processes with a mark.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub(crate) async fn find(marker: Marker) -> io::Result<Self> {
        Self::find_by(move |words| marker.fits(words)).await
    }

    async fn find_by(is_ours: impl Fn(&[Vec<u8>]) -> bool + Send + 'static) -> io::Result<Self> {
        let found = spawn_blocking(move || process::find_all(is_ours));
        let ids = found.await.map_err(io::Error::other)??;
        let watched = ids.into_iter().map(WatchedProcess::open);
        let processes = watched.filter_map(Result::transpose).collect::<io::Result<_>>()?;
        Ok(Self { processes, incomplete: false })
    }

    /// Notes how many there should be.
    pub(crate) fn expecting(self, shares: usize) -> Self {
        Self { incomplete: self.processes.len() < shares, ..self }
    }

    /// Resolves when one of them has ended; never when there should be none.
    pub(crate) async fn one_ended(&self) {
        if self.incomplete {
            return;
        }
        if self.processes.is_empty() {
            return std::future::pending().await;
        }
        let deaths = self.processes.iter().map(|process| Box::pin(process.dead()));
        let _first = futures::future::select_all(deaths).await;
    }

    /// Resolves when all of them have ended, whoever has ended them.
    pub(crate) async fn all_ended(&self) {
        futures::future::join_all(self.processes.iter().map(WatchedProcess::dead)).await;
    }

    /// Waits until all have ended, and ends those that do not by themselves.
    pub(crate) async fn end(&self) {
        if timeout(GRACE, self.all_ended()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends all at once and returns when they have ended.
    ///
    /// What cannot be ended is only logged: it holds nothing that another machine needs.
    pub(crate) async fn kill(&self) {
        for process in &self.processes {
            if let Err(error) = process.signal(Signal::KILL) {
                tracing::warn!(pid = process.id().pid, %error, "a process that serves a directory cannot be ended");
            }
        }
        if timeout(DEATH, self.all_ended()).await.is_err() {
            tracing::warn!("a process that served a directory still runs {DEATH:?} after SIGKILL");
        }
    }
}
