//! Brings a machine up: the phases from the first record to `running`.
//!
//! What comes after it, while the shed runs already, is [`settle`](crate::settle)'s.
//!
//! The driver runs one of these as a future and may drop it at any point (a delete, a client that went away), and
//! a crash may end it anywhere. Nothing is undone here: what comes next calls [`Context::ensure_no_vm`], which finds
//! whatever was started by the launch id that the record named before it.

use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use shed_backend::{ConnectGuestError, Vm};
use shed_image::ImageStore;
use shed_state::{RecordStatus, ShedRecord, VmRecord};
use shed_types::error_chain;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    BootShedError, Phase, Progress,
    channel::{Channel, ChannelError, Health, Identity, Keeper},
    console::{self, ConsoleMark},
    context::{Context, FileLane, blocking},
    disk, local_dir,
    pids::Place,
    run_config,
};

/// Pause before a channel that broke while it was opened is opened once more.
const OPEN_PAUSE: Duration = Duration::from_millis(200);

/// How often the console of a guest that boots is looked at. Its kernel reports a lost timer every 21 s.
const CONSOLE_LOOK: Duration = Duration::from_secs(5);

/// A machine that is up.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The VMM process.
    pub vm: Arc<dyn Vm>,
    /// Whether its shared directories are served, as far as is known.
    pub shares_served: bool,
    /// Holds the message channel open; dropped with the machine.
    pub keeper: Keeper,
}

/// What one boot works with.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub context: Arc<Context>,
    pub lane: FileLane,
    pub progress: Arc<Progress>,
    pub health: watch::Sender<Health>,
    /// Is told the VMM process as soon as there is one.
    pub pid: Place,
}

/// How a launch ended that did not fail for a reason that would come again.
enum Launch {
    /// The shed runs.
    Booted(Box<Booted>),
    /// The VMM crashed while the guest booted, or its guest cannot go on for want of a timer.
    Crashed(BootShedError),
}

/// The record as it is on disk now, and the machine.
pub(crate) type Booted = (ShedRecord, Machine);

impl Boot {
    /// Makes a new shed and brings it up. `record` says `creating`, names a launch, and is not yet on disk.
    pub(crate) async fn create(
        &self,
        mut record: ShedRecord,
        image: Utf8PathBuf,
    ) -> Result<Booted, BootShedError> {
        self.progress.enter(Phase::Record);
        self.take_lease(&mut record).await?;
        self.write(&record).await?;

        self.progress.enter(Phase::Disk);
        let files = self.context.files(&record.name);
        let store = ImageStore::new(self.context.settings.images_dir.clone());
        let size = record.disk_gb;
        let prepared = self.lane.run(move || disk::prepare(&files, &image, &store, size)).await;
        prepared.map_err(|(step, source)| BootShedError::Disk { shed: record.name.clone(), step, source })?;

        self.launch(record).await
    }

    /// Brings a stopped shed up. `record` says `starting`, names a new launch, and is not yet on disk.
    pub(crate) async fn start(&self, mut record: ShedRecord) -> Result<Booted, BootShedError> {
        self.check_local_dir(&record).await?;
        self.progress.enter(Phase::Record);
        self.take_lease(&mut record).await?;
        self.write(&record).await?;
        self.launch(record).await
    }

    /// Puts into the record what the shed has on the host's network.
    async fn take_lease(&self, record: &mut ShedRecord) -> Result<(), BootShedError> {
        let lease = self.context.leases.get(&*self.context.backend, &record.name).await;
        record.network =
            lease.map_err(|source| BootShedError::Network { shed: record.name.clone(), source })?;
        Ok(())
    }

    /// Looks again at the directory that the shed has as its workspace: it is the user's, and may have gone.
    async fn check_local_dir(&self, record: &ShedRecord) -> Result<(), BootShedError> {
        let Some(path) = record.local_dir.clone() else { return Ok(()) };
        let (context, dir) = (Arc::clone(&self.context), path.clone());
        let checked = blocking(move || local_dir::check(&context.settings, &dir)).await;
        checked.map_err(|source| BootShedError::LocalDir { shed: record.name.clone(), path, source })
    }

    /// Goes on with a boot that a former server began.
    pub(crate) async fn resume(&self, record: ShedRecord, vm: Arc<dyn Vm>) -> Result<Booted, BootShedError> {
        let mark = ConsoleMark::now(&self.context.files(&record.name));
        self.finish(record, vm, &mark).await
    }

    /// Starts the machine and waits for its guest. A VMM that crashes meanwhile, loses the timer of a processor, or resets its
    /// guest before that has said a word, is started once more: such faults of the VMM are rare and depend on its timing, and nothing of the user's has run
    /// yet.
    async fn launch(&self, record: ShedRecord) -> Result<Booted, BootShedError> {
        let first = self.launch_once(&record).await?;
        match first {
            Launch::Booted(booted) => Ok(*booted),
            Launch::Crashed(error) => {
                tracing::warn!(shed = %record.name, %error, "the machine failed; starting it once more");
                match self.launch_once(&record).await? {
                    Launch::Booted(booted) => Ok(*booted),
                    Launch::Crashed(error) => Err(error),
                }
            }
        }
    }

