//! The commands that the server starts itself, as other processes of its own; no part of the command line that people use.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::InnerCommand;
#[cfg(target_os = "macos")]
pub(crate) use self::macos::InnerCommand;
