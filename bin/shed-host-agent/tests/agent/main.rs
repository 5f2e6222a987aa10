//! The real program: against a bus that does what a test says, OpenSSH's own agent and keys, and a user at a terminal.

mod approvals;
mod bus;
mod connection;
mod hostile;
mod keys;
#[cfg(target_os = "linux")]
mod linux;
mod world;
