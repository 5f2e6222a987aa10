//! `shed console` and `shed attach`: a person at a terminal, in a shed.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Args;
use shed_protocol::{ExecRequest, ExitStatus};
use shed_types::{SessionName, ShedName};

use super::{
    block_on,
    join::{Ended, Joint, exit_code, join, terminal_environment},
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    exec::{self, Keys, Tty},
};

/// Exit code of a command that could not be found, as shells use it.
const NOT_FOUND: i32 = 127;

/// How `shed console --help` and `shed attach --help` explain the escape.
macro_rules! escape {
    () => {
        "All keys go to the shed, Ctrl-C and Ctrl-Z among them, but for one sequence: `~.` typed at the start of a \
line closes the connection when nothing answers any more. `~~` is a `~`."
    };
}

const CONSOLE_HELP: &str = concat!(
    "A stopped shed is started. The shell ends when you leave it, or when the connection is lost; what should go on \
without you belongs into a session: shed attach.

",
    escape!(),
    "

The exit code is that of the shell.

Examples:
  shed console web"
);

const ATTACH_HELP: &str = concat!(
    "A stopped shed is started, and a session that does not exist is made. Ctrl-B D leaves it, and everything in it \
goes on; so it does when the connection is lost.

",
    escape!(),
    "

Examples:
  shed attach web
  shed attach web -S agent
  shed attach web -S build --new"
);

/// Open a login shell in a shed
#[derive(Debug, Args)]
#[command(after_help = CONSOLE_HELP)]
pub(crate) struct ConsoleArgs {
    /// The shed
    name: ShedName,
}

/// Show a tmux session of a shed on this terminal
#[derive(Debug, Args)]
#[command(after_help = ATTACH_HELP)]
pub(crate) struct AttachArgs {
    /// The shed
    name: ShedName,

    /// The tmux session
    #[arg(short = 'S', long, value_name = "SESSION", default_value = "default")]
    session: SessionName,

    /// Make the session, and fail when it exists
    #[arg(long)]
    new: bool,
}

/// Runs `shed console`.
pub(crate) fn console(context: &Context, args: &ConsoleArgs) -> Result<ExitCode, CommandError> {
    let name = &args.name;
    let Ended { status, .. } = at_terminal(context, name, "console", "the shell", Vec::new())?;
    match &status.error {
        None => Ok(exit_code(&status)),
        Some(reason) => Err(CommandError::new(Kind::Failed, format!("shed {name} has no shell to offer"))
            .caused_by(reason.clone())
            .hinted(format!("name one that it has: shed exec -t {name} -- sh"))),
    }
}

/// Runs `shed attach`.
pub(crate) fn attach(context: &Context, args: &AttachArgs) -> Result<ExitCode, CommandError> {
    let ended = at_terminal(context, &args.name, "attach", "the session", tmux(args))?;
    match what_went_wrong(args, &ended) {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}

fn at_terminal(
    context: &Context,
    shed: &ShedName,
    verb: &str,
    what: &'static str,
    cmd: Vec<String>,
) -> Result<Ended, CommandError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(CommandError::new(
            Kind::Usage,
            format!("shed {verb} needs a terminal as its input and output"),
        )
        .hinted(format!("to run a command without one: shed exec {shed} -- COMMAND")));
    }
    let (rows, cols) = exec::window_size();
    let request =
        ExecRequest { cmd, env: terminal_environment(), tty: true, rows, cols, ..ExecRequest::default() };
    let joint = Joint { shed, tty: Tty::Used, keys: Keys::Escaped, what };
    block_on(join(context, joint, &request))
}

fn tmux(args: &AttachArgs) -> Vec<String> {
    let attach = if args.new { None } else { Some("-A") };
    ["tmux", "new-session"]
        .into_iter()
        .chain(attach)
        .chain(["-s", args.session.as_str()])
        .map(str::to_owned)
        .collect()
}

/// Returns why tmux showed no session, if it did not. Its own words are on the terminal already.
fn what_went_wrong(args: &AttachArgs, ended: &Ended) -> Option<CommandError> {
    let (name, session) = (&args.name, &args.session);
    let Ended { status, last_words } = ended;
    let ExitStatus { code, error, .. } = status;
    let words = String::from_utf8_lossy(last_words);
    let made = |kind, message: String| Some(CommandError::new(kind, message));
    match (code, error) {
        (0, None) => None,
        (&NOT_FOUND, reason) => {
            let error = CommandError::new(Kind::Failed, format!("shed {name} has no tmux"))
                .hinted(format!("install it in the shed: shed exec {name} -- sudo apt-get install tmux"));
            Some(match reason {
                Some(reason) => error.caused_by(reason.clone()),
                None => error,
            })
        }
        (_, Some(reason)) => made(Kind::Failed, format!("tmux could not be run in shed {name}"))
            .map(|error| error.caused_by(reason.clone())),
        (_, None) if words.contains("duplicate session") => {
            made(Kind::Failed, format!("shed {name} has a session {session} already"))
                .map(|error| error.hinted(format!("show that one: shed attach {name} -S {session}")))
        }
        (_, None) if words.contains("terminal") => {
            made(Kind::Failed, format!("tmux in shed {name} cannot use this terminal")).map(|error| {
                error.hinted(format!(
                "call it something that every shed knows: TERM=xterm-256color shed attach {name} -S {session}"
            ))
            })
        }
        (code, None) => made(Kind::Failed, format!("tmux in shed {name} ended with exit code {code}")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn args(new: bool) -> AttachArgs {
        AttachArgs { name: "web".parse().unwrap(), session: "main".parse().unwrap(), new }
    }

    fn ended(status: ExitStatus, words: &'static str) -> Ended {
        Ended { status, last_words: Bytes::from_static(words.as_bytes()) }
    }

    #[test]
    fn a_session_is_made_or_shown_unless_it_must_be_new() {
        assert_eq!(tmux(&args(false)), ["tmux", "new-session", "-A", "-s", "main"]);
        assert_eq!(tmux(&args(true)), ["tmux", "new-session", "-s", "main"]);
    }

    #[test]
    fn each_way_in_which_tmux_fails_is_told() {
        let said =
            |status, words| what_went_wrong(&args(true), &ended(status, words)).unwrap().message().to_owned();
        assert!(what_went_wrong(&args(true), &ended(ExitStatus::exited(0), "[detached]")).is_none());
        assert_eq!(
            said(ExitStatus::exited(1), "duplicate session: main\r\n"),
            "shed web has a session main already"
        );
        assert_eq!(
            said(ExitStatus::failed(127, "tmux: there is no such command"), ""),
            "shed web has no tmux"
        );
        assert_eq!(
            said(ExitStatus::exited(1), "open terminal failed: missing or unsuitable terminal: foot\r\n"),
            "tmux in shed web cannot use this terminal"
        );
        assert_eq!(said(ExitStatus::exited(1), "[lost server]"), "tmux in shed web ended with exit code 1");
    }
}
