//! A backend without machines, for tests of what is above backends.
//!
//! It keeps the promises that the conformance suite checks: a launch outlives the backend that made it, is found by
//! its id, ends as an event, and its guest speaks the real protocol. A [`FakeWorld`] stands for the host: every
//! backend made from it sees the same launches, as servers do that follow one another. [`Faults`] make a launch go
//! wrong in the ways that real ones do. Nothing in it is random, and it waits only where a fault says so.

mod agent;
mod files;
mod messages;
mod setup;
mod tcp;
mod tmux;

pub use files::{FakeFiles, FakePut};
pub use messages::FakeLogs;
pub use setup::FakeStep;
pub use tcp::FakeService;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    io::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde_json::Value;
use shed_protocol::{Envelope, Identify, Occasion, OpenLogs, SetupReport, SetupRequest};
use shed_types::{BackendKind, GuestPort, LaunchId, ShedName, TcpPort};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

pub use self::tmux::{FakeSession, FakeTmux};

use crate::{
    Accelerator, AttachVmError, Backend, Capabilities, CheckHostError, ConnectGuestError, DiskAccess,
    EndVmError, GuestStream, HostReport, StartVmError, Vm, VmIdentity, VmSpec,
};

/// What a stream to the guest holds at most in each direction, in bytes.
const PIPE: usize = 64 * 1024;

/// How launches of a shed go wrong; the default is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// What the start does.
    pub start: StartFault,
    /// What the guest does after it.
    pub boot: BootFault,
    /// What the guest does when asked to power off.
    pub power_off: PowerOffFault,
    /// What happens when the process is killed.
    pub kill: KillFault,
}

/// What a start does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartFault {
    /// It works.
    #[default]
    None,
    /// The process ends at once.
    EndsAtOnce,
    /// The process runs, but the start takes this long to return.
    Slow(Duration),
}

/// What a guest does after its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BootFault {
    /// Its agent answers at once.
    #[default]
    None,
    /// Its agent answers after this time.
    Slow(Duration),
    /// Its agent never answers.
    Never,
    /// Its agent says hello, and never answers who it is told to be.
    NeverIdentified,
    /// Its agent refuses what it is told to be, because it cannot mount something.
    MountFails,
    /// The machine ends after this time, before its agent has answered.
    Dies(Duration),
    /// The VMM crashes before the agent has answered, at the first start of the shed only.
    CrashesOnce,
    /// The VMM crashes before the agent has answered, always.
    Crashes,
    /// The guest reboots before its agent has answered.
    Reboots,
}

/// What a guest does when asked to power off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PowerOffFault {
    /// It goes at once.
    #[default]
    None,
    /// It goes after this time.
    Slow(Duration),
    /// It stays, whoever asks.
    Ignored,
    /// The agent ignores it; the power button works.
    IgnoredByAgent,
}

/// What happens when a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KillFault {
    /// It dies.
    #[default]
    None,
    /// It stays, as one does that waits for a dead disk.
    StillRunning,
}

/// A host with its processes and sockets. Clones are the same host.
#[derive(Debug, Clone, Default)]
pub struct FakeWorld(Arc<Mutex<Host>>);

#[derive(Debug, Default)]
struct Host {
    machines: HashMap<LaunchId, Arc<Machine>>,
    last_pid: u32,
    /// Sheds whose sockets are there.
    sockets: BTreeSet<ShedName>,
    faults: BTreeMap<ShedName, Faults>,
    faults_of_others: Faults,
    starts: BTreeMap<ShedName, u32>,
    identified: BTreeMap<ShedName, Identify>,
    disk_conflicts: u32,
    tmux: BTreeMap<ShedName, FakeTmux>,
    /// Commands that run in guests.
    commands: BTreeMap<ShedName, usize>,
    services: BTreeMap<(ShedName, TcpPort), FakeService>,
    files: BTreeMap<ShedName, FakeFiles>,
    puts: BTreeMap<ShedName, Vec<FakePut>>,
    said: BTreeMap<ShedName, messages::Said>,
    /// What guests do in setups; nothing special where there is no entry.
    setup_steps: HashMap<(ShedName, Occasion), Vec<FakeStep>>,
    setups: BTreeMap<ShedName, Vec<SetupRequest>>,
    /// Whether backends say that they keep no console logs.
    no_console_logs: bool,
}

