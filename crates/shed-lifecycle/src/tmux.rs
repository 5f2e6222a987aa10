//! What tmux in a guest is asked, and what its answers mean. No I/O.
//!
//! `sessions` runs the commands made here and hands what came back in again. The guest is not trusted: its numbers
//! may be out of range, its names anything, and its list too long.

use std::time::Duration;

use jiff::Timestamp;
use shed_protocol::ExitStatus;
use shed_types::SessionName;

use crate::guest_command::{GuestCommand, quote};

/// How long tmux may take, its start included. It answers in milliseconds; a guest under software emulation that
/// boots or swaps may stall for seconds.
const DEADLINE: Duration = Duration::from_secs(15);

/// Most sessions that a list may have: far more than anybody keeps, few enough for one reply.
const MAX_SESSIONS: usize = 1000;

/// One line a session. The name stands first, so that everything else can be read from the right.
const FORMAT: &str = "#{session_name}:#{session_created}:#{session_attached}:#{session_windows}";

/// Exit code of a program that is not there (POSIX sh, 2.8.2).
const NOT_FOUND: i32 = 127;

/// A tmux session in a shed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmuxSession {
    /// Unique in its shed. Not a [`SessionName`]: tmux itself allows far more, spaces for one.
    pub name: String,
    /// When tmux made it, in whole seconds.
    pub created_at: Timestamp,
    /// Whether a terminal shows it.
    pub attached: bool,
    /// Windows in it, at least one.
    pub window_count: u32,
}

/// Why a list of sessions makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSessionsError {
    #[error("line {number} is not NAME:CREATED:ATTACHED:WINDOWS: {line:?}")]
    Line { number: usize, line: String },
    #[error("it has more than {MAX_SESSIONS} lines")]
    TooMany,
}

/// What the end of a tmux command means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It did what was asked.
    Done,
    /// There is nothing to do it with: no session, and mostly no server either.
    NoSessions,
    /// There are sessions, but not the one that was named.
    NoSuchSession,
    /// tmux is not installed or cannot be loaded, in the guest's words.
    NotAvailable(String),
    /// Anything else, in tmux's words.
    Failed(String),
}

/// Returns the command that lists sessions.
pub(crate) fn list() -> GuestCommand {
    command(&["list-sessions", "-F", FORMAT])
}

/// Returns the command that ends a session.
pub(crate) fn kill(session: &SessionName) -> GuestCommand {
    // Without `=` tmux would also take a session whose name only begins like this.
    command(&["kill-session", "-t", &format!("={session}")])
}

/// The rest of the environment is what `shed exec` has, TMUX_TMPDIR of the shed's own files among it, so that the
/// server asked here is the one that the user's `tmux` talks to.
fn command(args: &[&str]) -> GuestCommand {
    // tmux replaces every character that is not ASCII by `_` unless it is told that we read UTF-8.
    let cmd = ["tmux", "-u"].iter().chain(args).map(ToString::to_string).collect();
    GuestCommand { cmd, env: vec!["LC_ALL=C.UTF-8".to_owned()], deadline: DEADLINE }
}

/// Reads how tmux ended. Its messages are the same in every locale and have changed little since 1.8.
pub(crate) fn answer(status: &ExitStatus, stderr: &[u8]) -> Answer {
    if status.code == 0 && status.error.is_none() {
        return Answer::Done;
    }
    let text = match &status.error {
        Some(error) => quote(error.as_bytes()),
        None => quote(stderr),
    };
    let begins = |starts: &[&str]| starts.iter().any(|start| text.starts_with(start));
    let ends = |ends: &[&str]| ends.iter().any(|end| text.ends_with(end));
    if status.code == NOT_FOUND {
        Answer::NotAvailable(text)
    } else if status.code != 1 || status.error.is_some() {
        // A program that a signal ended says nothing.
        let end = if text.is_empty() { "it says nothing" } else { &text };
        Answer::Failed(format!("exit code {}: {end}", status.code))
    } else if begins(&[
        "no server running",
        "no sessions",
        "no current target",
        "server exited",
        "lost server",
    ]) || (begins(&["error connecting to "])
        && ends(&["(No such file or directory)", "(Connection refused)"]))
        || text.is_empty()
    {
        Answer::NoSessions
    } else if begins(&["can't find session", "session not found"]) {
        Answer::NoSuchSession
    } else {
        Answer::Failed(text)
    }
}

