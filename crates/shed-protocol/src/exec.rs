//! Payloads of the exec service (spec B.2, B.3).

use serde::{Deserialize, Serialize};

/// Asks the agent to run a command; first frame of an exec stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments; empty means a login shell. With [`ExecRequest::entrypoint`], the arguments of the image's own
    /// program; empty means the image's own arguments.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Whether the image's own program runs, its entrypoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub entrypoint: bool,
    /// Additional environment, each `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Whether the command gets a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Rows of that terminal; 0 means 24.
    #[serde(default)]
    pub rows: u16,
    /// Columns of that terminal; 0 means 80.
    #[serde(default)]
    pub cols: u16,
    /// Where the command starts; empty or missing means the working directory of the image, or `/workspace` when the image
    /// has none but the root directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Who runs the command; empty means the image's user, or `shed` when the image names none but root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
}

/// A command in its forms, parsed from [`ExecRequest::cmd`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A login shell.
    LoginShell,
    /// A program, looked up in PATH when it has no slash, and its arguments.
    Program {
        /// Name or path, not empty.
        program: String,
        /// What follows it.
        args: Vec<String>,
    },
    /// The image's own program.
    Entrypoint {
        /// What follows it instead of the image's own arguments, unless it is empty.
        args: Vec<String>,
    },
}

/// Says why a command cannot be run at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCommandError {
    #[error("the command's first word is empty")]
    EmptyProgram,
    #[error("a NUL byte cannot be part of {what}")]
    Nul { what: &'static str },
    #[error("{0:?} in the environment is not NAME=value")]
    Env(String),
}

impl ExecRequest {
    /// Checks the request and returns its command.
    ///
    /// # Errors
    /// When a word holds a NUL byte, the program is empty, or an environment entry has no name.
    pub fn command(&self) -> Result<Command, ParseCommandError> {
        let has_nul = |text: &String| text.contains('\0');
        if self.cmd.iter().any(has_nul) {
            return Err(ParseCommandError::Nul { what: "a command" });
        }
        if self.env.iter().any(has_nul) {
            return Err(ParseCommandError::Nul { what: "the environment" });
        }
        if has_nul(&self.working_dir) || has_nul(&self.user) {
            return Err(ParseCommandError::Nul { what: "a directory or user name" });
        }
        if let Some(bad) =
            self.env.iter().find(|entry| entry.split_once('=').is_none_or(|(name, _)| name.is_empty()))
        {
            return Err(ParseCommandError::Env(bad.clone()));
        }
        if self.entrypoint {
            return Ok(Command::Entrypoint { args: self.cmd.clone() });
        }
        match self.cmd.split_first() {
            None => Ok(Command::LoginShell),
            Some((program, _)) if program.is_empty() => Err(ParseCommandError::EmptyProgram),
            Some((program, args)) => Ok(Command::Program { program: program.clone(), args: args.to_vec() }),
        }
    }
}

/// Gives a terminal a new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// Sends a signal to the command's process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Linux signal number, 1 to 64.
    pub signal: i32,
}

/// How a command ended; last frame of an exec stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + n after death by signal n; 126 and 127 as shells use them.
    pub code: i32,
    /// The signal that ended the command, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why the agent could not run the command, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ExitStatus {
    /// Makes the status of a command that ran and returned `code`.
    #[must_use]
    pub const fn exited(code: i32) -> Self {
        Self { code, signal: None, error: None }
    }

    /// Makes the status of a command that `signal` ended.
    #[must_use]
    pub const fn signalled(signal: i32) -> Self {
        Self { code: 128 + signal, signal: Some(signal), error: None }
    }

    /// Makes the status of a command that could not be run.
    #[must_use]
    pub fn failed(code: i32, error: impl Into<String>) -> Self {
        Self { code, signal: None, error: Some(error.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_request_is_a_login_shell() {
        let request: ExecRequest = serde_json::from_str("{}").unwrap();
        assert_eq!(request.command(), Ok(Command::LoginShell));
    }

    #[test]
    fn requests_that_no_kernel_would_run_are_refused() {
        for json in [
            r#"{"cmd":[""]}"#,
            r#"{"cmd":["a\u0000b"]}"#,
            r#"{"cmd":["a"],"env":["=x"]}"#,
            r#"{"cmd":["a"],"env":["x"]}"#,
        ] {
            let request: ExecRequest = serde_json::from_str(json).unwrap();
            assert!(request.command().is_err(), "{json}");
        }
    }

    #[test]
    fn the_json_of_each_payload_stays_what_it_was() {
        let request = ExecRequest {
            cmd: vec!["sh".into(), "-c".into(), "exit 7".into()],
            env: vec!["A=b".into()],
            tty: true,
            rows: 24,
            cols: 80,
            working_dir: "/workspace".into(),
            ..ExecRequest::default()
        };
        insta::assert_json_snapshot!(request, @r#"
        {
          "cmd": [
            "sh",
            "-c",
            "exit 7"
          ],
          "env": [
            "A=b"
          ],
          "tty": true,
          "rows": 24,
          "cols": 80,
          "working_dir": "/workspace"
        }
        "#);
        let entrypoint = ExecRequest { cmd: vec!["".into()], entrypoint: true, ..ExecRequest::default() };
        let golden = r#"{"cmd":[""],"entrypoint":true,"tty":false,"rows":0,"cols":0}"#;
        assert_eq!(serde_json::to_string(&entrypoint).unwrap(), golden);
        assert_eq!(entrypoint.command(), Ok(Command::Entrypoint { args: vec!["".into()] }));
        assert_eq!(serde_json::to_string(&ExitStatus::exited(7)).unwrap(), r#"{"code":7}"#);
        assert_eq!(serde_json::to_string(&ExitStatus::signalled(9)).unwrap(), r#"{"code":137,"signal":9}"#);
        assert_eq!(serde_json::to_string(&Resize { rows: 1, cols: 2 }).unwrap(), r#"{"rows":1,"cols":2}"#);
        assert_eq!(serde_json::to_string(&Signal { signal: 15 }).unwrap(), r#"{"signal":15}"#);
    }
}
