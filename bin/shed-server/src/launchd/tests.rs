//! `install` and `uninstall` against a program in launchctl's place, which has a file for what is loaded, enabled and runs.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use super::*;
use crate::step::Outcome;

/// Knows what launchd knows, in files beside it, and writes down what it is told. `fail-VERB` makes a verb fail, `stays` keeps
/// what is to be unloaded.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
verb=$1; shift
[ "$verb" = print ] || echo "$verb $*" >> told
if [ -e "fail-$verb" ]; then cat "fail-$verb" >&2; exit 5; fi
case $verb in
  print)
    [ "$*" = gui/4711/dev.shed.server ] || exit 64
    if [ ! -e loaded ]; then
      echo 'Bad request.' >&2
      echo 'Could not find service "dev.shed.server" in domain for user gui: 4711' >&2
      exit 113
    fi
    printf 'gui/4711/dev.shed.server = {\n\tactive count = 1\n\tstate = running\n'
    if [ -e runs ]; then printf '\tpid = 99\n'; fi
    printf '\tenvironment = {\n\t\tPATH => /bin\n\t}\n}\n' ;;
  bootstrap) [ ! -e loaded ] || { echo 'Bootstrap failed: 5: Input/output error' >&2; exit 5; }
    cp "$2" loaded && touch runs ;;
  bootout) [ -e stays ] || rm -f loaded runs; echo 'Boot-out failed: 36: Operation now in progress' >&2; exit 36 ;;
  kickstart) touch runs ;;
  enable) ;;
  *) exit 64 ;;
esac
"#;

struct Mac {
    _dir: tempfile::TempDir,
    dir: Utf8PathBuf,
    place: Place,
    launchctl: Launchctl,
}

impl Mac {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().to_owned();
        let program = path.join("launchctl");
        fs::write(&program, SCRIPT).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place::below(&path.join("Users/a & b"));
        let launchctl = Launchctl::new(program, 4711).patience(Duration::from_millis(500));
        Self { _dir: dir, dir: path, place, launchctl }
    }

    fn text(&self, program: &str) -> String {
        let agent = Agent {
            program: program.into(),
            config: None,
            log: self.place.log().to_owned(),
            data_home: None,
        };
        agent.text().unwrap()
    }

    fn install(&self, text: &str, now: bool) -> (bool, Vec<Step>) {
        self.install_by(text, How { now, force: false })
    }

    fn install_by(&self, text: &str, how: How) -> (bool, Vec<Step>) {
        let mut told = Vec::new();
        let good = install(text, &self.place, &self.launchctl, how, &mut |step| told.push(step.clone()));
        (good, told)
    }

    fn uninstall(&self, force: bool) -> (bool, Vec<Step>) {
        let mut told = Vec::new();
        let good = uninstall(&self.place, &self.launchctl, force, &mut |step| told.push(step.clone()));
        (good, told)
    }

    /// What launchctl was told since the last time, without where it lies.
    fn commands(&self) -> String {
        let told = fs::read_to_string(self.dir.join("told")).unwrap_or_default();
        fs::write(self.dir.join("told"), "").unwrap();
        told.replace(self.dir.as_str(), "")
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    fn make(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }
}

#[test]
fn an_install_now_loads_the_agent_and_a_second_one_changes_nothing() {
    let mac = Mac::new();
    let text = mac.text("/opt/homebrew/bin/shed-server");
    let (good, told) = mac.install(&text, true);
    assert!(good, "{told:?}");
    assert_eq!(
        mac.commands(),
        "enable gui/4711/dev.shed.server\n\
         bootstrap gui/4711 /Users/a & b/Library/LaunchAgents/dev.shed.server.plist\n"
    );
    assert_eq!(fs::read_to_string(mac.dir.join("loaded")).unwrap(), text);
    assert!(mac.place.log().parent().unwrap().is_dir(), "launchd makes the log's file, not its directory");

    let (good, told) = mac.install(&text, true);
    assert!(good && told.iter().all(|step| step.outcome == Outcome::WasSo), "{told:?}");
    assert_eq!(mac.commands(), "enable gui/4711/dev.shed.server\n");
}

#[test]
fn without_now_nothing_is_started_and_the_next_login_does_it() {
    let mac = Mac::new();
    let (good, told) = mac.install(&mac.text("/bin/a"), false);
    assert!(good && told.last().unwrap().text.contains("next login"), "{told:?}");
    assert_eq!(mac.commands(), "enable gui/4711/dev.shed.server\n");
    // Nobody is logged in at the screen: that hinders a start, and not the next login.
    mac.make("fail-print", "Domain does not support specified action\n");
    assert!(mac.install(&mac.text("/bin/a"), false).0);
    let (good, told) = mac.install(&mac.text("/bin/a"), true);
    assert!(!good && told[0].to_string().contains("screen"), "{told:?}");
}

