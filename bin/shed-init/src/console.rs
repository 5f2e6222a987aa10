//! What shed-init says, and how it ends: lines on the console, and power-off.
//!
//! The console is the only way to tell the host anything at this point. Lines are drained before the power goes, or
//! the last one, which matters most, would be lost in the serial driver's buffer.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::fd::AsFd,
    sync::OnceLock,
};

use rustix::system::{RebootCommand, reboot};

use crate::cmdline::Ending;

/// How the machine ends, once the command line has been read.
static ENDING: OnceLock<Ending> = OnceLock::new();

/// Says how [`power_off`] ends the machine.
pub(crate) fn end_by(ending: Ending) {
    // There is one command line, and it is read once.
    let _already = ENDING.set(ending);
}

/// Makes the console standard input, output and error, for shed-init and for the init it hands over to. The kernel
/// does so only when the initramfs holds the node.
pub(crate) fn adopt() {
    if let Some(console) = open() {
        // Without a console the boot goes on all the same: the host may have none.
        let _in = rustix::stdio::dup2_stdin(&console);
        let _out = rustix::stdio::dup2_stdout(&console);
        let _err = rustix::stdio::dup2_stderr(&console);
    }
}

/// Prints one line.
pub(crate) fn say(text: &str) {
    if let Some(mut console) = open() {
        let _unheard = console.write_all(format!("{text}\r\n").as_bytes());
    }
}

/// Prints one line about something that is not as it should be, and does not end the boot.
pub(crate) fn warn(text: &str) {
    say(&format!("shed-init: warning: {text}"));
}

/// Prints one line, writes everything to disk and ends the machine.
pub(crate) fn power_off(last_words: &str) -> ! {
    // Firmware and kernel may have left the cursor in the middle of a line.
    say(&format!("\r\n{last_words}"));
    if let Some(console) = open() {
        let _undrained = rustix::termios::tcdrain(console.as_fd());
    }
    rustix::fs::sync();
    let command = match ENDING.get().copied().unwrap_or_default() {
        Ending::PowerOff => RebootCommand::PowerOff,
        Ending::Restart => RebootCommand::Restart,
    };
    loop {
        // Returns only when it fails, and PID 1 must not end.
        let _refused = reboot(command);
        let _interrupted = rustix::event::poll(&mut [], None);
    }
}

fn open() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/console").ok()
}
