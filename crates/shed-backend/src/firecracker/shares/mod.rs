//! Host directories of a machine: one process each, of shed-server's own program, which speaks 9P with the guest's kernel.
//!
//! `prepare` is called before a machine is started, `of_launch` for one that is found; `Shares::keep` begins a task a share that
//! waits for the guest's agent, opens a stream to its port for shares, and starts the process with that stream as its
//! standard input. So the process needs neither the server nor the machine's sockets: it outlives the one, and ends when the
//! other closes the stream. It is recognised by its [`Marker`].
//!
//! A stream is mounted once. One that ends before that is offered again; one that ends after it has left a dead mount in
//! the guest, which nothing but another launch mends. Which of the two it is says a file (`record`), because the process
//! that knows may end while no server looks.

mod offer;
mod record;

use std::{sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use tokio::time::sleep;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::offer::{Offer, Served};
pub use self::record::{ShareRecord, ShareState};
use super::link::GuestLink;
use crate::{
    CheckHostError, StartVmError, VmSpec,
    programs::is_program,
    shares::{Daemons, Marker},
};

/// This very program, also when its file has been replaced since it was started (man 5 proc_pid_exe).
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Pauses before a directory is offered once more: the guest's agent has ended with the stream and comes back within a
/// second. The pauses double, so that a guest that takes and drops every stream keeps this host no busier than that.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What serves directories on this host.
#[derive(Debug)]
pub(super) struct ShareServer {
    program: Utf8PathBuf,
}

impl ShareServer {
    /// With the configured program, or this one.
    pub(super) fn new(configured: Option<Utf8PathBuf>) -> Self {
        Self { program: configured.unwrap_or_else(|| THIS_PROGRAM.into()) }
    }

    /// Checks that it is there.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn check(&self) -> Result<(), CheckHostError> {
        if is_program(&self.program) {
            return Ok(());
        }
        Err(CheckHostError::ProgramMissing {
            program: self.program.to_string(),
            remedy: "shed-server itself, which serves host directories to Firecracker's guests",
        })
    }

    /// Opens the directories of a machine that is about to be started, and notes that none is mounted yet.
    ///
    /// # Errors
    /// When one cannot be shared.
    pub(super) fn prepare(&self, spec: &VmSpec, socket_dir: &Utf8Path) -> Result<Vec<Offer>, StartVmError> {
        if spec.shares.is_empty() {
            return Ok(Vec::new());
        }
        self.check()?;
        let mut offers = self.of_launch(spec, socket_dir);
        for offer in &mut offers {
            let (shed, path) = (spec.shed.clone(), offer.source().to_owned());
            offer.open().map_err(|source| StartVmError::Share { shed, path, source })?;
            let (shed, path) = (spec.shed.clone(), offer.record().path().to_owned());
            offer.record().begin().map_err(|source| StartVmError::Prepare { shed, path, source })?;
        }
        Ok(offers)
    }

    /// Returns what a launch shares; looks at nothing.
    pub(super) fn of_launch(&self, spec: &VmSpec, socket_dir: &Utf8Path) -> Vec<Offer> {
        let marker = Marker::of_shed(socket_dir, &spec.shed).of_launch(spec.launch_id);
        spec.shares.iter().map(|share| Offer::new(&self.program, spec, share, &marker)).collect()
    }
}

/// What keeps the directories of one machine served. Dropping it leaves those who serve them running.
#[derive(Debug)]
pub(super) struct Shares {
    marker: Marker,
    /// How many there should be.
    count: usize,
    /// Cancelled when one is served no longer although it was mounted.
    lost: CancellationToken,
    /// Cancelled when nothing is to be served any more.
    over: CancellationToken,
    tasks: TaskTracker,
    _stop: DropGuard,
}

impl Shares {
    /// Begins to serve them, and to watch those who already do.
    pub(super) fn keep(offers: Vec<Offer>, link: &Arc<GuestLink>, marker: Marker) -> Self {
        let (lost, over, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let count = offers.len();
        for offer in offers {
            let (link, lost, over) = (Arc::clone(link), lost.clone(), over.clone());
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = over.cancelled() => {}
                    () = serve_until_lost(offer, &link) => lost.cancel(),
                }
            });
        }
        tasks.close();
        let stop = over.clone().drop_guard();
        Self { marker, count, lost, over, tasks, _stop: stop }
    }

    /// Resolves when one is lost to the guest; never when there is none.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Ends all who serve them, which they do by themselves when their machine has ended.
    pub(super) async fn end(&self) {
        if self.count == 0 {
            return;
        }
        self.over.cancel();
        self.tasks.wait().await;
        match Daemons::find(self.marker.clone()).await {
            Ok(daemons) => daemons.end().await,
            Err(error) => {
                tracing::warn!(%error, "who serves the directories of an ended machine is not known");
            }
        }
    }
}

/// Has one directory served until the guest has mounted it and the stream has ended all the same.
async fn serve_until_lost(mut offer: Offer, link: &GuestLink) {
    let mut pause = FIRST_PAUSE;
    loop {
        match offer.serve(link).await {
            Ok(Served::Lost) => return,
            Ok(Served::NeverMounted) => {}
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(path = %offer.source(), error, "a host directory is not served");
            }
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}
