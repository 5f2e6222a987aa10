//! One direction of a relay, and the buffers of all of them.
//!
//! There is one buffer a thread. A read borrows it and gives it back in the same poll when nothing came, or when all of
//! it could be passed on at once; only a flow whose receiver is slow takes it along, and then the thread makes another.
//! So a thousand silent streams hold no buffer at all, and a busy one copies nothing twice.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read at once: large enough that bulk costs few system calls. It is also the most that one direction
/// holds while its receiver is slow.
pub const BUFFER: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

fn take_buffer() -> Box<[u8]> {
    SPARE.take().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    SPARE.set(Some(buffer));
}

/// Which end of a flow failed.
#[derive(Debug)]
pub(super) enum FlowError {
    Read(io::Error),
    Write(io::Error),
}

/// Bytes that were read and not all written yet.
#[derive(Debug)]
struct Held {
    bytes: Box<[u8]>,
    written: usize,
    length: usize,
    /// Whether `bytes` is a buffer that others may use afterwards.
    is_buffer: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Moving,
    /// The reader has said all; the writer is being told.
    Ending,
    Ended,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    held: Option<Held>,
    state: State,
    unflushed: bool,
    moved: u64,
}

impl Flow {
    /// Makes a flow that sends these bytes before what it reads.
    pub(super) fn beginning_with(early: &[u8]) -> Self {
        let held = (!early.is_empty()).then(|| Held {
            bytes: early.into(),
            written: 0,
            length: early.len(),
            is_buffer: false,
        });
        Self { held, state: State::Moving, unflushed: false, moved: 0 }
    }

    /// How many bytes the writer has taken.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the reader has said all and the writer knows.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Moves what can be moved now. Ready when the flow has ended.
    pub(super) fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
    ) -> Poll<Result<(), FlowError>> {
        while self.state == State::Moving {
            ready!(self.poll_write(cx, writer.as_mut())).map_err(FlowError::Write)?;
            match self.poll_read(cx, reader.as_mut()) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(FlowError::Read(error))),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(writer.poll_flush(cx)).map_err(FlowError::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        ready!(self.end(cx, writer));
        Poll::Ready(Ok(()))
    }

    /// Tells the writer that there is no more to come.
    pub(super) fn end<W: AsyncWrite>(&mut self, cx: &mut Context<'_>, writer: Pin<&mut W>) -> Poll<()> {
        if self.state != State::Ended {
            self.state = State::Ending;
            // A receiver that is gone needs not be told.
            let _gone = ready!(writer.poll_shutdown(cx));
            self.state = State::Ended;
        }
        Poll::Ready(())
    }

    /// Reads on and drops what comes, for a writer that takes no more. Ready when the reader has said all.
    pub(super) fn poll_drop<R: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
    ) -> Poll<io::Result<()>> {
        while self.state == State::Moving {
            self.let_go();
            ready!(self.poll_read(cx, reader.as_mut()))?;
        }
        self.state = State::Ended;
        Poll::Ready(Ok(()))
    }

    /// Writes out what is held.
    fn poll_write<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut writer: Pin<&mut W>,
    ) -> Poll<io::Result<()>> {
        while let Some(held) = self.held.as_mut().filter(|held| held.written < held.length) {
            let rest = &held.bytes[held.written..held.length];
            let count = ready!(writer.as_mut().poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            held.written += count;
            self.moved += count as u64;
            self.unflushed = true;
        }
        self.let_go();
        Poll::Ready(Ok(()))
    }

    /// Reads some bytes, or the end. Call it when nothing is held.
    fn poll_read<R: AsyncRead>(&mut self, cx: &mut Context<'_>, reader: Pin<&mut R>) -> Poll<io::Result<()>> {
        let mut bytes = take_buffer();
        let mut unread = ReadBuf::new(&mut bytes);
        let result = reader.poll_read(cx, &mut unread);
        match (unread.filled().len(), result) {
            (length @ 1.., Poll::Ready(Ok(()))) => {
                self.held = Some(Held { bytes, written: 0, length, is_buffer: true });
                Poll::Ready(Ok(()))
            }
            (_, result) => {
                give_back(bytes);
                if let Poll::Ready(Ok(())) = result {
                    self.state = State::Ending;
                }
                result
            }
        }
    }

    fn let_go(&mut self) {
        if let Some(held) = self.held.take()
            && held.is_buffer
        {
            give_back(held.bytes);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_flow_holds_a_buffer_only_while_its_receiver_is_slow() {
        let (mut source, mut reader) = duplex(1000);
        let (mut writer, mut sink) = duplex(10);
        let mut flow = Flow::beginning_with(b"");
        let mut poll = async |flow: &mut Flow| {
            std::future::poll_fn(|cx| {
                let polled = flow.poll(cx, Pin::new(&mut reader), Pin::new(&mut writer));
                Poll::Ready(polled.is_ready())
            })
            .await
        };
        assert!(!poll(&mut flow).await);
        assert!(flow.held.is_none(), "nothing has come");
        source.write_all(&[7; 15]).await.unwrap();
        assert!(!poll(&mut flow).await);
        assert!(flow.held.is_some(), "five bytes wait for room");
        sink.read_exact(&mut [0; 15 - 5]).await.unwrap();
        assert!(!poll(&mut flow).await);
        assert!(flow.held.is_none(), "all is passed on");
        drop(source);
        assert!(poll(&mut flow).await);
        assert!(flow.has_ended());
        assert_eq!(flow.moved(), 15);
    }

    #[test]
    fn a_buffer_is_used_again_by_the_next_flow() {
        let buffer = take_buffer();
        let address = buffer.as_ptr();
        give_back(buffer);
        let again = take_buffer();
        assert_eq!(again.as_ptr(), address);
    }
}
