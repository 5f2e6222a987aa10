//! tmux in the guest of a fake machine: enough of it for who lists and ends sessions, and the ways in which a guest
//! answers badly.
//!
//! Messages, exit codes and the treatment of names are those of tmux 3.3a. It makes no sessions and attaches to none;
//! a test puts them there.

use std::collections::BTreeMap;

use bytes::Bytes;
use shed_protocol::{ExecRequest, ExitStatus};
use shed_types::ShedName;

use super::{FakeWorld, Host, Machine};

/// What the guests of a shed have for tmux; the default is one without a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeTmux {
    /// It is not installed.
    Absent,
    /// It works and has these sessions, which end with the machine. Without any, no tmux server runs.
    Sessions(Vec<FakeSession>),
    /// It prints this and ends with this code, whatever it is asked.
    Prints {
        /// To stdout.
        stdout: Vec<u8>,
        /// To stderr.
        stderr: Vec<u8>,
        /// Exit code.
        code: i32,
    },
    /// It never ends by itself.
    Hangs,
    /// The agent hangs up before it has said how it ended.
    HangsUp,
}

/// A session in a fake guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeSession {
    /// Its name, as tmux has it.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Clients that show it.
    pub clients: u32,
    /// Windows in it.
    pub windows: u32,
}

/// What becomes of a command.
pub(super) enum Reply {
    /// It printed this and ended.
    Printed { stdout: Bytes, stderr: Bytes, status: ExitStatus },
    /// It runs until it is killed.
    Never,
    /// The stream ends at once.
    HangsUp,
}

impl Default for FakeTmux {
    fn default() -> Self {
        Self::Sessions(Vec::new())
    }
}

impl FakeWorld {
    /// Says what tmux is in the guests of `shed`, also in one that runs.
    pub fn set_tmux(&self, shed: &ShedName, tmux: FakeTmux) {
        self.host().tmux.insert(shed.clone(), tmux);
    }

    /// Returns what tmux is in the guests of `shed`, with the sessions that are left.
    #[must_use]
    pub fn tmux(&self, shed: &ShedName) -> FakeTmux {
        self.host().tmux.get(shed).cloned().unwrap_or_default()
    }

    /// Returns how many commands run in the guest of `shed` at the moment.
    #[must_use]
    pub fn commands(&self, shed: &ShedName) -> usize {
        self.host().commands.get(shed).copied().unwrap_or(0)
    }
}

/// Forgets the sessions of a machine that has ended.
pub(super) fn end_with_machine(host: &mut Host, shed: &ShedName) {
    match host.tmux.get_mut(shed) {
        Some(FakeTmux::Sessions(sessions)) => sessions.clear(),
        Some(FakeTmux::Absent | FakeTmux::Prints { .. } | FakeTmux::Hangs | FakeTmux::HangsUp) | None => {}
    }
}

/// Runs `tmux ARGS…`.
pub(super) fn run(machine: &Machine, request: &ExecRequest, args: &[String]) -> Reply {
    let mut host = machine.world.host();
    let sessions = match host.tmux.entry(machine.spec.shed.clone()).or_default() {
        FakeTmux::Absent => {
            let status = ExitStatus::failed(127, "tmux: command not found in the guest");
            return Reply::Printed { stdout: Bytes::new(), stderr: Bytes::new(), status };
        }
        FakeTmux::Prints { stdout, stderr, code } => {
            let (stdout, stderr) = (stdout.clone().into(), stderr.clone().into());
            return Reply::Printed { stdout, stderr, status: ExitStatus::exited(*code) };
        }
        FakeTmux::Hangs => return Reply::Never,
        FakeTmux::HangsUp => return Reply::HangsUp,
        FakeTmux::Sessions(sessions) => sessions,
    };
    let environment: BTreeMap<&str, &str> =
        request.env.iter().filter_map(|entry| entry.split_once('=')).collect();
    // The socket is found by user and TMUX_TMPDIR: who comes with others finds another server, and here is none.
    let of_user = matches!(request.user.as_str(), "" | "shed");
    let mut nobody = Vec::new();
    let sessions = if of_user && !environment.contains_key("TMUX_TMPDIR") { sessions } else { &mut nobody };
    let (forced, args) = match args.split_first() {
        Some((flag, rest)) if flag == "-u" => (true, rest),
        Some(_) | None => (false, args),
    };
    let utf8 = forced || environment.get("LC_ALL").is_some_and(|locale| locale.ends_with("UTF-8"));
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, stdout, stderr) = match (obey(sessions, &words), utf8) {
        (Ok(stdout), true) => (0, stdout, String::new()),
        (Ok(stdout), false) => (0, stdout.replace(|c: char| !c.is_ascii(), "_"), String::new()),
        (Err(message), _) => (1, String::new(), format!("{message}\n")),
    };
    Reply::Printed { stdout: stdout.into(), stderr: stderr.into(), status: ExitStatus::exited(code) }
}

/// Does what one command says and returns what it prints, or the message with which it fails.
fn obey(sessions: &mut Vec<FakeSession>, words: &[&str]) -> Result<String, String> {
    let no_server = || "no server running on /tmp/tmux-1000/default".to_owned();
    match *words {
        ["list-sessions", "-F", format] if !sessions.is_empty() => {
            sessions.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(sessions.iter().map(|session| session.format(format) + "\n").collect())
        }
        ["kill-session", "-t", target] if !sessions.is_empty() => {
            let name = target.strip_prefix('=').unwrap_or(target);
            let exact = name != target;
            let found = sessions
                .iter()
                .position(|session| session.name == name)
                .or_else(|| sessions.iter().position(|session| !exact && session.name.starts_with(name)));
            let index = found.ok_or_else(|| format!("can't find session: {name}"))?;
            let _ended = sessions.remove(index);
            Ok(String::new())
        }
        ["list-sessions", "-F", _] | ["kill-session", "-t", _] => Err(no_server()),
        [] => Err("open terminal failed: not a terminal".to_owned()),
        [command, ..] => Err(format!("unknown command: {command}")),
    }
}

impl FakeSession {
    fn format(&self, format: &str) -> String {
        format
            .replace("#{session_created}", &self.created.to_string())
            .replace("#{session_attached}", &self.clients.to_string())
            .replace("#{session_windows}", &self.windows.to_string())
            .replace("#{session_name}", &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(names: &[&str]) -> Vec<FakeSession> {
        let session = |name: &&str| FakeSession { name: (*name).into(), created: 7, clients: 2, windows: 3 };
        names.iter().map(session).collect()
    }

    #[test]
    fn sessions_are_listed_in_any_format_and_ended_by_name_or_prefix() {
        let mut two = sessions(&["main", "build"]);
        let format = "#{session_windows} #{session_name} #{session_attached}@#{session_created}";
        assert_eq!(obey(&mut two, &["list-sessions", "-F", format]).unwrap(), "3 build 2@7\n3 main 2@7\n");
        let missing = obey(&mut two, &["kill-session", "-t", "=mai"]);
        assert_eq!(missing, Err("can't find session: mai".to_owned()));
        assert_eq!(obey(&mut two, &["kill-session", "-t", "mai"]), Ok(String::new()));
        assert_eq!(obey(&mut two, &["kill-session", "-t", "=build"]), Ok(String::new()));
        assert_eq!(two, []);
        for command in [["kill-session", "-t", "=build"], ["list-sessions", "-F", format]] {
            assert!(obey(&mut two, &command).unwrap_err().starts_with("no server running"));
        }
        assert_eq!(obey(&mut two, &["dance"]), Err("unknown command: dance".to_owned()));
    }
}
