//! Host directories of a machine: one virtiofsd process each, started before QEMU, found again and ended after it.
//!
//! `start` is called before QEMU is, and gives the connections that QEMU is started with; a machine keeps the
//! [`Daemons`](crate::shares::Daemons) that serve it. They are detached like QEMU and end with it; who is left over is
//! recognised by its [`Marker`](crate::shares::Marker). macOS has none of this.

mod cache;
#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod served;
#[cfg(target_os = "linux")]
mod start;

pub use self::cache::ShareCache;
#[cfg(target_os = "macos")]
pub(super) use self::macos::{Shares, start};
#[cfg(target_os = "linux")]
pub(super) use self::{served::Shares, start::start};
