//! The one task that owns a shed: its record, its machine, and what is being done with it.
//!
//! Requests come through a queue; [`policy`](crate::policy) decides, this file acts. At most one operation is in
//! progress, as a future inside [`State::Working`], so a request that cancels it drops it, and nobody else ever
//! touches the record. What the outside may know is published through `watch` channels.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::SystemTime};

use camino::Utf8PathBuf;
use shed_backend::Vm;
use shed_state::{RecordStatus, ShedRecord, VmRecord};
use shed_types::{LaunchId, ShedName, error_chain};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    Activity, BootShedError, CreateShedError, DeleteShedError, Phase, Progress, ShedStatus, ShedView,
    StartShedError, Started, StopShedError, Stopped,
    boot::{Boot, Booted, Machine, write_record},
    channel::{Health, Keeper},
    context::{Context, FileLane},
    credentials::Attending,
    error::ClearVmError,
    guest_channel::GuestChannel,
    local_dir,
    pids::Place,
    policy::{Decision, Refusal, Request, decide},
    settle::{Project, Settle, Settled, Settling, Unsettled, Waiters},
    shutdown::{self, Leaving},
};

/// Requests that may wait for one shed; callers beyond it wait before they are queued.
const QUEUE: usize = 64;

/// Warnings of a start that are shown for as long as its machine runs, the first ones.
const WARNINGS: usize = 32;

pub(crate) type CreateReply = oneshot::Sender<Result<Started, CreateShedError>>;
pub(crate) type StartReply = oneshot::Sender<Result<Started, StartShedError>>;
type StopReply = oneshot::Sender<Result<Stopped, StopShedError>>;
type DeleteReply = oneshot::Sender<Result<(), DeleteShedError>>;
/// Says at once whether the delete begins, and where its end will be told.
type DeleteIfStoppedReply = oneshot::Sender<Result<DeleteEnd, NotAtRest>>;
pub(crate) type DeleteEnd = oneshot::Receiver<Result<(), DeleteShedError>>;

/// Why a shed is not deleted by a request that wants it only when nobody uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAtRest {
    /// It is not stopped.
    NotStopped(ShedStatus),
    /// Its record is not the one that the request was made for.
    Changed,
}

/// How long whoever starts a shed wants to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until commands can be run in it.
    Running,
    /// Until its project is set up.
    Settled,
}

/// A request and where its answer goes.
pub(crate) enum Message {
    Start(Progress, Until, StartReply),
    Stop(StopReply),
    Delete(DeleteReply),
    /// Only when it is stopped, and its record was last written at this time: nobody has used it since.
    DeleteIfStopped(SystemTime, DeleteIfStoppedReply),
}

/// How the outside reaches a driver.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub messages: mpsc::Sender<Message>,
    pub view: watch::Receiver<ShedView>,
    pub vm: watch::Receiver<Option<Arc<dyn Vm>>>,
    pub guest: watch::Receiver<Option<GuestChannel>>,
    pub health: watch::Receiver<Health>,
}

/// What a driver begins with.
pub(crate) enum Beginning {
    /// Make the shed.
    Create { image: Utf8PathBuf, project: Project, progress: Progress, reply: CreateReply },
    /// It was stopped, or its machine is gone.
    Stopped,
    /// It cannot be used.
    Broken(String),
    /// Its machine outlived a former server.
    Adopt(Arc<dyn Vm>),
    /// A former server was starting it.
    ResumeBoot(Arc<dyn Vm>),
    /// A former server was stopping it.
    ResumeStop(Arc<dyn Vm>),
}

/// Owns a shed.
pub(crate) struct Driver {
    context: Arc<Context>,
    lane: FileLane,
    record: ShedRecord,
    state: State,
    messages: mpsc::Receiver<Message>,
    view: watch::Sender<ShedView>,
    vm: watch::Sender<Option<Arc<dyn Vm>>>,
    guest: watch::Sender<Option<GuestChannel>>,
    health: watch::Sender<Health>,
    /// The VMM process, from its start on, before its guest is ready.
    pid: Place,
    shutdown: CancellationToken,
    /// Takes the shed out of the table; called once, before anyone is told that it is gone.
    forget: Option<Forget>,
}

enum State {
    Stopped,
    Broken(String),
    Running(Machine, Settling),
    Working(Work),
    /// The shed is no more; the task ends.
    Gone,
}

