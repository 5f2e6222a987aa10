//! Ports of this machine that lead into sheds (spec H.1).
//!
//! `commands/tunnels` decides what is forwarded and says what happens; here is how. [`file`] reads the profiles,
//! [`doors`] opens the local ports, [`carry`] moves the bytes, each connection over a connect request of the HTTP API,
//! [`handover`] gives the open ports to a process that outlives the terminal, and [`state`] keeps which processes there
//! are. A shed has one such process at most, for all its ports.

pub(crate) mod carry;
pub(crate) mod doors;
pub(crate) mod file;
pub(crate) mod handover;
pub(crate) mod journal;
mod keep_alive;
pub(crate) mod mapping;
pub(crate) mod state;

/// Name of the file of profiles, beside the config file.
pub(crate) const PROFILES: &str = "tunnels.yaml";
