//! `shed exec`: asks for a command in a shed and becomes it, as far as its caller can tell.

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
    send_keys,
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    exec::{self, Keys, Tty},
    values::parse_env,
};

/// Exit code of a command that could not be found, as shells use it.
const NOT_FOUND: i32 = 127;

const AFTER_HELP: &str = "\
A single argument with spaces or other characters that mean something to a shell is a line for one: it is run with \
`bash -lc`. Anything else is a program and its arguments, and no shell comes in between.

Without a command, the program of the shed's image runs, which is its entrypoint and command; with --entrypoint, its \
entrypoint with the arguments given here. An image whose program is an init, as that of the base image, has none to \
run; a login shell is opened by `shed console`.

Input, output and errors are passed on unchanged. A terminal is used when both stdin and stdout are one; then keys \
such as Ctrl-C go to the command. Otherwise SIGINT and SIGTERM are passed on, and a second one ends the client.

With --session the command is typed into a tmux session that exists, quoted for its shell unless it is a single \
argument, and `shed exec` returns at once.

A stopped shed is started.

The exit code is that of the command: 128 + n after signal n, 127 when there is no such command, 126 when it \
cannot be run. It is 255 when `shed exec` fails itself.

Examples:
  shed exec web -- npm test
  shed exec web 'cd src && ls -l | wc -l'
  shed exec -t web -- htop
  shed exec -S agent web 'npm test'
  shed exec -e DEBUG=1 -w /workspace/api web -- ./run
  tar c . | shed exec web -- tar x -C /workspace
  shed exec db
  shed exec --entrypoint db -- --help";

/// Run a command in a shed
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ExecArgs {
    /// Give the command a terminal, even when stdin or stdout is none
    #[arg(short = 't', long = "tty", overrides_with = "no_tty")]
    tty: bool,

    /// Give the command no terminal
    #[arg(short = 'T', long = "no-tty", overrides_with = "tty")]
    no_tty: bool,

    /// Set a variable in the command's environment; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = parse_env)]
    env: Vec<String>,

    /// Start in this directory of the shed instead of that of its image, or /workspace
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// Run as this user instead of that of the image, or `shed`
    #[arg(short, long)]
    pub(super) user: Option<String>,

    /// Type the command and the return key into this tmux session instead of running it
    #[arg(
        short = 'S',
        long,
        value_name = "SESSION",
        conflicts_with_all = ["tty", "no_tty", "env", "workdir", "entrypoint"]
    )]
    session: Option<SessionName>,

    /// Run the entrypoint of the shed's image with the arguments in COMMAND, or without any with its own
    #[arg(long)]
    entrypoint: bool,

    /// The shed
    pub(super) name: ShedName,

    /// A program and its arguments, or one line for the shell; the image's own program when left out
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &ExecArgs) -> Result<ExitCode, CommandError> {
    let result = match &args.session {
        Some(session) => block_on(send_keys::send(context, args, session)),
        None => block_on(exec(context, args)),
    };
    result.map_err(|error| match error.kind() {
        Kind::Interrupted { .. } | Kind::BrokenPipe => error,
        Kind::Failed | Kind::Usage | Kind::Unreachable | Kind::NotFound | Kind::Exec => {
            error.with_kind(Kind::Exec)
        }
    })
}

async fn exec(context: &Context, args: &ExecArgs) -> Result<ExitCode, CommandError> {
    let tty = tty(args);
    let request = request(args, tty)?;
    let joint = Joint { shed: &args.name, tty, keys: Keys::Plain, what: "the command" };
    let Ended { status, .. } = join(context, joint, &request).await?;
    if let Some(reason) = &status.error {
        let error = CommandError::new(Kind::Exec, reason);
        context.ui.error(&if request.entrypoint {
            error.hinted(format!(
                "open a shell: shed console {0}; run a command: shed exec {0} -- COMMAND",
                args.name
            ))
        } else if shell_is_missing(args, &status) {
            error.hinted(format!(
                "a single argument is run with bash, which this shed may lack; give the words one by one: shed exec {} -- sh -c 'LINE'",
                args.name
            ))
        } else if status.code == NOT_FOUND {
            error.hinted(format!(
                "what only the profile of user shed puts on PATH is found by a shell, as one argument: shed exec {} '{} …'",
                args.name,
                args.command.first().map_or("", String::as_str)
            ))
        } else {
            error
        });
    }
    Ok(exit_code(&status))
}

