//! The life of a machine: from its options to the end of its guest.
//!
//! Called by `main`. As vfkit: the end of the guest is a success, whoever asked for it; the end of QEMU in any other way is
//! a failure. A guest that reboots begins again under the same process, with the same sockets; its connections end. SIGTERM and SIGINT press the guest's power button and end the machine when it has not ended five seconds
//! later. Under emulation five seconds are little, so `SHED_VFKIT_STOP_SECONDS` can make them more.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::{
    process::Child,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use vm_tests::is_alive;

use crate::{
    children, console,
    devices::{Device, Serial},
    files,
    log::Log,
    machine::Machine,
    monitor::Monitor,
    qemu::{Accelerator, Sockets},
    rest::{self, Control},
    state::State,
    vsock,
};

/// Names the accelerator: `tcg` or `kvm`.
const ACCELERATOR: &str = "SHED_VFKIT_QEMU_ACCEL";

/// How many seconds the guest has to end after a signal.
const STOP_SECONDS: &str = "SHED_VFKIT_STOP_SECONDS";

/// vfkit's own number of them (its cmd/vfkit/main.go).
const STOP: Duration = Duration::from_secs(5);

/// The directories of the sockets between the processes begin with it; the id of this process follows.
const PREFIX: &str = "vfkit-stand-in-";

/// How much longer than a helper QEMU may take to end, when it ends for the same reason.
const AFTER_HELPER: Duration = Duration::from_secs(5);

/// Runs a machine until it has ended.
///
/// # Errors
/// When it cannot be started, or QEMU fails.
pub(crate) async fn run(machine: Machine, log: Log) -> anyhow::Result<()> {
    let stop = stop_time()?;
    let accelerator = accelerator()?;
    if let Some(path) = &machine.pidfile {
        write_pid(path).with_context(|| format!("cannot write {path}"))?;
    }
    files::check(&machine)?;
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let (told, state) = watch::channel(State::Starting);
    let (monitors, monitor) = watch::channel(None);
    let control = Arc::new(Control { state, monitor, inspected: machine.json(), log });
    let rest = rest::serve(&machine.rest, Arc::clone(&control)).await?;
    let ended = live(&machine, accelerator, stop, &mut signals, Told { state: told, monitors }, log).await;
    if let Some(rest) = rest {
        rest.close().await;
    }
    ended
}

/// What others are told of the machine.
#[derive(Debug)]
struct Told {
    state: watch::Sender<State>,
    monitors: watch::Sender<Option<Monitor>>,
}

/// How a boot of the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Over,
    Reboot,
}

async fn live(
    machine: &Machine,
    accelerator: Accelerator,
    stop: Duration,
    signals: &mut [Signal; 2],
    told: Told,
    log: Log,
) -> anyhow::Result<()> {
    let dir = directory()?;
    let path = Utf8PathBuf::try_from(dir.path().to_owned()).context("the directory for temporary files")?;
    let sockets = Sockets { dir: path };
    let _consoles = prepare_consoles(machine, &sockets)?;
    let mut exposed = Vec::new();
    loop {
        // Killed when they are dropped, before the directory goes. The vsock device of former boots does not survive a reset
        // (vhost-device-vsock 0.3: what connects afterwards is taken and never answered), so there is one for each.
        let mut helpers = children::helpers(machine, &sockets).await?;
        let mut qemu = children::qemu(machine, accelerator, &sockets)?;
        let pipes = qemu.stdin.take().zip(qemu.stdout.take()).context("QEMU's pipes")?;
        let monitor = Monitor::greet(pipes.0, pipes.1, told.state.clone(), log).await?;
        told.monitors.send_replace(Some(monitor.clone()));
        log.info("the machine runs");
        if exposed.is_empty() {
            exposed = expose(machine, &sockets, log);
        }
        let ended = until_end(&mut qemu, &mut helpers, signals, &monitor, stop, log).await;
        if !matches!(ended, Ok(End::Reboot)) {
            told.state.send_replace(State::Stopped);
        }
        // The rest are killed when they are dropped; here it is waited for, so that nothing is left when this process ends.
        for helper in &mut helpers {
            helper.kill().await.context("a helper of the machine")?;
        }
        match ended? {
            End::Over => return Ok(()),
            End::Reboot => log.info("the guest reboots"),
        }
    }
}

