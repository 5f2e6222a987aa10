//! One command in a shed, joined to this process: its input, output, signals and terminal.
//!
//! The commands open the stream and call [`run`]; nothing here knows servers or prints messages. Reading
//! stdin and writing stdout block, so each has a thread ([`input`], [`output`]) behind a short queue; a thread that
//! is still blocked in a read when the command is over ends with the process, and holds nothing up.

mod escape;
mod input;
mod modes;
mod output;
mod quiet;
mod session;
mod signals;
mod terminal;

pub(crate) use input::Keys;
pub(crate) use quiet::{Heard, run_quietly};
pub(crate) use session::{Ending, SessionError, run};
pub(crate) use signals::Signals;
pub(crate) use terminal::{Terminal, window_size};

/// Whether the command has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tty {
    /// It has, and the one of this process is handed to it.
    Used,
    /// It has pipes.
    None,
}
