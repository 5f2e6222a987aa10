//! Keeps what a process has in its memory out of core files. Programs through whose hands secrets go call it first.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

use std::io;

/// From now on this process leaves no core, whatever `core_pattern` says, and on Linux only root can attach to it or read its
/// memory. Programs that it starts are as they would be without: the kernel gives it back at execve (PR_SET_DUMPABLE(2const)).
/// Where there is no such thing the limit of core files is set to zero, for children, too.
///
/// # Errors
/// When the system refuses, which it has no reason to.
pub fn leave_no_core() -> io::Result<()> {
    system::leave_no_core()
}