/// An operation in progress and those who wait for it.
enum Work {
    Creating {
        boot: Pending<Result<Booted, BootShedError>>,
        project: Project,
        progress: Arc<Progress>,
        reply: CreateReply,
    },
    Starting {
        boot: Pending<Result<Booted, BootShedError>>,
        progress: Arc<Progress>,
        replies: Vec<(Until, StartReply)>,
    },
    Stopping {
        stop: Pending<Result<Vec<String>, ClearVmError>>,
        replies: Vec<StopReply>,
    },
    Deleting {
        delete: Pending<Result<(), DeleteShedError>>,
        then: AfterDelete,
    },
}

/// Whom to tell when a shed is gone.
enum AfterDelete {
    /// Those who asked for it.
    Deleted(Vec<DeleteReply>),
    /// The one whose create failed, and why; deletes that came meanwhile.
    CreateFailed(CreateReply, CreateShedError, Vec<DeleteReply>),
}

/// Takes a shed out of the table.
pub(crate) type Forget = Box<dyn FnOnce(&ShedName) + Send>;

pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the driver woke up for.
enum Event {
    Booted(Result<Booted, BootShedError>),
    Settled(Settled),
    Stopped(Result<Vec<String>, ClearVmError>),
    Deleted(Result<(), DeleteShedError>),
    CreatorGone,
    MachineEnded,
    ShareLost,
    Message(Option<Message>),
    Shutdown,
}

impl Driver {
    /// Starts the task. `forget` is called when the shed is gone, before anyone is told.
    pub(crate) fn spawn(
        context: Arc<Context>,
        record: ShedRecord,
        beginning: Beginning,
        shutdown: CancellationToken,
        forget: Forget,
        spawn: impl FnOnce(Pending<()>),
    ) -> Handle {
        let (sender, messages) = mpsc::channel(QUEUE);
        let files = context.files(&record.name);
        let view = watch::Sender::new(initial_view(&record, files.rootfs));
        let (vm, health) = (watch::Sender::new(None), watch::Sender::new(Health::default()));
        let guest = watch::Sender::new(None);
        let pid = context.pids.place();
        let handle = Handle {
            messages: sender,
            view: view.subscribe(),
            vm: vm.subscribe(),
            guest: guest.subscribe(),
            health: health.subscribe(),
        };
        let mut driver = Self {
            context,
            lane: FileLane::default(),
            record,
            state: State::Stopped,
            messages,
            view,
            vm,
            guest,
            health,
            pid,
            shutdown,
            forget: Some(forget),
        };
        // The state is set before the handle is given out, so that nobody sees a shed before it has one.
        driver.begin(beginning);
        driver.publish();
        spawn(Box::pin(driver.run()));
        handle
    }

    fn begin(&mut self, beginning: Beginning) {
        self.state = match beginning {
            Beginning::Stopped => State::Stopped,
            Beginning::Broken(reason) => State::Broken(reason),
            Beginning::Adopt(vm) => {
                let machine = self.adopted(vm);
                let settling = self.resume_settling(&machine);
                State::Running(machine, settling)
            }
            Beginning::Create { image, project, progress, reply } => {
                self.record.status = RecordStatus::Creating;
                self.record.vm = Some(self.new_launch(&project));
                let (boot, progress) = self.boot(progress);
                let record = self.record.clone();
                let boot = Box::pin(async move { boot.create(record, image).await });
                State::Working(Work::Creating { boot, project, progress, reply })
            }
            Beginning::ResumeBoot(vm) => {
                let (boot, progress) = self.boot(Progress::silent());
                let record = self.record.clone();
                let boot = Box::pin(async move { boot.resume(record, vm).await });
                State::Working(Work::Starting { boot, progress, replies: Vec::new() })
            }
            Beginning::ResumeStop(vm) => {
                let machine = self.adopted(Arc::clone(&vm));
                let credentials = self.attend(&machine);
                self.stopping(Some(vm), Some(Leaving { machine, credentials }), Vec::new())
            }
        };
    }

    /// Takes a machine in hand that a former server had.
    fn adopted(&self, vm: Arc<dyn Vm>) -> Machine {
        self.pid.set(Some(vm.identity().pid));
        let keeper = Keeper::adopt(
            Arc::clone(&vm),
            self.record.name.clone(),
            self.context.backend.guest_network(self.record.network.as_ref()),
            local_dir::mounts(&self.record, self.context.backend.mount_kind()),
            self.health.clone(),
            self.context.files(&self.record.name),
            Arc::clone(&self.context.bus),
        );
        Machine { vm, shares_served: true, keeper }
    }

