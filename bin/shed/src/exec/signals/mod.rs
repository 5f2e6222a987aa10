//! Signals to this process that concern the command.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use self::linux::CONTINUE;
#[cfg(target_os = "macos")]
use self::macos::CONTINUE;

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal means here. Numbers are the same on Linux and macOS, but for that of SIGCONT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Asks to end: SIGINT, SIGQUIT or SIGTERM.
    End {
        /// The number.
        signal: u8,
    },
    /// The terminal is gone: SIGHUP.
    HangUp,
    /// The terminal has a new size: SIGWINCH.
    Resize,
    /// The process was stopped and goes on: SIGCONT.
    Continued,
}

/// Number of SIGHUP.
pub(super) const HANG_UP: u8 = 1;
const INTERRUPT: u8 = 2;
const QUIT: u8 = 3;
const TERMINATE: u8 = 15;

/// Listens from when it is made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hang_up: Signal,
    window: Signal,
    continued: Signal,
}

impl Signals {
    /// Takes the signals over from their default, which is to end the process.
    ///
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            window: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(CONTINUE))?,
        })
    }

    /// Waits for one that asks this process to end, and returns its number.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(crate) async fn end(&mut self) -> u8 {
        loop {
            match self.next().await {
                Event::End { signal } => return signal,
                Event::HangUp => return HANG_UP,
                Event::Resize | Event::Continued => {}
            }
        }
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.interrupt.recv() => Event::End { signal: INTERRUPT },
            _ = self.quit.recv() => Event::End { signal: QUIT },
            _ = self.terminate.recv() => Event::End { signal: TERMINATE },
            _ = self.hang_up.recv() => Event::HangUp,
            _ = self.window.recv() => Event::Resize,
            _ = self.continued.recv() => Event::Continued,
        }
    }
}
