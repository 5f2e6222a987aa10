//! The entries that a journalctl prints, as it prints them.

use std::{collections::VecDeque, io};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, ChildStderr, ChildStdout},
};

use super::export::{Decoder, Entry};

/// How much is read at a time, in bytes.
const PIECE: usize = 16 << 10;

/// What is kept of the messages of a journalctl, in bytes.
const COMPLAINT: u64 = 1000;

/// A journalctl and what it has printed. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Entries {
    child: Child,
    output: ChildStdout,
    complaints: Option<ChildStderr>,
    decoder: Decoder,
    ready: VecDeque<Entry>,
    piece: Vec<u8>,
}

impl Entries {
    /// Takes a process that was just started.
    pub(super) fn of(mut child: Child) -> io::Result<Self> {
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let complaints = child.stderr.take();
        let (decoder, ready, piece) = (Decoder::default(), VecDeque::new(), Vec::with_capacity(PIECE));
        Ok(Self { child, output, complaints, decoder, ready, piece })
    }

    /// Waits for the next entry; nothing when the process prints no more.
    ///
    /// # Cancel safety
    /// No entry is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            self.piece.clear();
            if self.output.read_buf(&mut self.piece).await? == 0 {
                return Ok(None);
            }
            self.decoder.feed(&self.piece, &mut self.ready);
        }
    }

    /// Returns the process, in tests.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the end of a process that prints no more, and returns what it complains of if it failed.
    pub(super) async fn complaint(&mut self) -> io::Result<Option<String>> {
        let mut text = Vec::new();
        if let Some(complaints) = self.complaints.take() {
            drop(read_some(complaints, &mut text).await);
        }
        let status = self.child.wait().await?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Ok(match (status.success(), text.is_empty()) {
            (true, true) => None,
            // "No journal files were found." is no failure to journalctl.
            (true | false, false) => Some(text),
            (false, true) => Some(format!("journalctl ended with {status}")),
        })
    }
}

async fn read_some(from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> io::Result<usize> {
    from.take(COMPLAINT).read_to_end(into).await
}
