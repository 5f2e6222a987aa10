//! Runs the system's tools, and says what they said when they fail.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// How much of a failed tool's output goes into the error, in lines from its end.
const LINES_KEPT: usize = 25;

/// Runs `command` without input and returns what it wrote to stdout.
///
/// # Errors
/// When it cannot be run, or fails; the error has the last lines of its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        // Messages in English, names in UTF-8, whatever the user's locale is.
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}; scripts/setup.sh installs what is needed"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.lines().collect();
        let kept = lines[lines.len().saturating_sub(LINES_KEPT)..].join("\n    ");
        bail!("{name} failed ({}):\n    {kept}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} wrote something that is no text"))
}

/// Returns a command for a tool that may lie outside an ordinary user's PATH.
pub(crate) fn system_tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command
}

/// Quotes `text` for a POSIX shell and for mmdebstrap's own hooks.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_named_with_its_last_words() {
        let error =
            output(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("sh failed (exit status: 3)") && text.ends_with("last"), "{text}");
    }

    #[test]
    fn a_missing_tool_says_where_to_get_it() {
        let error = output(&mut Command::new("/nonexistent/tool")).unwrap_err();
        assert!(error.to_string().contains("scripts/setup.sh"), "{error}");
    }

    #[test]
    fn quoting_survives_a_shell() {
        for text in ["plain", "two words", "it's", "$HOME `x` \"y\" \\"] {
            let said =
                output(Command::new("sh").args(["-c", &format!("printf %s {}", quoted(text))])).unwrap();
            assert_eq!(said, text);
        }
    }
}
