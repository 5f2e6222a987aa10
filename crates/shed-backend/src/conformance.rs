//! What every backend must do, as a suite of named checks.
//!
//! Each backend's tests run it with a [`BackendHarness`]: the fake in the unit tests, the real ones in vm-tests. It
//! knows the traits alone and asks the harness for what they do not show (files left over, a kill from outside). A
//! check ends what it starts, so that the next one finds a clean host even after a failure.

use std::{fmt, io, sync::Arc, time::Duration};

use shed_types::{GuestPort, LaunchId, ShedName, error_chain};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{Backend, ConnectGuestError, GuestStream, Vm, VmIdentity, VmSpec};

/// Longest wait for what must happen "at once": an event that is under way already.
const SOON: Duration = Duration::from_secs(2);

/// Longest wait for a process to start or to die.
const PROCESS: Duration = Duration::from_secs(60);

/// What a backend's tests know and the suite does not.
#[async_trait::async_trait]
pub trait BackendHarness: Sync {
    /// Makes the backend anew, as a server does that has just started.
    fn backend(&self) -> Arc<dyn Backend>;

    /// Makes the spec of a machine that boots, with its files; the same shed may be asked for again, and then has the
    /// same disks.
    fn spec(&self, shed: &ShedName) -> VmSpec;

    /// Makes the spec of a machine that cannot start, because a disk of it is missing.
    fn spec_without_disk(&self, shed: &ShedName) -> VmSpec;

    /// Ends a VMM process from outside, as `kill -9` does.
    fn kill_from_outside(&self, identity: &VmIdentity);

    /// Lists what backends of this harness have left on the host: processes and sockets.
    fn leftovers(&self) -> Vec<String>;

    /// Longest time a guest takes from its start to its agent's answer.
    fn boot_time(&self) -> Duration;
}

/// Which check failed, and how.
#[derive(Debug)]
pub struct CheckFailed {
    check: &'static str,
    reason: String,
}

impl fmt::Display for CheckFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a backend must keep this promise: {}; but {}", self.check, self.reason)
    }
}

impl std::error::Error for CheckFailed {}

