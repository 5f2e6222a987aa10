//! Starts and stops what extensions need, and looks how it is: with systemd where that is the init, else by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use shed_protocol::ExtensionInGuest;
use tokio::{io::AsyncReadExt, time::timeout};

use super::{manifests::Unit, supervisor::Supervisor};
use crate::{journal, log};

/// The socket of a running systemd below the root. The directory beside it is there in every shed: shed-init writes units
/// before it knows what will read them.
const SYSTEMD: &str = "run/systemd/private";

/// How long enabling and disabling may take (spec J.5).
const CHANGE: Duration = Duration::from_secs(30);

/// How long a look may take (spec J.5).
const LOOK: Duration = Duration::from_secs(10);

/// Most that is read of what systemctl prints, in bytes.
const MAX_OUTPUT: u64 = 64 << 10;

/// What runs units.
#[derive(Debug)]
pub(super) enum Units {
    /// The image's systemd.
    Systemd(Systemctl),
    /// Nobody but the agent, which knows Shed's own.
    Agent(Supervisor),
}

impl Units {
    /// Looks what runs units below this root.
    pub(super) fn of(root: &Path, supervisor: Supervisor) -> Self {
        match journal::find("systemctl") {
            Some(program) if root.join(SYSTEMD).exists() => Self::Systemd(Systemctl { program }),
            Some(_) | None => Self::Agent(supervisor),
        }
    }

    /// Starts units, which then run for as long as the machine does.
    pub(super) async fn enable(&mut self, units: &BTreeSet<Unit>) -> io::Result<()> {
        match self {
            // For this boot only: the next one's server may say something else. Nobody waits until they are up: that a boot
            // comes to them may take longer than any limit, and the looks tell.
            Self::Systemd(systemctl) => {
                systemctl.change(&["enable", "--runtime", "--now", "--no-block"], units).await
            }
            Self::Agent(supervisor) => supervisor.start(units),
        }
    }

    /// Stops units.
    pub(super) async fn disable(&mut self, units: &BTreeSet<Unit>) -> io::Result<()> {
        match self {
            Self::Systemd(systemctl) => {
                systemctl.change(&["disable", "--runtime", "--now", "--no-block"], units).await
            }
            Self::Agent(supervisor) => {
                supervisor.stop(units);
                Ok(())
            }
        }
    }

    /// Looks how units are.
    pub(super) async fn look(
        &mut self,
        units: &BTreeSet<Unit>,
    ) -> io::Result<BTreeMap<Unit, ExtensionInGuest>> {
        match self {
            Self::Systemd(systemctl) => systemctl.look(units).await,
            Self::Agent(supervisor) => Ok(supervisor.look(units)),
        }
    }
}

/// The image's systemctl.
#[derive(Debug)]
pub(super) struct Systemctl {
    pub(super) program: PathBuf,
}

impl Systemctl {
    async fn change(&self, how: &[&str], units: &BTreeSet<Unit>) -> io::Result<()> {
        if units.is_empty() {
            return Ok(());
        }
        // One by one: a unit that does not exist would keep the others from being changed.
        let mut first_error = None;
        for unit in units {
            let arguments: Vec<_> = how.iter().copied().chain(["--", unit.as_str()]).collect();
            match self.run(&arguments, CHANGE).await {
                Ok(done) if done.success => {}
                Ok(done) => {
                    let error = format!("systemctl {} {unit}: {}", how[0], last_line(&done.errors));
                    first_error.get_or_insert(io::Error::other(error));
                }
                Err(error) => return Err(error),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn look(&self, units: &BTreeSet<Unit>) -> io::Result<BTreeMap<Unit, ExtensionInGuest>> {
        if units.is_empty() {
            return Ok(BTreeMap::new());
        }
        let arguments: Vec<_> =
            ["is-active", "--"].into_iter().chain(units.iter().map(Unit::as_str)).collect();
        let printed = self.run(&arguments, LOOK).await?.output;
        let states: Vec<_> = printed.lines().map(state).collect();
        if states.len() != units.len() {
            return Err(io::Error::other(format!("systemctl is-active: {}", last_line(&printed))));
        }
        Ok(units.iter().cloned().zip(states).collect())
    }

    async fn run(&self, arguments: &[&str], limit: Duration) -> io::Result<Done> {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut child = journal::spawn(&self.program, &arguments)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read = async {
            let (mut output, mut errors) = (Vec::new(), Vec::new());
            let out = async {
                match stdout {
                    Some(pipe) => pipe.take(MAX_OUTPUT).read_to_end(&mut output).await,
                    None => Ok(0),
                }
            };
            let err = async {
                match stderr {
                    Some(pipe) => pipe.take(MAX_OUTPUT).read_to_end(&mut errors).await,
                    None => Ok(0),
                }
            };
            let (out, err) = tokio::join!(out, err);
            out.and(err)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let success = child.wait().await?.success();
            Ok(Done { success, output: text(&output), errors: text(&errors) })
        };
        timeout(limit, read).await.map_err(|_elapsed| {
            io::Error::new(io::ErrorKind::TimedOut, format!("systemctl took more than {} s", limit.as_secs()))
        })?
    }
}

/// A systemctl that has ended.
struct Done {
    success: bool,
    output: String,
    errors: String,
}

/// The words of `systemctl is-active` (systemctl(1)).
fn state(word: &str) -> ExtensionInGuest {
    match word.trim() {
        "active" | "reloading" | "refreshing" => ExtensionInGuest::Running,
        "failed" => ExtensionInGuest::Failed,
        _ => ExtensionInGuest::Stopped,
    }
}

fn last_line(text: &str) -> String {
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .chars()
        .take(200)
        .collect()
}

/// Notes what failed; the next look tells how it is.
pub(super) fn note(result: &io::Result<()>) -> bool {
    if let Err(error) = result {
        log::info(&format!("extensions: {error}"));
    }
    result.is_ok()
}
