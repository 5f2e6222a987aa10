//! `shed-server install` and `uninstall` on macOS: the server as an agent of launchd, which the user's login starts.
//!
//! `main` calls [`install`] and [`uninstall`] there. Other systems compile it for its tests only, which they can run: which
//! program `launchctl` is, and whose home it is, come from the caller. The list is written whole, once, and one that somebody else wrote is left alone.
//! Sheds, images and machines that run are none of this room's business.

mod launchctl;
mod plan;
mod plist;

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::error_chain;

pub use self::{
    launchctl::Launchctl,
    plist::{Agent, BadPathError, LABEL},
};
use self::{
    launchctl::LaunchctlError,
    plan::{Plan, Status},
};
use crate::{
    owned_file::{OwnedFile, There},
    step::{Step, Teller},
};

const SERVICE: &str = "service";
const FILE: &str = "agent";

/// Where the agent's list and its log are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    list: Utf8PathBuf,
    log: Utf8PathBuf,
}

/// How to install.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Start it, too.
    pub now: bool,
    /// Take the place of a list that somebody else wrote.
    pub force: bool,
}

impl Place {
    /// Returns where they are for the user with this home (launchd.plist(5), FILES).
    #[must_use]
    pub fn below(home: &Utf8Path) -> Self {
        let library = home.join("Library");
        Self {
            list: library.join("LaunchAgents").join(format!("{LABEL}.plist")),
            log: library.join("Logs/shed-server.log"),
        }
    }

    /// Where the log goes.
    #[must_use]
    pub fn log(&self) -> &Utf8Path {
        &self.log
    }

    fn file(&self) -> OwnedFile<'_> {
        OwnedFile { path: &self.list, item: FILE, is_ours: plist::is_ours }
    }
}

/// Writes the list and has launchd know it, and tells each step; returns whether all went well.
///
/// An agent that runs by an older list is unloaded before the new list is written: whoever is killed in between leaves one that
/// the next install loads.
pub fn install(
    text: &str,
    place: &Place,
    launchctl: &Launchctl,
    how: How,
    tell: &mut dyn FnMut(&Step),
) -> bool {
    let mut teller = Teller::new(tell);
    let failed = |error: &LaunchctlError| failed(error, launchctl, place);
    let is_new = !matches!(place.file().look(), Ok(There::Ours(there)) if there == text);
    let status = match launchctl.status() {
        Ok(status) => status,
        // The list is for the next login, whatever launchd says now.
        Err(LaunchctlError::Failed { .. }) if !how.now => Status::Absent,
        Err(error) => return teller.tell(&failed(&error)),
    };
    let plan = plan::plan(how.now, is_new, status);
    if plan == Plan::Reload {
        if let Err(step) = place.file().replaceable(how.force) {
            return teller.tell(&step);
        }
        if let Err(error) = launchctl.unload() {
            return teller.tell(&failed(&error));
        }
    }
    if !teller.tell(&place.file().write(text, how.force)) {
        return false;
    }
    if let Some(logs) = place.log.parent()
        && let Err(error) = fs::create_dir_all(logs)
    {
        return teller
            .tell(&Step::failed(FILE, format!("the log's directory {logs} could not be made: {error}")));
    }
    if let Err(error) = launchctl.enable() {
        return teller.tell(&failed(&error));
    }
    let told = |result: Result<(), LaunchctlError>, text: &str| match result {
        Ok(()) => Step::done(SERVICE, text).hint(format!("its log is {}", place.log)),
        Err(error) => failed(&error),
    };
    let step = match plan {
        Plan::Load => told(launchctl.load(&place.list), "it is loaded, and started at each login"),
        Plan::Reload => told(launchctl.load(&place.list), "it is started anew; machines ran on"),
        Plan::Start => told(launchctl.start(), "it is started"),
        Plan::Runs => Step::was_so(SERVICE, "it runs, and is started at each login"),
        Plan::OlderStays => {
            let hint =
                format!("`{}`, then `shed-server install --now`; machines run on", launchctl.unload_line());
            Step::was_so(SERVICE, "launchd has it as it was before").hint(hint)
        }
        Plan::Waits => Step::was_so(SERVICE, "it is loaded, and does not run").hint(launchctl.start_line()),
        Plan::NextLogin => Step::was_so(SERVICE, "it is started at the next login")
            .hint("`shed-server install --now` starts it at once"),
    };
    let _told = teller.tell(&step);
    teller.is_good()
}

/// Unloads the agent and removes its list, and tells each step; returns whether nothing of it is left.
pub fn uninstall(place: &Place, launchctl: &Launchctl, force: bool, tell: &mut dyn FnMut(&Step)) -> bool {
    let mut teller = Teller::new(tell);
    let removable = place.file().removable(force);
    if let Err(step) = &removable
        && !teller.tell(step)
    {
        return false;
    }
    // Also without a list: one that was removed by hand leaves its agent loaded.
    let step = match launchctl.status() {
        Ok(Status::Absent) => Step::was_so(SERVICE, "it does not run"),
        Ok(Status::Loaded | Status::Running) => match launchctl.unload() {
            Ok(()) => Step::done(SERVICE, "it is stopped and unloaded; machines run on"),
            Err(error) => failed(&error, launchctl, place),
        },
        Err(error) => failed(&error, launchctl, place),
    };
    if teller.tell(&step) && removable.is_ok() {
        let _told = teller.tell(&place.file().remove());
    }
    teller.is_good()
}

fn failed(error: &LaunchctlError, launchctl: &Launchctl, place: &Place) -> Step {
    let hint = format!(
        "`{}` and {} say more; over SSH there is an agent only while the user is logged in at the Mac's screen",
        launchctl.print_line(),
        place.log
    );
    Step::failed(SERVICE, error_chain(error)).hint(hint)
}

#[cfg(test)]
mod tests;
