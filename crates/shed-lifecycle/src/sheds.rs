//! The only door to this crate: the table of sheds, and requests on their way to the drivers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, SystemTime},
};

use camino::Utf8Path;
use jiff::Timestamp;
use shed_backend::{Backend, GuestStream, Vm, VmmCounts};
use shed_image::ImageStore;
use shed_protocol::Occasion;
use shed_registry::Registry;
use shed_state::{DirectoryLock, InstanceDir, InstanceFiles, RECORD_VERSION, RecordStatus, ShedRecord};
use shed_types::{GuestPort, ShedName};
use tokio::{
    sync::{
        Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, OwnedRwLockReadGuard, RwLock, oneshot, watch,
    },
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AskedImage, AskedImageError, CreateShedError, DeleteShedError, FetchImage, LocalDirError, NewShed,
    OpenShedsError, Phase, Progress, PullEnd, ReachGuestError, Settings, ShedStatus, ShedView,
    StartShedError, Started, StopShedError, Stopped,
    bus::Bus,
    context::{Context, blocking},
    credentials::Credentials,
    driver::{Beginning, Driver, Handle, Message, NotAtRest, Until},
    image_choice::{self, Choice, Chosen, Recorded},
    image_news,
    leases::Leases,
    local_dir,
    pids::Pids,
    pulls::Pulls,
    reconcile,
    settle::Project,
};

/// How long a stream to a running guest may take to open. The link of a machine that was just adopted comes up
/// within a second; one that is stalled under software emulation may need several.
const REACH_GUEST: Duration = Duration::from_secs(10);

/// How often a create has an image made that is gone again when it is to be used. Only somebody outside this server can
/// take it away in between.
const MAKE_IMAGE: usize = 3;

/// All sheds of one backend on this server.
#[derive(Debug, Clone)]
pub struct Sheds {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Arc<Context>,
    table: Mutex<Table>,
    image_gate: Arc<RwLock<()>>,
    pulls: Pulls,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Held by the prune in progress.
    prune_turn: AsyncMutex<()>,
    /// Keeps a second server away from the directory.
    _lock: DirectoryLock,
}

#[derive(Debug, Default)]
struct Table {
    sheds: BTreeMap<ShedName, Handle>,
    /// Names of creates whose image is not there yet.
    reserved: BTreeSet<ShedName>,
    /// Directories whose records cannot be read: not shown, but their names stay taken.
    unreadable: BTreeSet<ShedName>,
}

/// Keeps a name for a create until its shed is in the table; dropping it gives the name up.
#[derive(Debug)]
struct Reservation<'a> {
    inner: &'a Inner,
    name: ShedName,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let _was_there = lock(&self.inner.table).reserved.remove(&self.name);
    }
}

/// Why a shed was not deleted by somebody who wants it only when nobody uses it.
#[derive(Debug)]
pub(crate) enum DeleteAtRestError {
    /// It is gone already.
    Gone,
    /// Somebody uses it.
    NotAtRest(NotAtRest),
    /// It could not be removed, or not wholly.
    Delete(DeleteShedError),
}

impl Sheds {
    /// Takes the instance directory over and makes records and machines agree.
    ///
    /// Creates that a crash cut short are undone, deletes are finished, running machines adopted. When this
    /// returns, every shed is in a true state.
    ///
    /// # Errors
    /// When the directory cannot be used, or another server uses it.
    pub async fn open(settings: Settings, backend: Arc<dyn Backend>) -> Result<Self, OpenShedsError> {
        let registry = Registry::new(settings.registries.clone());
        Self::open_with(settings, backend, Arc::new(registry)).await
    }

