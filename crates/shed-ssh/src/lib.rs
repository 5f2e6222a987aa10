//! SSH as Shed speaks it: what the server and the `shed` client have in common, and the client's connection.
//!
//! The server's `ssh` module and the command line call it. It is the only room, with that module, that names russh,
//! whose interface moves often. It knows no sheds beyond a name to log in with, reads no files, and prints nothing.

pub mod algorithms;
pub mod client;
mod refusal;

pub use refusal::Refusal;

/// Name of the subsystem in which `shed` runs commands: the channel carries the frames of the agent's exec service
/// (spec B.2, B.3), an exec request first, as the upgraded HTTP connection does.
///
/// One channel then has stdout, stderr, signals, sizes and the exit status in their order, and no shell stands between
/// the client's words and the program. RFC 4254 6.5 leaves the names of subsystems to both ends.
///
/// The client sends the request without waiting for the answer to the subsystem, but no input before that answer, so that
/// it can take its input elsewhere. The server answers as soon as it knows whether there is such a shed, and before it
/// starts a stopped one:
///
/// - success when there is; a refusal may still follow. What it has to say meanwhile ("shed web is starting") goes to
///   the client as frames of stderr, whole lines with their end, and after such lines an empty frame of data when the
///   agent has the request: from then on the keys of a terminal are for the command. When there will be no command after all (the shed does
///   not start, its agent does not answer), the last frame is a [`Refusal`] in the place of the exit status.
/// - failure when there is none: the frame of a [`Refusal`] as data, then the failure. A failure without that frame is a
///   server that knows no such subsystem.
///
/// After the last frame the server ends and closes the channel.
///
/// The end of the client's data is not the end of its input, which is a frame: it is a client that has gone, as the
/// close of the upgraded connection is, and so is the close of the channel.
pub const EXEC_SUBSYSTEM: &str = "shed-exec";
