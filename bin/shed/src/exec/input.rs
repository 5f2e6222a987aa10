//! Reads stdin on a thread of its own.

use std::{io, thread};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::mpsc;

/// Bytes in one read, and so in one frame; what a Linux pipe holds (pipe(7)).
const CHUNK: usize = 64 << 10;

/// Reads waiting to be sent.
const QUEUE: usize = 4;

/// Starts reading. The receiver ends at the end of the input; a read that fails is an end, too.
///
/// # Errors
/// When there can be no more threads.
pub(super) fn spawn() -> io::Result<mpsc::Receiver<Bytes>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let thread = thread::Builder::new().name("stdin".to_owned()).spawn(move || read_all(&sender))?;
    // Nobody waits for it: it may be in a read that never returns.
    drop(thread);
    Ok(receiver)
}

fn read_all(sender: &mpsc::Sender<Bytes>) {
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            // Whoever shares the other end may have made it non-blocking.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}