    /// Like [`Self::open`], with another source of images than registries.
    ///
    /// # Errors
    /// When the directory cannot be used, or another server uses it.
    pub async fn open_with(
        settings: Settings,
        backend: Arc<dyn Backend>,
        images: Arc<dyn FetchImage>,
    ) -> Result<Self, OpenShedsError> {
        let directory = settings.instance_dir.clone();
        let prepare = |source| OpenShedsError::Prepare { path: directory.clone(), source };
        std::fs::create_dir_all(&directory).map_err(prepare)?;
        let lock = DirectoryLock::take(&directory).map_err(|error| match error {
            shed_state::LockError::Held { .. } => OpenShedsError::InUse { path: directory.clone() },
            shed_state::LockError::Io { path, source } => OpenShedsError::Prepare { path, source },
        })?;
        let instances = InstanceDir::new(directory);
        let credentials = Arc::new(Credentials::new(settings.credentials.clone()));
        let bus = Arc::new(Bus::new(settings.bus.clone(), backend.kind()));
        let context = Arc::new(Context {
            settings,
            backend,
            instances,
            credentials,
            pids: Pids::default(),
            leases: Leases::default(),
            bus,
        });
        let store = ImageStore::new(context.settings.images_dir.clone());
        if let Err(error) = blocking(move || store.remove_half_made_templates()).await {
            tracing::warn!(dir = %context.settings.images_dir, %error, "what a killed server left of an empty disk is left over");
        }
        let found = reconcile::reconcile(&context).await?;
        context.leases.know(found.sheds.iter().map(|(record, _)| record)).await;
        let sheds = Self {
            inner: Arc::new(Inner {
                context,
                table: Mutex::new(Table { unreadable: found.unreadable, ..Table::default() }),
                image_gate: Arc::default(),
                pulls: Pulls::new(images),
                tasks: TaskTracker::new(),
                shutdown: CancellationToken::new(),
                prune_turn: AsyncMutex::new(()),
                _lock: lock,
            }),
        };
        let mut table = sheds.table();
        for (record, beginning) in found.sheds {
            let name = record.name.clone();
            let _new = table.sheds.insert(name, sheds.spawn(record, beginning));
        }
        drop(table);
        Ok(sheds)
    }

    /// Returns all sheds, sorted by name.
    #[must_use]
    pub fn list(&self) -> Vec<ShedView> {
        self.table().sheds.values().map(Handle::snapshot).collect()
    }

    /// Returns one shed.
    #[must_use]
    pub fn get(&self, name: &ShedName) -> Option<ShedView> {
        self.table().sheds.get(name).map(Handle::snapshot)
    }

    /// Returns one shed and what becomes of it; the sender goes when the shed does.
    pub(crate) fn watch(&self, name: &ShedName) -> Option<watch::Receiver<ShedView>> {
        self.table().sheds.get(name).map(|handle| handle.view.clone())
    }

    /// Makes a shed, brings it up, and waits until its project is set up.
    ///
    /// # Errors
    /// On an error nothing of the shed is left.
    ///
    /// # Cancel safety
    /// Dropping the future undoes the create, unless the shed runs already: then what is left to do goes on.
    pub async fn create(&self, new: NewShed, progress: Progress) -> Result<Started, CreateShedError> {
        let settings = &self.inner.context.settings;
        let reservation = self.reserve(&new.name)?;
        self.check_shares(&new).await?;
        let (image, gate) = self.get_image(new.image, &progress).await?;
        let (name, image_path) = match image.recorded {
            Recorded::Name(name) => (Some(name), None),
            Recorded::Base => (None, None),
            Recorded::Path(path) => (None, Some(path)),
        };
        let record = ShedRecord {
            version: RECORD_VERSION,
            name: new.name,
            status: RecordStatus::Creating,
            created_at: now(),
            backend: self.inner.context.backend.kind(),
            cpus: new.cpus.unwrap_or(settings.default_cpus),
            memory_mb: new.memory_mb.unwrap_or(settings.default_memory_mb),
            disk_gb: settings.default_disk_gb,
            image: name,
            image_path,
            repo: new.repo.as_ref().map(|repo| repo.masked().into_owned()),
            local_dir: new.local_dir,
            network: None,
            vm: None,
            last_error: None,
        };
        // What a directory of the host holds is cloned already.
        let repo = new.repo.filter(|_| record.local_dir.is_none());
        let project = Project { repo, hooks: !new.no_provision, occasion: Occasion::Create };
        let (reply, answer) = oneshot::channel();
        {
            let mut table = self.table();
            // The image may have taken long.
            self.check_directory_is_free(&record.name, &table)?;
            if self.inner.shutdown.is_cancelled() {
                return Err(CreateShedError::ShuttingDown);
            }
            let name = record.name.clone();
            let beginning = Beginning::Create { image: image.path, project, progress, reply };
            let _new = table.sheds.insert(name, self.spawn(record, beginning));
        }
        drop(reservation);
        drop(gate);
        answer.await.unwrap_or(Err(CreateShedError::ShuttingDown))
    }

