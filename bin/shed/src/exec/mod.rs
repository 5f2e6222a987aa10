//! One command in a shed, joined to this process: its input, output, signals and terminal.
//!
//! `commands/exec.rs` opens the stream and calls [`run`]; nothing here knows servers or prints messages. Reading
//! stdin and writing stdout block, so each has a thread ([`input`], [`output`]) behind a short queue; a thread that
//! is still blocked in a read when the command is over ends with the process, and holds nothing up.

mod input;
mod output;
mod session;
mod signals;
mod terminal;

pub(crate) use session::{Ending, SessionError, run};
pub(crate) use terminal::{Terminal, window_size};

/// Whether the command has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tty {
    /// It has, and the one of this process is handed to it.
    Used,
    /// It has pipes.
    None,
}
