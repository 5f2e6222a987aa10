//! Writes stdout and stderr on a thread of its own, in the order they came, unbuffered.

use std::{io, thread};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::BorrowedFd,
    io::Errno,
};
use tokio::sync::{mpsc, oneshot};

/// Frames waiting to be written; each has at most 1 MiB, and as a rule 64 KiB.
const QUEUE: usize = 8;

/// Where output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// What goes to the writer.
pub(super) type Sender = mpsc::Sender<(Target, Bytes)>;

/// Starts the writer. The second value says how it went, once the sender is gone and all is written, or as soon
/// as a write fails.
///
/// # Errors
/// When there can be no more threads.
pub(super) fn spawn() -> io::Result<(Sender, oneshot::Receiver<Result<(), Errno>>)> {
    let (sender, mut receiver) = mpsc::channel::<(Target, Bytes)>(QUEUE);
    let (report, done) = oneshot::channel();
    let work = move || {
        let mut result = Ok(());
        while let (Ok(()), Some((target, bytes))) = (result, receiver.blocking_recv()) {
            result = match target {
                Target::Stdout => write_all(rustix::stdio::stdout(), &bytes),
                Target::Stderr => write_all(rustix::stdio::stderr(), &bytes),
            };
        }
        // The session may have ended for another reason and not wait for this.
        let _unheard = report.send(result);
    };
    let thread = thread::Builder::new().name("output".to_owned()).spawn(work)?;
    // The session waits for the report; a thread that is stuck in a write must not keep it from a signal.
    drop(thread);
    Ok((sender, done))
}

fn write_all(target: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(target, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Whoever shares the other end may have made it non-blocking.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&target, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsFd};

    use super::*;

    #[test]
    fn a_write_to_a_full_non_blocking_pipe_waits_and_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let data: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let expected = data.clone();
        let thread = thread::spawn(move || write_all(writer.as_fd(), &data));
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        assert_eq!(thread.join().unwrap(), Ok(()));
        assert!(seen == expected, "{} of {} bytes, or others", seen.len(), expected.len());
    }

    #[test]
    fn a_pipe_nobody_reads_is_reported() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(writer.as_fd(), b"x"), Err(Errno::PIPE));
    }
}