    /// Keeps a machine's credentials in step.
    fn attend(&self, machine: &Machine) -> Attending {
        let (shed, vm) = (self.record.name.clone(), Arc::clone(&machine.vm));
        self.context.credentials.attend(shed, vm, machine.keeper.channel())
    }

    async fn run(mut self) {
        while !matches!(self.state, State::Gone) {
            match self.next_event().await {
                Event::Booted(result) => self.booted(result).await,
                Event::Settled(Settled::Delivered) => self.delivered(),
                Event::Settled(Settled::Done(credentials)) => self.settled(credentials).await,
                Event::Stopped(result) => self.stopped(result).await,
                Event::Deleted(result) => self.deleted(&result),
                Event::CreatorGone => self.creator_gone(),
                Event::MachineEnded => self.machine_ended().await,
                Event::ShareLost => self.share_lost().await,
                Event::Message(Some(message)) => self.handle(message).await,
                Event::Message(None) | Event::Shutdown => break,
            }
            self.publish();
        }
        if let State::Running(_, settling) = std::mem::replace(&mut self.state, State::Gone)
            && let (Some(waiters), _) = settling.leave()
        {
            self.tell_unsettled(waiters, Unsettled::ServerEnds);
        }
        // Work on files cannot be cancelled; it ends before the directory is given to another server.
        self.lane.run(|| ()).await;
    }

    async fn next_event(&mut self) -> Event {
        let messages = &mut self.messages;
        tokio::select! {
            // In this order: the server's end outranks all, since every state on disk is one it can go on from;
            // then what has happened, so that requests are judged by the truth; requests last.
            biased;
            () = self.shutdown.cancelled() => Event::Shutdown,
            event = happened(&mut self.state) => event,
            message = messages.recv() => Event::Message(message),
        }
    }

    async fn handle(&mut self, message: Message) {
        let request = match &message {
            Message::Start(..) => Request::Start,
            Message::Stop(_) => Request::Stop,
            Message::Delete(_) => Request::Delete,
            Message::DeleteIfStopped(..) => Request::DeleteIfStopped,
        };
        self.look_again();
        let activity = self.activity();
        match (decide(activity, request), message) {
            (Decision::Begin, Message::Start(progress, until, reply)) => {
                self.begin_start(progress, until, reply).await;
            }
            (Decision::Begin | Decision::CancelThenBegin, Message::Stop(reply)) => {
                self.begin_stop(reply).await;
            }
            (Decision::Begin | Decision::CancelThenBegin, Message::Delete(reply)) => {
                self.begin_delete(reply).await;
            }
            (Decision::Begin | Decision::CancelThenBegin, Message::DeleteIfStopped(written, reply)) => {
                self.begin_delete_at_rest(written, reply).await;
            }
            (Decision::Join, message) => self.join(message),
            (Decision::Refuse(refusal), message) => self.refuse(refusal, activity, message),
            (Decision::CancelThenBegin, Message::Start(..)) => {
                unreachable!("no policy cancels in order to start")
            }
        }
    }

    /// A shed that lacked a file is whole again once somebody has put it back.
    fn look_again(&mut self) {
        if matches!(self.state, State::Broken(_))
            && self.record.status == RecordStatus::Stopped
            && unusable(&self.context.files(&self.record.name)).is_none()
        {
            self.state = State::Stopped;
        }
    }

    async fn begin_start(&mut self, progress: Progress, until: Until, reply: StartReply) {
        let files = self.context.files(&self.record.name);
        if let Some(reason) = unusable(&files) {
            self.state = State::Broken(reason.clone());
            answer(reply, Err(StartShedError::Broken { shed: self.record.name.clone(), reason }));
            return;
        }
        self.state = self.starting(progress, vec![(until, reply)]);
    }

    fn starting(&mut self, progress: Progress, replies: Vec<(Until, StartReply)>) -> State {
        self.record.status = RecordStatus::Starting;
        self.record.vm = Some(self.new_launch(&Project::START));
        self.record.last_error = None;
        let (boot, progress) = self.boot(progress);
        let record = self.record.clone();
        let boot = Box::pin(async move { boot.start(record).await });
        State::Working(Work::Starting { boot, progress, replies })
    }