/// Runs all checks, one after the other, on a clean host.
///
/// # Errors
/// All checks that failed.
pub async fn run(harness: &dyn BackendHarness) -> Result<(), Vec<CheckFailed>> {
    let mut failed = Vec::new();
    macro_rules! check {
        ($promise:literal, $check:expr) => {{
            let result: Result<(), String> = $check.await;
            let left = harness.leftovers();
            let result = result.and_then(|()| ensure(left.is_empty(), || format!("{left:?} is left behind")));
            tracing::info!(check = $promise, ok = result.is_ok(), "conformance");
            if let Err(reason) = result {
                failed.push(CheckFailed { check: $promise, reason });
            }
        }};
    }
    check!("the host can be checked, twice, with the same result", host_check(harness));
    check!("a start that fails leaves nothing", failed_start(harness));
    check!(
        "a start that is given up leaves nothing that find and kill would not end",
        cancelled_start(harness)
    );
    check!("a machine runs on without its handle and is found again", found_again(harness));
    check!("another launch id or a wrong identity finds nothing", not_confused(harness));
    check!("the end of a process is an event, also for an adopted one", death_is_an_event(harness));
    check!("killing is idempotent and needs no grace", kill_is_idempotent(harness));
    check!("removing leftovers is idempotent", leftovers_are_removed(harness));
    check!("a second machine on a disk that is written to does not start", one_writer(harness));
    check!("a guest is reached, also after the server has gone and come back", guest_is_reached(harness));
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

async fn host_check(harness: &dyn BackendHarness) -> Result<(), String> {
    let backend = harness.backend();
    let first = backend.check_host().await.map_err(text)?;
    ensure(backend.check_host().await.map_err(text)? == first, || "the second report differs".to_owned())
}

async fn failed_start(harness: &dyn BackendHarness) -> Result<(), String> {
    let backend = harness.backend();
    let spec = harness.spec_without_disk(&shed("bad"));
    match within(PROCESS, "the start", backend.start(&spec)).await? {
        Ok(vm) => {
            end(&*vm).await?;
            Err("it started".to_owned())
        }
        Err(_) => ensure(find(&*backend, &spec, None).await?.is_none(), || "a process is found".to_owned()),
    }
}

async fn cancelled_start(harness: &dyn BackendHarness) -> Result<(), String> {
    let backend = harness.backend();
    // The host is looked at on first use, which shall not be what is given up.
    backend.check_host().await.map_err(text)?;
    for patience in [0, 1, 5, 20, 60] {
        let spec = harness.spec(&shed("cancel"));
        // Given up, or done: both may be.
        if let Ok(started) = timeout(Duration::from_millis(patience), backend.start(&spec)).await {
            drop(started.map_err(text)?);
        }
        if let Some(vm) = find(&*harness.backend(), &spec, None).await? {
            end(&*vm).await?;
        }
        backend.remove_leftovers(&spec.shed).await.map_err(text)?;
        let left = harness.leftovers();
        ensure(left.is_empty(), || format!("given up after {patience} ms, {left:?} is left"))?;
    }
    Ok(())
}

async fn found_again(harness: &dyn BackendHarness) -> Result<(), String> {
    let (backend, spec) = (harness.backend(), harness.spec(&shed("again")));
    let vm = start(&*backend, &spec).await?;
    let identity = vm.identity();
    ensure(identity.launch_id == spec.launch_id, || "its identity has another launch id".to_owned())?;
    drop(vm);
    drop(backend);
    let next = harness.backend();
    for known in [Some(&identity), None] {
        let vm =
            find(&*next, &spec, known).await?.ok_or_else(|| format!("it is not found with {known:?}"))?;
        ensure(vm.identity() == identity, || format!("it became {:?}", vm.identity()))?;
        ensure(!vm.has_ended(), || "it is said to have ended".to_owned())?;
    }
    let vm = find(&*next, &spec, Some(&identity)).await?.ok_or("it is not found a third time")?;
    end(&*vm).await?;
    let gone = find(&*next, &spec, Some(&identity)).await?;
    ensure(gone.is_none(), || "it is found after its end".to_owned())
}

async fn not_confused(harness: &dyn BackendHarness) -> Result<(), String> {
    let (backend, spec) = (harness.backend(), harness.spec(&shed("confused")));
    let vm = start(&*backend, &spec).await?;
    let other_launch = VmSpec { launch_id: LaunchId::generate(), ..spec.clone() };
    let other_shed = VmSpec { shed: shed("confused-2"), ..spec.clone() };
    for (what, wrong) in [("launch id", &other_launch), ("shed", &other_shed)] {
        ensure(find(&*backend, wrong, None).await?.is_none(), || format!("another {what} finds it"))?;
        let identity = VmIdentity { launch_id: wrong.launch_id, ..vm.identity() };
        ensure(find(&*backend, wrong, Some(&identity)).await?.is_none(), || {
            format!("another {what} with its pid finds it")
        })?;
    }
    end(&*vm).await
}

async fn death_is_an_event(harness: &dyn BackendHarness) -> Result<(), String> {
    let (backend, spec) = (harness.backend(), harness.spec(&shed("death")));
    let own = start(&*backend, &spec).await?;
    let next = harness.backend();
    let adopted = find(&*next, &spec, None).await?.ok_or("it is not found")?;
    let ended = async { tokio::join!(own.ended(), own.ended(), adopted.ended()) };
    let kill = async { harness.kill_from_outside(&own.identity()) };
    within(SOON, "the news of the death", async { tokio::join!(ended, kill) }).await?;
    ensure(own.has_ended() && adopted.has_ended(), || "a handle does not know of the end".to_owned())?;
    within(SOON, "the old news", own.ended()).await?;
    let error = within(SOON, "a connection", own.connect_guest(GuestPort::Health)).await?.err();
    ensure(matches!(error, Some(ConnectGuestError::Ended { .. })), || format!("connecting gives {error:?}"))?;
    ensure(find(&*next, &spec, Some(&own.identity())).await?.is_none(), || {
        "it is found after its end".to_owned()
    })?;
    within(SOON, "killing the dead", own.kill(Duration::ZERO)).await?.map_err(text)
}

async fn kill_is_idempotent(harness: &dyn BackendHarness) -> Result<(), String> {
    let backend = harness.backend();
    for grace in [Duration::ZERO, Duration::from_secs(20)] {
        let vm = start(&*backend, &harness.spec(&shed("kill"))).await?;
        let (one, other) =
            within(PROCESS, "two kills at once", async { tokio::join!(vm.kill(grace), vm.kill(grace)) })
                .await?;
        one.and(other).map_err(text)?;
        ensure(vm.has_ended(), || "it has not ended".to_owned())?;
        within(SOON, "a third kill", vm.kill(grace)).await?.map_err(text)?;
        let left = harness.leftovers();
        ensure(left.is_empty(), || format!("{left:?} is left"))?;
    }
    Ok(())
}

async fn leftovers_are_removed(harness: &dyn BackendHarness) -> Result<(), String> {
    let (backend, spec) = (harness.backend(), harness.spec(&shed("left")));
    let vm = start(&*backend, &spec).await?;
    let identity = vm.identity();
    // Nobody is there to see it die.
    drop(vm);
    let watcher = find(&*harness.backend(), &spec, None).await?.ok_or("it is not found")?;
    harness.kill_from_outside(&identity);
    within(SOON, "the news of the death", watcher.ended()).await?;
    for _ in 0..2 {
        backend.remove_leftovers(&spec.shed).await.map_err(text)?;
    }
    backend.remove_leftovers(&shed("never-was")).await.map_err(text)
}

async fn one_writer(harness: &dyn BackendHarness) -> Result<(), String> {
    let backend = harness.backend();
    let spec = harness.spec(&shed("writer"));
    let vm = start(&*backend, &spec).await?;
    let second = VmSpec { shed: shed("writer-2"), launch_id: LaunchId::generate(), ..spec };
    let result = within(PROCESS, "the second start", backend.start(&second)).await?;
    let verdict = match result {
        Err(error) => {
            // Some VMMs see it themselves, for others the backend does.
            let reason = error_chain(&error);
            ensure(reason.contains("lock"), || format!("the reason says no word of a lock: {reason}"))
        }
        Ok(second) => end(&*second).await.and(Err("it started".to_owned())),
    };
    let alive = ensure(!vm.has_ended(), || "the first machine is gone".to_owned());
    end(&*vm).await?;
    verdict.and(alive)
}

async fn guest_is_reached(harness: &dyn BackendHarness) -> Result<(), String> {
    let (backend, spec) = (harness.backend(), harness.spec(&shed("guest")));
    let vm = start(&*backend, &spec).await?;
    let talked = talk(harness, backend, vm, &spec).await;
    // By a new handle, for the old ones may be what failed.
    if let Some(vm) = find(&*harness.backend(), &spec, None).await? {
        end(&*vm).await?;
    }
    talked
}

async fn talk(
    harness: &dyn BackendHarness,
    mut backend: Arc<dyn Backend>,
    mut vm: Arc<dyn Vm>,
    spec: &VmSpec,
) -> Result<(), String> {
    let mut held = within(harness.boot_time(), "the guest's agent", reach(&*vm)).await??;
    // Many streams at a time, and the first one still works.
    let more = (0..8).map(|_| reach(&*vm));
    let streams = within(PROCESS, "eight streams", futures::future::try_join_all(more)).await??;
    health(&mut held).await?;
    drop(streams);
    for restart in 1..=2 {
        // The server goes with all its streams; the next one finds the guest as it was.
        drop((held, vm, backend));
        backend = harness.backend();
        vm = find(&*backend, spec, None).await?.ok_or("it is not found")?;
        held = within(PROCESS, "the guest after a restart", reach(&*vm))
            .await?
            .map_err(|error| format!("after restart {restart}: {error}"))?;
    }
    ensure(!vm.has_ended(), || "the machine has ended by itself".to_owned())?;
    // Whoever reads from a guest must not wait for ever when its machine ends.
    let read = async {
        let mut rest = Vec::new();
        // An error is as good an end as any.
        held.read_to_end(&mut rest).await.ok();
    };
    let (killed, ()) =
        within(PROCESS, "the end of a stream", async { tokio::join!(vm.kill(Duration::ZERO), read) }).await?;
    killed.map_err(text)
}

/// Opens a stream to the agent's health service and sees it answer.
async fn reach(vm: &dyn Vm) -> Result<GuestStream, String> {
    let mut stream = vm.connect_guest(GuestPort::Health).await.map_err(text)?;
    health(&mut stream).await?;
    Ok(stream)
}

/// Has the agent answer a health request (spec B.4), as bytes, so that this is also a test of the frames.
async fn health(stream: &mut GuestStream) -> Result<(), String> {
    let exchange = async {
        stream.write_all(&[0x10, 0, 0, 0, 0]).await?;
        stream.flush().await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = within(PROCESS, "the answer of the agent", exchange).await?.map_err(text)?;
    ensure(answer == [0x11, 0, 0, 0, 0], || format!("the agent answered {answer:?}"))
}

async fn start(backend: &dyn Backend, spec: &VmSpec) -> Result<Arc<dyn Vm>, String> {
    within(PROCESS, "a start", backend.start(spec)).await?.map_err(text)
}

async fn find(
    backend: &dyn Backend,
    spec: &VmSpec,
    known: Option<&VmIdentity>,
) -> Result<Option<Arc<dyn Vm>>, String> {
    within(PROCESS, "finding a machine", backend.find(spec, known)).await?.map_err(text)
}

async fn end(vm: &dyn Vm) -> Result<(), String> {
    within(PROCESS, "a kill", vm.kill(Duration::ZERO)).await?.map_err(text)
}

async fn within<T>(patience: Duration, what: &str, future: impl Future<Output = T>) -> Result<T, String> {
    timeout(patience, future).await.map_err(|_| format!("{what} did not come within {patience:?}"))
}

fn ensure(kept: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if kept { Ok(()) } else { Err(otherwise()) }
}

/// An error with all its causes.
fn text(error: impl std::error::Error) -> String {
    shed_types::error_chain(&error)
}

fn shed(name: &str) -> ShedName {
    name.parse().expect("the names in this file are valid")
}
