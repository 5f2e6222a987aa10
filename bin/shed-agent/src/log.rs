//! The agent's log: the kernel's ring buffer, which is there before the journal, ends up in it, and is on the console
//! when something is wrong.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};

/// Notes something that is of use when looking for a fault.
pub(crate) fn info(text: &str) {
    kmsg(6, text);
}

/// Notes that something failed.
pub(crate) fn error(text: &str) {
    kmsg(3, text);
}

/// Writes an error with its causes.
pub(crate) fn failed(error: &dyn std::error::Error) {
    self::error(&chain(error));
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Writes one line to the console, whatever the kernel's log level is.
pub(crate) fn console(line: &str) {
    // Without a console there is nobody to tell.
    if let Ok(mut console) = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open("/dev/console")
    {
        let _unheard = console.write_all(format!("{line}\r\n").as_bytes());
    }
}

/// Writes to standard output, for the two uses of the program by hand.
pub(crate) fn to_stdout(text: &str) {
    let _closed = std::io::stdout().write_all(text.as_bytes());
}

fn kmsg(level: u8, text: &str) {
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; the kernel cuts it at about 1000 bytes (kernel doc: ABI/testing/dev-kmsg).
        let line = format!("<{level}>shed-agent: {}\n", text.replace('\n', " "));
        let _full = kmsg.write_all(line.as_bytes());
    }
}