    async fn begin_stop(&mut self, reply: StopReply) {
        let (leaving, unsettled) = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Running(machine, settling) => {
                // Before the end of what it does now, so that what is known of the guest stays.
                let attending =
                    matches!(settling, Settling::InProgress { .. }).then(|| self.attend(&machine));
                let (waiters, credentials) = settling.leave();
                let leaving = credentials.or(attending).map(|credentials| Leaving { machine, credentials });
                (leaving, waiters)
            }
            State::Working(work) => {
                self.cancel(work);
                (None, None)
            }
            State::Stopped | State::Broken(_) | State::Gone => (None, None),
        };
        self.record.status = RecordStatus::Stopping;
        self.save().await;
        let vm = leaving.as_ref().map(|leaving| Arc::clone(&leaving.machine.vm));
        self.state = self.stopping(vm, leaving, vec![reply]);
        if let Some(waiters) = unsettled {
            self.publish();
            self.tell_unsettled(waiters, Unsettled::Stopped);
        }
    }

    fn stopping(&self, vm: Option<Arc<dyn Vm>>, leaving: Option<Leaving>, replies: Vec<StopReply>) -> State {
        let stop = Box::pin(shutdown::stop(Arc::clone(&self.context), self.record.clone(), vm, leaving));
        State::Working(Work::Stopping { stop, replies })
    }

    async fn begin_delete(&mut self, reply: DeleteReply) {
        let then = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Working(Work::Creating { reply: creator, .. }) => {
                let cancelled = BootShedError::Cancelled { shed: self.record.name.clone() };
                AfterDelete::CreateFailed(creator, CreateShedError::Boot(cancelled.into()), vec![reply])
            }
            State::Working(work) => {
                self.cancel(work);
                AfterDelete::Deleted(vec![reply])
            }
            // The machine's keeper goes with it; the process is found again by its launch id.
            State::Running(_machine, settling) => {
                if let (Some(waiters), _) = settling.leave() {
                    let starts = waiters.starts.into_iter().chain(waiters.running);
                    self.tell_cancelled(waiters.create, starts.collect());
                }
                AfterDelete::Deleted(vec![reply])
            }
            State::Stopped | State::Broken(_) | State::Gone => AfterDelete::Deleted(vec![reply]),
        };
        self.record.status = RecordStatus::Deleting;
        self.save().await;
        self.delete(then);
    }

    async fn begin_delete_at_rest(&mut self, written: SystemTime, reply: DeleteIfStoppedReply) {
        let (context, shed) = (Arc::clone(&self.context), self.record.name.clone());
        // In doubt it stays. A record that could not be written when the shed stopped (a full disk) still says that it
        // runs, and is as old as its last start.
        let at_rest = self.lane.run(move || {
            let unchanged =
                matches!(context.instances.record_modified(&shed), Ok(Some(now)) if now == written);
            let read = context.instances.read(&shed);
            unchanged && read.is_ok_and(|record| record.status == RecordStatus::Stopped)
        });
        if !at_rest.await {
            answer(reply, Err(NotAtRest::Changed));
            return;
        }
        let (done, end) = oneshot::channel();
        answer(reply, Ok(end));
        self.begin_delete(done).await;
    }

    fn delete(&mut self, then: AfterDelete) {
        let delete = Box::pin(delete(Arc::clone(&self.context), self.lane.clone(), self.record.clone()));
        self.state = State::Working(Work::Deleting { delete, then });
    }

    /// Tells those who wait for an operation that a later request has ended it.
    fn cancel(&self, work: Work) {
        let shed = || self.record.name.clone();
        match work {
            Work::Creating { reply, .. } => self.tell_cancelled(Some(reply), Vec::new()),
            Work::Starting { replies, .. } => {
                self.tell_cancelled(None, replies.into_iter().map(|(_, reply)| reply).collect());
            }
            Work::Stopping { replies, .. } => {
                for reply in replies {
                    let activity = Activity::Deleting;
                    answer(reply, Err(StopShedError::Busy { shed: shed(), activity }));
                }
            }
            Work::Deleting { .. } => {}
        }
    }

    fn tell_cancelled(&self, create: Option<CreateReply>, starts: Vec<StartReply>) {
        let cancelled = Arc::new(BootShedError::Cancelled { shed: self.record.name.clone() });
        if let Some(reply) = create {
            answer(reply, Err(CreateShedError::Boot(Arc::clone(&cancelled))));
        }
        for reply in starts {
            answer(reply, Err(StartShedError::Boot(Arc::clone(&cancelled))));
        }
    }

    fn join(&mut self, message: Message) {
        let State::Working(work) = &mut self.state else { return };
        match (work, message) {
            (Work::Starting { replies, .. }, Message::Start(_, until, reply)) => replies.push((until, reply)),
            (Work::Stopping { replies, .. }, Message::Stop(reply)) => replies.push(reply),
            (
                Work::Deleting {
                    then: AfterDelete::Deleted(replies) | AfterDelete::CreateFailed(_, _, replies),
                    ..
                },
                Message::Delete(reply),
            ) => replies.push(reply),
            // Policy joins only the same operation; a reply that is dropped reads as a shutdown.
            (
                Work::Creating { .. } | Work::Starting { .. } | Work::Stopping { .. } | Work::Deleting { .. },
                _,
            ) => {}
        }
    }

    fn refuse(&self, refusal: Refusal, activity: Activity, message: Message) {
        let shed = self.record.name.clone();
        match message {
            Message::Start(_, _, reply) => {
                let error = match refusal {
                    Refusal::AlreadyRunning => StartShedError::AlreadyRunning { shed },
                    Refusal::Broken => StartShedError::Broken { shed, reason: self.reason() },
                    Refusal::Busy | Refusal::AlreadyStopped | Refusal::NotStopped => {
                        StartShedError::Busy { shed, activity }
                    }
                };
                answer(reply, Err(error));
            }
            Message::Stop(reply) => {
                let error = match refusal {
                    Refusal::AlreadyStopped => StopShedError::AlreadyStopped { shed },
                    Refusal::Busy | Refusal::AlreadyRunning | Refusal::Broken | Refusal::NotStopped => {
                        StopShedError::Busy { shed, activity }
                    }
                };
                answer(reply, Err(error));
            }
            // Policy refuses no delete.
            Message::Delete(_reply) => {}
            Message::DeleteIfStopped(_, reply) => {
                answer(reply, Err(NotAtRest::NotStopped(self.view.borrow().status)));
            }
        }
    }

    async fn booted(&mut self, result: Result<Booted, BootShedError>) {
        let State::Working(work) = std::mem::replace(&mut self.state, State::Stopped) else { return };
        match (result, work) {
            (Ok((record, machine)), work) => {
                tracing::info!(shed = %record.name, pid = machine.vm.identity().pid, "shed is running");
                self.record = record;
                self.settle(machine, work);
            }
            (Err(error), Work::Creating { reply, .. }) => {
                tracing::warn!(shed = %self.record.name, error = %error, "create failed; removing what it made");
                self.delete(AfterDelete::CreateFailed(
                    reply,
                    CreateShedError::Boot(error.into()),
                    Vec::new(),
                ));
            }
            (Err(error), Work::Starting { replies, .. }) => {
                tracing::warn!(shed = %self.record.name, error = %error, "start failed");
                self.undo_start(&error).await;
                self.publish();
                let error = Arc::new(error);
                for (_, reply) in replies {
                    answer(reply, Err(StartShedError::Boot(Arc::clone(&error))));
                }
            }
            (Err(_), Work::Stopping { .. } | Work::Deleting { .. }) => unreachable!("only boots boot"),
        }
    }

    /// From here on the shed runs. What is left to do is begun.
    fn settle(&mut self, machine: Machine, work: Work) {
        let (project, progress, create, replies) = match work {
            Work::Creating { project, progress, reply, .. } => (project, progress, Some(reply), Vec::new()),
            Work::Starting { progress, replies, .. } => (Project::START, progress, None, replies),
            Work::Stopping { .. } | Work::Deleting { .. } => unreachable!("only boots boot"),
        };
        let settle = self.settle_of(&machine, &progress);
        let (sender, delivered) = oneshot::channel();
        let work = Box::pin(settle.run(project, sender).instrument(self.settle_span()));
        let (now, later): (Vec<_>, Vec<_>) =
            replies.into_iter().partition(|(until, _)| matches!(until, Until::Running));
        let [running, starts] = [now, later].map(|list| list.into_iter().map(|(_, reply)| reply).collect());
        let waiters = Waiters { progress, create, starts, running };
        let delivered = Some(delivered);
        self.state = State::Running(machine, Settling::InProgress { work, delivered, waiters });
    }

    /// Answers those who wanted no more than to run commands: what is run finds its credentials.
    fn delivered(&mut self) {
        let State::Running(_, settling) = &mut self.state else { return };
        let Some((progress, replies)) = settling.take_running() else { return };
        for reply in replies {
            answer(reply, Ok(self.started(&progress)));
        }
    }

    /// Goes on with what a former server had to do for a machine. Nobody waits for it.
    fn resume_settling(&self, machine: &Machine) -> Settling {
        let progress = Arc::new(Progress::silent());
        let settle = self.settle_of(machine, &progress);
        match Project::of_record(&self.record) {
            Some((project, lost)) => {
                let (sender, _nobody_waits) = oneshot::channel();
                let work = Box::pin(settle.resume(project, lost, sender).instrument(self.settle_span()));
                let waiters = Waiters { progress, create: None, starts: Vec::new(), running: Vec::new() };
                Settling::InProgress { work, delivered: None, waiters }
            }
            None => Settling::Done(settle.attend()),
        }
    }

    fn settle_of(&self, machine: &Machine, progress: &Arc<Progress>) -> Settle {
        Settle {
            context: Arc::clone(&self.context),
            shed: self.record.name.clone(),
            vm: Arc::clone(&machine.vm),
            channel: machine.keeper.channel(),
            progress: Arc::clone(progress),
        }
    }

    fn settle_span(&self) -> tracing::Span {
        tracing::info_span!("settle", shed = %self.record.name)
    }

    async fn settled(&mut self, credentials: Attending) {
        let State::Running(_, settling) = &mut self.state else { return };
        let before = std::mem::replace(settling, Settling::Done(credentials));
        // A guest that reboots later inside its machine says that nothing was begun, and nothing is to be.
        if let Some(vm) = &mut self.record.vm
            && vm.setup.take().is_some()
        {
            self.save().await;
        }
        if let (Some(waiters), _) = before.leave() {
            let mut warnings = waiters.progress.warnings();
            warnings.truncate(WARNINGS);
            self.view.send_modify(|view| view.warnings = warnings);
            self.tell_started(waiters);
        }
    }

    /// Answers those who waited for a shed to settle, with what has been told to `progress` until now.
    fn tell_started(&self, waiters: Waiters) {
        let Waiters { progress, create, starts, running } = waiters;
        if let Some(reply) = create {
            answer(reply, Ok(self.started(&progress)));
        }
        for reply in starts.into_iter().chain(running) {
            answer(reply, Ok(self.started(&progress)));
        }
    }

    fn tell_unsettled(&self, waiters: Waiters, why: Unsettled) {
        let warning = why.explain(&self.record.name);
        waiters.progress.warn(Phase::Provision, warning);
        self.tell_started(waiters);
    }

    fn started(&self, progress: &Progress) -> Started {
        Started {
            shed: self.view.borrow().clone(),
            timeline: progress.timeline(),
            warnings: progress.warnings(),
        }
    }

    /// Brings a shed whose start failed back to `stopped`.
    async fn undo_start(&mut self, error: &BootShedError) {
        // It keeps what it got for a first boot that failed.
        self.record.network = self.context.leases.of(&self.record.name).await;
        match self.context.ensure_no_vm(&self.record).await {
            Ok(()) => {
                self.record.last_error = Some(error.to_string());
                self.set_stopped().await;
            }
            Err(error) => {
                // Its machine may still write to the disk, so it must not be started: the next stop tries again.
                tracing::error!(shed = %self.record.name, error = %error, "a machine is left after a failed start");
                self.state = State::Broken(error.to_string());
            }
        }
    }

    async fn stopped(&mut self, result: Result<Vec<String>, ClearVmError>) {
        let State::Working(Work::Stopping { replies, .. }) =
            std::mem::replace(&mut self.state, State::Stopped)
        else {
            return;
        };
        let answered: Result<Vec<String>, StopShedError> = match result {
            Ok(warnings) => {
                self.set_stopped().await;
                Ok(warnings)
            }
            Err(error) => {
                self.state = State::Broken(error.to_string());
                Err(error.into())
            }
        };
        self.publish();
        for reply in replies {
            let warnings = answered.clone();
            answer(reply, warnings.map(|warnings| Stopped { shed: self.view.borrow().clone(), warnings }));
        }
    }

    fn deleted(&mut self, result: &Result<(), DeleteShedError>) {
        let State::Working(Work::Deleting { then, .. }) = std::mem::replace(&mut self.state, State::Stopped)
        else {
            return;
        };
        match result {
            Ok(()) => {
                self.state = State::Gone;
                tracing::info!(shed = %self.record.name, "shed is gone");
                if let Some(forget) = self.forget.take() {
                    forget(&self.record.name);
                }
            }
            Err(error) => {
                let reason = error_chain(error);
                tracing::error!(shed = %self.record.name, error = %reason, "a shed could not be removed");
                self.state = State::Broken(format!("{reason}; deleting it again goes on"));
            }
        }
        let replies = match then {
            AfterDelete::Deleted(replies) => replies,
            AfterDelete::CreateFailed(reply, error, replies) => {
                answer(reply, Err(error));
                replies
            }
        };
        for reply in replies {
            answer(reply, result.clone());
        }
    }

    fn creator_gone(&mut self) {
        let State::Working(Work::Creating { reply, .. }) = std::mem::replace(&mut self.state, State::Stopped)
        else {
            return;
        };
        tracing::info!(shed = %self.record.name, "the client of a create is gone; undoing it");
        let cancelled = BootShedError::Cancelled { shed: self.record.name.clone() };
        self.delete(AfterDelete::CreateFailed(reply, CreateShedError::Boot(cancelled.into()), Vec::new()));
    }

    /// A running machine has ended by itself: the shed is stopped, or is started again because its guest reboots.
    ///
    /// Only a machine that was up gets here; one that ends before fails the start that waits for it, whatever its guest
    /// says. So a guest that does nothing but reboot gets one start for each time that it came up.
    async fn machine_ended(&mut self) {
        let State::Running(machine, settling) = std::mem::replace(&mut self.state, State::Stopped) else {
            return;
        };
        let reboots = machine.vm.was_reboot().await;
        tracing::info!(shed = %self.record.name, reboots, "the machine ended");
        drop(machine);
        let cleared = self.context.ensure_no_vm(&self.record).await;
        if let Err(error) = &cleared {
            tracing::warn!(shed = %self.record.name, error = %error, "what the machine left could not be removed");
        }
        if reboots && cleared.is_ok() && unusable(&self.context.files(&self.record.name)).is_none() {
            tracing::info!(shed = %self.record.name, "the guest reboots; starting its machine anew");
            self.forget_guest();
            self.state = self.starting(Progress::silent(), Vec::new());
        } else {
            self.set_stopped().await;
        }
        if let (Some(waiters), _) = settling.leave() {
            self.publish();
            self.tell_unsettled(waiters, Unsettled::MachineEnded);
        }
    }

    /// What was known of a guest is not true of the next one.
    fn forget_guest(&self) {
        let _before = self.health.send_replace(Health::default());
        self.pid.set(None);
    }

    /// Tells everybody that looks at the shed that its directory hangs: what uses it in the guest cannot tell.
    async fn share_lost(&mut self) {
        let State::Running(machine, _) = &mut self.state else { return };
        machine.shares_served = false;
        let shed = self.record.name.clone();
        tracing::error!(%shed, "the process that serves the shed's host directory has ended; what uses it in the guest hangs");
        self.record.last_error = Some(local_dir::lost(&shed));
        self.save().await;
    }

    async fn set_stopped(&mut self) {
        self.record.status = RecordStatus::Stopped;
        self.record.vm = None;
        // What a machine could not reach matters no more when it has gone.
        let lost = local_dir::lost(&self.record.name);
        self.record.last_error = self.record.last_error.take().filter(|error| *error != lost);
        self.state = State::Stopped;
        self.forget_guest();
        self.save().await;
    }

    /// Writes the record. A failure (a full disk) does not stop what frees resources: the record then says more
    /// than there is, which the next start of the server puts right.
    async fn save(&mut self) {
        if let Err(error) = write_record(&self.context, &self.lane, &self.record).await {
            tracing::error!(shed = %self.record.name, error = %error, "the record could not be written");
        }
    }

    fn new_launch(&self, project: &Project) -> VmRecord {
        let setup = project.planned(!self.context.credentials.is_empty());
        VmRecord { launch_id: LaunchId::generate(), pid: None, start_time: None, setup }
    }

    fn boot(&self, progress: Progress) -> (Boot, Arc<Progress>) {
        let progress = Arc::new(progress);
        let boot = Boot {
            context: Arc::clone(&self.context),
            lane: self.lane.clone(),
            progress: Arc::clone(&progress),
            health: self.health.clone(),
            pid: self.pid.clone(),
        };
        (boot, progress)
    }

    fn activity(&self) -> Activity {
        match &self.state {
            State::Stopped | State::Gone => Activity::Stopped,
            State::Broken(_) => match (&self.record.vm, self.record.status) {
                // A create or delete that failed is only ever deleted: its files may be half of what they should be.
                (None, _) | (Some(_), RecordStatus::Creating | RecordStatus::Deleting) => Activity::Broken,
                (
                    Some(_),
                    RecordStatus::Starting
                    | RecordStatus::Running
                    | RecordStatus::Stopping
                    | RecordStatus::Stopped,
                ) => Activity::Stuck,
            },
            State::Running(..) => Activity::Running,
            State::Working(Work::Creating { .. }) => Activity::Creating,
            State::Working(Work::Starting { .. }) => Activity::Starting,
            State::Working(Work::Stopping { .. }) => Activity::Stopping,
            State::Working(Work::Deleting { .. }) => Activity::Deleting,
        }
    }

    fn reason(&self) -> String {
        match &self.state {
            State::Broken(reason) => reason.clone(),
            State::Stopped | State::Running(..) | State::Working(_) | State::Gone => String::new(),
        }
    }

    fn publish(&self) {
        let (machine, guest) = match &self.state {
            State::Running(machine, _) => (Some(Arc::clone(&machine.vm)), Some(machine.keeper.channel())),
            State::Stopped | State::Broken(_) | State::Working(_) | State::Gone => (None, None),
        };
        self.view.send_modify(|view| {
            view.status = match self.activity() {
                Activity::Creating | Activity::Starting => ShedStatus::Starting,
                Activity::Running => ShedStatus::Running,
                Activity::Stopping | Activity::Deleting => ShedStatus::Stopping,
                Activity::Stopped => ShedStatus::Stopped,
                Activity::Broken | Activity::Stuck => ShedStatus::Broken,
            };
            if view.status != ShedStatus::Running {
                view.warnings.clear();
            }
            view.pid = machine.as_ref().map(|vm| vm.identity().pid);
            view.ip_address = self.record.network.as_ref().map(|network| network.ip_address);
            view.error = match &self.state {
                State::Broken(reason) => Some(reason.clone()),
                State::Stopped | State::Running(..) | State::Working(_) | State::Gone => {
                    self.record.last_error.clone()
                }
            };
        });
        let _before = self.vm.send_replace(machine);
        // The channel of a machine is the same from its start to its end.
        let _told = self.guest.send_if_modified(|known| {
            let changed = known.is_some() != guest.is_some();
            if changed {
                *known = guest;
            }
            changed
        });
    }
}

