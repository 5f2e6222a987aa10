//! The agent's log: the kernel's ring buffer, which is there before the journal, ends up in it, and is on the console
//! when something is wrong.
//!
//! Until [`begin`] is called, as in tests, everything goes to stderr: the ring buffer would be the host's.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use shed_types::error_chain;

/// Whether this process is the agent of a machine.
static IN_GUEST: AtomicBool = AtomicBool::new(false);

/// Sends everything from here on to the kernel's ring buffer and the console.
pub(crate) fn begin() {
    IN_GUEST.store(true, Relaxed);
}

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
    self::error(&error_chain(error));
}

/// Writes one line to the console, whatever the kernel's log level is.
pub(crate) fn console(line: &str) {
    if !IN_GUEST.load(Relaxed) {
        return to_stderr(&format!("{line}\n"));
    }
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

fn to_stderr(text: &str) {
    let _closed = std::io::stderr().write_all(text.as_bytes());
}

fn kmsg(level: u8, text: &str) {
    let record = record(level, text);
    if !IN_GUEST.load(Relaxed) {
        return to_stderr(&record);
    }
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; the kernel cuts it at about 1000 bytes (kernel doc: ABI/testing/dev-kmsg).
        let _full = kmsg.write_all(record.as_bytes());
    }
}

fn record(level: u8, text: &str) -> String {
    format!("<{level}>shed-agent: {}\n", text.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_with_its_level() {
        assert_eq!(record(3, "a\nb"), "<3>shed-agent: a b\n");
    }

    #[test]
    fn a_test_does_not_write_to_the_hosts_ring_buffer() {
        // Whoever runs this as root would find it with dmesg.
        let unique = format!("shed-agent test {}", std::process::id());
        info(&unique);
        error(&unique);
        assert!(!IN_GUEST.load(Relaxed));
        let mut log = String::new();
        if let Ok(mut kmsg) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") {
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = std::io::Read::read(&mut kmsg, &mut buffer) {
                log += &String::from_utf8_lossy(&buffer[..length]);
            }
        }
        assert!(!log.contains(&unique));
    }
}