    async fn launch_once(&self, record: &ShedRecord) -> Result<Launch, BootShedError> {
        self.progress.enter(Phase::Vm);
        let launch = record.vm.as_ref().expect("a launch is recorded before it begins");
        let spec = self.context.spec(record, launch);
        let files = self.context.files(&record.name);
        let log = files.console_log.clone();
        if let Err(error) = self.lane.run(move || console::trim(&log)).await {
            tracing::warn!(log = %files.console_log, error = %error, "the console log could not be cut");
        }
        let mark = ConsoleMark::now(&files);
        let started = self.context.backend.start(&spec).await;
        let vm = started.map_err(|source| BootShedError::Start { shed: record.name.clone(), source })?;
        match self.finish(record.clone(), Arc::clone(&vm), &mark).await {
            Ok(booted) => Ok(Launch::Booted(Box::new(booted))),
            Err(error @ BootShedError::Ended { .. })
                if vm.has_crashed().await || vm.was_reset().await && mark.ended_without_a_word() =>
            {
                Ok(Launch::Crashed(error))
            }
            // Its disks must be free before another machine gets them.
            Err(error @ BootShedError::Stalled { .. }) if vm.kill(Duration::ZERO).await.is_ok() => {
                Ok(Launch::Crashed(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the guest, tells it who it is, and commits.
    async fn finish(
        &self,
        mut record: ShedRecord,
        vm: Arc<dyn Vm>,
        mark: &ConsoleMark,
    ) -> Result<Booted, BootShedError> {
        self.progress.enter(Phase::Boot);
        self.pid.set(Some(vm.identity().pid));
        let shed = record.name.clone();
        let files = self.context.files(&shed);
        let identity = Identity {
            shed: shed.clone(),
            network: self.context.backend.guest_network(record.network.as_ref()),
            image: run_config::read(&shed, files.image.clone()).await,
            mounts: local_dir::mounts(&record, self.context.backend.mount_kind()),
        };
        let waited = self.context.settings.start_timeout;
        let reached = tokio::select! {
            // A guest that has answered is well, whatever its console said before.
            biased;
            reached = timeout(waited, self.reach_agent(&*vm, &identity)) => reached,
            () = timer_lost(mark) => {
                return Err(BootShedError::Stalled { shed, console: self.describe(mark) });
            }
        };
        let channel = match reached {
            Ok(Ok(channel)) => channel,
            Ok(Err(ChannelError::Connect(ConnectGuestError::Ended { .. }))) => {
                return Err(BootShedError::Ended { shed, console: self.describe(mark) });
            }
            Ok(Err(error)) => {
                return Err(BootShedError::Agent {
                    shed,
                    reason: error_chain(&error),
                    console: self.describe(mark),
                });
            }
            Err(_) => return Err(BootShedError::TimedOut { shed, waited, console: self.describe(mark) }),
        };

        self.progress.enter(Phase::Commit);
        let process = vm.identity();
        record.status = RecordStatus::Running;
        record.vm = Some(VmRecord {
            launch_id: process.launch_id,
            pid: Some(process.pid),
            start_time: Some(process.start_time),
            setup: record.vm.and_then(|vm| vm.setup),
        });
        self.write(&record).await?;
        let bus = Arc::clone(&self.context.bus);
        let keeper = Keeper::spawn(Arc::clone(&vm), identity, channel, self.health.clone(), files, bus);
        Ok((record, Machine { vm, shares_served: true, keeper }))
    }

    /// Describes why a boot may have failed: what the guest wrote, and what else to try.
    fn describe(&self, mark: &ConsoleMark) -> String {
        match self.context.backend.boot_failure_advice() {
            Some(advice) => format!("{}\n{advice}", mark.describe()),
            None => mark.describe(),
        }
    }

    /// Opens the message channel and tells the guest who it is; a machine that ends meanwhile ends the wait. An agent
    /// that starts again, or stalls on a busy host, breaks a stream or two: that is no failure of the boot, whose time is
    /// bounded by the caller.
    async fn reach_agent(&self, vm: &dyn Vm, identity: &Identity) -> Result<Channel, ChannelError> {
        loop {
            let extensions = Arc::clone(self.context.bus.enabled());
            let reached = async {
                let mut channel = Channel::open(vm, self.health.clone(), extensions).await?;
                self.progress.enter(Phase::Identify);
                channel.identify(identity).await?;
                Ok(channel)
            };
            match reached.await {
                Err(error) if ChannelError::may_pass(&error) => {
                    let shed = &identity.shed;
                    tracing::debug!(%shed, error = %error_chain(&error), "the agent's channel broke; once more");
                    sleep(OPEN_PAUSE).await;
                }
                reached => return reached,
            }
        }
    }

    async fn write(&self, record: &ShedRecord) -> Result<(), BootShedError> {
        write_record(&self.context, &self.lane, record)
            .await
            .map_err(|source| BootShedError::Record { shed: record.name.clone(), source })
    }
}

/// Waits until a processor of the guest has lost its timer, which it never gets back: nobody tells but the console.
async fn timer_lost(mark: &ConsoleMark) {
    loop {
        sleep(CONSOLE_LOOK).await;
        if mark.has_lost_its_timer() {
            return;
        }
    }
}

/// Writes a record, after whatever else is done with the shed's files.
pub(crate) async fn write_record(
    context: &Arc<Context>,
    lane: &FileLane,
    record: &ShedRecord,
) -> Result<(), shed_state::WriteRecordError> {
    let (context, record) = (Arc::clone(context), record.clone());
    lane.run(move || context.instances.write(&record)).await
}
