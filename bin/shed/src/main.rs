//! `shed`, the command-line client.
//!
//! [`cli`] parses the arguments and picks the command, `commands/<verb>.rs` runs it, [`ui`] writes all text, and
//! [`command_error`] decides how a failure is said and which exit code it has. The client knows the server only
//! through `shed-client` and `shed-ssh` ([`ssh`]); it keeps nothing but `~/.shed/config.yaml` and the host keys beside it
//! ([`config`]).

mod cli;
mod command_error;
mod commands;
mod config;
mod confirm;
mod exec;
mod progress;
mod servers;
mod sizes;
mod ssh;
mod times;
mod trace;
mod ui;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