    /// Checks, before anything is taken, that this host can mount what a new shed shall have.
    async fn check_shares(&self, new: &NewShed) -> Result<(), CreateShedError> {
        let Some(path) = &new.local_dir else { return Ok(()) };
        let checked = self.inner.context.backend.check_shares().await;
        checked.map_err(|source| CreateShedError::Shares {
            shed: new.name.clone(),
            path: path.clone(),
            source: source.into(),
        })
    }

    /// Checks that a directory of the host can be the workspace of a shed. It blocks.
    ///
    /// # Errors
    /// When it cannot be mounted, or must not be.
    pub fn check_local_dir(&self, path: &Utf8Path) -> Result<(), LocalDirError> {
        local_dir::check(&self.inner.context.settings, path)
    }

    /// Finds the image of a create, and has it made when it is not there. The gate is not held meanwhile, so that other
    /// images can be removed; when this returns it is, and the image is there.
    async fn get_image(
        &self,
        asked: Option<AskedImage>,
        progress: &Progress,
    ) -> Result<(Chosen, OwnedRwLockReadGuard<()>), CreateShedError> {
        let (context, asked) = (&self.inner.context, Arc::new(asked));
        let mut made = None;
        if matches!(*asked, Some(AskedImage::Path(_))) {
            // It may be on a file system that does not answer, and whoever waits for the gate would wait for that, too.
            let (of, wish) = (Arc::clone(context), Arc::clone(&asked));
            drop(blocking(move || image_choice::choose(&of.settings, (*wish).as_ref())).await?);
        }
        loop {
            let gate = Arc::clone(&self.inner.image_gate).read_owned().await;
            let (of, wish) = (Arc::clone(context), Arc::clone(&asked));
            let choice = blocking(move || image_choice::choose(&of.settings, (*wish).as_ref())).await?;
            // A wrong image is the caller's to mend, and comes first; nothing is pulled for a machine that cannot boot.
            context.settings.check_guest_files()?;
            let image = match choice {
                Choice::There(chosen) => return Ok((chosen, gate)),
                Choice::ToMake(image) => image,
            };
            drop(gate);
            let reference = || Box::new(image.reference.clone());
            let times = match &made {
                None => 1,
                Some((times, _pull)) if *times == MAKE_IMAGE => {
                    let (reference, times) = (reference(), *times);
                    return Err(CreateShedError::ImageVanished { image: image.name, reference, times });
                }
                Some((times, _pull)) => times + 1,
            };
            progress.enter(Phase::Image);
            let store = ImageStore::new(context.settings.images_dir.clone());
            let limits = context.settings.image_limits;
            let pull = self.inner.pulls.join(&image, store, limits, &self.inner.tasks, &self.inner.shutdown);
            let tell = |at| progress.image(image_news::tell(&image.reference, at), at);
            tokio::select! {
                biased;
                () = self.inner.shutdown.cancelled() => return Err(CreateShedError::ShuttingDown),
                end = pull.wait(tell) => end.map_err(|source| {
                    CreateShedError::PullImage { image: image.name.clone(), reference: reference(), source }
                })?,
            }
            // Held until the image is chosen, so that nobody removes it in between.
            made = Some((times, pull));
        }
    }

    /// Reads what somebody asks for as the image of a new shed.
    ///
    /// # Errors
    /// When it cannot be one, whatever this server has.
    pub fn parse_image(&self, text: &str) -> Result<AskedImage, AskedImageError> {
        AskedImage::parse(text, self.settings().home.as_deref())
    }

    /// Returns what the machine monitors have counted since this server started, where they count.
    #[must_use]
    pub fn vmm_counts(&self) -> Option<VmmCounts> {
        self.inner.context.backend.counts()
    }

    /// Has somebody told of the end of each pull; only the first is.
    pub fn when_pulled(&self, tell: impl Fn(PullEnd) + Send + Sync + 'static) {
        self.inner.pulls.when_ended(Box::new(tell));
    }

    /// Brings a stopped shed up and waits until its startup hook has ended. Several callers at once get the same machine.
    ///
    /// # Errors
    /// On an error the shed is as stopped as before.
    pub async fn start(&self, name: &ShedName, progress: Progress) -> Result<Started, StartShedError> {
        self.start_until(name, progress, Until::Settled).await
    }

