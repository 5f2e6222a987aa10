//! What can run in a session, as the agent is asked for it (spec F).

use shed_protocol::{ExecRequest, ExitStatus};

use super::{session::Terminal, term::Terms};
use crate::metrics::StreamKind;

/// Serves file transfers where OpenSSH's server has it in Debian and Ubuntu.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// The subsystem that runs it (RFC 4254 6.5 leaves the names to both ends; all clients use this one).
pub(super) const SFTP: &str = "sftp";

/// Longest command, in bytes: what Linux takes as one argument of a program (`MAX_ARG_STRLEN`), with its end.
const MAX_COMMAND: usize = (128 << 10) - 1;

/// Exit code of a command that is not there (POSIX sh, 2.8.2).
const NOT_FOUND: i32 = 127;

/// What runs in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// A login shell.
    Shell,
    /// A text for a login bash, as the client sent it.
    Command(String),
    /// The server of the SFTP subsystem.
    Sftp,
}

/// Why a text is no command. For people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadCommand {
    #[error(
        "the command has {0} bytes, and Linux takes at most {MAX_COMMAND} as one argument; send a script as input \
         instead (`ssh NAME bash -s < script`)"
    )]
    TooLong(usize),
    #[error("the command has a NUL byte, which no argument of a program can have")]
    Nul,
}

impl Program {
    /// Reads the command of an exec request.
    pub(super) fn command(bytes: &[u8]) -> Result<Self, BadCommand> {
        if bytes.contains(&0) {
            return Err(BadCommand::Nul);
        }
        let text = match str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => spelled_out(bytes),
        };
        if text.len() > MAX_COMMAND {
            return Err(BadCommand::TooLong(text.len()));
        }
        Ok(Self::Command(text))
    }

    /// Returns what metrics and log call it.
    pub(super) const fn kind(&self) -> StreamKind {
        match self {
            Self::Shell => StreamKind::SshShell,
            Self::Command(_) => StreamKind::SshCommand,
            Self::Sftp => StreamKind::SshSftp,
        }
    }

    /// Returns what the agent is asked for.
    pub(super) fn request(&self, terminal: Option<&Terminal>, terms: &Terms) -> ExecRequest {
        let cmd = match self {
            // The agent's own choice of a login shell.
            Self::Shell => Vec::new(),
            Self::Command(text) => ["bash", "-lc", text].map(str::to_owned).into(),
            Self::Sftp => vec![SFTP_SERVER.to_owned()],
        };
        let request = ExecRequest { cmd, ..ExecRequest::default() };
        // A file transfer over a terminal would be damaged by it.
        match terminal.filter(|_| *self != Self::Sftp) {
            None => request,
            Some(Terminal { term, rows, cols }) => {
                let env = vec![format!("TERM={}", terms.in_guest(term))];
                ExecRequest { env, tty: true, rows: *rows, cols: *cols, ..request }
            }
        }
    }

    /// Says why it could not run at all, if it could not.
    pub(super) fn failure(&self, shed: &str, status: &ExitStatus) -> Option<String> {
        let reason = status.error.as_deref()?;
        Some(match self {
            Self::Sftp if status.code == NOT_FOUND => format!(
                "shed '{shed}' has no {SFTP_SERVER}; install it there (`apt-get install openssh-sftp-server`), or use \
                 `scp -O` or rsync, which do without"
            ),
            Self::Command(_) if status.code == NOT_FOUND => format!(
                "shed '{shed}' has no bash, which runs the commands of SSH clients; install it there, or use \
                 `shed exec {shed} -- PROGRAM ARGS`"
            ),
            Self::Shell | Self::Command(_) | Self::Sftp => reason.to_owned(),
        })
    }
}

/// Writes a command that is no UTF-8, in which the agent is asked, so that bash makes its bytes again.
fn spelled_out(bytes: &[u8]) -> String {
    let quoted: String = bytes
        .iter()
        .map(|&byte| match byte {
            b'\'' | b'\\' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            // Three octal digits: a digit that follows is not taken for a part of it.
            other => format!("\\{other:03o}"),
        })
        .collect();
    format!("eval $'{quoted}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Program {
        Program::Command(text.to_owned())
    }

    #[test]
    fn a_command_is_one_string_for_bash() {
        let program = Program::command(b"echo \"a  b\" | cat; exit 3").unwrap();
        assert_eq!(program, command("echo \"a  b\" | cat; exit 3"));
        let request = program.request(None, &Terms::default());
        assert_eq!(request.cmd, ["bash", "-lc", "echo \"a  b\" | cat; exit 3"]);
        assert!(!request.tty && request.env.is_empty());
        assert_eq!(Program::command(b"a\0b"), Err(BadCommand::Nul));
        assert_eq!(Program::command(b""), Ok(command("")));
        assert!(Program::command(&vec![b'x'; MAX_COMMAND]).is_ok());
        let long = Program::command(&vec![b'x'; MAX_COMMAND + 1]).unwrap_err();
        assert!(long.to_string().contains("bash -s"), "{long}");
    }

    #[test]
    fn a_command_in_another_encoding_reaches_bash_byte_for_byte() {
        let bytes = b"printf %s 'caf\xe9' \"\\\"1\n\xff7";
        let Program::Command(text) = Program::command(bytes).unwrap() else { panic!("no command") };
        assert_eq!(text, r#"eval $'printf %s \'caf\351\' "\\"1\012\3777'"#);
    }

    #[test]
    fn only_who_asks_for_a_terminal_gets_one() {
        let terminal = Terminal { term: "xterm-ghostty".into(), rows: 50, cols: 132 };
        let terms = Terms::default();
        let shell = Program::Shell.request(Some(&terminal), &terms);
        assert_eq!((shell.tty, shell.rows, shell.cols), (true, 50, 132));
        assert_eq!(shell.env, ["TERM=xterm-256color"]);
        assert!(shell.cmd.is_empty());
        assert!(!Program::Sftp.request(Some(&terminal), &terms).tty);
        assert!(!Program::Shell.request(None, &terms).tty);
    }

    #[test]
    fn a_program_that_the_image_lacks_is_named_with_a_way_out() {
        let missing = ExitStatus::failed(127, "x: command not found in the guest");
        let words = |program: Program, status: &ExitStatus| program.failure("api", status);
        assert!(words(Program::Sftp, &missing).unwrap().contains("openssh-sftp-server"));
        assert!(words(command("ls"), &missing).unwrap().contains("no bash"));
        assert_eq!(words(command("ls"), &ExitStatus::failed(126, "too long")).unwrap(), "too long");
        assert_eq!(words(command("nothing"), &ExitStatus::exited(127)), None);
    }
}
