//! `shed`, the command-line client.
//!
//! [`cli`] parses the arguments and picks the command, `commands/<verb>.rs` runs it, [`ui`] writes all text, and
//! [`command_error`] decides how a failure is said and which exit code it has. The client knows the server only
//! through `shed-client` and `shed-ssh` ([`ssh`]). What it keeps is in `~/.shed`: its configuration and the servers' host
//! keys ([`config`]), and which tunnels run ([`tunnels`]); and, when asked to, a part of `~/.ssh/config` ([`ssh_config`]). Images
//! are made on this machine, without a server ([`images`]).

mod cli;
mod command_error;
mod commands;
mod config;
mod confirm;
mod exec;
mod guest_output;
mod images;
mod progress;
mod servers;
mod sizes;
mod ssh;
mod ssh_config;
mod sync;
mod times;
mod trace;
mod tunnels;
mod ui;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
