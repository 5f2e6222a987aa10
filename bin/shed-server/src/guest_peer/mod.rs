//! Tells whether a connection to the API was made by a guest.
//!
//! With user-mode networking a guest's connections are made by its VMM, on this host: they reach services on the
//! loopback address, and the API, which takes whoever reaches it for the owner, is one of them. The server's accept
//! loop asks here, and refuses what a guest sends. On systems without /proc nothing can be told, and nothing is refused.

#[cfg(target_os = "linux")]
mod diag;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
mod table;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::origin;
#[cfg(target_os = "macos")]
pub(crate) use self::macos::origin;

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody who may use the API.
    Client,
    /// One of the machines, or a process on this host that cannot be told from one any more.
    Guest,
}

impl Origin {
    /// Returns what a connection is that one of the machines made, or not.
    const fn of(is_a_machines: bool) -> Self {
        if is_a_machines { Self::Guest } else { Self::Client }
    }
}
