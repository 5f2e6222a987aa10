//! `shed-server install` and `uninstall`: the server as a service of systemd, the system's when root asks, else the user's own.
//!
//! `main` calls [`install`] and [`uninstall`]. The unit is a function of what was asked for ([`unit`]); it is written whole, once,
//! and one that somebody else wrote is left alone. Sheds, images and machines that run are none of this room's business.

mod quote;
mod systemctl;
mod unit;

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::error_chain;

use self::systemctl::{Systemctl, SystemctlError};
pub use self::unit::{BadProgramError, Manager, UNIT, Unit};
use crate::{
    account::{Account, not_as},
    owned_file::OwnedFile,
    step::{Outcome, Step, Teller},
};

/// Users whose manager runs without them being logged in have a file here (loginctl(1), enable-linger).
const LINGER: &str = "/var/lib/systemd/linger";

const SERVICE: &str = "service";
const FILE: &str = "unit";

/// Where a unit is, and whose.
#[derive(Debug, Clone)]
pub struct Place {
    manager: Manager,
    path: Utf8PathBuf,
}

impl Place {
    /// Returns where the unit of this user's server is: with the system's for root, who can run it as anybody.
    #[must_use]
    pub fn of_process(account: &Account) -> Self {
        let manager = if rustix::process::geteuid().is_root() { Manager::System } else { Manager::User };
        let config_home = std::env::var("XDG_CONFIG_HOME").ok().map(Utf8PathBuf::from);
        let config_home = config_home.filter(|path| path.is_absolute());
        Self { manager, path: unit::path(manager, &account.home, config_home.as_deref()) }
    }

    /// Whose manager runs it.
    #[must_use]
    pub const fn manager(&self) -> Manager {
        self.manager
    }

    fn file(&self) -> OwnedFile<'_> {
        OwnedFile { path: &self.path, item: FILE, is_ours: unit::is_ours }
    }
}

/// How to install.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Start it, too.
    pub now: bool,
    /// Take the place of a unit that somebody else wrote.
    pub force: bool,
}

/// Writes and enables the unit, and tells each step; returns whether all went well.
pub fn install(
    unit: &Unit,
    text: &str,
    place: &Place,
    account: &Account,
    how: How,
    tell: &mut dyn FnMut(&Step),
) -> bool {
    let mut teller = Teller::new(tell);
    let systemctl = Systemctl(place.manager);
    for path in [Some(&unit.program), unit.config.as_ref()].into_iter().flatten() {
        if let Some(step) = unreadable(path, account) {
            return teller.tell(&step);
        }
    }
    let step = place.file().write(text, how.force);
    let is_new = step.outcome == Outcome::Done;
    if !teller.tell(&step) {
        return false;
    }
    // Whoever was killed before telling the manager has left that to us.
    let is_unknown = is_new || systemctl.property("NeedDaemonReload").is_ok_and(|value| value == "yes");
    if is_unknown && !teller.tell_failure(FILE, systemctl.tell(&["daemon-reload"]), systemctl) {
        return false;
    }
    let _told = teller.tell(&done_unless(
        systemctl,
        ("is-enabled", "enabled"),
        &["enable", UNIT],
        ("it is started at each boot", boot_hint(place.manager, account)),
    ));
    let active = systemctl.says("is-active", "active").unwrap_or(false);
    match (how.now, active, is_new) {
        (true, true, true) => {
            let step = changed(systemctl, &["restart", UNIT], "it is started anew; machines ran on");
            let _told = teller.tell(&step);
        }
        (true, false, _) => {
            let _told = teller.tell(&changed(systemctl, &["start", UNIT], "it is started"));
        }
        (false, true, true) => {
            let hint = format!("{}; machines run on", systemctl.line(&["restart", UNIT]));
            let _told =
                teller.tell(&Step::was_so(SERVICE, "it runs by the unit as it was before").hint(hint));
        }
        (_, true, false) => {
            let _told = teller.tell(&Step::was_so(SERVICE, "it runs"));
        }
        (false, false, _) => {
            let hint = systemctl.line(&["start", UNIT]);
            let _told = teller.tell(&Step::was_so(SERVICE, "it does not run").hint(hint));
        }
    }
    teller.is_good()
}