/// One launch.
struct Machine {
    spec: VmSpec,
    identity: VmIdentity,
    faults: Faults,
    /// Whether this launch is one that crashes.
    crashes: bool,
    world: FakeWorld,
    /// Whether the agent answers.
    ready: watch::Sender<bool>,
    /// How often the guest has booted again within the machine.
    boots: watch::Sender<u64>,
    /// How often an agent has said that it is there.
    came: watch::Sender<u64>,
    /// Whether the guest has said that it reboots. Its machine does not outlive that.
    reboots: AtomicBool,
    ended: CancellationToken,
    /// The last setup that it was asked for.
    occasion: Mutex<Option<Occasion>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("shed", &self.spec.shed)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl FakeWorld {
    /// Makes a host on which nothing runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a backend on this host, as a server does when it starts.
    #[must_use]
    pub fn backend(&self) -> FakeBackend {
        FakeBackend { world: self.clone() }
    }

    /// Makes later launches of `shed` go wrong.
    pub fn set_faults(&self, shed: &ShedName, faults: Faults) {
        self.host().faults.insert(shed.clone(), faults);
    }

    /// Makes later launches of all sheds go wrong that have no faults of their own.
    pub fn set_faults_of_others(&self, faults: Faults) {
        self.host().faults_of_others = faults;
    }

    /// Makes backends say that they keep no console logs, as some do.
    pub fn keep_no_console_logs(&self) {
        self.host().no_console_logs = true;
    }

    /// Returns which sheds have a running machine; a shed appears once for each.
    #[must_use]
    pub fn running(&self) -> Vec<ShedName> {
        let mut running: Vec<_> =
            self.host().machines.values().map(|machine| machine.spec.shed.clone()).collect();
        running.sort();
        running
    }

    /// Returns the machine specs that are running.
    #[must_use]
    pub fn running_specs(&self) -> Vec<VmSpec> {
        self.host().machines.values().map(|machine| machine.spec.clone()).collect()
    }

    /// Returns which sheds have left sockets behind, or still use them.
    #[must_use]
    pub fn sockets(&self) -> Vec<ShedName> {
        self.host().sockets.iter().cloned().collect()
    }

    /// Returns how often a process was started for `shed`.
    #[must_use]
    pub fn starts(&self, shed: &ShedName) -> u32 {
        self.host().starts.get(shed).copied().unwrap_or(0)
    }

    /// Returns what the last `system:identify` told a guest of `shed`.
    #[must_use]
    pub fn identified(&self, shed: &ShedName) -> Option<Identify> {
        self.host().identified.get(shed).cloned()
    }

    /// Returns how often a machine was started whose disk another one was writing to.
    #[must_use]
    pub fn disk_conflicts(&self) -> u32 {
        self.host().disk_conflicts
    }

    /// Ends all machines of `shed` from outside, as `kill -9` does: nothing is cleaned up.
    pub fn crash(&self, shed: &ShedName) {
        for machine in self.machines_of(shed) {
            machine.end();
        }
    }

    /// Makes the guests of `shed` say that they reboot, and go on running until something ends them.
    pub fn say_reboot(&self, shed: &ShedName) {
        for machine in self.machines_of(shed) {
            machine.reboots.store(true, Ordering::Release);
        }
    }

    /// Has the guests of `shed` reboot, in a VMM that ends instead of starting them again.
    pub fn reboot(&self, shed: &ShedName) {
        for machine in self.machines_of(shed) {
            machine.reboot();
        }
    }

    /// Has the guests of `shed` reboot within their machines: nobody ends the streams that are open, and nothing comes by
    /// them any more. The new agent says that it is there, or not, and has been told nothing.
    pub fn reboot_within(&self, shed: &ShedName, says_so: bool) {
        let _former = self.host().identified.remove(shed);
        for machine in self.machines_of(shed) {
            machine.boots.send_modify(|boots| *boots += 1);
            machine.came.send_modify(|came| *came += u64::from(says_so));
        }
    }

    /// Has the guests of `shed` power off by themselves.
    pub fn power_off(&self, shed: &ShedName) {
        for machine in self.machines_of(shed) {
            machine.power_off(AskedBy::User);
        }
    }

    /// Makes the agent of `shed`'s machine go away, or come back. Its open streams break.
    pub fn set_agent_up(&self, shed: &ShedName, up: bool) {
        for machine in self.machines_of(shed) {
            machine.ready.send_replace(up);
        }
    }

    /// Puts a service on a port of the loopback of `shed`'s guests, of those that run as well. Other ports are closed.
    pub fn set_service(&self, shed: &ShedName, port: TcpPort, service: FakeService) {
        self.host().services.insert((shed.clone(), port), service);
    }

    /// Says what guests of `shed` do with files, those that run as well.
    pub fn set_files(&self, shed: &ShedName, files: FakeFiles) {
        self.host().files.insert(shed.clone(), files);
    }

    /// Returns what was put into guests of `shed`, the last one last.
    #[must_use]
    pub fn puts(&self, shed: &ShedName) -> Vec<FakePut> {
        self.host().puts.get(shed).cloned().unwrap_or_default()
    }

    /// Makes guests of `shed` say this when they say how they are, whatever it is.
    pub fn set_health(&self, shed: &ShedName, payload: Value) {
        self.host().said.entry(shed.clone()).or_default().health = Some(payload);
    }

    /// Makes guests of `shed` tell an event, on the channel that is open and on each later one.
    #[expect(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
    pub fn tell(&self, shed: &ShedName, namespace: &str, payload: Value) {
        self.say(shed, Envelope::event(namespace, &payload));
    }

    /// Makes guests of `shed` say this, whatever it is, on the channel that is open and on each later one.
    pub fn say(&self, shed: &ShedName, envelope: Envelope) {
        let mut host = self.host();
        host.said.entry(shed.clone()).or_default().events.send_modify(|events| events.push(envelope));
    }

    /// Returns the responses that guests of `shed` got, in order.
    #[must_use]
    pub fn responses(&self, shed: &ShedName) -> Vec<Envelope> {
        self.host().said.get(shed).map(|said| said.responses.clone()).unwrap_or_default()
    }

    /// Says what the journal of `shed`'s guests does.
    pub fn set_logs(&self, shed: &ShedName, logs: FakeLogs) {
        self.host().said.entry(shed.clone()).or_default().logs = logs;
    }

    /// Returns how many readers of the journal of `shed`'s guests are open.
    #[must_use]
    pub fn log_readers(&self, shed: &ShedName) -> usize {
        self.host().said.get(shed).map_or(0, |said| said.readers.len())
    }

    /// Returns what was asked last when a reader of the journal was opened.
    #[must_use]
    pub fn logs_asked(&self, shed: &ShedName) -> Option<OpenLogs> {
        self.host().said.get(shed)?.opened.clone()
    }

    /// Returns which pauses between health reports were asked of `shed`'s guests, in milliseconds, in order.
    #[must_use]
    pub fn health_paces(&self, shed: &ShedName) -> Vec<u64> {
        self.host().said.get(shed).map(|said| said.paces.clone()).unwrap_or_default()
    }

    /// Returns the times that `shed`'s guests were told because theirs seemed wrong, in order.
    #[must_use]
    pub fn told_times(&self, shed: &ShedName) -> Vec<Timestamp> {
        self.host().said.get(shed).map(|said| said.times.clone()).unwrap_or_default()
    }

    /// Says what guests of `shed` do in setups of this kind; otherwise their projects have no hooks, and clones work.
    pub fn set_setup(&self, shed: &ShedName, occasion: Occasion, steps: Vec<FakeStep>) {
        self.host().setup_steps.insert((shed.clone(), occasion), steps);
    }

    /// Returns the setups that guests of `shed` were asked for, the last one last.
    #[must_use]
    pub fn setups(&self, shed: &ShedName) -> Vec<SetupRequest> {
        self.host().setups.get(shed).cloned().unwrap_or_default()
    }

    fn machines_of(&self, shed: &ShedName) -> Vec<Arc<Machine>> {
        self.host().machines.values().filter(|machine| machine.spec.shed == *shed).cloned().collect()
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        // The host is changed in single steps, so a test that panicked has not left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    fn end(&self) {
        let mut host = self.world.host();
        host.machines.remove(&self.identity.launch_id);
        tmux::end_with_machine(&mut host, &self.spec.shed);
        drop(host);
        self.ended.cancel();
    }

    fn reboot(&self) {
        self.reboots.store(true, Ordering::Release);
        self.print_console("reboot: Restarting system\n");
        self.end();
    }

    /// How its setup stands, as its health reports have it: always at an end.
    fn setup(&self) -> Option<SetupReport> {
        let occasion = *self.occasion.lock().unwrap_or_else(PoisonError::into_inner);
        occasion.map(|occasion| SetupReport { occasion, running: None, steps: Vec::new() })
    }

    fn print(&self, path: &Utf8Path, text: &str) -> io::Result<()> {
        std::fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
    }

    fn print_console(&self, text: &str) {
        if let Err(error) = self.print(&self.spec.console_log, text) {
            tracing::debug!(%error, "the fake console cannot be written");
        }
    }

    /// Boots; ends with the machine.
    async fn run(self: Arc<Self>) {
        self.print_console("[    0.000000] Linux version 0.0.0 (fake)\n");
        let boot = async {
            match self.faults.boot {
                BootFault::None | BootFault::NeverIdentified | BootFault::MountFails => {}
                BootFault::CrashesOnce | BootFault::Crashes if self.crashes => {
                    self.end();
                    return;
                }
                BootFault::CrashesOnce | BootFault::Crashes => {}
                BootFault::Slow(time) => sleep(time).await,
                BootFault::Reboots => {
                    // Past the hand-over, so that nobody takes it for a fault of the VMM.
                    self.print_console("shed-init: root assembled\n");
                    self.reboot();
                    return;
                }
                BootFault::Never => {
                    self.print_console("shed-init: waiting for a disk that never comes\n");
                    std::future::pending::<()>().await;
                }
                BootFault::Dies(time) => {
                    sleep(time).await;
                    self.print_console("Kernel panic - not syncing: the fault was asked for\n");
                    self.end();
                    return;
                }
            }
            self.print_console("shed-agent: ready\n");
            self.ready.send_replace(true);
        };
        tokio::select! {
            () = self.ended.cancelled() => {}
            () = boot => {}
        }
    }

    /// What the guest does when it is told to power off.
    fn power_off(self: &Arc<Self>, asked_by: AskedBy) {
        let time = match (self.faults.power_off, asked_by) {
            (PowerOffFault::None, _) | (PowerOffFault::IgnoredByAgent, AskedBy::Button | AskedBy::User) => {
                Duration::ZERO
            }
            (PowerOffFault::Slow(time), _) => time,
            (PowerOffFault::Ignored, _) | (PowerOffFault::IgnoredByAgent, AskedBy::Agent) => return,
        };
        let machine = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = machine.ended.cancelled() => {}
                () = sleep(time) => {
                    machine.print_console("reboot: Power down\n");
                    machine.end();
                }
            }
        });
    }
}

