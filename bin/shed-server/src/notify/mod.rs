//! Tells what has started this server that requests are answered.
//!
//! `serve` calls [`ready`] once. Where nobody asks for it, nothing is told.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::ready;
#[cfg(target_os = "macos")]
pub(crate) use self::macos::ready;
