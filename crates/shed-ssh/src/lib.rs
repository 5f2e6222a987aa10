//! SSH as Shed speaks it: what the server and the `shed` client have in common, and the client's connection.
//!
//! The server's `ssh` module and the command line call it. It is the only room, with that module, that names russh,
//! whose interface moves often. It knows no sheds beyond a name to log in with, reads no files, and prints nothing.

pub mod algorithms;

/// Name of the subsystem in which `shed` runs commands: the channel carries the frames of the agent's exec service
/// (spec B.2, B.3), an exec request first, as the upgraded HTTP connection does.
///
/// One channel then has stdout, stderr, signals, sizes and the exit status in their order, and no shell stands between
/// the client's words and the program. RFC 4254 6.5 leaves the names of subsystems to both ends.
pub const EXEC_SUBSYSTEM: &str = "shed-exec";