    /// Like [`Self::start`], with a choice of how long to wait.
    pub(crate) async fn start_until(
        &self,
        name: &ShedName,
        progress: Progress,
        until: Until,
    ) -> Result<Started, StartShedError> {
        let not_found = || StartShedError::NotFound { shed: name.clone() };
        let (reply, answer) = oneshot::channel();
        let asked = self.ask(name, Message::Start(progress, until, reply)).await;
        asked.ok_or_else(not_found)?;
        answer
            .await
            .unwrap_or_else(|_| Err(if self.ending() { StartShedError::ShuttingDown } else { not_found() }))
    }

    /// Brings a running shed down; its disk stays.
    ///
    /// # Errors
    /// When it does not run, or its machine cannot be shown dead.
    pub async fn stop(&self, name: &ShedName) -> Result<Stopped, StopShedError> {
        let not_found = || StopShedError::NotFound { shed: name.clone() };
        let (reply, answer) = oneshot::channel();
        self.ask(name, Message::Stop(reply)).await.ok_or_else(not_found)?;
        answer
            .await
            .unwrap_or_else(|_| Err(if self.ending() { StopShedError::ShuttingDown } else { not_found() }))
    }

    /// Removes a shed and its data, whatever it is doing.
    ///
    /// # Errors
    /// When something of it cannot be removed; deleting again continues.
    pub async fn delete(&self, name: &ShedName) -> Result<(), DeleteShedError> {
        let not_found = || DeleteShedError::NotFound { shed: name.clone() };
        let (reply, answer) = oneshot::channel();
        self.ask(name, Message::Delete(reply)).await.ok_or_else(not_found)?;
        answer
            .await
            .unwrap_or_else(|_| Err(if self.ending() { DeleteShedError::ShuttingDown } else { not_found() }))
    }

    /// Removes a shed and its data, but only if it is stopped and its record was last written at this time.
    ///
    /// The shed's own task looks, and begins in the same breath; a start that came first keeps the shed, one that comes
    /// later finds it gone.
    ///
    /// # Errors
    /// When it is in use, or something of it cannot be removed.
    pub(crate) async fn delete_if_at_rest(
        &self,
        name: &ShedName,
        written: SystemTime,
    ) -> Result<(), DeleteAtRestError> {
        let gone = || {
            if self.ending() {
                DeleteAtRestError::Delete(DeleteShedError::ShuttingDown)
            } else {
                DeleteAtRestError::Gone
            }
        };
        let (reply, answer) = oneshot::channel();
        self.ask(name, Message::DeleteIfStopped(written, reply)).await.ok_or_else(gone)?;
        let end = answer.await.map_err(|_| gone())?.map_err(DeleteAtRestError::NotAtRest)?;
        end.await.map_err(|_| gone())?.map_err(DeleteAtRestError::Delete)
    }

