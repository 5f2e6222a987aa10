//! Asks a person before something is destroyed.
//!
//! Called by every command that deletes and was not given `--force`. Only a clear yes is a yes: an empty line, the
//! end of the input and Ctrl-C all mean no. A program is never asked, and so has to say `--force`.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    command_error::{CommandError, Kind},
    ui::{Format, Ui},
};

/// Refuses when nobody can be asked: `what` is not done then, and `hint` says how to do it without a question.
///
/// # Errors
/// With `--json`, and when the question or the answer would not go through a terminal.
pub(crate) fn somebody(ui: &Ui, what: &str, hint: &str) -> Result<(), CommandError> {
    let reason = match ui.format() {
        Format::Json => "with --json nobody can be asked",
        Format::Text if !io::stdin().is_terminal() => "stdin is not a terminal, so nobody can be asked",
        Format::Text if !ui.stderr_is_terminal() => "stderr is not a terminal, so nobody can be asked",
        Format::Text => return Ok(()),
    };
    Err(CommandError::new(Kind::Usage, format!("{what}: {reason}")).hinted(hint))
}

/// Asks, and returns whether the answer is yes.
///
/// From here on SIGINT does not end this process by itself: what follows a yes has to watch for it, see
/// `commands::work::unless_interrupted`.
///
/// # Errors
/// When the answer cannot be read.
pub(crate) async fn ask(ui: &Ui, question: &str) -> Result<bool, CommandError> {
    let failed =
        |error: io::Error| CommandError::new(Kind::Failed, "could not read the answer").caused_by(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    ui.question(question);
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        biased;
        // The thread that reads is left behind; it ends with the process.
        _ = interrupt.recv() => None,
        line = answer => Some(line.map_err(io::Error::other).and_then(|line| line).map_err(failed)?),
    };
    // Whoever types Ctrl-C or ends the input has not ended the line of the question.
    if !line.as_ref().is_some_and(|line| line.ends_with('\n')) {
        ui.note("");
    }
    Ok(line.is_some_and(|line| is_yes(&line)))
}

/// Says that the answer was no, and returns the exit code of that.
pub(crate) fn declined(ui: &Ui) -> ExitCode {
    ui.note("Nothing was changed.");
    ExitCode::from(1)
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for text in ["y\n", "Y\r\n", " yes \n", "YES"] {
            assert!(is_yes(text), "{text:?}");
        }
        for text in ["", "\n", "n\n", "yep\n", "yes please\n", "y y\n", "ja\n"] {
            assert!(!is_yes(text), "{text:?}");
        }
    }
}
