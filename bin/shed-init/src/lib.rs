//! PID 1 of the initramfs: assembles the root and hands over (design §2, §3).
//!
//! It loads drivers, finds the shed's two disks, mounts an overlay of them, puts the agent below /run/shed, puts right
//! what the image lacks, and becomes the image's systemd or, without one, the agent. Nothing is ever formatted or
//! repaired here. Whatever fails before the hand-over ends in one numbered line on the console and a power-off.
//!
//! It is a library so that one attribute keeps it to Linux; `main.rs` is its only user.

#![cfg(target_os = "linux")]

mod cmdline;
mod console;
mod disks;
mod errors;
mod fixups;
mod handover;
mod modules;
mod root;
mod superblock;

use std::{convert::Infallible, fs, panic, path::Path};

use crate::{cmdline::Cmdline, disks::DiskWatch, errors::BootError, modules::Loading};

/// Runs the program; it returns only where it is not PID 1.
pub fn main() {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        // Nothing of this is fit to be run by hand.
        return;
    }
    panic::set_hook(Box::new(|info| {
        console::power_off(&BootError::Panic { message: info.to_string() }.line());
    }));
    let Err(error) = boot();
    console::power_off(&error.line());
}

fn boot() -> Result<Infallible, BootError> {
    root::mount_kernel_file_systems()?;
    console::adopt();
    let cmdline = Cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    console::end_by(cmdline.ending);
    let watch = DiskWatch::open();
    let modules = Loading::start();
    let detached = root::assemble(&cmdline, &watch, &modules)?;
    root::enter()?;
    root::furnish(detached)?;
    let top = Path::new("/");
    fixups::apply(top);
    let init = handover::choose(top, &cmdline)?;
    if let Err(error) = handover::install_units(top, cmdline.ending) {
        console::warn(&format!("cannot install the agent's unit: {error}"));
    }
    modules.finish();
    console::say("shed-init: root assembled");
    Err(handover::become_init(&init))
}
