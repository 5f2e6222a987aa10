//! The agent: runs in each shed as root, and does there what the host asks for (spec B).
//!
//! `shed-agent serve` is the service, started by systemd through the unit that shed-init installs. `shed-agent pid1`
//! is the init of an image that has none; it starts `serve` and restarts it. `shed-agent tell-reboot` runs right before a
//! reboot where the host has to know of it. The host is trusted, but what it sends is
//! bounded all the same; what runs in the shed is not trusted and gets no way to the host here.
//!
//! The binary is static and must never call into NSS (getpwnam, getaddrinfo and their kin), which loads libraries of
//! the image and crashes: accounts are read by `exec::users`, and no name is ever resolved.
//!
//! It is a library so that one attribute keeps it to Linux; `main.rs` is its only user.

#![cfg(target_os = "linux")]

mod apart;
mod clock;
mod credentials;
mod exec;
mod extensions;
mod files;
mod health;
mod identify;
mod image;
mod inheritance;
mod journal;
mod kernel_log;
mod log;
mod messages;
mod meter;
mod mounts;
mod network;
mod pid1;
mod power_off;
mod publish;
mod reboot;
mod serve;
mod setup;
mod share_streams;
mod state;
mod tcp;
mod transport;
mod watched_fd;
mod whole_file;

use std::process::ExitCode;

/// Runs the program: what its first argument asks for.
#[must_use]
pub fn main() -> ExitCode {
    log::begin();
    std::panic::set_hook(Box::new(|info| log::error(&info.to_string())));
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve::run(),
        Some("pid1") => pid1::run(),
        Some("tell-reboot") => reboot::run(),
        Some("--version") => {
            log::to_stdout(concat!("shed-agent ", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
        _ => {
            log::to_stdout("usage: shed-agent serve | pid1 | tell-reboot | --version\n");
            ExitCode::from(2)
        }
    }
}
