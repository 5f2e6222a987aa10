//! The server's half of a channel.
//!
//! What goes out waits for the window that the client has granted this channel, and no other channel waits for it.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use russh::{
    ChannelId, ChannelWriteHalf,
    server::{Handle, Msg},
};
use shed_protocol::ExitStatus;
use tokio::io::AsyncWrite;

use super::signals;

/// The type of extended data that is stderr (RFC 4254 5.2).
const STDERR: u32 = 1;

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What a channel's task says to the client.
pub(super) struct Output {
    half: ChannelWriteHalf<Msg>,
    handle: Handle,
}

impl Output {
    /// Makes an output of a channel's writing half.
    pub(super) const fn new(half: ChannelWriteHalf<Msg>, handle: Handle) -> Self {
        Self { half, handle }
    }

    /// Sends bytes. Waits for the client's window.
    pub(super) async fn data(&self, bytes: Bytes) -> Result<(), Gone> {
        self.half.data_bytes(bytes).await.map_err(|_| Gone)
    }

    /// Sends bytes of stderr. Waits for the client's window.
    pub(super) async fn stderr(&self, bytes: Bytes) -> Result<(), Gone> {
        self.half.extended_data_bytes(STDERR, bytes).await.map_err(|_| Gone)
    }

    /// Returns a writer of bytes; its shutdown is an EOF.
    pub(super) fn writer(&self) -> Pin<Box<dyn AsyncWrite + Send>> {
        Box::pin(self.half.make_writer())
    }

    /// Tells how the command ended (RFC 4254 6.10): a signal by its name, everything else by its code.
    pub(super) async fn exited(&self, status: &ExitStatus) -> Result<(), Gone> {
        let id = self.half.id();
        let told = match status.signal {
            Some(signal) => {
                let (name, core, text, language) =
                    (signals::name(signal), false, String::new(), String::new());
                self.handle.exit_signal_request(id, name, core, text, language).await
            }
            None => self.handle.exit_status_request(id, status.code.cast_unsigned()).await,
        };
        told.map_err(|()| Gone)
    }

    /// Says that there is no more to come.
    pub(super) async fn eof(&self) -> Result<(), Gone> {
        self.half.eof().await.map_err(|_| Gone)
    }

    /// Returns what closes the channel.
    pub(super) fn closer(&self) -> Closer {
        Closer { id: self.half.id(), handle: self.handle.clone() }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Output").field(&self.half.id()).finish()
    }
}

/// Closes a channel, whatever became of its output.
pub(super) struct Closer {
    id: ChannelId,
    handle: Handle,
}

impl Closer {
    /// Closes the channel.
    pub(super) async fn close(self) {
        // A client that is gone needs not be told.
        let _gone = self.handle.close(self.id).await;
    }
}
