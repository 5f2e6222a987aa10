//! Hands the terminal to the command: raw while it runs, as it was afterwards, however this process ends.

use std::{
    io::IsTerminal,
    panic,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use rustix::{
    io::Errno,
    stdio::{stderr, stdin, stdout},
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};

/// The terminal's own settings while it is raw; here and not in [`Terminal`], so that a panic finds them.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal on stdin, raw; dropping this restores it. When stdin is no terminal, nothing is changed.
#[derive(Debug)]
pub(crate) struct Terminal {
    input: Input,
}

/// What a command with a terminal gets its keys from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// A person.
    Terminal,
    /// A pipe or file (`--tty` was given).
    Pipe,
}

impl Terminal {
    /// Makes the terminal raw.
    ///
    /// # Errors
    /// When its settings cannot be read or changed.
    pub(crate) fn take() -> Result<Self, Errno> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self { input: Input::Pipe });
        }
        restore_on_panic();
        let settings = tcgetattr(stdin())?;
        *saved() = Some(settings);
        let terminal = Self { input: Input::Terminal };
        terminal.make_raw()?;
        Ok(terminal)
    }

    /// Returns what the keys come from.
    pub(super) fn input(&self) -> Input {
        self.input
    }

    /// Makes the terminal raw again after this process was stopped and continued: the shell has used it meanwhile.
    ///
    /// # Errors
    /// When the settings cannot be changed.
    pub(super) fn make_raw(&self) -> Result<(), Errno> {
        match saved().clone() {
            None => Ok(()),
            Some(mut settings) => {
                settings.make_raw();
                // What was typed ahead is kept.
                tcsetattr(stdin(), OptionalActions::Drain, &settings)
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn saved() -> MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the settings back. A terminal that is gone cannot be helped.
fn restore() {
    if let Some(settings) = saved().take() {
        let _gone = tcsetattr(stdin(), OptionalActions::Now, &settings);
    }
}

/// Restores before the message of a panic is written, on whichever thread that is.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}

/// Returns rows and columns of the terminal on stdout, stdin or stderr; zeros, which mean 24 × 80, without one.
pub(crate) fn window_size() -> (u16, u16) {
    let sizes = [tcgetwinsize(stdout()), tcgetwinsize(stdin()), tcgetwinsize(stderr())];
    sizes.into_iter().flatten().next().map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