/// Who wants a guest to power off.
#[derive(Debug, Clone, Copy)]
enum AskedBy {
    Agent,
    Button,
    User,
}

/// A backend of a [`FakeWorld`].
#[derive(Debug)]
pub struct FakeBackend {
    world: FakeWorld,
}

/// A machine that was started and is not handed out yet; it is ended when the start is given up.
struct Unfinished(Option<Arc<Machine>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(machine) = self.0.take() {
            machine.end();
            machine.world.host().sockets.remove(&machine.spec.shed);
        }
    }
}

impl FakeBackend {
    fn launch(&self, spec: &VmSpec) -> Result<Arc<Machine>, StartVmError> {
        let prepare = |path: &Utf8PathBuf| {
            let (shed, path) = (spec.shed.clone(), path.clone());
            move |source| StartVmError::Prepare { shed, path, source }
        };
        for path in [&spec.kernel, &spec.initrd].into_iter().chain(spec.disks.iter().map(|disk| &disk.path)) {
            std::fs::metadata(path).map_err(prepare(path))?;
        }
        let at_once =
            |output: &str| StartVmError::EndedAtOnce { shed: spec.shed.clone(), output: output.to_owned() };
        let mut host = self.world.host();
        *host.starts.entry(spec.shed.clone()).or_default() += 1;
        let faults = host.faults.get(&spec.shed).copied().unwrap_or(host.faults_of_others);
        if faults.start == StartFault::EndsAtOnce {
            return Err(at_once("the fault was asked for"));
        }
        if host.machines.values().any(|other| writes_to_same_disk(&other.spec, spec)) {
            host.disk_conflicts += 1;
            return Err(at_once("another machine holds the lock of a disk"));
        }
        let crashes = match faults.boot {
            BootFault::Crashes => true,
            BootFault::CrashesOnce => host.starts.get(&spec.shed) == Some(&1),
            BootFault::None
            | BootFault::Slow(_)
            | BootFault::Never
            | BootFault::NeverIdentified
            | BootFault::MountFails
            | BootFault::Dies(_)
            | BootFault::Reboots => false,
        };
        host.last_pid += 1;
        let identity = VmIdentity {
            pid: host.last_pid,
            start_time: u64::from(host.last_pid),
            launch_id: spec.launch_id,
        };
        let machine = Arc::new(Machine {
            spec: spec.clone(),
            identity,
            faults,
            crashes,
            world: self.world.clone(),
            ready: watch::Sender::new(false),
            boots: watch::Sender::new(0),
            came: watch::Sender::new(0),
            reboots: AtomicBool::new(false),
            ended: CancellationToken::new(),
            occasion: Mutex::default(),
        });
        machine.print(&spec.vmm_log, "").map_err(prepare(&spec.vmm_log))?;
        host.sockets.insert(spec.shed.clone());
        host.machines.insert(spec.launch_id, Arc::clone(&machine));
        drop(host);
        tokio::spawn(Arc::clone(&machine).run());
        Ok(machine)
    }
}

