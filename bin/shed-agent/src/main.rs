//! The agent: runs in each shed as root, and does there what the host asks for (spec B).
//!
//! `shed-agent serve` is the service, started by systemd through the unit that shed-init installs. `shed-agent pid1`
//! is the init of an image that has none; it starts `serve` and restarts it. The host is trusted, but what it sends is
//! bounded all the same; what runs in the shed is not trusted and gets no way to the host here.
//!
//! The binary is static and must never call into NSS (getpwnam, getaddrinfo and their kin), which loads libraries of
//! the image and crashes: accounts are read by `exec::users`, and no name is ever resolved.

#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod health;
#[cfg(target_os = "linux")]
mod identify;
#[cfg(target_os = "linux")]
mod inheritance;
#[cfg(target_os = "linux")]
mod log;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod pid1;
#[cfg(target_os = "linux")]
mod power_off;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
mod state;
#[cfg(target_os = "linux")]
mod tcp;
#[cfg(target_os = "linux")]
mod transport;
#[cfg(target_os = "linux")]
mod watched_fd;
#[cfg(target_os = "linux")]
mod whole_file;

use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    // The guest is Linux; elsewhere this only has to build with the rest of the workspace.
    ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| log::error(&info.to_string())));
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve::run(),
        Some("pid1") => pid1::run(),
        Some("--version") => {
            log::to_stdout(concat!("shed-agent ", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
        _ => {
            log::to_stdout("usage: shed-agent serve | pid1 | --version\n");
            ExitCode::from(2)
        }
    }
}
