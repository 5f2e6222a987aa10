//! `shed-server setup`: makes a Linux host ready for the sheds of one user, and `setup --remove` takes that back.
//!
//! `main` calls [`run`] and [`remove`], as root. Each step looks first and does only what is missing, so that a second run
//! changes nothing, and each is told as soon as it is over. What somebody else made is never changed: it is named, with what to
//! do. Nothing is downloaded.

mod capability;
mod devices;
mod directories;
mod modules;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Access, access};
use shed_net::{Host, HostState};
use shed_types::{BackendKind, error_chain};

use crate::{
    account::{Account, not_as},
    backends::{self, Decision},
    config::Config,
    step::{Step, Teller},
};

/// Why setup did not begin.
#[derive(Debug, thiserror::Error)]
#[error(
    "it changes the host ({what}), which only root may: run `sudo {program} {command}`; `{program} doctor` says what is \
     missing without changing anything"
)]
pub struct NotRoot {
    /// What it would change.
    pub what: &'static str,
    /// What to run.
    pub command: &'static str,
    /// The program.
    pub program: Utf8PathBuf,
}

/// Makes the host ready for this user's server, and tells each step; returns whether all is as it should be.
pub async fn run(
    config: &Config,
    account: &Account,
    program: &Utf8Path,
    tell: &mut dyn FnMut(&Step),
) -> bool {
    let mut teller = Teller::new(tell);
    // First, because without it Firecracker is not what runs the sheds.
    let woken = devices::wake_kvm();
    let Decision { kind, reason } = match backends::decide(config) {
        Ok(decision) => decision,
        Err(error) => return teller.tell(&Step::failed("backend", error_chain(&error))),
    };
    let _told = teller.tell(&Step::was_so("backend", format!("{kind}: {reason}")));
    let _told = teller.tell(&devices::kvm_step(woken, kind));
    if let Some(step) = devices::kvm_for(account) {
        let _told = teller.tell(&step);
    }
    let _told = teller.tell(&monitor(config, kind).await);
    for step in directories::make_all(config, backends::section(config, kind), account) {
        let _told = teller.tell(&step);
    }
    let _told = teller.tell(&runs(program, account));
    if kind == BackendKind::Firecracker {
        let _told = teller.tell(&devices::tun_for(account));
        if !account.is_root() {
            let _told = teller.tell(&capability::grant(program, account));
        }
        let _told = teller.tell(&network(&backends::host_network(config)).await);
    }
    teller.is_good()
}

/// Takes back what [`run`] made outside of directories; returns whether nothing of it is left. Sheds, images and the user's
/// groups stay.
pub async fn remove(config: &Config, program: &Utf8Path, tell: &mut dyn FnMut(&Step)) -> bool {
    let mut teller = Teller::new(tell);
    let _told = teller.tell(&no_network(&backends::host_network(config)).await);
    for step in
        [capability::take_away(program), modules::forget(Utf8Path::new(modules::FILE))].into_iter().flatten()
    {
        let _told = teller.tell(&step);
    }
    teller.is_good()
}

/// Looks at the program that runs the machines. It is not Shed's to install.
async fn monitor(config: &Config, kind: BackendKind) -> Step {
    const ITEM: &str = "machine monitor";
    let backend = match backends::make(config, kind, &[]) {
        Ok(backend) => backend,
        Err(error) => return Step::failed(ITEM, error_chain(&error)),
    };
    match backend.check_host().await {
        Ok(found) => Step::was_so(ITEM, found.vmm),
        Err(error) => Step::failed(ITEM, error_chain(&error)),
    }
}

/// Looks whether the user may run this very program.
fn runs(program: &Utf8Path, account: &Account) -> Step {
    const ITEM: &str = "shed-server";
    let hint =
        format!("put it where {} may run it, like /usr/local/bin, and run setup from there", account.name);
    match account.act(|| access(program.as_std_path(), Access::EXEC_OK)) {
        Ok(Ok(())) => Step::was_so(ITEM, format!("{} may run {program}", account.name)),
        Ok(Err(error)) => {
            Step::failed(ITEM, format!("{} may not run {program}: {error}", account.name)).hint(hint)
        }
        Err(error) => Step::failed(ITEM, not_as(account, &error)),
    }
}

const NETWORK: &str = "network";

async fn network(host: &Host) -> Step {
    let settings = host.settings();
    let text = format!("bridge {} with {}, and its rules", settings.bridge(), settings.network());
    // A server that runs has rules for the ports it really has, so what is whole is left alone.
    match host.state().await {
        Ok(HostState::Ready) => return Step::was_so(NETWORK, text),
        Ok(HostState::Absent | HostState::Partial) | Err(_) => {}
    }
    match host.ensure_bridge().await {
        Ok(()) => Step::done(NETWORK, text),
        Err(error) => Step::failed(NETWORK, error_chain(&error)),
    }
}

async fn no_network(host: &Host) -> Step {
    let bridge = host.settings().bridge();
    if let Ok(HostState::Absent) = host.state().await {
        return Step::was_so(NETWORK, format!("there is no bridge {bridge} of this server"));
    }
    match host.list().await {
        Ok(taps) => {
            let running: Vec<&str> =
                taps.iter().filter(|tap| tap.in_use).map(|tap| tap.shed.as_str()).collect();
            if !running.is_empty() {
                let text = format!("machines run on the bridge {bridge}: {}", running.join(", "));
                return Step::failed(NETWORK, text).hint("stop them first (`shed stop NAME`)");
            }
        }
        Err(error) => return Step::failed(NETWORK, error_chain(&error)),
    }
    match host.remove_all().await {
        Ok(()) => Step::done(NETWORK, format!("the bridge {bridge} and its rules are removed"))
            .hint("forwarding of IPv4 stays on: others may rely on it"),
        Err(error) => Step::failed(NETWORK, error_chain(&error)),
    }
}
