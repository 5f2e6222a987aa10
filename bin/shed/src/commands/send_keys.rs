//! `shed exec --session`: types a command into a tmux session that is there already.

use std::process::ExitCode;

use serde::Serialize;
use shed_protocol::{ExecRequest, ExitStatus};
use shed_types::{SessionName, ShedName};

use super::{exec::ExecArgs, join};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    exec::{Heard, Keys, Tty, run_quietly},
    ssh,
    ui::{Done, Format, clean},
};

/// Exit code of a command that could not be found, as shells use it.
const NOT_FOUND: i32 = 127;

/// Where it was typed.
#[derive(Serialize)]
struct Details<'a> {
    session: &'a str,
}

/// Types the command.
pub(super) async fn send(
    context: &Context,
    args: &ExecArgs,
    session: &SessionName,
) -> Result<ExitCode, CommandError> {
    let shed = &args.name;
    let request = ExecRequest {
        cmd: tmux(session, &line(&args.command)?),
        user: args.user.clone().unwrap_or_default(),
        ..ExecRequest::default()
    };
    request.command().map_err(|error| CommandError::from_error(Kind::Usage, &error))?;
    let servers = context.servers()?;
    let (server, stream) = ssh::open(context, &servers, shed, &request).await?;
    let heard = run_quietly(stream).await.map_err(|error| {
        let joint = join::Joint { shed, tty: Tty::None, keys: Keys::Plain, what: "tmux" };
        join::explain(&error, joint, &server)
    })?;
    match heard {
        Heard::Refused(refusal) => return Err(ssh::refused(refusal, &server, shed)),
        Heard::Exited { status, stderr } => {
            if let Some(error) = what_went_wrong(shed, session, &status, &stderr) {
                return Err(error);
            }
        }
    }
    match context.ui.format() {
        Format::Json => {
            let details = Details { session: session.as_str() };
            context.ui.print_done(&Done::new(
                "exec",
                shed.as_str(),
                server.name.to_string(),
                Some(details),
            ))?;
        }
        Format::Text => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns what is typed: a single argument as it is, several so that the shell takes them for what they are.
fn line(command: &[String]) -> Result<String, CommandError> {
    match command {
        [] => Err(CommandError::new(Kind::Usage, "there is no command to type into the session")
            .hinted("to show the session here: shed attach NAME -S SESSION")),
        [line] => Ok(line.clone()),
        words => Ok(words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")),
    }
}

/// Quotes a word for a POSIX shell (XCU 2.2.2). One that means nothing to a shell stays readable.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+./:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Returns two commands for one tmux: the line letter by letter, so that no part of it is taken for the name of a key,
/// and then the return key.
fn tmux(session: &SessionName, line: &str) -> Vec<String> {
    // Without `=` a session whose name only begins like this would do; `:` is its current window.
    let target = format!("={session}:");
    // A `;` at the end of an argument ends a command of tmux, unless there is a backslash before it.
    let line = match line.strip_suffix(';') {
        Some(rest) => format!("{rest}\\;"),
        None => line.to_owned(),
    };
    ["tmux", "-u", "send-keys", "-t", &target, "-l", "--", &line, ";", "send-keys", "-t", &target, "Enter"]
        .map(str::to_owned)
        .to_vec()
}

/// Returns why nothing was typed, if nothing was.
fn what_went_wrong(
    shed: &ShedName,
    session: &SessionName,
    status: &ExitStatus,
    stderr: &[u8],
) -> Option<CommandError> {
    if status.code == 0 && status.error.is_none() {
        return None;
    }
    let said = match &status.error {
        Some(reason) => reason.clone(),
        None => clean(String::from_utf8_lossy(stderr).trim_end()),
    };
    let missing = ["no server running", "can't find", "error connecting to", "no sessions", "no current"]
        .iter()
        .any(|start| said.starts_with(start));
    let made = if status.code == NOT_FOUND {
        CommandError::new(Kind::Failed, format!("shed {shed} has no tmux"))
            .hinted(format!("install it in the shed: shed exec {shed} -- sudo apt-get install tmux"))
    } else if missing {
        CommandError::new(Kind::NotFound, format!("shed {shed} has no session {session}"))
            .hinted(format!("see which sessions there are: shed sessions {shed}"))
            .hinted(format!("make it: shed attach {shed} -S {session}"))
    } else {
        CommandError::new(Kind::Failed, format!("tmux in shed {shed} failed with exit code {}", status.code))
    };
    Some(if said.is_empty() { made } else { made.caused_by(said) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn one_argument_is_typed_as_it_is_and_several_are_quoted() {
        assert_eq!(line(&words(&["cd x && ls $HOME"])).unwrap(), "cd x && ls $HOME");
        assert_eq!(
            line(&words(&["echo", "$HOME; ls", "it's", "", "a=b", "--x=1,2"])).unwrap(),
            r"echo '$HOME; ls' 'it'\''s' '' 'a=b' '--x=1,2'"
        );
        assert!(line(&[]).is_err());
    }

    #[test]
    fn a_semicolon_at_the_end_is_typed_and_ends_no_command_of_tmux() {
        let session: SessionName = "main".parse().unwrap();
        assert_eq!(
            tmux(&session, "ls;"),
            [
                "tmux",
                "-u",
                "send-keys",
                "-t",
                "=main:",
                "-l",
                "--",
                r"ls\;",
                ";",
                "send-keys",
                "-t",
                "=main:",
                "Enter"
            ]
        );
        assert_eq!(tmux(&session, r"x\;")[7], r"x\\;");
        assert_eq!(tmux(&session, "a; b")[7], "a; b");
    }

    #[test]
    fn a_session_that_is_not_there_is_told_from_other_failures() {
        let (shed, session) = ("web".parse().unwrap(), "main".parse().unwrap());
        let kind = |status, stderr: &str| {
            what_went_wrong(&shed, &session, &status, stderr.as_bytes()).map(|error| error.kind())
        };
        assert_eq!(kind(ExitStatus::exited(0), ""), None);
        for text in [
            "can't find pane: =main:",
            "no server running on /tmp/tmux-1000/default",
            "can't find session: main",
        ] {
            assert_eq!(kind(ExitStatus::exited(1), text), Some(Kind::NotFound), "{text}");
        }
        assert_eq!(kind(ExitStatus::exited(1), "protocol version mismatch"), Some(Kind::Failed));
        assert_eq!(kind(ExitStatus::failed(127, "there is no such command"), ""), Some(Kind::Failed));
    }
}