fn writes_to_same_disk(one: &VmSpec, other: &VmSpec) -> bool {
    let written = |spec: &VmSpec| -> BTreeSet<Utf8PathBuf> {
        let disks = spec.disks.iter().filter(|disk| disk.access == DiskAccess::ReadWrite);
        disks.map(|disk| disk.path.clone()).collect()
    };
    !written(one).is_disjoint(&written(other))
}

#[async_trait::async_trait]
impl Backend for FakeBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Qemu
    }

    fn capabilities(&self) -> Capabilities {
        let console_log = !self.world.host().no_console_logs;
        Capabilities { console_log, guest_address: false, shared_directories: true }
    }

    async fn check_host(&self) -> Result<HostReport, CheckHostError> {
        Ok(HostReport {
            vmm: "no VMM (fake)".to_owned(),
            accelerator: Accelerator::Tcg,
            reason: "there is nothing to accelerate".to_owned(),
            confined_by: None,
        })
    }

    async fn check_shares(&self) -> Result<(), CheckHostError> {
        Ok(())
    }

    async fn start(&self, spec: &VmSpec) -> Result<Arc<dyn Vm>, StartVmError> {
        let mut machine = Unfinished(Some(self.launch(spec)?));
        match machine.0.as_ref().map(|machine| machine.faults.start) {
            Some(StartFault::Slow(time)) => sleep(time).await,
            Some(StartFault::None | StartFault::EndsAtOnce) | None => {}
        }
        let machine = machine.0.take().expect("a machine is handed out once");
        Ok(Arc::new(FakeVm(machine)))
    }

    async fn find(
        &self,
        spec: &VmSpec,
        known: Option<&VmIdentity>,
    ) -> Result<Option<Arc<dyn Vm>>, AttachVmError> {
        let found = self.world.host().machines.get(&spec.launch_id).cloned();
        let ours = found
            .filter(|machine| machine.spec.shed == spec.shed)
            .filter(|machine| known.is_none_or(|known| *known == machine.identity));
        Ok(ours.map(|machine| Arc::new(FakeVm(machine)) as Arc<dyn Vm>))
    }

    async fn remove_leftovers(&self, shed: &ShedName) -> io::Result<()> {
        self.world.host().sockets.remove(shed);
        Ok(())
    }
}