/// Reads a list of sessions and sorts it by name.
///
/// One line that cannot be read fails the whole list: tmux writes none, so whoever did is not tmux, and a list with
/// holes would say that sessions are gone.
pub(crate) fn parse(stdout: &[u8]) -> Result<Vec<TmuxSession>, ParseSessionsError> {
    let text = String::from_utf8_lossy(stdout);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut sessions = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if index == MAX_SESSIONS {
            return Err(ParseSessionsError::TooMany);
        }
        let unreadable = || ParseSessionsError::Line { number: index + 1, line: quote(line.as_bytes()) };
        sessions.push(parse_line(line).ok_or_else(unreadable)?);
    }
    sessions.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sessions)
}

fn parse_line(line: &str) -> Option<TmuxSession> {
    let mut fields = line.rsplitn(4, ':');
    let window_count = u32::try_from(number(fields.next()?)?).ok().filter(|&count| count > 0)?;
    let attached = number(fields.next()?)? > 0;
    let created_at = Timestamp::from_second(number(fields.next()?)?).ok()?;
    let name = fields.next()?;
    // tmux writes control characters in names as escapes.
    let good = !name.is_empty() && !name.chars().any(char::is_control);
    good.then(|| TmuxSession { name: name.to_owned(), created_at, attached, window_count })
}

