//! Reads stdin on a thread of its own.

use std::{io, thread};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::{mpsc, oneshot};

use super::escape::{Escape, Typed};

/// Bytes in one read, and so in one frame; what a Linux pipe holds (pipe(7)).
const CHUNK: usize = 64 << 10;

/// Reads waiting to be sent.
const QUEUE: usize = 4;

/// The same where the escape is looked for: it must be seen when nothing can be sent any more, and keys come one by one.
const QUEUE_OF_KEYS: usize = 4096;

/// What is done with what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// It is passed on as it is.
    Plain,
    /// `~.` at the start of a line leaves.
    Escaped,
}

/// Starts reading. The first value ends at the end of the input; a read that fails is an end, too. The second tells
/// when the user wants to leave, and never ends otherwise.
///
/// # Errors
/// When there can be no more threads.
pub(super) fn spawn(keys: Keys) -> io::Result<(mpsc::Receiver<Bytes>, oneshot::Receiver<()>)> {
    let (sender, receiver) = mpsc::channel(match keys {
        Keys::Plain => QUEUE,
        Keys::Escaped => QUEUE_OF_KEYS,
    });
    let (leave, left) = oneshot::channel();
    let escape = match keys {
        Keys::Plain => None,
        Keys::Escaped => Some(Escape::new()),
    };
    let work = move || read_all(&sender, escape, leave);
    let thread = thread::Builder::new().name("stdin".to_owned()).spawn(work)?;
    // Nobody waits for it: it may be in a read that never returns.
    drop(thread);
    Ok((receiver, left))
}

fn read_all(sender: &mpsc::Sender<Bytes>, mut escape: Option<Escape>, leave: oneshot::Sender<()>) {
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let piece = match escape.as_mut().map(|escape| escape.read(&buffer[..count])) {
                    None => Bytes::copy_from_slice(&buffer[..count]),
                    Some(Typed::Keys(keys)) => keys.into(),
                    Some(Typed::Leave) => {
                        // The session may be over already.
                        let _over = leave.send(());
                        return;
                    }
                };
                if !piece.is_empty() && sender.blocking_send(piece).is_err() {
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