/// Makes the machine's vsock ports reachable, each for itself.
fn expose(machine: &Machine, sockets: &Sockets, log: Log) -> Vec<vsock::Exposed> {
    let mut exposed = Vec::new();
    for vsock in machine.vsocks() {
        match vsock::expose(vsock, sockets, log) {
            Ok(port) => exposed.push(port),
            Err(error) => log.warn(&format!("vsock port {} is missing: {error:#}", vsock.port)),
        }
    }
    exposed
}

/// Waits for the end of a boot; brings it about when a signal asks for it, or a helper has gone.
async fn until_end(
    qemu: &mut Child,
    helpers: &mut [Child],
    signals: &mut [Signal; 2],
    monitor: &Monitor,
    stop: Duration,
    log: Log,
) -> anyhow::Result<End> {
    let [terminate, interrupt] = signals;
    let mut deadline = None;
    loop {
        tokio::select! {
            biased;
            status = qemu.wait() => {
                let status = status.context("QEMU")?;
                if !status.success() {
                    bail!("virtualization error: QEMU ended with {status}");
                }
                // Whoever has asked for the end gets it.
                if deadline.is_none() && monitor.was_reset().await {
                    return Ok(End::Reboot);
                }
                log.info("the machine has stopped");
                return Ok(End::Over);
            }
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                log.warn(&format!("the guest has not stopped within {stop:?} and is ended"));
                qemu.kill().await.context("QEMU")?;
                return Ok(End::Over);
            }
            _ = terminate.recv(), if deadline.is_none() => deadline = Some(shut_down(monitor, stop, log).await),
            _ = interrupt.recv(), if deadline.is_none() => deadline = Some(shut_down(monitor, stop, log).await),
            gone = any(helpers) => {
                // Some end because QEMU does.
                if timeout(AFTER_HELPER, qemu.wait()).await.is_err() {
                    bail!("virtualization error: a helper of the machine ended with {}", gone?);
                }
            }
        }
    }
}

async fn shut_down(monitor: &Monitor, stop: Duration, log: Log) -> Instant {
    log.info("asking the guest to stop");
    if let Err(error) = monitor.press_button().await {
        log.error(&format!("failed to ask the guest to stop: {error:#}"));
    }
    Instant::now() + stop
}

/// Waits for the end of any of them.
async fn any(children: &mut [Child]) -> std::io::Result<std::process::ExitStatus> {
    if children.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(children.iter_mut().map(|child| Box::pin(child.wait()))).await.0
}

/// Empties the files of the consoles, as Apple's framework does when told not to append, which is how vfkit tells it; and
/// begins to pass on what a console on the terminal says.
fn prepare_consoles(machine: &Machine, sockets: &Sockets) -> anyhow::Result<Vec<console::Terminal>> {
    let mut terminals = Vec::new();
    for (number, device) in machine.devices.iter().enumerate() {
        match device {
            Device::Serial(Serial::Log(path)) => {
                drop(File::create(path).with_context(|| format!("cannot write the console's log {path}"))?);
            }
            Device::Serial(Serial::Stdio) => {
                terminals.push(console::Terminal::at(&sockets.of_device(number))?);
            }
            Device::Disk(_)
            | Device::Net { .. }
            | Device::Rng
            | Device::Balloon
            | Device::Share { .. }
            | Device::Vsock(_) => {}
        }
    }
    Ok(terminals)
}

/// Makes the directory of the sockets, and removes those of predecessors that were killed.
fn directory() -> anyhow::Result<tempfile::TempDir> {
    let all = std::env::temp_dir();
    for entry in fs::read_dir(&all).with_context(|| format!("{}", all.display()))?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: u32| !is_alive(pid)) {
            // Somebody else's stays.
            let _gone = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().context("a directory for sockets")
}

/// As vfkit: only its user may read it, and it stays when the machine has ended.
fn write_pid(path: &str) -> std::io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(Utf8Path::new(path))?;
    file.write_all(std::process::id().to_string().as_bytes())
}

fn accelerator() -> anyhow::Result<Accelerator> {
    match std::env::var(ACCELERATOR).as_deref() {
        Ok("tcg") | Err(_) => Ok(Accelerator::Tcg),
        Ok("kvm") => Ok(Accelerator::Kvm),
        Ok(other) => bail!("{ACCELERATOR}={other} is neither tcg nor kvm"),
    }
}

fn stop_time() -> anyhow::Result<Duration> {
    match std::env::var(STOP_SECONDS) {
        Ok(seconds) => {
            let seconds = seconds.parse().with_context(|| format!("{STOP_SECONDS}={seconds}"))?;
            Ok(Duration::from_secs(seconds))
        }
        Err(_) => Ok(STOP),
    }
}
