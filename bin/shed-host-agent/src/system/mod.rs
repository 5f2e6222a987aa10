//! What differs between the systems that the agent runs on.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::CLOCK_WITH_SLEEP;
#[cfg(target_os = "macos")]
pub(crate) use self::macos::CLOCK_WITH_SLEEP;