/// Stops and disables the service and removes its unit, and tells each step; returns whether nothing of it is left.
pub fn uninstall(place: &Place, force: bool, tell: &mut dyn FnMut(&Step)) -> bool {
    let mut teller = Teller::new(tell);
    let systemctl = Systemctl(place.manager);
    if let Err(step) = place.file().removable(force) {
        return teller.tell(&step);
    }
    let stopped = systemctl.says("is-active", "inactive").unwrap_or(false);
    if stopped {
        let _told = teller.tell(&Step::was_so(SERVICE, "it does not run"));
    } else if !teller.tell(&changed(systemctl, &["stop", UNIT], "it is stopped; machines run on")) {
        return false;
    }
    if !teller.tell(&changed(systemctl, &["disable", UNIT], "it is started at no boot any more")) {
        return false;
    }
    if teller.tell(&place.file().remove()) {
        let _told = teller.tell_failure(FILE, systemctl.tell(&["daemon-reload"]), systemctl);
        // A service that had failed is remembered until somebody looks; whether it had does not matter.
        let _not_failed = systemctl.tell(&["reset-failed", UNIT]);
    }
    teller.is_good()
}

impl Teller<'_> {
    /// Tells a failure, and nothing else; returns whether there was none.
    fn tell_failure(
        &mut self,
        item: &'static str,
        result: Result<(), SystemctlError>,
        by: Systemctl,
    ) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => self.tell(&failed(item, &error, by)),
        }
    }
}

/// Does something that is told as done, or as failed.
fn changed(systemctl: Systemctl, verbs: &[&str], text: &str) -> Step {
    match systemctl.tell(verbs) {
        Ok(()) => Step::done(SERVICE, text),
        Err(error) => failed(SERVICE, &error, systemctl),
    }
}

fn done_unless(
    systemctl: Systemctl,
    (asked, wanted): (&str, &str),
    verbs: &[&str],
    (text, hint): (&str, Option<String>),
) -> Step {
    let step = match systemctl.says(asked, wanted) {
        Ok(true) => Step::was_so(SERVICE, text),
        Ok(false) => changed(systemctl, verbs, text),
        Err(error) => return failed(SERVICE, &error, systemctl),
    };
    match (step.outcome, hint) {
        (Outcome::Done | Outcome::WasSo, Some(hint)) => step.hint(hint),
        (Outcome::Done | Outcome::WasSo, None) | (Outcome::Failed, _) => step,
    }
}

fn failed(item: &'static str, error: &SystemctlError, systemctl: Systemctl) -> Step {
    let hint = match systemctl.0 {
        Manager::System => "`journalctl -u shed-server` and `shed-server doctor` say more".to_owned(),
        Manager::User => {
            "`journalctl --user -u shed-server` says more; over `su` or `sudo` a user has no manager, so log in as the user"
                .to_owned()
        }
    };
    Step::failed(item, error_chain(error)).hint(hint)
}

/// A user's manager ends with the user's last session, and everything with it, machines included.
fn boot_hint(manager: Manager, account: &Account) -> Option<String> {
    let lingers = || fs::exists(Utf8Path::new(LINGER).join(&account.name)).unwrap_or(false);
    (manager == Manager::User && !lingers()).then(|| {
        format!(
            "`loginctl enable-linger {}`: otherwise it begins with your first login, and ends with your last one, and machines with it",
            account.name
        )
    })
}

/// Says so when the user cannot read what the service needs.
fn unreadable(path: &Utf8Path, account: &Account) -> Option<Step> {
    let problem = match account.act(|| fs::File::open(path).map(drop)) {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => format!("{} may not read {path}: {error}", account.name),
        Err(error) => not_as(account, &error),
    };
    Some(Step::failed(FILE, problem).hint(format!("put it where {} may read it", account.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &tempfile::TempDir) -> Place {
        let path = Utf8Path::from_path(dir.path()).unwrap().join("systemd/user").join(UNIT);
        Place { manager: Manager::User, path }
    }

    #[test]
    fn a_unit_is_known_by_its_first_line_and_somebody_elses_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir);
        let text = format!("{}\none\n", unit::MARK);
        assert_eq!(place.file().write(&text, false).outcome, Outcome::Done);
        assert_eq!(place.file().write(&text, false).outcome, Outcome::WasSo);
        fs::write(&place.path, format!("# mine\n{text}")).unwrap();
        assert_eq!(place.file().write(&text, false).outcome, Outcome::Failed);
        assert!(!uninstall(&place, false, &mut |_step| {}));
        assert!(fs::read_to_string(&place.path).unwrap().starts_with("# mine"));
    }

    #[test]
    fn where_there_is_none_there_is_nothing_to_uninstall() {
        let dir = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        assert!(uninstall(&place(&dir), false, &mut |step| told.push(step.outcome)));
        assert_eq!(told, [Outcome::WasSo]);
    }
}
