//! `vfkit-stand-in`: takes the command line of `vfkit` (the runner of machines on macOS) and starts QEMU with the same
//! devices, so that what starts machines by vfkit can be tested on Linux. Never shipped.
//!
//! Tests run it by the name that vfkit has there. It stays in the foreground until the machine has ended; then its exit
//! code is 0, and 1 when it was refused or went wrong. What vfkit refuses is refused with a reason, and so is what vfkit can
//! do and this cannot: a graphical screen, ignition, cloud-init, nested machines, EFI, other networks than NAT. It is
//! written from vfkit's documented behaviour; where that is surprising, the file that imitates it says so. It cannot
//! tell what Apple's framework itself does: limits of processors and memory, for one, are not checked.

mod children;
mod console;
mod devices;
#[cfg(test)]
mod devices_tests;
mod files;
mod flags;
mod log;
mod machine;
mod monitor;
mod qemu;
mod rest;
mod run;
mod state;
mod urls;
mod vsock;
mod words;

use std::process::ExitCode;

use anyhow::Context;

use flags::Asked;
use log::{Level, Log};
use machine::Machine;

/// The version of vfkit whose command line this is.
const VERSION: &str = "v0.6.4";

const HELP: &str = "Starts a virtual machine as vfkit does, with QEMU. For tests. The options are vfkit's:
--bootloader, --cpus, --device, --initrd, --kernel, --kernel-cmdline, --log-level, --memory, --pidfile,
--restful-uri, --timesync, --version";

#[expect(clippy::print_stdout, reason = "what was asked for is its output")]
fn main() -> ExitCode {
    // The log level is not known yet.
    let log = Log(Level::Error);
    let machine = match flags::parse(std::env::args().skip(1)) {
        Ok(Asked::Version) => {
            println!("vfkit version: {VERSION}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Help) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Run(flags)) => Machine::of(*flags),
        Err(error) => Err(error),
    };
    match machine.and_then(start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the machine on this thread, with which its processes die (see [`children`]).
fn start(machine: Machine) -> anyhow::Result<()> {
    let log = Log(machine.level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let ended = runtime.block_on(run::run(machine, log));
    // A read of the terminal may be under way, which nothing ends.
    runtime.shutdown_background();
    ended
}