    /// Returns what every driver shares.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.inner.context
    }

    /// Returns the names of directories whose records this server could not use when it started.
    pub(crate) fn unreadable(&self) -> BTreeSet<ShedName> {
        self.table().unreadable.clone()
    }

    /// Waits until no other prune goes on; the next one waits until the result is dropped.
    pub(crate) async fn prune_turn(&self) -> AsyncMutexGuard<'_, ()> {
        self.inner.prune_turn.lock().await
    }

    /// Tells whether streams into a shed can be opened at all.
    ///
    /// # Errors
    /// When there is no such shed, or it does not run.
    pub fn check_running(&self, name: &ShedName) -> Result<(), ReachGuestError> {
        self.running_vm(name).map(drop)
    }

    fn running_vm(&self, name: &ShedName) -> Result<Arc<dyn Vm>, ReachGuestError> {
        let handle = self.table().sheds.get(name).cloned();
        let handle = handle.ok_or_else(|| ReachGuestError::NotFound { shed: name.clone() })?;
        let vm = handle.vm.borrow().clone();
        vm.ok_or_else(|| {
            let status = handle.view.borrow().status;
            ReachGuestError::NotRunning { shed: name.clone(), status }
        })
    }

    /// Opens a stream to a service in a running shed.
    ///
    /// # Errors
    /// When the shed does not run or its agent does not answer.
    pub async fn connect_guest(
        &self,
        name: &ShedName,
        port: GuestPort,
    ) -> Result<GuestStream, ReachGuestError> {
        let vm = self.running_vm(name)?;
        match timeout(REACH_GUEST, vm.connect_guest(port)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(shed_backend::ConnectGuestError::Ended { .. })) => {
                Err(ReachGuestError::NotRunning { shed: name.clone(), status: ShedStatus::Stopped })
            }
            Ok(Err(source)) => Err(ReachGuestError::Connect { shed: name.clone(), source }),
            Err(_) => Err(ReachGuestError::NoAnswer { shed: name.clone(), waited: REACH_GUEST }),
        }
    }

    /// Returns what was reported of a running shed's credentials, the oldest first: what it sent that was not taken, and
    /// what could not be kept in step. A bounded list of texts that are fit for a terminal.
    #[must_use]
    pub fn credential_reports(&self, name: &ShedName) -> Vec<String> {
        self.inner.context.credentials.reports(name)
    }

    /// Returns the VMM processes of all machines, those that still boot among them.
    #[must_use]
    pub fn machine_pids(&self) -> Vec<u32> {
        self.inner.context.pids.all()
    }

    /// Ends every task and leaves the machines running, for the next server to adopt.
    pub async fn close(&self) {
        self.inner.shutdown.cancel();
        let _already = self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Returns how a shed's task is reached and what it publishes.
    pub(crate) fn handle(&self, name: &ShedName) -> Option<Handle> {
        self.table().sheds.get(name).cloned()
    }

    async fn ask(&self, name: &ShedName, message: Message) -> Option<()> {
        let handle = self.table().sheds.get(name).cloned()?;
        handle.messages.send(message).await.ok()
    }

    fn spawn(&self, record: ShedRecord, beginning: Beginning) -> Handle {
        let inner: Weak<Inner> = Arc::downgrade(&self.inner);
        let forget = Box::new(move |name: &ShedName| {
            if let Some(inner) = inner.upgrade() {
                let _handle = lock(&inner.table).sheds.remove(name);
            }
        });
        let shutdown = self.inner.shutdown.clone();
        Driver::spawn(Arc::clone(&self.inner.context), record, beginning, shutdown, forget, |task| {
            drop(self.inner.tasks.spawn(task));
        })
    }

    /// Takes a name for a create. Of two creates of a name exactly one goes on, the other need not wait for an image to
    /// hear it.
    fn reserve(&self, name: &ShedName) -> Result<Reservation<'_>, CreateShedError> {
        let mut table = self.table();
        if table.sheds.contains_key(name) || table.reserved.contains(name) {
            return Err(CreateShedError::AlreadyExists { shed: name.clone() });
        }
        self.check_directory_is_free(name, &table)?;
        let _new = table.reserved.insert(name.clone());
        Ok(Reservation { inner: &self.inner, name: name.clone() })
    }

    fn check_directory_is_free(&self, name: &ShedName, table: &Table) -> Result<(), CreateShedError> {
        // Something that came there while this server ran, a restored backup for one, is not ours to write over, nor to
        // remove when the create fails.
        let path = self.inner.context.files(name).directory;
        if table.unreadable.contains(name) || path.symlink_metadata().is_ok() {
            return Err(CreateShedError::Occupied { shed: name.clone(), path });
        }
        Ok(())
    }

    /// Returns the images that are being made for creates.
    pub(crate) fn pulls(&self) -> &Pulls {
        &self.inner.pulls
    }

    /// Held for reading from the choice of an image until its shed is in the table, for writing while images go.
    pub(crate) fn image_gate(&self) -> &Arc<RwLock<()>> {
        &self.inner.image_gate
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.context.settings
    }

    pub(crate) fn bus(&self) -> &Arc<Bus> {
        &self.inner.context.bus
    }

    pub(crate) fn instances(&self) -> &InstanceDir {
        &self.inner.context.instances
    }

    pub(crate) fn files(&self, shed: &ShedName) -> InstanceFiles {
        self.inner.context.files(shed)
    }

    /// Tells whether the server ends; what is asked of sheds then fails.
    pub(crate) fn ending(&self) -> bool {
        self.inner.shutdown.is_cancelled()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.inner.table)
    }
}

/// Returns the time in whole seconds, as records and the wire show it.
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).expect("the present is within jiff's range")
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().expect("no code panics while it holds this lock")
}