fn tty(args: &ExecArgs) -> Tty {
    let both = || io::stdin().is_terminal() && io::stdout().is_terminal();
    if args.tty || (!args.no_tty && both()) { Tty::Used } else { Tty::None }
}

fn request(args: &ExecArgs, tty: Tty) -> Result<ExecRequest, CommandError> {
    let entrypoint = args.entrypoint || args.command.is_empty();
    let cmd = match args.command.as_slice() {
        [line] if !entrypoint && is_shell_line(line) => ["bash", "-lc", line].map(str::to_owned).to_vec(),
        words => words.to_vec(),
    };
    let mut env = args.env.clone();
    let (mut rows, mut cols) = (0, 0);
    match tty {
        Tty::None => {}
        Tty::Used => {
            (rows, cols) = exec::window_size();
            // The user's own -e TERM=… comes later, and so wins.
            env = [terminal_environment(), env].concat();
        }
    }
    let request = ExecRequest {
        cmd,
        entrypoint,
        env,
        tty: tty == Tty::Used,
        rows,
        cols,
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
    };
    match request.command() {
        Ok(_) => Ok(request),
        Err(error) => Err(CommandError::from_error(Kind::Usage, &error)),
    }
}

/// Returns whether a single argument needs a shell to be understood. A plain word does not, and is spared the time
/// that a login shell takes to read its profile.
fn is_shell_line(line: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+./:@%,".contains(c);
    line.is_empty() || !line.chars().all(plain)
}

fn shell_is_missing(args: &ExecArgs, status: &ExitStatus) -> bool {
    let ran_a_shell = matches!(args.command.as_slice(), [line] if is_shell_line(line));
    ran_a_shell && status.code == NOT_FOUND
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: &[&str]) -> ExecArgs {
        ExecArgs {
            tty: false,
            no_tty: true,
            env: vec!["A=1".to_owned()],
            workdir: None,
            user: None,
            session: None,
            entrypoint: false,
            name: "web".parse().unwrap(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    #[test]
    fn one_argument_is_a_line_for_the_shell_and_several_are_left_alone() {
        let one = request(&args(&["cd x && ls"]), Tty::None).unwrap();
        assert_eq!(one.cmd, ["bash", "-lc", "cd x && ls"]);
        let word = request(&args(&["/usr/bin/true"]), Tty::None).unwrap();
        assert_eq!(word.cmd, ["/usr/bin/true"], "a plain word needs no shell");
        let mut with_entrypoint = args(&["-c", "a b"]);
        with_entrypoint.entrypoint = true;
        let own = request(&with_entrypoint, Tty::None).unwrap();
        assert_eq!((own.cmd, own.entrypoint), (vec!["-c".to_owned(), "a b".to_owned()], true));
        with_entrypoint.command = vec!["a b".to_owned()];
        assert_eq!(request(&with_entrypoint, Tty::None).unwrap().cmd, ["a b"], "arguments are no line");
        let own = request(&args(&[]), Tty::None).unwrap();
        assert_eq!((own.cmd, own.entrypoint), (Vec::new(), true), "nothing is the image's own program");
        assert!(!word.entrypoint);
        let several = request(&args(&["echo", "$HOME; x"]), Tty::None).unwrap();
        assert_eq!(several.cmd, ["echo", "$HOME; x"]);
        assert_eq!((several.env, several.tty), (vec!["A=1".to_owned()], false));
    }

    #[test]
    fn a_command_without_a_program_is_refused_here() {
        assert!(request(&args(&["", "x"]), Tty::None).is_err());
    }
}
