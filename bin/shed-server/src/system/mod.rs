//! What differs between the systems that the server runs on.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{RUN_DIR, has_firecracker};
#[cfg(target_os = "macos")]
pub(crate) use self::macos::{RUN_DIR, has_firecracker};
