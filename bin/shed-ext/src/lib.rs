//! What tools in a shed talk to when they need keys and credentials (spec J.3).
//!
//! One static program with several names: `shed-ssh-agent` and `shed-aws-proxy` are services, which shed-agent has systemd
//! start where the server enables them; `docker-credential-shed` is called by Docker; `shed-ext` by people. Each asks over
//! the plugin bus, and `shed-host-agent` on the user's machine answers. No key is here, and a credential only on its way to
//! the tool that asked: nothing of a payload is printed, logged, kept, or left in a core dump.
//!
//! Like shed-agent it must never call into NSS: no name is resolved, no account looked up.
//!
//! It is a library so that one attribute keeps it to Linux; `main.rs` and the tests are its only users.

#![cfg(target_os = "linux")]

mod aws;
mod bus;
mod command_line;
mod docker;
mod health;
mod run_dir;
mod say;
pub mod ssh;
mod status;

use std::{future::Future, io, process::ExitCode};

use crate::command_line::{Command, UsageError};

/// Runs the program: what its name or its first argument asks for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let (name, command) = command_line::parse(arguments.collect());
    let command = match command {
        Ok(command) => command,
        Err(UsageError(error)) => {
            say::error(&name, &format!("{error}; see {name} --help"));
            return ExitCode::from(2);
        }
    };
    if let Err(error) = shed_process::leave_no_core() {
        say::error(&name, &format!("cannot turn core dumps off, in which secrets would be: {error}"));
        return ExitCode::FAILURE;
    }
    let result = match command {
        Command::Print(text) => {
            say::answer(&text);
            Ok(ExitCode::SUCCESS)
        }
        Command::SshAgent(place) => run(ssh::serve(place)),
        Command::AwsProxy { place, port } => run(aws::serve(place, port)),
        Command::Docker { action, bus } => run(docker::run(action, bus)),
        Command::Status { bus, json } => run(status::run(bus, json)),
        Command::Health { place, json } => run(health::run(place, json)),
    };
    result.unwrap_or_else(|error| {
        say::error(&name, &format!("cannot start: {error}"));
        ExitCode::FAILURE
    })
}

fn run(work: impl Future<Output = ExitCode>) -> io::Result<ExitCode> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}
