//! The agent as PID 1, in an image that has no init: mounts, the service, orphans, power-off.
//!
//! The service runs as a child, so that this process stays a small loop over signals that reaps whatever ends and has
//! nothing to steal from the service. A service that ends is started again. Nothing unwinds here: the build aborts on
//! a panic, and the hook powers off first, because a PID 1 that ends is a kernel panic.

mod mounts;
mod shutdown;
mod signals;

use std::{
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitOptions, wait};

use self::signals::{End, Event, Signals};
use crate::{
    inheritance::{self, Ignored},
    log, network,
};

/// Shortest time between two starts of the service.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Runs as PID 1 until the machine is powered off.
pub(crate) fn run() -> ExitCode {
    if rustix::process::getpid() != Pid::INIT {
        log::to_stdout("shed-agent: pid1 is for the first process of a machine\n");
        return ExitCode::FAILURE;
    }
    std::panic::set_hook(Box::new(|info| {
        log::console(&format!("shed-agent: error: PID 1 failed: {info}"));
        shutdown::power_off_now()
    }));
    let signals = match Signals::block() {
        Ok(signals) => signals,
        Err(error) => {
            log::console(&format!("shed-agent: error: PID 1 cannot take signals: {error}"));
            shutdown::power_off_now()
        }
    };
    mounts::mount_missing();
    if let Err(error) = network::bring_up_loopback() {
        log::error(&format!("cannot bring up lo: {error}"));
    }
    let end = supervise(&signals);
    shutdown::shut_down(&signals, end)
}

/// Keeps the service running and reaps; returns when the machine is to end.
fn supervise(signals: &Signals) -> End {
    let mut service = Service::Down { since: None };
    loop {
        let now = Instant::now();
        let patience = match service {
            Service::Up { .. } => None,
            Service::Down { since: Some(since) } if now < since + RESTART_PAUSE => {
                Some(since + RESTART_PAUSE - now)
            }
            Service::Down { .. } => {
                service = Service::start();
                continue;
            }
        };
        match signals.wait(patience) {
            Event::End(end) => return end,
            Event::Child => reap(&mut service),
            Event::Nothing => {}
        }
    }
}

/// The service's process.
#[derive(Debug, Clone, Copy)]
enum Service {
    /// It runs.
    Up { pid: Pid },
    /// It does not, since then; never has, without a time.
    Down { since: Option<Instant> },
}

impl Service {
    fn start() -> Self {
        match spawn_service() {
            Ok(pid) => Self::Up { pid },
            Err(error) => {
                log::error(&format!("cannot start the service: {error}"));
                Self::Down { since: Some(Instant::now()) }
            }
        }
    }
}

fn spawn_service() -> io::Result<Pid> {
    // By its path rather than by /proc/self/exe, for the process to have the right name.
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    command.arg0("shed-agent").arg("serve");
    let ignored = Ignored::look();
    let child_side = move || {
        inheritance::forget(ignored);
        Ok(())
    };
    // SAFETY: the closure does nothing but async-signal-safe calls; it says so itself.
    unsafe { command.pre_exec(child_side) };
    let child = command.spawn()?;
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("a child without a pid"))
}

/// Reaps everything that has ended.
fn reap(service: &mut Service) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if matches!(service, Service::Up { pid: ours } if *ours == pid) {
            log::error(&format!("the service ended ({status:?}) and is started again"));
            *service = Service::Down { since: Some(Instant::now()) };
        }
    }
}
