//! Hands the terminal to the command: raw while it runs, as it was afterwards, however this process ends.

use std::{
    cell::Cell,
    io::IsTerminal,
    panic,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    stdio::{stderr, stdin, stdout},
    termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};

use super::modes::Modes;

/// What the terminal was like, while it is raw; here and not in [`Terminal`], so that a panic finds it.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    settings: Termios,
    /// What the command has switched.
    modes: Modes,
    /// The cursor may stand behind text.
    within_line: bool,
}

/// The terminal on stdin, raw; dropping this restores it. When stdin is no terminal, nothing is changed.
#[derive(Debug)]
pub(crate) struct Terminal {
    input: Input,
    /// The command has ended by itself, and has left the screen as it wants it.
    ended: Cell<bool>,
    /// There is no command yet that could take Ctrl-C, so it ends this process.
    waiting: Cell<bool>,
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
            return Ok(Self { input: Input::Pipe, ended: Cell::new(false), waiting: Cell::new(false) });
        }
        restore_on_panic();
        let settings = tcgetattr(stdin())?;
        *saved() = Some(Saved { settings, modes: Modes::default(), within_line: false });
        let terminal = Self { input: Input::Terminal, ended: Cell::new(false), waiting: Cell::new(false) };
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
        let settings = saved().as_ref().map(|saved| saved.settings.clone());
        match settings {
            None => Ok(()),
            Some(mut settings) => {
                settings.make_raw();
                if self.waiting.get() {
                    settings.local_modes |= LocalModes::ISIG;
                }
                // What was typed ahead is kept.
                tcsetattr(stdin(), OptionalActions::Drain, &settings)
            }
        }
    }

    /// Says whether there is a command yet that takes Ctrl-C.
    ///
    /// # Errors
    /// When the settings cannot be changed.
    pub(super) fn wait_for_command(&self, waiting: bool) -> Result<(), Errno> {
        if self.waiting.replace(waiting) == waiting { Ok(()) } else { self.make_raw() }
    }

    /// Looks at output that is on its way to the terminal.
    pub(super) fn see(&self, output: &[u8]) {
        if let (Some(saved), Some(last)) = (saved().as_mut(), output.last()) {
            saved.modes.see(output);
            saved.within_line = *last != b'\n';
        }
    }

    /// Makes lines what they must be on a raw terminal.
    pub(super) fn lines(&self, text: Bytes) -> Bytes {
        match self.input {
            Input::Pipe => text,
            Input::Terminal => {
                String::from_utf8_lossy(&text).replace("\r\n", "\n").replace('\n', "\r\n").into()
            }
        }
    }

    /// Says that the command has ended by itself. The screen is left as it is then.
    pub(super) fn command_ended(&self) {
        self.ended.set(true);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore(if self.ended.get() { Screen::Kept } else { Screen::Cleared });
    }
}

/// What becomes of what the command has done to the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Screen {
    /// It stays.
    Kept,
    /// It is undone, and a message can follow at the start of a line.
    Cleared,
}

fn saved() -> MutexGuard<'static, Option<Saved>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the settings back. A terminal that is gone cannot be helped.
fn restore(screen: Screen) {
    let Some(saved) = saved().take() else { return };
    match screen {
        Screen::Kept => {}
        Screen::Cleared => {
            let mut text = saved.modes.undo();
            if saved.within_line && text.is_empty() {
                text.extend(b"\r\n");
            }
            write_at_once(&text);
        }
    }
    let _gone = tcsetattr(stdin(), OptionalActions::Now, &saved.settings);
}

/// Writes to the terminal on stdout, unless it takes nothing at this moment: the way out must not be blocked.
fn write_at_once(text: &[u8]) {
    let stdout = stdout();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if !text.is_empty()
        && isatty(stdout)
        && poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], Some(&now)) == Ok(1)
    {
        let _gone = rustix::io::write(stdout, text);
    }
}

/// Restores before the message of a panic is written, on whichever thread that is.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore(Screen::Cleared);
            before(info);
        }));
    });
}

/// Returns rows and columns of the terminal on stdout, stdin or stderr; zeros, which mean 24 × 80, without one.
pub(crate) fn window_size() -> (u16, u16) {
    let sizes = [tcgetwinsize(stdout()), tcgetwinsize(stdin()), tcgetwinsize(stderr())];
    sizes.into_iter().flatten().next().map_or((0, 0), |size| (size.ws_row, size.ws_col))
}
