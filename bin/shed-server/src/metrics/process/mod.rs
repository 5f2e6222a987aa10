//! The server's own process, as far as the system tells something of it. The metrics that nothing is known of are left out.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(super) use self::linux::{open_descriptors, resident_bytes, start_time};
#[cfg(target_os = "macos")]
pub(super) use self::macos::{open_descriptors, resident_bytes, start_time};
