//! Runs the services of Shed's own extensions where there is no systemd: as user `shed`, started again when they end.
//!
//! What an image's own manifests name are units, and without systemd nothing can run those.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::{
    fs::{Gid, Uid},
    process::{Signal, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities,
        set_keep_capabilities, set_thread_gid, set_thread_groups, set_thread_uid,
    },
};
use shed_protocol::ExtensionInGuest;
use tokio::{process::Command, task::JoinHandle, time::sleep};

use super::manifests::Unit;
use crate::{
    exec::users::User,
    inheritance::{self, Ignored},
    log,
};

/// Pause before a service that has ended is started again, as in the units.
const PAUSE: Duration = Duration::from_secs(2);

/// Units of Shed's own, the names of their programs, and whether they need a privileged port: the same as the units have.
const OWN: [(&str, &str, Port); 2] = [
    ("shed-ssh-agent.service", "shed-ssh-agent", Port::None),
    ("shed-aws-proxy.service", "shed-aws-proxy", Port::Privileged),
];

/// What port a service listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// None.
    None,
    /// One below 1024.
    Privileged,
}

/// Runs them.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// The program, shed-ext.
    pub(super) program: PathBuf,
    /// Directory of sockets and status files, which systemd would make.
    pub(super) run_dir: PathBuf,
    /// Who runs them.
    pub(super) user: User,
    services: BTreeMap<Unit, Service>,
}

#[derive(Debug)]
struct Service {
    task: JoinHandle<()>,
    runs: Arc<AtomicBool>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // The process goes with the task.
        self.task.abort();
    }
}

impl Supervisor {
    /// Makes one that runs nothing yet.
    pub(super) fn new(program: PathBuf, run_dir: PathBuf, user: User) -> Self {
        Self { program, run_dir, user, services: BTreeMap::new() }
    }

    /// Starts those that do not run.
    pub(super) fn start(&mut self, units: &BTreeSet<Unit>) -> io::Result<()> {
        std::fs::create_dir_all(&self.run_dir)?;
        if rustix::process::geteuid().is_root() {
            chown(&self.run_dir, Some(self.user.uid), Some(self.user.gid))?;
        }
        let mut unknown = Vec::new();
        for unit in units {
            let Some(&(_, name, port)) = OWN.iter().find(|(own, ..)| *own == unit.as_str()) else {
                unknown.push(unit.as_str());
                continue;
            };
            let (program, user) = (self.program.clone(), self.user.clone());
            self.services.entry(unit.clone()).or_insert_with(|| {
                let runs = Arc::new(AtomicBool::new(false));
                let told = Arc::clone(&runs);
                Service {
                    task: tokio::spawn(async move { keep(program, name, port, user, &told).await }),
                    runs,
                }
            });
        }
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            log::info(&format!("extensions: without systemd nothing can start {unknown}"));
        }
        Ok(())
    }

    /// Ends those that run.
    pub(super) fn stop(&mut self, units: &BTreeSet<Unit>) {
        self.services.retain(|unit, _| !units.contains(unit));
    }

    /// Looks which run.
    pub(super) fn look(&self, units: &BTreeSet<Unit>) -> BTreeMap<Unit, ExtensionInGuest> {
        let runs = |unit| self.services.get(unit).is_some_and(|service| service.runs.load(Relaxed));
        let state = |unit| if runs(unit) { ExtensionInGuest::Running } else { ExtensionInGuest::Stopped };
        units.iter().map(|unit| (unit.clone(), state(unit))).collect()
    }
}

/// Keeps one service running until the task is ended.
async fn keep(program: PathBuf, name: &'static str, port: Port, user: User, runs: &AtomicBool) {
    loop {
        match command(&program, name, port, &user).spawn() {
            Ok(mut child) => {
                runs.store(true, Relaxed);
                let ended = child.wait().await;
                runs.store(false, Relaxed);
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                log::info(&format!("{name} ended ({how}) and is started again"));
            }
            Err(error) => log::info(&format!("cannot start {name}: {error}")),
        }
        sleep(PAUSE).await;
    }
}

fn command(program: &PathBuf, name: &'static str, port: Port, user: &User) -> Command {
    let mut command = std::process::Command::new(program);
    command
        .arg0("shed-ext")
        .arg(name)
        .env_clear()
        .env("HOME", &user.home)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let ignored = Ignored::look();
    let groups: Vec<Gid> = user.groups.iter().map(|&id| Gid::from_raw(id)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let is_root = rustix::process::geteuid().is_root();
    let child_side = move || {
        inheritance::forget(ignored);
        // An agent that is not root (in its own tests) is the user already.
        if is_root {
            become_user(uid, gid, &groups, port)?;
        }
        // Last, because a change of the user takes it back: an agent that is started again starts these again, and two
        // cannot have one port.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure runs in the forked child, where only async-signal-safe work is allowed: everything in it is a
    // plain system call on values that were made before the fork, and nothing allocates or locks.
    unsafe { command.pre_exec(child_side) };
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// Gives the calling thread, which is all of its process, the user's identity, and of root's rights at most that to the
/// port (capabilities(7)).
fn become_user(uid: Uid, gid: Gid, groups: &[Gid], port: Port) -> io::Result<()> {
    set_thread_groups(groups)?;
    set_thread_gid(gid)?;
    set_keep_capabilities(true)?;
    set_thread_uid(uid)?;
    let kept = match port {
        Port::None => CapabilitySet::empty(),
        Port::Privileged => CapabilitySet::NET_BIND_SERVICE,
    };
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    if !kept.is_empty() {
        configure_capability_in_ambient_set(kept, true)?;
    }
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
