//! Runs a command in a shed as if it ran here: what `exec`, `console` and `attach` have in common.

use std::process::ExitCode;

use bytes::Bytes;
use shed_protocol::{ExecRequest, ExitStatus};
use shed_types::ShedName;

use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    exec::{self, Ending, Keys, SessionError, Signals, Terminal, Tty},
    servers::Server,
    ssh,
};

/// How a command ended that was joined to this process.
#[derive(Debug)]
pub(super) struct Ended {
    /// What the agent says.
    pub(super) status: ExitStatus,
    /// The last piece of its output.
    pub(super) last_words: Bytes,
}

/// What a command and this process have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joint<'a> {
    pub(super) shed: &'a ShedName,
    pub(super) tty: Tty,
    pub(super) keys: Keys,
    /// What the user would miss: `the command`.
    pub(super) what: &'static str,
}

/// Runs the command; the terminal is itself again when this returns.
///
/// # Errors
/// When it could not be run, or its connection was lost or left.
pub(super) async fn join(
    context: &Context,
    joint: Joint<'_>,
    request: &ExecRequest,
) -> Result<Ended, CommandError> {
    let Joint { shed, tty, keys, what } = joint;
    let servers = context.servers()?;
    // From before the command runs, so that it gets every signal that is meant for it.
    let mut signals = Signals::listen().map_err(|error| {
        CommandError::new(Kind::Failed, "could not set up what the system needs for signals").caused_by(error)
    })?;
    let (server, stream) = tokio::select! {
        opened = ssh::open(context, &servers, shed, request) => opened?,
        signal = signals.end() => {
            let message = format!("{what} in shed {shed} was left before it began");
            return Err(CommandError::new(Kind::Interrupted { signal }, message));
        }
    };
    let terminal = match tty {
        Tty::Used => Terminal::take().map(Some).map_err(SessionError::Terminal),
        Tty::None => Ok(None),
    };
    let ending = match terminal {
        Ok(terminal) => exec::run(stream, signals, terminal, keys).await,
        Err(error) => Err(error),
    };
    match ending.map_err(|error| explain(&error, joint, &server))? {
        Ending::Exited { status, last_words } => Ok(Ended { status, last_words }),
        Ending::Refused(refusal) => Err(ssh::refused(refusal, &server, shed)),
        Ending::Left => Err(CommandError::new(
            Kind::Failed,
            format!("{what} in shed {shed} was left: its connection is closed"),
        )),
        Ending::Signalled(signal) => Err(CommandError::new(
            Kind::Interrupted { signal },
            format!("{what} in shed {shed} was left: its connection is closed"),
        )),
        Ending::OutputClosed => Err(CommandError::new(Kind::BrokenPipe, "nobody reads the output")),
    }
}

/// Returns what of this environment a terminal in the shed needs: its type, and whether it has all colours. Its language
/// is the shed's own affair.
pub(super) fn terminal_environment() -> Vec<String> {
    let variable = |name: &str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
    ["TERM", "COLORTERM"].into_iter().filter_map(variable).collect()
}

/// Returns the code a parent process sees: the lowest byte, as the kernel has it.
pub(super) fn exit_code(status: &ExitStatus) -> ExitCode {
    let code = status.code.rem_euclid(256);
    ExitCode::from(u8::try_from(code).expect("a remainder of 256 is a byte"))
}

/// Says how the session was lost.
pub(super) fn explain(error: &SessionError, joint: Joint<'_>, server: &Server) -> CommandError {
    let Joint { shed, what, .. } = joint;
    let (kind, message) = match error {
        SessionError::HungUp { .. } | SessionError::Broken(_) => {
            (Kind::Unreachable, format!("lost {what} in shed {shed}"))
        }
        SessionError::Status(_) => (Kind::Failed, format!("lost {what} in shed {shed}")),
        SessionError::Output(_) => (Kind::Failed, format!("{what} in shed {shed} was left")),
        SessionError::Terminal(_) | SessionError::Setup(_) => {
            (Kind::Failed, format!("ran nothing in shed {shed}"))
        }
    };
    let hint = match error {
        SessionError::HungUp { .. } | SessionError::Broken(_) => {
            Some(format!("see whether the shed still runs: shed list --server {}", server.name))
        }
        SessionError::Status(_) => {
            Some("compare the versions of client and server: shed version -v".to_owned())
        }
        SessionError::Output(_) | SessionError::Terminal(_) | SessionError::Setup(_) => None,
    };
    let made = CommandError::new(kind, message).caused_by(error.describe());
    match hint {
        Some(hint) => made.hinted(hint),
        None => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_bytes_as_for_any_process() {
        for (code, seen) in [(0, 0), (7, 7), (137, 137), (256, 0), (-1, 255)] {
            assert_eq!(exit_code(&ExitStatus::exited(code)), ExitCode::from(seen), "{code}");
        }
    }
}