fn number(text: &str) -> Option<i64> {
    // `parse` alone would take a sign, too.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(name: &str, created: i64, attached: bool, window_count: u32) -> TmuxSession {
        let created_at = Timestamp::from_second(created).unwrap();
        TmuxSession { name: name.to_owned(), created_at, attached, window_count }
    }

    #[test]
    fn a_list_of_tmux_is_read_and_sorted() {
        let stdout = "default:1795335218:1:3\nüber x:y:1795335219:0:1\na:b:c:1:2:3\ntab\\tx:0:0:4294967295\n";
        let expected = [
            session("a:b:c", 1, true, 3),
            session("default", 1_795_335_218, true, 3),
            session("tab\\tx", 0, false, u32::MAX),
            session("über x:y", 1_795_335_219, false, 1),
        ];
        assert_eq!(parse(stdout.as_bytes()), Ok(expected.into()));
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"\n"), Ok(vec![]));
        assert_eq!(parse(b"a:1:0:1"), Ok(vec![session("a", 1, false, 1)]));
        assert_eq!(parse(b"\xff:1:0:1\n").unwrap()[0].name, "\u{fffd}");
    }

    #[test]
    fn one_bad_line_fails_the_list_and_is_named() {
        for line in [
            "",
            "hello",
            "a:1:0",
            ":1:0:1",
            "a:1:0:0",
            "a:1:0:-1",
            "a:+1:0:1",
            "a:-1:0:1",
            "a:1: 0:1",
            "a:1:0:1 ",
            "a:1:0:",
            "a::0:1",
            "a:1:0:4294967296",
            "a:1:9223372036854775808:1",
            "a:9223372036854775807:0:1",
            "a:99999999999999999999999999:0:1",
            "a\r:1:0:1",
            "a:1:0:1\r",
            "\u{1b}[2J:1:0:1",
            "\u{9b}2J:1:0:1",
            "a:١:0:1",
        ] {
            let error = parse(format!("ok:1:0:1\n{line}\nok:1:0:1\n").as_bytes()).unwrap_err();
            assert!(matches!(error, ParseSessionsError::Line { number: 2, .. }), "{line:?}: {error}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn a_list_has_an_end() {
        let lines = |count| "a:1:0:1\n".repeat(count);
        assert_eq!(parse(lines(MAX_SESSIONS).as_bytes()).unwrap().len(), MAX_SESSIONS);
        assert_eq!(parse(lines(MAX_SESSIONS + 1).as_bytes()), Err(ParseSessionsError::TooMany));
    }

    #[test]
    fn every_way_in_which_tmux_ends_has_a_meaning() {
        let failed = |code, text: &str| Answer::Failed(format!("exit code {code}: {text}"));
        for (code, stderr, expected) in [
            (0, "", Answer::Done),
            (0, "a warning", Answer::Done),
            (1, "no server running on /tmp/tmux-1000/default\n", Answer::NoSessions),
            (
                1,
                "error connecting to /tmp/tmux-1000/default (No such file or directory)\n",
                Answer::NoSessions,
            ),
            (1, "error connecting to /tmp/tmux-1000/default (Connection refused)\n", Answer::NoSessions),
            (1, "server exited unexpectedly\n", Answer::NoSessions),
            (1, "no current target\n", Answer::NoSessions),
            (1, "", Answer::NoSessions),
            (1, "can't find session: x\n", Answer::NoSuchSession),
            (1, "can't find session x\n", Answer::NoSuchSession),
            (1, "session not found: x\n", Answer::NoSuchSession),
            (
                1,
                "error connecting to /tmp/tmux-1000/default (Permission denied)\n",
                Answer::Failed("error connecting to /tmp/tmux-1000/default (Permission denied)".into()),
            ),
            (1, "unknown option -- u\n", Answer::Failed("unknown option -- u".into())),
            (
                127,
                "tmux: error while loading shared libraries\n",
                Answer::NotAvailable("tmux: error while loading shared libraries".into()),
            ),
            (137, "", failed(137, "it says nothing")),
            (-1, "no server running", failed(-1, "no server running")),
        ] {
            let status = ExitStatus::exited(code);
            assert_eq!(answer(&status, stderr.as_bytes()), expected, "{code} {stderr}");
        }
        for (status, expected) in [
            (
                ExitStatus::failed(127, "tmux: command not found"),
                Answer::NotAvailable("tmux: command not found".into()),
            ),
            (ExitStatus::failed(126, "no user `shed`"), failed(126, "no user `shed`")),
            (ExitStatus::failed(1, "no server running"), failed(1, "no server running")),
            (ExitStatus::failed(0, "odd"), failed(0, "odd")),
            (ExitStatus::signalled(9), failed(137, "it says nothing")),
        ] {
            assert_eq!(answer(&status, b""), expected, "{status:?}");
        }
    }

    #[test]
    fn the_commands_name_a_session_exactly_and_ask_for_utf8() {
        assert_eq!(kill(&"a-B_1".parse().unwrap()).cmd, ["tmux", "-u", "kill-session", "-t", "=a-B_1"]);
        assert_eq!(list().cmd[..3], ["tmux", "-u", "list-sessions"]);
        assert_eq!(list().env, ["LC_ALL=C.UTF-8"]);
    }

    proptest! {
        #[test]
        fn whatever_tmux_can_write_comes_back(
            names in prop::collection::vec("[^\\pC]{1,40}", 0..20),
            created in 0i64..=253_402_207_200,
            clients in 0u32..,
            windows in 1u32..,
        ) {
            let lines: String =
                names.iter().map(|name| format!("{name}:{created}:{clients}:{windows}\n")).collect();
            let mut expected: Vec<_> =
                names.iter().map(|name| session(name, created, clients > 0, windows)).collect();
            expected.sort_by(|one, other| one.name.cmp(&other.name));
            prop_assert_eq!(parse(lines.as_bytes()), Ok(expected));
        }

        #[test]
        fn no_bytes_of_a_guest_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            check_harmless(&bytes);
        }

        #[test]
        fn nor_do_almost_lists(
            lines in prop::collection::vec("[a:\\r\\x1b]{0,3}:[0-9+-]{0,22}:[0-9]{0,22}:[0-9]{0,12}", 0..5)
        ) {
            check_harmless(lines.join("\n").as_bytes());
        }
    }

    fn check_harmless(bytes: &[u8]) {
        match parse(bytes) {
            Ok(sessions) => {
                for session in sessions {
                    assert!(!session.name.is_empty() && !session.name.contains(char::is_control));
                    assert!(session.window_count > 0);
                }
            }
            Err(error) => assert!(!error.to_string().contains(char::is_control)),
        }
        for code in [0, 1, 127] {
            let _meaning = answer(&ExitStatus::exited(code), bytes);
        }
    }
}