#[test]
fn a_changed_list_interrupts_only_who_asked_for_now() {
    let mac = Mac::new();
    assert!(mac.install(&mac.text("/bin/a"), true).0);
    mac.commands();
    let (good, told) = mac.install(&mac.text("/bin/b"), false);
    assert!(
        good && told.last().unwrap().to_string().contains("launchctl bootout gui/4711/dev.shed.server"),
        "{told:?}"
    );
    assert!(!mac.commands().contains("boot"));

    let (good, told) = mac.install(&mac.text("/bin/c"), true);
    assert!(good, "{told:?}");
    let commands = mac.commands();
    let verbs: Vec<&str> = commands.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(verbs, ["bootout", "enable", "bootstrap"]);
    assert_eq!(fs::read_to_string(mac.dir.join("loaded")).unwrap(), mac.text("/bin/c"));
}

#[test]
fn an_agent_that_has_ended_is_started_and_not_loaded_twice() {
    let mac = Mac::new();
    let text = mac.text("/bin/a");
    assert!(mac.install(&text, true).0);
    fs::remove_file(mac.dir.join("runs")).unwrap();
    let (good, told) = mac.install(&text, false);
    let hint = told.last().unwrap().hint.clone();
    assert!(good && hint.as_deref() == Some("launchctl kickstart gui/4711/dev.shed.server"), "{told:?}");
    assert!(mac.install(&text, true).0 && mac.has("runs"));
}

#[test]
fn a_launchd_that_refuses_is_quoted_and_the_next_install_goes_on() {
    let mac = Mac::new();
    let text = mac.text("/bin/a");
    mac.make("fail-bootstrap", "Bootstrap failed: 125: Domain does not support specified action\n");
    let (good, told) = mac.install(&text, true);
    let last = told.last().unwrap();
    assert!(!good && last.outcome == Outcome::Failed && last.text.contains("failed: 125"), "{told:?}");
    assert!(last.hint.as_ref().unwrap().contains("launchctl print gui/4711/dev.shed.server"));
    fs::remove_file(mac.dir.join("fail-bootstrap")).unwrap();
    assert!(mac.install(&text, true).0 && mac.has("loaded"));
    // What stays although it was told to end is no success, and the older list is still there.
    mac.make("stays", "");
    let (good, told) = mac.install(&mac.text("/bin/b"), true);
    assert!(!good && told[0].text.contains("in progress"), "{told:?}");
    assert_eq!(fs::read_to_string(&mac.place.list).unwrap(), text);
}

#[test]
fn an_uninstall_unloads_and_removes_and_leaves_the_log() {
    let mac = Mac::new();
    assert!(mac.install(&mac.text("/bin/a"), true).0);
    fs::write(mac.place.log(), "lines\n").unwrap();
    let (good, told) = mac.uninstall(false);
    assert!(good && told.iter().all(|step| step.outcome == Outcome::Done), "{told:?}");
    assert!(!mac.has("loaded") && !mac.place.list.exists() && mac.place.log().exists());
    let (good, told) = mac.uninstall(false);
    assert!(good && told.iter().all(|step| step.outcome == Outcome::WasSo), "{told:?}");
}

#[test]
fn an_agent_whose_list_was_removed_by_hand_is_unloaded() {
    let mac = Mac::new();
    assert!(mac.install(&mac.text("/bin/a"), true).0);
    fs::remove_file(&mac.place.list).unwrap();
    assert!(mac.uninstall(false).0 && !mac.has("loaded"));
}

#[test]
fn somebody_elses_list_is_left_alone_and_its_agent_runs_on() {
    let mac = Mac::new();
    let mine = "<?xml version=\"1.0\"?>\n<!-- mine -->\n<plist/>\n";
    fs::create_dir_all(mac.place.list.parent().unwrap()).unwrap();
    fs::write(&mac.place.list, mine).unwrap();
    mac.make("loaded", mine);
    mac.make("runs", "");
    for now in [true, false] {
        let (good, told) = mac.install(&mac.text("/bin/a"), now);
        assert!(!good && told.last().unwrap().to_string().contains("--force"), "{told:?}");
    }
    assert!(!mac.uninstall(false).0);
    assert!(mac.has("loaded") && mac.commands().is_empty());
    assert_eq!(fs::read_to_string(&mac.place.list).unwrap(), mine);
    let (good, told) = mac.install_by(&mac.text("/bin/a"), How { now: true, force: true });
    assert!(good, "{told:?}");
    assert!(mac.uninstall(false).0 && !mac.place.list.exists());
}

#[test]
fn without_launchctl_it_is_said_and_nothing_is_written() {
    let mac = Mac::new();
    let launchctl = Launchctl::new(mac.dir.join("none"), 4711);
    let mut told = Vec::new();
    let how = How { now: false, force: false };
    assert!(
        !install(&mac.text("/bin/a"), &mac.place, &launchctl, how, &mut |step| told.push(step.to_string()))
    );
    assert!(told[0].contains("is this a Mac?"), "{told:?}");
    assert!(!mac.place.list.exists());
}