/// Waits for whatever this state waits for besides requests.
async fn happened(state: &mut State) -> Event {
    match state {
        State::Stopped | State::Broken(_) | State::Gone => std::future::pending().await,
        State::Running(machine, settling) => tokio::select! {
            biased;
            () = machine.vm.ended() => Event::MachineEnded,
            () = machine.vm.share_lost(), if machine.shares_served => Event::ShareLost,
            settled = settling.next() => Event::Settled(settled),
        },
        State::Working(Work::Creating { boot, reply, .. }) => tokio::select! {
            biased;
            result = boot => Event::Booted(result),
            () = reply.closed() => Event::CreatorGone,
        },
        State::Working(Work::Starting { boot, .. }) => Event::Booted(boot.await),
        State::Working(Work::Stopping { stop, .. }) => Event::Stopped(stop.await),
        State::Working(Work::Deleting { delete, .. }) => Event::Deleted(delete.await),
    }
}

/// Ends the machine at once, since its data goes away, and removes every file.
pub(crate) async fn delete(
    context: Arc<Context>,
    lane: FileLane,
    record: ShedRecord,
) -> Result<(), DeleteShedError> {
    context.ensure_no_vm(&record).await?;
    let shed = record.name.clone();
    let instances = context.instances.clone();
    let removed = lane.run(move || instances.remove(&record.name)).await;
    if removed.is_ok() {
        context.leases.forget(&*context.backend, &shed).await;
    }
    removed.map_err(|(path, source)| DeleteShedError::Remove { shed, path, source: source.into() })
}

/// Returns why a shed with these files cannot boot, if so.
pub(crate) fn unusable(files: &shed_state::InstanceFiles) -> Option<String> {
    [&files.rootfs, &files.image]
        .into_iter()
        .find(|path| !path.is_file())
        .map(|path| format!("{path} is missing"))
}

/// Answers a request; one whose caller is gone needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _caller_gone = reply.send(value);
}

fn initial_view(record: &ShedRecord, rootfs_path: Utf8PathBuf) -> ShedView {
    ShedView {
        name: record.name.clone(),
        status: ShedStatus::Stopped,
        created_at: record.created_at,
        backend: record.backend,
        repo: record.repo.clone(),
        local_dir: record.local_dir.clone(),
        image: record.image.clone(),
        image_path: record.image_path.clone(),
        cpus: record.cpus,
        memory_mb: record.memory_mb,
        disk_gb: record.disk_gb,
        rootfs_path,
        pid: None,
        ip_address: record.network.as_ref().map(|network| network.ip_address),
        last_healthy: None,
        agent_started_at: None,
        extensions: BTreeMap::new(),
        error: None,
        warnings: Vec::new(),
    }
}