/// A handle on a launch; dropping it changes nothing.
#[derive(Debug)]
struct FakeVm(Arc<Machine>);

#[async_trait::async_trait]
impl Vm for FakeVm {
    fn identity(&self) -> VmIdentity {
        self.0.identity
    }

    async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    fn has_ended(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    async fn has_crashed(&self) -> bool {
        self.0.crashes
    }

    fn agent_came(&self) -> watch::Receiver<u64> {
        self.0.came.subscribe()
    }

    async fn was_reboot(&self) -> bool {
        self.0.reboots.load(Ordering::Acquire)
    }

    async fn connect_guest(&self, port: GuestPort) -> Result<GuestStream, ConnectGuestError> {
        let shed = || self.0.spec.shed.clone();
        let mut ready = self.0.ready.subscribe();
        tokio::select! {
            biased;
            () = self.0.ended.cancelled() => return Err(ConnectGuestError::Ended { shed: shed() }),
            _ready = ready.wait_for(|ready| *ready) => {}
        }
        let service = agent::service(port, &self.0).ok_or_else(|| ConnectGuestError::Refused {
            shed: shed(),
            port,
            reason: "a fake has none".to_owned(),
        })?;
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (ended, mut boots) = (self.0.ended.clone(), self.0.boots.subscribe());
        tokio::spawn(async move {
            let mut serving = std::pin::pin!(service(theirs));
            let done = async {
                tokio::select! {
                    () = &mut serving => {}
                    // Nobody ends the streams of a former boot.
                    Ok(()) = boots.changed() => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended.cancelled() => {}
                _gone = ready.wait_for(|ready| !*ready) => {}
                () = done => {}
            }
        });
        Ok(GuestStream::new(ours))
    }

    async fn press_power_button(&self) -> Result<(), EndVmError> {
        self.0.power_off(AskedBy::Button);
        Ok(())
    }

    async fn kill(&self, grace: Duration) -> Result<(), EndVmError> {
        if !self.has_ended() {
            match self.0.faults.kill {
                KillFault::None => self.0.end(),
                KillFault::StillRunning => {
                    return Err(EndVmError::StillRunning {
                        shed: self.0.spec.shed.clone(),
                        pid: self.0.identity.pid,
                        waited: grace,
                    });
                }
            }
        }
        // Sockets belong to the shed's name; a later launch may have made them anew.
        let mut host = self.0.world.host();
        if !host.machines.values().any(|machine| machine.spec.shed == self.0.spec.shed) {
            host.sockets.remove(&self.0.spec.shed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
